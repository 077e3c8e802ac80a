"""Grids of pictures: images, filters, feature maps, augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convkit import nn
from convkit.errors import ShapeError
from convkit.plot.canvas import axes
from convkit.training.layer_values import layer_outputs

__all__ = ["as_pictures", "augmentations", "feature_maps", "filters", "image_grid", "tiled"]


def tiled(images: np.ndarray, columns: int, gap: int = 1, fill: float = 1.0) -> np.ndarray:
    """Return images (N, H, W) or (N, H, W, C) side by side as one, with gaps between them."""
    n, h, w = images.shape[:3]
    rows = -(-n // columns)
    page = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *images.shape[3:]), fill,
                   np.float32)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        page[top:top + h, left:left + w] = image
    return page


def as_pictures(images: Any) -> np.ndarray:
    """Return (N, C, H, W) with one or three channels as (N, H, W) or (N, H, W, 3) from 0 to 1."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"expected images (N, 1 or 3, H, W), got shape {images.shape}")
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        images = (images - low) / max(high - low, 1e-12)
    return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)


def image_grid(images: Any, titles: Sequence[Any] | None = None, columns: int = 8,
               ax: Any = None) -> Any:
    """Draw images in a grid.

    Parameters
    ----------
    images : array_like, shape (N, C, H, W)
        One channel or three; bytes, or floats, which are scaled where they leave 0 to 1.
    titles : sequence, optional
        Printed in the images' corners.
    columns : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    pictures = as_pictures(images)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    ax = axes(ax, 0.9 * columns, 0.9 * rows)
    _draw(ax, tiled(pictures, columns))
    h, w = pictures.shape[1:3]
    for i, title in enumerate(titles or ()):
        ax.text(i % columns * (w + 1), i // columns * (h + 1), str(title), fontsize=7, va="top",
                color="white", backgroundcolor="#00000090")
    return ax


def _draw(ax: Any, page: np.ndarray, **options: Any) -> None:
    ax.imshow(page, **{"cmap": "gray", "interpolation": "nearest"} | options)
    ax.set_axis_off()


def filters(layer: nn.Module | Any, columns: int | None = None, ax: Any = None) -> Any:
    """Draw the kernels of a convolution: in colour for three input channels, else the first's.

    Parameters
    ----------
    layer : Module or array_like
        A convolution, or weights (O, I, H, W). Each kernel is scaled by itself so that 0 is
        grey.
    columns : int, optional
        By default about a square.
    ax : matplotlib.axes.Axes, optional
    """
    weight = np.asarray(getattr(getattr(layer, "weight", layer), "data", layer), np.float32)
    if weight.ndim != 4:
        raise ShapeError(f"expected weights (O, I, H, W), got shape {weight.shape}")
    weight = weight if weight.shape[1] == 3 else weight[:, :1]
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    pictures = as_pictures(0.5 + 0.5 * weight / np.maximum(largest, 1e-12))
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    ax = axes(ax, 4, 4 * -(-len(pictures) // columns) / columns)
    options = {"vmin": 0, "vmax": 1} if pictures.ndim == 3 else {}
    _draw(ax, tiled(pictures, columns), **options)
    return ax


def feature_maps(model: nn.Module, image: Any, layer: str, most: int = 64, ax: Any = None) -> Any:
    """Draw what the channels of a layer give for one image, each scaled by itself.

    Parameters
    ----------
    model : Module
        Runs in the mode that it is in; usually ``model.eval()``.
    image : array_like, shape (C, H, W)
    layer : str
        Name of a module that returns maps.
    most : int
        Channels that are drawn, the first.
    ax : matplotlib.axes.Axes, optional
    """
    maps = layer_outputs(model, np.asarray(image)[None], [layer])[layer]
    if maps.ndim != 4:
        raise ShapeError(f"expected layer {layer!r} to return maps (N, C, H, W), got shape "
                         f"{maps.shape}")
    maps = maps[0, :most]
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    columns = math.ceil(math.sqrt(len(maps)))
    ax = axes(ax, 5, 5 * -(-len(maps) // columns) / columns)
    page = tiled((maps - low) / np.maximum(high - low, 1e-12), columns, fill=np.nan)
    _draw(ax, page, cmap="viridis", vmin=0, vmax=1)
    return ax


def augmentations(images: Any, augment: Callable[[Any], Any], count: int = 8,
                  ax: Any = None) -> Any:
    """Draw images beside what an augmentation makes of them: a row for each image.

    Parameters
    ----------
    images : array_like, shape (N, C, H, W)
        One channel or three.
    augment : callable
        From a batch of images to a changed batch, such as a transform of
        `convkit.data.augment`; called `count` times with all images.
    count : int
        Versions of each image.
    ax : matplotlib.axes.Axes, optional
    """
    images = np.asarray(images)
    versions = [images, *(np.asarray(augment(images.copy())) for _ in range(count))]
    shapes = {v.shape for v in versions}
    if len(shapes) > 1:
        raise ShapeError(f"expected an augmentation that keeps the shape, got {sorted(shapes)}")
    page = np.stack(versions, axis=1).reshape(-1, *images.shape[1:])
    return image_grid(page, columns=count + 1, ax=ax)
