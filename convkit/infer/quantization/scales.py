"""Scales and zero points of ranges, and quantised weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Range", "quantised_weight", "scale_of"]

SMALLEST = 1e-12  # of scales: what lies below is zero
BIAS_STEPS = 2.0**30


class Range(NamedTuple):
    """The smallest and the largest number that bytes are to hold."""

    low: float
    high: float


def scale_of(r: Range) -> tuple[np.float32, int]:
    """Return scale and zero point of uint8 for a range, which is widened to hold zero."""
    low, high = min(r.low, 0.0), max(r.high, 0.0)
    scale = np.float32(max((high - low) / 255, SMALLEST))
    return scale, int(np.clip(np.rint(-low / float(scale)), 0, 255))


def quantised_weight(weight: np.ndarray, bias: np.ndarray | None, x_scale: float
                     ) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 weights and a scale for each output channel (axis 0), symmetric about zero.

    A channel whose bias would not fit int32 in steps of both scales gets a larger scale.
    """
    flat = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
    scale = np.maximum(flat.max(axis=1, initial=0.0) / 127, SMALLEST)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (x_scale * BIAS_STEPS))
    scale = scale.astype(np.float32)
    steps = np.rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    return np.clip(steps, -127, 127).astype(np.int8), scale
