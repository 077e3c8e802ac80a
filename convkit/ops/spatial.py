"""What operations on images and signals share: checks, one 4-D form, remembered lists."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit._kernels import memory
from convkit._kernels.axis import Axis
from convkit.errors import ShapeError
from convkit.ops.layout import from_last, native, to_last

__all__ = ["LIMIT", "UNIT", "all_of", "empty_image", "image", "image_gradient", "per_axis",
           "remembered", "spatial_axes"]

# Sizes of axes, and attributes that are added to them, stay below this: kernels count in int32.
LIMIT = 2 ** 31 - 1

# The axis that stands in for the missing height of signals.
UNIT = Axis(1, 1, [0], [0], [1.0], [0])


def remembered(build: Callable) -> Callable:
    """Remember what ``build(size, outputs, ...)`` returned, but few of the large ones."""
    small = functools.lru_cache(maxsize=256)(build)
    large = functools.lru_cache(maxsize=2)(build)

    @functools.wraps(build)
    def find(size: int, outputs: int = 1, *args: Any) -> Any:
        return (small if max(size, outputs) <= 65_536 else large)(size, outputs, *args)

    return find


@remembered
def all_of(size: int, outputs: int = 1) -> Axis:
    """Return the axis that sums everything into one element."""
    return Axis(1, size, np.zeros(size), np.arange(size), np.ones(size))


def spatial_axes(x: tuple[int, ...]) -> int:
    """Return how many spatial axes a shape has; raise ShapeError unless it is 1 or 2."""
    if len(x) not in (3, 4):
        raise ShapeError(f"expected x of shape (N, C, L) or (N, C, H, W), got {tuple(x)}")
    if not all(0 < n <= LIMIT for n in x[1:]):
        raise ShapeError(
            f"expected channels and spatial sizes from 1 to {LIMIT}, got x of shape {tuple(x)}")
    return len(x) - 2


def per_axis(value: Any, axes: int, name: str, low: int) -> tuple[int, ...]:
    """Return an attribute as one integer per spatial axis.

    Parameters
    ----------
    value : int or sequence of int
        A single integer stands for every axis.
    axes : int
        How many spatial axes there are.
    name : str
        What the attribute is called, for the message.
    low : int
        The least value allowed.

    Raises
    ------
    ShapeError
        When the number of values or one of them does not fit.
    """
    values = (value,) * axes if hasattr(value, "__index__") else tuple(value)
    if len(values) != axes:
        raise ShapeError(f"expected {name} with {axes} values, one per spatial axis, got {value}")
    values = tuple(n.__index__() for n in values)
    if not all(low <= n <= LIMIT for n in values):
        bound = f"at least {low}" if min(values) < low else f"at most {LIMIT}"
        raise ShapeError(f"expected {name} of {bound}, got {value}")
    return values


def image(x: np.ndarray, threads: int) -> np.ndarray:
    """Return (N, C, L) or (N, C, H, W) as the C-contiguous (N, H, W, C) that kernels take."""
    last = to_last(native(x), threads)
    return last.reshape(last.shape[0], 1, *last.shape[1:]) if last.ndim == 3 else last


def image_gradient(g: np.ndarray, dtype: np.dtype, threads: int) -> np.ndarray:
    """Return an incoming gradient as `image` does, in the dtype of the forward pass."""
    return image(g.astype(dtype, copy=False), threads)


def empty_image(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (logical view, its (N, H, W, C) form) of new memory for a logical shape."""
    n, c, *sizes = shape
    height = 1 if len(sizes) == 1 else sizes[0]
    if math.prod(shape) * np.dtype(dtype).itemsize >= 2 ** 62:
        raise MemoryError(f"an array of shape {tuple(shape)} and {dtype} is too large")
    last = memory.empty((n, height, sizes[-1], c), dtype)
    return from_last(last[:, 0] if len(sizes) == 1 else last), last
