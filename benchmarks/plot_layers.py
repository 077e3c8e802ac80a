"""Draw a roofline and a bar plot from a result file of the layer suite.

For example: ``python benchmarks/plot_layers.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bars

MARKERS = {"depthwise 3x3": "v", "depthwise 5x5": "^", "grouped": "P", "1x1": "s",
           "1x1 stride 2": "s", "3x3": "o", "3x3 stride 2": "o", "first": "*", "linear": "D"}
BARS = ("resnet50", "vgg16", "mobilenet_v2", "resnet20", "forms", "linear")


def roofline(suite: dict[str, Any], path: Path) -> None:
    """Plot the useful operations a second of every forward layer over its intensity."""
    results = [r for r in suite["results"] if r["pass"] == "forward"]
    machine = suite["machine"]
    peak = max(r["fma peak gflops"] for r in results)
    memory, cache = machine["copy gbs, 64 MB"], machine["copy gbs, 1 MB"]
    figure, axes = bars.plt.subplots(figsize=(9, 6))
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
        if precision.startswith("medium"):
            continue
        for kind in sorted({r["kind"] for r in results}):
            part = [r for r in results if r["kind"] == kind]
            axes.scatter([r["operations"] / r["bytes"] for r in part],
                         [r["precisions"][precision]["gflops"] for r in part], s=26,
                         marker=MARKERS.get(kind, "x"), color=bars.COLOURS[precision], alpha=0.8,
                         linewidths=0.8, label=kind if precision == "highest" else None)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte of input, output and weights",
             ylabel="useful GFLOP/s",
             title=f"Convolution layers, {machine['threads']} threads, "
                   f"{machine['instruction set in use']} (blue: highest, orange: high)")
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    axes.grid(alpha=0.2, which="both")
    bars.save(figure, path)


def ratios(suite: dict[str, Any], path: Path) -> None:
    """Plot how many times as fast as PyTorch's better layout every layer is."""
    forward = [r for r in suite["results"] if r["pass"] == "forward"]
    shown = [r for name in BARS for r in forward
             if r["network"] in _members(name) and r["batch"] == _batch(name)]
    rows = shown or forward
    bars.draw([r["layer"] for r in rows], bars.beside_pytorch(rows), path, row=0.21, fontsize=6,
              label="times as fast as PyTorch's better memory layout")


def _members(name: str) -> tuple[str, ...]:
    """Return the networks that a group of bars shows."""
    if name == "forms":
        return "inception", "deeplab", "resnext50", "shufflenet"
    return (name,)


def _batch(name: str) -> int:
    """Return the batch that a group of bars shows."""
    return {"resnet20": 128, "linear": 1}.get(name, 8)


if __name__ == "__main__":
    bars.draw_file(__doc__.splitlines()[0], "layer_suite",
                   {"layer-roofline.png": roofline, "layer-ratios.png": ratios})
