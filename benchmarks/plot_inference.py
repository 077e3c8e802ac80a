"""Draw bars of a result file of the inference benchmark.

For example: ``python benchmarks/plot_inference.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import inference
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"highest": "#4c72b0", "high": "#dd8452", "medium": "#55a868", "int8": "#c44e52"}


def bars(record: dict[str, Any], target: Path) -> None:
    """Plot how many times as fast as its fastest peer every precision is, by network."""
    results = record["results"]
    precisions = [p for p in COLOURS if f"convkit {p}" in results[0]["timing"]]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(results) + 1.5))
    height = 0.8 / len(precisions)
    for number, precision in enumerate(precisions):
        found = [inference.best(result, precision) for result in results]
        axes.barh([i + number * height for i in range(len(results))],
                  [ratio[0] if ratio else 0 for ratio in found], height, align="edge",
                  color=COLOURS[precision],
                  label=f"{precision} / {inference.peer_kind(precision)}")
    axes.axvline(1, color="k", linewidth=1)
    axes.set_yticks([i + 0.4 for i in range(len(results))],
                    [f"{r['network']}, batch {r['batch']}" for r in results])
    axes.set_ylim(len(results), -0.2)
    axes.set_xlim(left=0)
    machine = record["machine"]
    axes.set(xlabel="times as fast as the fastest peer of that precision",
             title=f"Inference, {machine['threads']} threads, "
                   f"{machine['instruction set in use']}")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(target / "inference.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file that inference.py wrote")
    parser.add_argument("target", type=Path, help="folder for the picture")
    options = parser.parse_args()
    record = json.loads(options.results.read_text())
    if record.get("benchmark") != "inference":
        parser.error(f"{options.results} holds no results of the inference benchmark")
    options.target.mkdir(parents=True, exist_ok=True)
    bars(record, options.target)
    print(f"drawn: {options.target / 'inference.png'}")


if __name__ == "__main__":
    main()
