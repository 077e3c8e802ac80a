"""Figures and axes, without pyplot: nothing is kept open, and no window is asked for."""

from __future__ import annotations

from typing import Any

from convkit.extras import require

__all__ = ["axes", "new_figure", "panels"]


def new_figure(width: float, height: float) -> Any:
    """Return a new figure of so many inches."""
    figure = require("matplotlib.figure", "plot", "a picture").Figure
    return figure(figsize=(width, height), layout="constrained")


def axes(ax: Any, width: float = 5.0, height: float = 3.6) -> Any:
    """Return `ax`, or the axes of a new figure."""
    return new_figure(width, height).subplots() if ax is None else ax


def panels(figure: Any, rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure, new where it is None, and its grid of axes, panels of one size."""
    if figure is None:
        figure = new_figure(columns * width, rows * height)
    return figure, figure.subplots(rows, columns, squeeze=False)
