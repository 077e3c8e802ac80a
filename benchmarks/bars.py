"""Bars of how many times as fast something is, and the command that draws a result file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["COLOURS", "beside_pytorch", "draw", "draw_file", "save"]

COLOURS = {"highest": "#4c72b0", "high": "#dd8452", "medium": "#55a868",
           "medium-bf16": "#2e7d4f", "int8": "#c44e52"}


def beside_pytorch(results: Sequence[dict[str, Any]]) -> dict[str, tuple[str, list[float]]]:
    """Return for each precision its legend, and the ratios to PyTorch's best of all results."""
    return {precision: (f"{precision} / PyTorch "
                        f"{'bfloat16' if precision.startswith('medium') else 'float32'}",
                        [r["precisions"][precision]["best"] for r in results])
            for precision in results[0]["precisions"]}


def draw(names: Sequence[str], ratios: Mapping[str, tuple[str, Sequence[float]]], path: Path, *,
         label: str, title: str = "", row: float = 0.5, fontsize: int = 9) -> None:
    """Draw a group of bars for each name, one bar for each precision.

    Parameters
    ----------
    names : sequence of str
        From top to bottom.
    ratios : mapping of str to (str, sequence of float)
        For each precision its legend, and a ratio for each name.
    path : Path
        The picture's file.
    label, title : str
        Of the axis, and above it.
    row : float
        Height of a group in inches.
    fontsize : int
        Of the names.
    """
    figure, axes = plt.subplots(figsize=(9, row * len(names) + 1.5))
    height = 0.8 / len(ratios)
    for number, (precision, (legend, values)) in enumerate(ratios.items()):
        axes.barh([i + number * height for i in range(len(names))], values, height, align="edge",
                  color=COLOURS[precision], label=legend)
    axes.axvline(1, color="k", linewidth=1)
    axes.set_yticks([i + 0.4 for i in range(len(names))], names, fontsize=fontsize)
    axes.set_ylim(len(names), -0.2)
    axes.set_xlim(left=0)
    axes.set(xlabel=label, title=title)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure to a file, and close it."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_file(description: str, benchmark: str,
              pictures: Mapping[str, Callable[[dict[str, Any], Path], None]]) -> None:
    """Draw pictures of the result file that the command line names.

    Parameters
    ----------
    description : str
        For the command's help.
    benchmark : str
        Whose results the file must hold.
    pictures : mapping of str to callable
        ``draw(record, path)`` for each name of a picture.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("results", type=Path, help=f"a JSON file that {benchmark}.py wrote")
    parser.add_argument("target", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    record = json.loads(options.results.read_text())
    if record.get("benchmark") != benchmark:
        parser.error(f"{options.results} holds no results of the benchmark {benchmark!r}")
    options.target.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture(record, options.target / name)
    print(f"drawn in {options.target}: {', '.join(pictures)}")
