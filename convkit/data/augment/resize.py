"""Images scaled to another size."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit.data.augment.base import Transform, between, like, pair, span
from convkit.data.augment.geometry import INTERPOLATIONS
from convkit.errors import ShapeError

__all__ = ["RandomResizedCrop", "RandomShortSideCrop", "Resize"]


def _resized(images: np.ndarray, boxes: np.ndarray, scales: np.ndarray, limits: np.ndarray,
             size: tuple[int, int], interpolation: str, antialias: bool) -> np.ndarray:
    """Scale what boxes show to `size`.

    boxes (N, 2): top and left in source pixels; scales (N, 2): source pixels for each output
    pixel; limits (N, 4): rows and columns (first, end, first, end) that may be read.
    """
    axes = np.empty((len(images), 8))
    for axis in (0, 1):
        axes[:, 4 * axis] = scales[:, axis]
        axes[:, 4 * axis + 1] = boxes[:, axis]
        axes[:, 4 * axis + 2:4 * axis + 4] = limits[:, 2 * axis:2 * axis + 2]
    out = like(images, size)
    kernels.resize(images, out, axes, interpolation == "bilinear", antialias,
                   runtime.get_num_threads())
    return out


def _interpolation(value: str) -> str:
    if value not in INTERPOLATIONS:
        raise ValueError(f"expected interpolation of {', '.join(INTERPOLATIONS)}, got {value!r}")
    return value


def _short_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size with a short side of `side` and the same proportions."""
    height, width = size
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


class Resize(Transform):
    """Scale images to a size.

    Parameters
    ----------
    size : int or (height, width)
        One int is the length of the short side; proportions stay.
    interpolation : {"bilinear", "nearest"}
        "nearest" takes the pixel that the output pixel's centre lies in (Pillow's, and
        PyTorch's "nearest-exact").
    antialias : bool
        When shrinking, average over all source pixels below an output pixel's triangle, as
        Pillow does, instead of two.
    """

    def __init__(self, size: Any, interpolation: str = "bilinear", antialias: bool = True):
        self.size = size if isinstance(size, int) and size > 0 else pair(size, "size")
        self.interpolation = _interpolation(interpolation)
        self.antialias = bool(antialias)

    def apply(self, images, labels, draws):
        """Scale the images."""
        height, width = images.shape[1:3]
        size = (_short_side((height, width), self.size) if isinstance(self.size, int)
                else self.size)
        count = len(images)
        scales = np.tile([height / size[0], width / size[1]], (count, 1))
        limits = np.tile([0, height, 0, width], (count, 1))
        return _resized(images, np.zeros((count, 2)), scales, limits, size, self.interpolation,
                        self.antialias), labels


class RandomResizedCrop(Transform):
    """Cut out a part of random area and proportions and scale it to `size`.

    Parameters
    ----------
    size : int or (height, width)
    scale : (float, float)
        Range of the part's area, as a share of the image's.
    ratio : (float, float)
        Range of width / height, drawn evenly in its logarithm.
    interpolation, antialias
        As in `Resize`.

    Notes
    -----
    Szegedy et al., "Going deeper with convolutions", 2015. As in torchvision, ten parts are
    tried; where none fits, the middle is taken with the nearest proportions.
    """

    TRIES = 10

    def __init__(self, size: Any, scale: tuple[float, float] = (0.08, 1.0),
                 ratio: tuple[float, float] = (3 / 4, 4 / 3), interpolation: str = "bilinear",
                 antialias: bool = True):
        self.size = pair(size, "size")
        self.scale = span(scale, "scale", 0, 1)
        self.ratio = span(ratio, "ratio", 1e-3, 1e3)
        self.interpolation = _interpolation(interpolation)
        self.antialias = bool(antialias)

    def boxes(self, draws, size: tuple[int, int]) -> np.ndarray:
        """Return (top, left, height, width) of each image's part, int64 (N, 4)."""
        height, width = size
        u = draws.uniform(2 * self.TRIES + 2)
        area = height * width * between(u[:, :self.TRIES], self.scale)
        ratio = np.exp(between(u[:, self.TRIES:-2], tuple(np.log(self.ratio))))
        w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
        first = (np.arange(len(u)), fits.argmax(axis=1))
        found = fits.any(axis=1)
        whole = min(max(width / height, self.ratio[0]), self.ratio[1])
        most_h = min(height, max(1, round(width / whole)))
        most_w = min(width, max(1, round(height * whole)))
        h, w = np.where(found, h[first], most_h), np.where(found, w[first], most_w)
        top = np.where(found, np.floor(u[:, -2] * (height - h + 1)), (height - h) // 2)
        left = np.where(found, np.floor(u[:, -1] * (width - w + 1)), (width - w) // 2)
        return np.stack([top, left, h, w], axis=1).astype(np.int64)

    def apply(self, images, labels, draws):
        """Cut and scale the images."""
        boxes = self.boxes(draws, images.shape[1:3])
        begin, extent = boxes[:, :2], boxes[:, 2:]
        limits = np.stack([begin[:, 0], begin[:, 0] + extent[:, 0],
                           begin[:, 1], begin[:, 1] + extent[:, 1]], axis=1)
        return _resized(images, begin, extent / np.array(self.size), limits, self.size,
                        self.interpolation, self.antialias), labels


class RandomShortSideCrop(Transform):
    """Scale so that the short side gets a random length, and cut out a random part.

    Parameters
    ----------
    size : int or (height, width)
        Of the part.
    short_side : (int, int)
        Range of the short side's length, such as (256, 480).
    interpolation, antialias
        As in `Resize`.

    Notes
    -----
    Scale augmentation of Simonyan and Zisserman, 2015, and He et al., 2016. Only the part
    that is cut out is computed.
    """

    def __init__(self, size: Any, short_side: tuple[int, int], interpolation: str = "bilinear",
                 antialias: bool = True):
        self.size = pair(size, "size")
        self.short_side = tuple(int(v) for v in span(short_side, "short_side", 1, 1 << 20))
        if self.short_side[0] < max(self.size):
            raise ValueError(f"expected short_side of at least {max(self.size)}, "
                             f"got {short_side!r}")
        self.interpolation = _interpolation(interpolation)
        self.antialias = bool(antialias)

    def apply(self, images, labels, draws):
        """Scale and cut the images."""
        height, width = images.shape[1:3]
        u = draws.uniform(3)
        low, high = self.short_side
        sides = low + np.floor(u[:, 0] * (high - low + 1)).astype(int)
        sizes = np.array([_short_side((height, width), int(s)) for s in sides]).reshape(-1, 2)
        if (sizes < np.array(self.size)).any():
            raise ShapeError(f"expected images that cover {self.size[0]}x{self.size[1]}, "
                             f"got {height}x{width}")
        scales = np.array([height, width]) / sizes
        corner = np.floor(u[:, 1:] * (sizes - np.array(self.size) + 1))
        limits = np.tile([0, height, 0, width], (len(images), 1))
        return _resized(images, corner * scales, scales, limits, self.size, self.interpolation,
                        self.antialias), labels
