"""Draw a roofline and a bar plot from a result file of the layer suite.

For example: ``python benchmarks/plot_layers.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"highest": "#4c72b0", "high": "#dd8452", "medium": "#55a868"}
MARKERS = {"depthwise 3x3": "v", "depthwise 5x5": "^", "grouped": "P", "1x1": "s",
           "1x1 stride 2": "s", "3x3": "o", "3x3 stride 2": "o", "first": "*", "linear": "D"}
BARS = ("resnet50", "vgg16", "mobilenet_v2", "resnet20", "forms", "linear")


def roofline(suite: dict[str, Any], target: Path) -> None:
    """Plot the useful operations a second of every forward layer over its intensity."""
    results = [r for r in suite["results"] if r["pass"] == "forward"]
    machine = suite["machine"]
    peak = max(r["fma peak gflops"] for r in results)
    memory, cache = machine["copy gbs, 64 MB"], machine["copy gbs, 1 MB"]
    figure, axes = plt.subplots(figsize=(9, 6))
    intensities = [2.0 ** (e / 4) for e in range(-8, 44)]
    for speed, label in ((memory, f"memory, copy: {memory:.0f} GB/s"),
                         (cache, f"caches, copy: {cache:.0f} GB/s")):
        axes.plot(intensities, [min(peak, i * speed) for i in intensities], "k-",
                  linewidth=1, alpha=0.6)
        axes.text(intensities[0], intensities[0] * speed * 1.15, label, fontsize=8,
                  rotation=38)
    axes.axhline(peak, color="k", linestyle=":", linewidth=1)
    axes.text(intensities[-1], peak * 1.05, f"float32 multiply-adds: {peak:.0f} GFLOP/s",
              fontsize=8, ha="right")
    for precision in results[0]["precisions"]:
        if precision == "medium":
            continue
        for kind in sorted({r["kind"] for r in results}):
            part = [r for r in results if r["kind"] == kind]
            axes.scatter([r["operations"] / r["bytes"] for r in part],
                         [r["precisions"][precision]["gflops"] for r in part], s=26,
                         marker=MARKERS.get(kind, "x"), color=COLOURS[precision], alpha=0.8,
                         linewidths=0.8, label=kind if precision == "highest" else None)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte of input, output and weights",
             ylabel="useful GFLOP/s",
             title=f"Convolution layers, {machine['threads']} threads, "
                   f"{machine['instruction set in use']} (blue: highest, orange: high)")
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    axes.grid(alpha=0.2, which="both")
    figure.tight_layout()
    figure.savefig(target / "layer-roofline.png", dpi=110)
    plt.close(figure)


def bars(suite: dict[str, Any], target: Path) -> None:
    """Plot how many times as fast as PyTorch's better layout every layer is."""
    forward = [r for r in suite["results"] if r["pass"] == "forward"]
    shown = [r for name in BARS for r in forward
             if r["network"] in _members(name) and r["batch"] == _batch(name)]
    rows = shown or forward
    precisions = list(rows[0]["precisions"])
    figure, axes = plt.subplots(figsize=(9, 0.17 * len(rows) * 1.25 + 1.5))
    height = 0.8 / len(precisions)
    for number, precision in enumerate(precisions):
        axes.barh([i + number * height for i in range(len(rows))],
                  [r["precisions"][precision]["best"] for r in rows], height,
                  color=COLOURS[precision],
                  label=f"{precision} / PyTorch "
                        f"{'bfloat16' if precision == 'medium' else 'float32'}")
    axes.axvline(1, color="k", linewidth=1)
    axes.set_yticks([i + 0.4 for i in range(len(rows))], [r["layer"] for r in rows], fontsize=6)
    axes.set_ylim(len(rows), -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("times as fast as PyTorch's better memory layout")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(target / "layer-ratios.png", dpi=110)
    plt.close(figure)


def _members(name: str) -> tuple[str, ...]:
    """Return the networks that a group of bars shows."""
    if name == "forms":
        return "inception", "deeplab", "resnext50", "shufflenet"
    return (name,)


def _batch(name: str) -> int:
    """Return the batch that a group of bars shows."""
    return {"resnet20": 128, "linear": 1}.get(name, 8)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file that layer_suite.py wrote")
    parser.add_argument("target", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    suite = json.loads(options.results.read_text())
    if suite.get("benchmark") != "layer_suite":
        parser.error(f"{options.results} holds no results of the layer suite")
    options.target.mkdir(parents=True, exist_ok=True)
    roofline(suite, options.target)
    bars(suite, options.target)
    print(f"drawn in {options.target}: layer-roofline.png, layer-ratios.png")


if __name__ == "__main__":
    main()
