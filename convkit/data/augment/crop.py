"""Parts cut out of images, with or without padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.data.augment.base import Transform, pair
from convkit.data.augment.geometry import Geometric, Sampling, sample, shifts, signed_axes
from convkit.errors import ShapeError

__all__ = ["CenterCrop", "FiveCrop", "Pad", "RandomCrop", "TenCrop"]


def _padding(value: Any) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) from one int, two or four."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) not in (1, 2, 4) or not all(isinstance(v, int) and v >= 0 for v in values):
        raise ValueError(f"expected padding as 1, 2 or 4 ints of at least 0, got {value!r}")
    return tuple((values * 4)[:4])


def _fits(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    """Raise where a crop is larger than what it is cut from."""
    if inner[0] > outer[0] or inner[1] > outer[1]:
        raise ShapeError(f"expected images of at least {inner[0]}x{inner[1]} to crop, "
                         f"got {outer[0]}x{outer[1]}")


class Pad(Geometric):
    """Put a border around images.

    Parameters
    ----------
    padding : int, two ints or four
        On all sides; left and right, top and bottom; or left, top, right, bottom.
    fill : float or sequence of float
    padding_mode : {"constant", "edge", "reflect", "symmetric"}
    """

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant"):
        self.padding = _padding(padding)
        self.sampling = Sampling(None, padding_mode, fill)

    def maps(self, draws, size):
        """Return the maps."""
        left, top, right, bottom = self.padding
        return (shifts(-left, -top, len(draws)),
                (size[0] + top + bottom, size[1] + left + right))


class RandomCrop(Geometric):
    """Cut out a part at a random place, after padding.

    Parameters
    ----------
    size : int or (height, width)
    padding : int, two ints or four
        As in `Pad`.
    fill : float or sequence of float
    padding_mode : {"constant", "edge", "reflect", "symmetric"}
    """

    def __init__(self, size: Any, padding: Any = 0, fill: Any = 0,
                 padding_mode: str = "constant"):
        self.size = pair(size, "size")
        self.padding = _padding(padding)
        border = Sampling(None, padding_mode, fill)
        self.sampling = border if any(self.padding) else Sampling()

    def maps(self, draws, size):
        """Return the maps."""
        left, top, right, bottom = self.padding
        whole = size[0] + top + bottom, size[1] + left + right
        _fits(self.size, whole)
        u = draws.uniform(2)
        y, x = (np.floor(u[:, i] * (whole[i] - self.size[i] + 1)) for i in (0, 1))
        return shifts(x - left, y - top, len(draws)), self.size


class CenterCrop(Geometric):
    """Cut out the middle; for testing."""

    sampling = Sampling()

    def __init__(self, size: Any):
        self.size = pair(size, "size")

    def maps(self, draws, size):
        """Return the maps."""
        _fits(self.size, size)
        top, left = (round((size[i] - self.size[i]) / 2) for i in (0, 1))
        return shifts(left, top, len(draws)), self.size


class FiveCrop(Transform):
    """Cut out the four corners and the middle; for testing.

    Images come out as (N, 5, C, height, width), in torchvision's order: top left, top right,
    bottom left, bottom right, middle. Reshape to (-1, C, height, width) for the network and
    average its scores over each five.
    """

    mirrored = False

    def __init__(self, size: Any):
        self.size = pair(size, "size")

    def apply(self, images, labels, draws):
        """Return the crops (N, crops, height, width, C)."""
        height, width = images.shape[1:3]
        _fits(self.size, (height, width))
        bottom, right = height - self.size[0], width - self.size[1]
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom),
                  (round(right / 2), round(bottom / 2))]
        crops = [self._cut(images, x, y, False) for x, y in places]
        if self.mirrored:
            crops += [self._cut(images, x, y, True) for x, y in places]
        return np.stack(crops, axis=1), labels

    def _cut(self, images: np.ndarray, x: int, y: int, mirrored: bool) -> np.ndarray:
        """Return the part at (x, y) of the images, or of the mirrored ones."""
        matrices = signed_axes(mirrored, False, len(images), images.shape[1:3])
        matrices = matrices.copy()
        matrices[:, 0, 2] += matrices[:, 0, 0] * x
        matrices[:, 1, 2] += y
        return sample(images, matrices, self.size, Sampling())


class TenCrop(FiveCrop):
    """The five crops, then those of the mirrored image (Krizhevsky et al., 2012)."""

    mirrored = True
