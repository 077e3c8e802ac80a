"""Affine maps of images: how they are put together, and the one resampling at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit.data.augment.base import Transform, like, pixel
from convkit.data.augment.draws import Draws
from convkit.errors import ShapeError

__all__ = ["Geometric", "Geometry", "Sampling", "sample", "shifts", "signed_axes"]

Size = tuple[int, int]
BORDERS = ("constant", "edge", "reflect", "symmetric")
INTERPOLATIONS = ("nearest", "bilinear")


@dataclass(frozen=True)
class Sampling:
    """How an image is read between its pixels and beyond its frame; None where it is not."""

    interpolation: str | None = None
    border: str | None = None
    fill: Any = 0

    def __post_init__(self):
        if self.interpolation not in (None, *INTERPOLATIONS):
            raise ValueError(f"expected interpolation of {', '.join(INTERPOLATIONS)}, "
                             f"got {self.interpolation!r}")
        if self.border not in (None, *BORDERS):
            raise ValueError(f"expected padding_mode of {', '.join(BORDERS)}, "
                             f"got {self.border!r}")

    def joined(self, other: Sampling) -> Sampling | None:
        """Return what serves both, or None where they need two resamplings."""
        border = self.border or other.border
        interpolation = self.interpolation or other.interpolation
        for one in (self, other):
            if one.border not in (None, border) or one.interpolation not in (None, interpolation):
                return None
        if self.border and other.border and border == "constant" and self.fill != other.fill:
            return None
        if interpolation and border in ("reflect", "symmetric"):
            return None
        fill = self.fill if self.border else other.fill
        return replace(self, interpolation=interpolation, border=border, fill=fill)


class Geometric(Transform):
    """A transform that shows each output pixel a place of the input, by an affine map."""

    geometric = True
    sampling: Sampling

    def maps(self, draws: Draws, size: Size) -> tuple[np.ndarray, Size]:
        """Return matrices (N, 2, 3) from output to input pixels (x, y), and the output's size.

        Pixel centres lie at integers. `size` is the input's (height, width).
        """
        raise NotImplementedError(f"{type(self).__name__} must define maps")

    def apply(self, images, labels, draws):
        """Resample the images once."""
        matrices, size = self.maps(draws, images.shape[1:3])
        return sample(images, matrices, size, self.sampling), labels


class Geometry(Geometric):
    """Several affine maps, one after the other, as one."""

    def __init__(self, parts: list[Any], places: list[int], sampling: Sampling):
        self.parts, self.places, self.sampling = parts, places, sampling

    def maps(self, draws: Draws, size: Size) -> tuple[np.ndarray, Size]:
        """Return the product of the parts' maps."""
        total = np.tile(np.eye(2, 3), (len(draws), 1, 1))
        for part, place in zip(self.parts, self.places, strict=True):
            matrices, size = part.maps(draws.child(place), size)
            total = composed(total, matrices)
        return total, size


def composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the map that reads through `second` what `first` made of the input."""
    out = first[:, :, :2] @ second
    out[:, :, 2] += first[:, :, 2]
    return out


def signed_axes(x: Any, y: Any, count: int, size: Size) -> np.ndarray:
    """Return maps that mirror the axes where `x`, `y` (N,) are true."""
    out = np.tile(np.eye(2, 3), (count, 1, 1))
    for row, (mirrored, length) in enumerate(((x, size[1]), (y, size[0]))):
        mirrored = np.broadcast_to(mirrored, count)
        out[mirrored, row, row] = -1
        out[mirrored, row, 2] = length - 1
    return out


def shifts(x: Any, y: Any, count: int) -> np.ndarray:
    """Return maps whose output's first pixel shows the input's (x, y)."""
    out = np.tile(np.eye(2, 3), (count, 1, 1))
    out[:, 0, 2], out[:, 1, 2] = x, y
    return out


def sample(images: np.ndarray, matrices: np.ndarray, size: Size,
           sampling: Sampling) -> np.ndarray:
    """Return images (N, height, width, C) read through affine maps.

    Maps that only move, mirror or turn by 90 degrees copy pixels as they are. Interpolation
    is bilinear, with the fill beyond the frame, as `grid_sample` of PyTorch has it.
    """
    if not np.isfinite(matrices).all():
        raise ValueError("expected finite affine maps")
    if min(size) < 1:
        raise ShapeError(f"expected an output of at least 1x1, got {size[0]}x{size[1]}")
    out = like(images, size)
    fill = pixel(sampling.fill, images)
    threads = runtime.get_num_threads()
    border = sampling.border or "constant"
    if _copies(matrices):
        places = np.full((len(images), 7), BORDERS.index(border), np.int64)
        places[:, :6] = np.clip(matrices.reshape(-1, 6), -2**31, 2**31)
        kernels.place(images, out, places, fill, threads)
    else:
        kernels.warp(images, out, np.ascontiguousarray(matrices, np.float64).reshape(-1, 6),
                     sampling.interpolation != "nearest", border == "edge",
                     fill.astype(np.float32), threads)
    return out


def _copies(matrices: np.ndarray) -> bool:
    """Tell whether every map takes pixels to pixels by a signed permutation of the axes."""
    linear = np.abs(matrices[:, :, :2])
    return bool((matrices == np.rint(matrices)).all() and (linear.sum(axis=1) == 1).all()
                and (linear.sum(axis=2) == 1).all())
