"""Where a network looks: saliency, Grad-CAM, receptive fields."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import nn
from convkit.infer.receptive import receptive_fields
from convkit.infer.tracing import trace
from convkit.plot.canvas import axes
from convkit.plot.images import as_pictures
from convkit.training import attribution

__all__ = ["grad_cam", "receptive_field", "saliency"]


def _over(image: Any, heat: np.ndarray, ax: Any) -> Any:
    """Draw a map of one value a pixel, of any size, over an image (C, H, W)."""
    picture = as_pictures(np.asarray(image)[None])[0]
    height, width = picture.shape[:2]
    ax = axes(ax, 3, 3 * height / width)
    ax.imshow(picture, cmap="gray" if picture.ndim == 2 else None)
    ax.imshow(heat, cmap="inferno", alpha=0.55, interpolation="bilinear",
              extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    ax.set_axis_off()
    return ax


def saliency(model: nn.Module, image: Any, label: int | None = None, ax: Any = None) -> Any:
    """Draw how much each pixel would change a class's score, over the image.

    See `convkit.training.saliency`.

    Parameters
    ----------
    model : Module
    image : array_like, shape (C, H, W)
        As the model takes it; one channel or three.
    label : int, optional
        The class; by default that of the highest score.
    ax : matplotlib.axes.Axes, optional
    """
    classes = None if label is None else [label]
    return _over(image, attribution.saliency(model, np.asarray(image)[None], classes)[0], ax)


def grad_cam(model: nn.Module, image: Any, layer: str, label: int | None = None,
             ax: Any = None) -> Any:
    """Draw where a layer sees what speaks for a class, over the image.

    See `convkit.training.grad_cam`; parameters as for `saliency`, and the layer's name.
    """
    classes = None if label is None else [label]
    heat = attribution.grad_cam(model, np.asarray(image)[None], layer, classes)[0]
    return _over(image, heat, ax)


def receptive_field(model: nn.Module, input_shape: tuple[int, ...], ax: Any = None) -> Any:
    """Draw how the receptive field grows from operation to operation.

    Parameters
    ----------
    model : Module
    input_shape : tuple of int
        With the batch first.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        One step for each operation with a window; a dashed line marks the image's size.
    """
    graph = trace(model, input_shape)
    fields = receptive_fields(graph)
    sizes, names = [1], ["input"]
    for node in graph.nodes:
        field = fields[node.outputs[0]]
        if field is None:
            break
        if field.pixels[0] > sizes[-1]:  # a shortcut sees less than the branch beside it
            sizes.append(field.pixels[0])
            names.append(node.name)
    ax = axes(ax, max(4.0, 0.28 * len(sizes)), 3.6)
    ax.step(range(len(sizes)), sizes, where="mid", marker=".")
    ax.axhline(input_shape[-2], color="grey", linestyle="--", linewidth=1)
    ax.set_xticks(range(len(sizes)), names, rotation=90, fontsize=7)
    ax.set(ylabel="receptive field, pixels")
    ax.grid(alpha=0.25)
    return ax
