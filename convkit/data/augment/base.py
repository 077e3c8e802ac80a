"""What all transforms of batches of images have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import random
from convkit._kernels import memory
from convkit.data.augment.draws import Draws
from convkit.errors import DTypeError, ShapeError

__all__ = ["Transform"]


class Transform:
    """A transform of batches of images, each with random parameters of its own.

    Images are uint8, or float32 with values from 0 to 1; logically (N, C, H, W), kept
    channels-last in memory. A subclass defines `apply`.

    Notes
    -----
    In a `DataLoader`, the random numbers of an image follow from the loader's seed, the epoch
    and the sample's position in the data set, so the same image comes out whatever the batch,
    the number of threads, or what was prefetched. Bytes are rounded to the nearest.
    """

    # Whether `maps` describes this transform, so that a composition resamples only once.
    geometric = False

    def __call__(self, images: Any, labels: Any = None, *, seed: int | None = None,
                 epoch: int = 0, indices: Any = None) -> Any:
        """Transform images, and labels where they are given.

        Parameters
        ----------
        images : array_like of uint8 or float32, shape (N, C, H, W) or (C, H, W)
        labels : array_like, optional
            Class indices (N,) or probabilities (N, classes).
        seed : int, optional
            Without it, one is drawn from `convkit.random`, so that two calls differ.
        epoch : int
            What else the random numbers depend on.
        indices : array_like of int, shape (N,), optional
            The samples' numbers; 0 to N - 1 by default.

        Returns
        -------
        numpy.ndarray, or tuple of two where `labels` are given

        Raises
        ------
        DTypeError
            When the images are neither uint8 nor float32.
        ShapeError
            When the shapes do not fit.
        """
        images = np.asarray(images)
        single = images.ndim == 3
        batch = images[None] if single else images
        if indices is None:
            indices = np.arange(len(batch) if batch.ndim else 0)
        if seed is None:
            seed = int(random.generator().integers(2**63))
        out, labels = self.batch(batch, labels, Draws(seed, epoch, np.atleast_1d(indices)))
        if single:
            out = out[0]
        return out if labels is None else (out, labels)

    def batch(self, images: np.ndarray, labels: Any, draws: Draws) -> tuple[np.ndarray, Any]:
        """Transform a batch (N, C, H, W) with given random numbers; returns both."""
        if images.dtype not in (np.uint8, np.float32):
            raise DTypeError(f"expected images of uint8 or float32, got {images.dtype}")
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ShapeError(f"expected images of shape (N, C, H, W), got {images.shape}")
        if len(draws) != len(images):
            raise ShapeError(f"expected indices for {len(images)} images, got {len(draws)}")
        last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        out, labels = self.apply(last, None if labels is None else np.asarray(labels), draws)
        return np.moveaxis(out, -1, -3), labels

    def apply(self, images: np.ndarray, labels: np.ndarray | None,
              draws: Draws) -> tuple[np.ndarray, np.ndarray | None]:
        """Transform images in memory order (N, H, W, C); subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} must define apply")


def like(images: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return new memory for images of another size (height, width), or the same."""
    height, width = size or images.shape[1:3]
    return memory.empty((len(images), height, width, images.shape[3]), images.dtype)


def pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """Return (height, width) from one int or two."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and v >= least for v in values):
        raise ValueError(f"expected {what} as an int of at least {least}, or two, got {value!r}")
    return values


def span(value: Any, what: str, low: float = -np.inf, high: float = np.inf) -> tuple[float, float]:
    """Return (smallest, largest) and check that they are finite and within bounds."""
    values = tuple(float(v) for v in value)
    if len(values) != 2 or not low <= values[0] <= values[1] <= high or np.isinf(values).any():
        raise ValueError(f"expected {what} as (smallest, largest) from {low:g} to {high:g}, "
                         f"got {value!r}")
    return values


def share(value: Any, what: str = "p") -> float:
    """Return a probability, or raise."""
    if not 0 <= value <= 1:
        raise ValueError(f"expected {what} from 0 to 1, got {value!r}")
    return float(value)


def between(u: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return uniform numbers of [0, 1) moved into an interval."""
    return limits[0] + (limits[1] - limits[0]) * u


def pixel(fill: Any, images: np.ndarray) -> np.ndarray:
    """Return a fill colour as one pixel of the images' type."""
    channels = images.shape[-1]
    values = np.atleast_1d(np.asarray(fill, np.float64))
    if values.shape not in ((1,), (channels,)):
        raise ShapeError(f"expected fill with 1 or {channels} values, got {fill!r}")
    values = np.broadcast_to(values, channels)
    if images.dtype == np.uint8:
        if not (values == values.round()).all() or values.min() < 0 or values.max() > 255:
            raise ValueError(f"expected fill as whole numbers from 0 to 255, got {fill!r}")
    return np.ascontiguousarray(values.astype(images.dtype))
