"""Shifts and scales, for each channel or for the whole data set."""

from __future__ import annotations

import numpy as np

from convkit.autograd import Tensor
from convkit.data.preprocess.step import Step

__all__ = ["Center", "MinMax", "Normalize"]

PER = ("channel", "dataset")


def per_what(per: str) -> str:
    """Return `per`, or raise."""
    if per not in PER:
        raise ValueError(f"expected per of {', '.join(PER)}, got {per!r}")
    return per


class _Scaling(Step):
    """Subtracts a value and divides by another, for each channel or for all."""

    SETTINGS = {"per": str}

    def __init__(self, per: str = "channel"):
        super().__init__()
        self.per = per_what(per)

    def _groups(self, images: np.ndarray) -> np.ndarray:
        """Return the values (groups, ...) of which each group has its own numbers."""
        channels = images.shape[1] if self.per == "channel" else 1
        return np.moveaxis(images, 1, 0).reshape(channels, -1)

    def _shapes(self, shape):
        count = shape[0] if self.per == "channel" else 1
        return dict.fromkeys(self.ARRAYS, (count,))

    def _column(self, name: str, images: Tensor) -> np.ndarray:
        return self.arrays[name].astype(images.dtype)[:, None, None]


class Center(_Scaling):
    """Subtract the training images' mean.

    Parameters
    ----------
    per : {"channel", "dataset"}
        A mean for each channel, or one for all.
    """

    ARRAYS = ("mean",)

    def _learn(self, images):
        return {"mean": self._groups(images).mean(axis=1, dtype=np.float64)}

    def _apply(self, images):
        return images - self._column("mean", images)


class Normalize(_Scaling):
    """Subtract the training images' mean and divide by their standard deviation.

    Parameters
    ----------
    per : {"channel", "dataset"}
        Numbers for each channel, or one pair for all. Where nothing varies, the divisor is 1.
    """

    ARRAYS = ("mean", "std")

    def _learn(self, images):
        values = self._groups(images)
        std = values.std(axis=1, dtype=np.float64)
        return {"mean": values.mean(axis=1, dtype=np.float64), "std": np.where(std > 1e-6, std, 1)}

    def _apply(self, images):
        return (images - self._column("mean", images)) / self._column("std", images)

    def check(self, shape):
        """Raise unless the arrays fit images of `shape` (C, H, W) and can be divided by."""
        super().check(shape)
        if not (self.arrays["std"] > 0).all():
            raise ValueError("expected std above 0")


class MinMax(_Scaling):
    """Move the training images' smallest value to 0 and the largest to 1.

    Parameters
    ----------
    per : {"channel", "dataset"}
        Numbers for each channel, or one pair for all. Where nothing varies, the span is 1.
    """

    ARRAYS = ("low", "high")

    def _learn(self, images):
        values = self._groups(images)
        low, high = values.min(axis=1), values.max(axis=1)
        return {"low": low, "high": np.where(high > low, high, low + 1)}

    def _apply(self, images):
        low = self._column("low", images)
        return (images - low) / (self._column("high", images) - low)

    def check(self, shape):
        """Raise unless the arrays fit images of `shape` (C, H, W) and span something."""
        super().check(shape)
        if not (self.arrays["high"] > self.arrays["low"]).all():
            raise ValueError("expected high above low")
