"""Rectangles put over images."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit.data.augment.base import Transform, between, like, pixel, share, span

__all__ = ["Cutout", "RandomErasing"]


def _erased(images: np.ndarray, boxes: np.ndarray, value: Any) -> np.ndarray:
    """Fill boxes (N, B, 4) with one colour."""
    out = like(images)
    fill = np.tile(pixel(value, images), (len(images), 1))
    kernels.fill_boxes(images, out, np.ascontiguousarray(boxes, np.int64), fill,
                       runtime.get_num_threads())
    return out


class RandomErasing(Transform):
    """Put a colour over a random rectangle, with probability `p`.

    Parameters
    ----------
    p : float
    scale : (float, float)
        Range of the area, as a share of the image's.
    ratio : (float, float)
        Range of height / width, drawn evenly in its logarithm.
    value : float or sequence of float
        The colour, in the images' own range.

    Notes
    -----
    Zhong et al., "Random erasing data augmentation", 2020. As in torchvision, ten rectangles
    are tried; where none fits, the image stays.
    """

    TRIES = 10

    def __init__(self, p: float = 0.5, scale: tuple[float, float] = (0.02, 0.33),
                 ratio: tuple[float, float] = (0.3, 3.3), value: Any = 0):
        self.p = share(p)
        self.scale = span(scale, "scale", 0, 1)
        self.ratio = span(ratio, "ratio", 1e-3, 1e3)
        self.value = value

    def boxes(self, draws, size: tuple[int, int]) -> np.ndarray:
        """Return (top, left, bottom, right), int64 (N, 1, 4); empty where nothing is erased."""
        height, width = size
        u = draws.uniform(2 * self.TRIES + 3)
        area = height * width * between(u[:, :self.TRIES], self.scale)
        ratio = np.exp(between(u[:, self.TRIES:2 * self.TRIES], tuple(np.log(self.ratio))))
        h, w = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (h < height) & (w < width)
        first = (np.arange(len(u)), fits.argmax(axis=1))
        active = fits.any(axis=1) & (u[:, -1] < self.p)
        h, w = np.where(active, h[first], 0), np.where(active, w[first], 0)
        top = np.floor(u[:, -3] * (height - h + 1))
        left = np.floor(u[:, -2] * (width - w + 1))
        return np.stack([top, left, top + h, left + w], axis=1)[:, None].astype(np.int64)

    def apply(self, images, labels, draws):
        """Erase the rectangles."""
        return _erased(images, self.boxes(draws, images.shape[1:3]), self.value), labels


class Cutout(Transform):
    """Put squares over images, centred anywhere and cut off at the frame.

    Parameters
    ----------
    length : int
        Of a side, in pixels.
    holes : int
        How many.
    value : float or sequence of float
        The colour, in the images' own range.

    Notes
    -----
    DeVries and Taylor, "Improved regularization of convolutional neural networks with
    cutout", 2017.
    """

    def __init__(self, length: int, holes: int = 1, value: Any = 0):
        if length < 1 or holes < 1:
            raise ValueError(f"expected length and holes of at least 1, got {length}, {holes}")
        self.length, self.holes, self.value = int(length), int(holes), value

    def apply(self, images, labels, draws):
        """Put the squares over the images."""
        size = np.array(images.shape[1:3])
        u = draws.uniform(2 * self.holes).reshape(len(images), self.holes, 2)
        begin = np.floor(u * size).astype(np.int64) - self.length // 2
        boxes = np.concatenate([np.clip(begin, 0, size),
                                np.clip(begin + self.length, 0, size)], axis=2)
        return _erased(images, boxes, self.value), labels
