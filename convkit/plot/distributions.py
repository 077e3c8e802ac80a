"""Histograms of activations and gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from convkit import nn
from convkit.nn.depth_study import activations_by_depth as study
from convkit.plot.canvas import panels
from convkit.training.layer_values import layer_gradients, layer_outputs

__all__ = ["activation_histograms", "activations_by_depth", "gradient_histograms"]

COLUMNS = 6


def _histograms(values: Mapping[str, np.ndarray], figure: Any, bins: int) -> Any:
    """Draw a histogram of each array, with its mean and deviation."""
    columns = min(COLUMNS, max(1, len(values)))
    rows = -(-max(1, len(values)) // columns)
    figure, grid = panels(figure, rows, columns, 2.0, 1.7)
    for ax, (name, array) in zip(grid.flat, values.items(), strict=False):
        array = array[np.isfinite(array)]
        ax.hist(array.ravel(), bins=bins, color="C0")
        ax.set_title(f"{name}\n{array.mean():.2g} ± {array.std():.2g}", fontsize=7)
        ax.tick_params(labelsize=6)
        ax.set_yticks([])
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        ax.xaxis.get_offset_text().set_fontsize(6)
        ax.locator_params(axis="x", nbins=3)
    for ax in grid.flat[len(values):]:
        ax.set_axis_off()
    return figure


def activation_histograms(model: nn.Module, inputs: Any, layers: Sequence[str] | None = None,
                          bins: int = 40, figure: Any = None) -> Any:
    """Draw a histogram of what each layer gives, with mean and standard deviation.

    Parameters
    ----------
    model : Module
        Runs in the mode that it is in.
    inputs : array_like
    layers : sequence of str, optional
        Names of modules; by default all that hold no others.
    bins : int
    figure : matplotlib.figure.Figure, optional

    Returns
    -------
    matplotlib.figure.Figure
    """
    return _histograms(layer_outputs(model, inputs, layers), figure, bins)


def gradient_histograms(model: nn.Module, loss_fn: Callable, inputs: Any, targets: Any,
                        layers: Sequence[str] | None = None, bins: int = 40,
                        figure: Any = None) -> Any:
    """Draw a histogram of the loss's gradient at each layer's output.

    Parameters as for `activation_histograms`, and
    `loss_fn` from scores and targets to a loss.
    """
    return _histograms(layer_gradients(model, loss_fn, inputs, targets, layers), figure, bins)


def activations_by_depth(initialisers: Sequence[Any] = ("small", "xavier", "large"),
                         figure: Any = None, **options: Any) -> Any:
    """Draw the lectures' experiment: activations of six tanh layers, by initialisation.

    Weights of deviation 0.01 shrink them to nothing, Xavier's keep their scale, deviation 1
    saturates them (Glorot and Bengio 2010).

    Parameters
    ----------
    initialisers : sequence
        One row for each, as `convkit.nn.activations_by_depth` takes them.
    figure : matplotlib.figure.Figure, optional
    **options
        For `convkit.nn.activations_by_depth`.
    """
    rows = [(str(i), study(i, **options)) for i in initialisers]
    figure, grid = panels(figure, len(rows), len(rows[0][1]), 1.5, 1.4)
    for axes, (name, layers) in zip(grid, rows, strict=True):
        for depth, (ax, layer) in enumerate(zip(axes, layers, strict=True), 1):
            ax.hist(layer.values.ravel(), bins=40, range=(-1, 1), color="C0")
            ax.set_title(f"layer {depth}: {layer.std:.2g}", fontsize=7)
            ax.set_yticks([])
            ax.tick_params(labelsize=6)
        axes[0].set_ylabel(name, fontsize=8)
    return figure
