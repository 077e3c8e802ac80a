"""Brightness, contrast, saturation, hue, grey, and lighting along principal components."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit.data.augment.base import Transform, between, like, share, span
from convkit.errors import ShapeError

__all__ = ["ColorJitter", "PCALighting", "RandomBrightness", "RandomChannelDrop",
           "RandomContrast", "RandomGrayscale", "RandomHue", "RandomSaturation", "color_components"]

ORDER = ("brightness", "contrast", "saturation", "hue")


def adjusted(images: np.ndarray, kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Apply colour steps, kinds (N, S) with values (N, S, 3), to images (N, H, W, 1 or 3)."""
    if images.shape[3] not in (1, 3):
        raise ShapeError(f"expected images of 1 or 3 channels, got {images.shape[3]}")
    out = like(images)
    kernels.color(images, out, np.ascontiguousarray(kinds, np.int32),
                  np.ascontiguousarray(values, np.float32), runtime.get_num_threads())
    return out


def _factors(value: Any, what: str) -> tuple[float, float]:
    """Return a range of factors; one number `v` means 1 - v (at least 0) to 1 + v."""
    if isinstance(value, (int, float)):
        if value < 0:
            raise ValueError(f"expected {what} of at least 0, got {value!r}")
        value = (max(0.0, 1 - value), 1 + value)
    return span(value, what, 0, 1e6)


def _turns(value: Any) -> tuple[float, float]:
    """Return a range of hue shifts; one number `v` means -v to v."""
    if isinstance(value, (int, float)):
        value = (-value, value)
    return span(value, "hue", -0.5, 0.5)


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in a random order for each image.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
        Range of the factor; one number `v` means from max(0, 1 - v) to 1 + v.
    hue : float or (float, float)
        Range of the shift in turns, within -0.5 to 0.5; one number `v` means -v to v.

    Notes
    -----
    torchvision's definitions: results are cut to [0, 1] after each step; brightness blends
    with black, contrast with the image's mean grey, saturation with the pixel's grey
    (0.2989 R + 0.587 G + 0.114 B); hue is turned in HSV. Bytes are rounded once, at the end,
    to the nearest. Images of one channel have no saturation and hue.
    """

    def __init__(self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0,
                 hue: Any = 0):
        self.limits = (_factors(brightness, "brightness"), _factors(contrast, "contrast"),
                       _factors(saturation, "saturation"), _turns(hue))

    def apply(self, images, labels, draws):
        """Change the images' colours in one pass."""
        u = draws.uniform(8)
        wanted = [i for i, limits in enumerate(self.limits)
                  if limits != ((0, 0) if i == 3 else (1, 1))]
        kinds = np.array([kernels.COLOR[ORDER[i]] for i in wanted], np.int32)
        values = np.zeros((len(images), len(wanted), 3), np.float32)
        for column, i in enumerate(wanted):
            values[:, column] = between(u[:, i], self.limits[i])[:, None]
        order = np.argsort(u[:, 4:4 + len(wanted)], axis=1)
        return adjusted(images, kinds[order], np.take_along_axis(values, order[..., None], 1)), \
            labels


class RandomBrightness(ColorJitter):
    """Multiply by a random factor; `ColorJitter` with nothing else."""

    def __init__(self, brightness: Any):
        super().__init__(brightness=brightness)


class RandomContrast(ColorJitter):
    """Blend with the mean grey; `ColorJitter` with nothing else."""

    def __init__(self, contrast: Any):
        super().__init__(contrast=contrast)


class RandomSaturation(ColorJitter):
    """Blend with each pixel's grey; `ColorJitter` with nothing else."""

    def __init__(self, saturation: Any):
        super().__init__(saturation=saturation)


class RandomHue(ColorJitter):
    """Turn the hue; `ColorJitter` with nothing else."""

    def __init__(self, hue: Any):
        super().__init__(hue=hue)


class RandomGrayscale(Transform):
    """Drop the colour with probability `p`: every channel becomes grey.

    ``RandomGrayscale(1)`` is torchvision's ``Grayscale(3)``.
    """

    def __init__(self, p: float = 0.1):
        self.p = share(p)

    def apply(self, images, labels, draws):
        """Make some images grey."""
        chosen = draws.uniform(1) < self.p
        kinds = np.where(chosen, kernels.COLOR["grey"], kernels.COLOR["none"])
        return adjusted(images, kinds, np.zeros((len(images), 1, 3))), labels


class RandomChannelDrop(Transform):
    """Set one channel, chosen at random, to 0, with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = share(p)

    def apply(self, images, labels, draws):
        """Drop channels of some images."""
        u = draws.uniform(2)
        kinds = np.where(u[:, :1] < self.p, kernels.COLOR["scale"], kernels.COLOR["none"])
        values = np.ones((len(images), 1, 3))
        channel = (u[:, 1] * images.shape[3]).astype(int)
        values[np.arange(len(images)), 0, channel] = 0
        return adjusted(images, kinds, values), labels


def color_components(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of pixel colours.

    Parameters
    ----------
    images : array_like of uint8 (or floats from 0 to 1), shape (N, 3, H, W)
        Such as ``dataset.images``.

    Returns
    -------
    eigenvalues : numpy.ndarray of float64, shape (3,)
        Variances along the components, largest first, for values from 0 to 1.
    eigenvectors : numpy.ndarray of float64, shape (3, 3)
        The components, in columns.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ShapeError(f"expected images of shape (N, 3, H, W), got {images.shape}")
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    total, products, count = np.zeros(3), np.zeros((3, 3)), 0
    for start in range(0, len(images), 256):
        part = images[start:start + 256].transpose(0, 2, 3, 1).reshape(-1, 3) / scale
        total += part.sum(axis=0)
        products += part.T @ part
        count += len(part)
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


class PCALighting(Transform):
    """Add a random multiple of the colours' principal components to every pixel.

    Parameters
    ----------
    eigenvalues : array_like, shape (3,)
    eigenvectors : array_like, shape (3, 3)
        In columns; both from `color_components` of the training images.
    std : float
        Standard deviation of the random multiples of the eigenvalues.

    Notes
    -----
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", 2012, section 4.1: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T with eigenvectors p,
    eigenvalues l of the colours' covariance and a of N(0, std^2), drawn once for an image.
    As there, l scales the components, not its square root.
    """

    def __init__(self, eigenvalues: Any, eigenvectors: Any, std: float = 0.1):
        self.eigenvalues = np.asarray(eigenvalues, np.float64)
        self.eigenvectors = np.asarray(eigenvectors, np.float64)
        if self.eigenvalues.shape != (3,) or self.eigenvectors.shape != (3, 3):
            raise ShapeError("expected eigenvalues (3,) and eigenvectors (3, 3), got "
                             f"{self.eigenvalues.shape} and {self.eigenvectors.shape}")
        if not 0 <= std < np.inf:
            raise ValueError(f"expected std of at least 0, got {std!r}")
        self.std = float(std)

    def apply(self, images, labels, draws):
        """Add the lighting."""
        if images.shape[3] != 3:
            raise ShapeError(f"expected images of 3 channels, got {images.shape[3]}")
        u = draws.uniform(6)
        normal = np.sqrt(-2 * np.log(1 - u[:, :3])) * np.cos(2 * np.pi * u[:, 3:])
        values = (self.std * normal * self.eigenvalues) @ self.eigenvectors.T
        kinds = np.full((len(images), 1), kernels.COLOR["add"])
        return adjusted(images, kinds, values[:, None]), labels
