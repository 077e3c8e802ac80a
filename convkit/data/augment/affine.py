"""Rotation, translation, scale and shear by any amount."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.data.augment.base import between, span
from convkit.data.augment.geometry import Geometric, Sampling

__all__ = ["RandomAffine", "RandomRotation", "RandomScale", "RandomShear", "RandomTranslation"]


def _degrees(value: Any, what: str) -> tuple[float, float]:
    """Return a range of angles; one number means from minus it to it."""
    if isinstance(value, (int, float)):
        if value < 0:
            raise ValueError(f"expected {what} of at least 0, or a range, got {value!r}")
        value = (-value, value)
    return span(value, what)


class RandomAffine(Geometric):
    """Rotate, translate, scale and shear about the centre, as torchvision's `RandomAffine`.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle, clockwise; one number `d` means from -d to d.
    translate : (float, float), optional
        Largest shift to either side, as a share of width and of height.
    scale : (float, float), optional
        Range of the factor.
    shear : float, (float, float) or four floats, optional
        Range of the angle parallel to x, and (four numbers) of that parallel to y.
    interpolation : {"bilinear", "nearest"}
    padding_mode : {"constant", "edge"}
        What lies beyond the frame: `fill`, or the pixels at the edge.
    fill : float or sequence of float
        In the images' own range, one value or one for each channel.

    Notes
    -----
    The matrix is T C R S K C^-1 with translation T, the centre C, rotation R, scale S and
    shear K; pixels are found by its inverse. In a `Compose`, neighbouring affine maps, flips
    and crops are multiplied first and the image is resampled once.
    """

    def __init__(self, degrees: Any, translate: Any = None, scale: Any = None, shear: Any = None,
                 interpolation: str = "bilinear", padding_mode: str = "constant", fill: Any = 0):
        self.degrees = _degrees(degrees, "degrees")
        self.translate = (0.0, 0.0) if translate is None else tuple(map(float, translate))
        if len(self.translate) != 2 or not all(0 <= t <= 1 for t in self.translate):
            raise ValueError(f"expected translate as two shares from 0 to 1, got {translate!r}")
        self.scale = (1.0, 1.0) if scale is None else span(scale, "scale", 1e-3, 1e3)
        self.shear = self._shears(shear)
        if padding_mode not in ("constant", "edge"):
            raise ValueError(f"expected padding_mode of constant, edge, got {padding_mode!r}")
        self.sampling = Sampling(interpolation, padding_mode, fill)

    @staticmethod
    def _shears(shear: Any) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the ranges of both angles."""
        if shear is None:
            return (0.0, 0.0), (0.0, 0.0)
        if isinstance(shear, (int, float)) or len(shear) == 2:
            shear = (*_degrees(shear, "shear"), 0.0, 0.0)
        x, y = span(shear[:2], "shear", -89, 89), span(shear[2:], "shear", -89, 89)
        return x, y

    def maps(self, draws, size):
        """Return the maps."""
        height, width = size
        u = draws.uniform(6)
        angle = np.radians(between(u[:, 0], self.degrees))
        limits = self.translate[0] * width, self.translate[1] * height
        # Whole pixels, as in torchvision.
        move = np.rint(np.stack([between(u[:, i + 1], (-t, t)) for i, t in enumerate(limits)], 1))
        scale = between(u[:, 3], self.scale)
        x, y = (np.radians(between(u[:, i + 4], s)) for i, s in enumerate(self.shear))
        return inverse(angle, move, scale, x, y, size), size


def inverse(angle: np.ndarray, move: np.ndarray, scale: np.ndarray, shear_x: np.ndarray,
            shear_y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the maps (N, 2, 3) from output to input; angles in radians, clockwise."""
    linear = np.empty((len(angle), 2, 2))
    linear[:, 0, 0] = np.cos(angle - shear_y) / np.cos(shear_y)
    linear[:, 0, 1] = (-np.cos(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y)
                       - np.sin(angle))
    linear[:, 1, 0] = np.sin(angle - shear_y) / np.cos(shear_y)
    linear[:, 1, 1] = (-np.sin(angle - shear_y) * np.tan(shear_x) / np.cos(shear_y)
                       + np.cos(angle))
    out = np.empty((len(angle), 2, 3))
    out[:, :, :2] = np.linalg.inv(linear * scale[:, None, None])
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    out[:, :, 2] = centre - np.einsum("nij,nj->ni", out[:, :, :2], centre + move)
    return out


class RandomRotation(RandomAffine):
    """Rotate about the centre; positive angles turn counter-clockwise, as in torchvision.

    Parameters
    ----------
    degrees : float or (float, float)
        Range of the angle.
    interpolation, padding_mode, fill
        As in `RandomAffine`.
    """

    def __init__(self, degrees: Any, interpolation: str = "bilinear",
                 padding_mode: str = "constant", fill: Any = 0):
        low, high = _degrees(degrees, "degrees")
        super().__init__((-high, -low), None, None, None, interpolation, padding_mode, fill)


class RandomTranslation(RandomAffine):
    """Shift by up to a share of width and height; `RandomAffine` with nothing else."""

    def __init__(self, translate: tuple[float, float], padding_mode: str = "constant",
                 fill: Any = 0):
        super().__init__(0, translate, None, None, "bilinear", padding_mode, fill)


class RandomScale(RandomAffine):
    """Scale about the centre, keeping the image's size; `RandomAffine` with nothing else."""

    def __init__(self, scale: tuple[float, float], interpolation: str = "bilinear",
                 padding_mode: str = "constant", fill: Any = 0):
        super().__init__(0, None, scale, None, interpolation, padding_mode, fill)


class RandomShear(RandomAffine):
    """Shear about the centre; `RandomAffine` with nothing else."""

    def __init__(self, shear: Any, interpolation: str = "bilinear",
                 padding_mode: str = "constant", fill: Any = 0):
        super().__init__(0, None, None, shear, interpolation, padding_mode, fill)
