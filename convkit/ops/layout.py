"""Memory layout: logical (N, C, spatial...) arrays over channels-last memory.

Activations keep PyTorch's logical order of axes, but in memory the channels come last
(the strides say so). Kernels see the memory order: ``to_last`` gives it without a copy
when the array is already laid out that way, ``from_last`` goes back.
"""

from __future__ import annotations

import numpy as np

from convkit._kernels import memory
from convkit.errors import DTypeError

__all__ = ["FLOATS", "empty_last", "from_last", "native", "to_last"]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Axes that bring (N, C, L) or (N, C, H, W) to channels-last order, and back.
_TO_LAST = {2: (0, 1), 3: (0, 2, 1), 4: (0, 2, 3, 1)}
_FROM_LAST = {2: (0, 1), 3: (0, 2, 1), 4: (0, 3, 1, 2)}


def native(x: np.ndarray, what: str = "x") -> np.ndarray:
    """Return `x` in native byte order; raise DTypeError unless it is float32 or float64."""
    if x.dtype in FLOATS:
        return x
    swapped = x.dtype.newbyteorder("=")
    if swapped in FLOATS:
        return x.astype(swapped)
    raise DTypeError(
        f"expected {what} of float32 or float64, got {x.dtype}; "
        f"convert with {what}.astype(np.float32)")


def to_last(x: np.ndarray) -> np.ndarray:
    """Return a C-contiguous channels-last array with the values of a logical 2-D to 4-D one.

    Shares memory with `x` where its layout allows.
    """
    last = x.transpose(_TO_LAST[x.ndim])
    if last.flags.c_contiguous:
        return last
    copy = memory.empty(last.shape, x.dtype)
    np.copyto(copy, last)
    return copy


def from_last(y: np.ndarray) -> np.ndarray:
    """Return the logical (N, C, spatial...) view of a channels-last array."""
    return y.transpose(_FROM_LAST[y.ndim])


def empty_last(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return (logical view, channels-last array) of new pooled memory for a logical shape."""
    last = memory.empty(tuple(shape[i] for i in _TO_LAST[len(shape)]), dtype)
    return from_last(last), last
