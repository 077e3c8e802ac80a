"""Draw a bar plot from a result file of the training benchmark.

For example: ``python benchmarks/plot_training.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from plot_layers import COLOURS


def bars(suite: dict, target: Path) -> None:
    """Plot how many times as fast as PyTorch's fastest form every network trains."""
    results = suite["results"]
    precisions = list(results[0]["precisions"])
    height = 0.8 / len(precisions)
    figure, axes = plt.subplots(figsize=(8, 0.7 * len(results) + 1.5))
    for number, precision in enumerate(precisions):
        axes.barh([i + number * height for i in range(len(results))],
                  [r["precisions"][precision]["best"] for r in results], height,
                  color=COLOURS[precision],
                  label=f"{precision} / PyTorch "
                        f"{'bfloat16' if precision == 'medium' else 'float32'}")
    axes.axvline(1, color="k", linewidth=1)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(results))],
                    [f"{r['network']} b{r['batch']}" for r in results])
    axes.set_ylim(len(results), -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("times as fast as PyTorch's fastest form")
    axes.set_title(f"One training step, {suite['machine']['threads']} threads, "
                   f"{suite['machine']['instruction set in use']}")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(target / "training-ratios.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file that training.py wrote")
    parser.add_argument("target", type=Path, help="folder for the picture")
    options = parser.parse_args()
    suite = json.loads(options.results.read_text())
    if suite.get("benchmark") != "training" or "precisions" not in suite["results"][0]:
        parser.error(f"{options.results} holds no table of the training benchmark")
    options.target.mkdir(parents=True, exist_ok=True)
    bars(suite, options.target)
    print(f"drawn in {options.target}: training-ratios.png")


if __name__ == "__main__":
    main()
