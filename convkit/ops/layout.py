"""Memory layout: logical (N, C, spatial...) arrays over channels-last memory.

Activations keep PyTorch's logical order of axes, but in memory the channels come last
(the strides say so). Kernels see the memory order: ``to_last`` gives it without a copy
when the array is already laid out that way, ``from_last`` goes back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit._kernels import copies, memory
from convkit._kernels.memory import from_last, to_last
from convkit.errors import DTypeError

__all__ = ["BFLOAT16", "FLOATS", "LAST_ORDER", "axis_order", "dense_strides", "empty_last",
           "empty_ordered", "form_in_memory", "from_last", "in_order", "like", "logical", "native",
           "to_last"]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# What steps of a Program may hold between them; to NumPy, which has no such type, two bytes.
BFLOAT16 = np.dtype("V2")

# Axes that bring (N, C, L) or (N, C, H, W) to channels-last order.
LAST_ORDER = {2: (0, 1), 3: (0, 2, 1), 4: (0, 2, 3, 1)}


def native(x: np.ndarray, what: str = "x") -> np.ndarray:
    """Return `x` in native byte order, aligned; raise DTypeError unless float32 or float64."""
    if memory.is_plain(x):
        return x
    if x.dtype in FLOATS:
        return x.copy(order="K")
    swapped = x.dtype.newbyteorder("=")
    if swapped in FLOATS:
        return x.astype(swapped)
    raise DTypeError(
        f"expected {what} of float32 or float64, got {x.dtype}; "
        f"convert with {what}.astype(np.float32)")


def empty_last(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return (logical view, channels-last array) of new pooled memory for a logical shape."""
    last = memory.empty(tuple(shape[i] for i in LAST_ORDER[len(shape)]), dtype)
    return from_last(last), last


def axis_order(x: np.ndarray) -> tuple[int, ...] | None:
    """Return the axes of `x` from the outermost in memory to the innermost; None for C order."""
    if x.ndim < 2 or x.flags.c_contiguous:
        return None
    order = LAST_ORDER.get(x.ndim)
    if order is not None and x.transpose(order).flags.c_contiguous:
        return order
    return tuple(sorted(range(x.ndim), key=lambda i: -abs(x.strides[i])))


@functools.lru_cache(maxsize=256)
def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that undoes one (of which there are few)."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def in_order(x: np.ndarray, order: tuple[int, ...] | None, threads: int = 1) -> np.ndarray:
    """Return the values of `x` as a C-contiguous, aligned array with its axes in `order`.

    Where they are to be copied, `threads` may do it.
    """
    moved = x if order is None else x.transpose(order)
    if moved.flags.c_contiguous and moved.flags.aligned:
        return moved
    copy = memory.empty(moved.shape, x.dtype)
    copies.copyto(copy, moved, threads)
    return copy


def logical(y: np.ndarray, order: tuple[int, ...] | None) -> np.ndarray:
    """Return an array whose axes are in `order` with its axes in logical order, as a view."""
    return y if order is None else y.transpose(_inverse(order))


def empty_ordered(
    shape: tuple[int, ...], order: tuple[int, ...] | None, dtype: np.dtype
) -> np.ndarray:
    """Return new pooled memory of a logical shape with its axes in the given order."""
    if order is None:
        return memory.empty(shape, dtype)
    shape, dtype, back = form_in_memory(shape, order, dtype)
    return memory.empty(shape, dtype).transpose(back)


def form_in_memory(shape: tuple[int, ...], order: tuple[int, ...], dtype: np.dtype) -> tuple:
    """Return the shape in memory, the type, and the axes that bring the logical order back."""
    return tuple([shape[i] for i in order]), dtype, _inverse(order)


def dense_strides(shape: Sequence[Any], order: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the strides of a dense array with its axes in an order.

    The size of the outermost axis is not looked at: it may be unknown.
    """
    strides = [0] * len(shape)
    for axis in reversed(order):
        strides[axis] = itemsize
        if axis != order[0]:
            itemsize *= shape[axis]
    return tuple(strides)


def like(x: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """Return new pooled memory of the shape of `x` with its axes in the same order in memory."""
    return empty_ordered(x.shape, axis_order(x), x.dtype if dtype is None else dtype)
