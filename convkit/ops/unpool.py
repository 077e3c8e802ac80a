"""Max unpooling: what a max pool left, put back to where it came from."""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import elements, memory
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import FLOATS, from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["MaxUnpool"]

Array = np.ndarray


def _pixels(last: Array) -> Array:
    """Return (N, spatial..., C) as (N, pixels, C)."""
    return last.reshape(len(last), -1, last.shape[-1]) if last.size else last.reshape(
        len(last), math.prod(last.shape[1:-1]), last.shape[-1])


@register
class MaxUnpool(Op):
    """Zeros, and x at the flat places over the spatial axes that `indices` names.

    Where two windows share a place, the later in reading order stays (Zeiler, Taylor and
    Fergus, "Adaptive Deconvolutional Networks for Mid and High Level Feature Learning", 2011).
    """

    name = "max_unpool"
    onnx = "MaxUnpool"
    reads = (1,)

    @staticmethod
    def shape(x, indices, *, output_size):
        """Return (N, C, *output_size)."""
        if len(x) not in (3, 4):
            raise ShapeError(f"expected x of shape (N, C, L) or (N, C, H, W), got {x}")
        if indices != x:
            raise ShapeError(f"expected indices of shape {x} like x, got {indices}")
        if len(output_size) != len(x) - 2 or min(output_size) < 1:
            raise ShapeError(f"expected {len(x) - 2} sizes of at least 1, got {output_size}")
        return (*x[:2], *output_size)

    @staticmethod
    def forward(ctx: Context, x: Array, indices: Array, *, output_size: tuple[int, ...]) -> Array:
        """Put the numbers in their places; the result is channels-last in memory."""
        n, c, *size = MaxUnpool.shape(x.shape, indices.shape, output_size=output_size)
        if indices.dtype.kind not in "iu":
            raise DTypeError(f"expected indices of an integer type, got {indices.dtype}")
        pixels = math.prod(size)
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < pixels:
            raise ShapeError(f"expected indices from 0 to {pixels - 1} for an output of spatial "
                             f"size {tuple(size)}, got {indices.min()} to {indices.max()}")
        # A copy of one's own: what is changed later cannot lead backward astray.
        places = _pixels(to_last(indices)).astype(np.int64)
        values = _pixels(to_last(native(x)))
        out = memory.zeros((n, *size, c), values.dtype)
        if places.size:
            np.put_along_axis(_pixels(out), places, values, 1)
        if ctx.needs[0]:
            ctx.saved = places, x.shape
        return from_last(out)

    @staticmethod
    def lower(b, x, indices, *, output_size):
        """Emit a step, on values with channels last."""
        if x.dtype not in FLOATS or indices.dtype != np.int64 or len(x.shape) not in (3, 4):
            return None
        pixels = math.prod(output_size)

        def refuse(addresses, samples, threads, scratch):
            raise ShapeError(f"expected indices from 0 to {pixels - 1} for an output of spatial "
                             f"size {tuple(output_size)}")

        x, indices = b.last(x), b.last(indices)
        y = b.new_last((*x.shape[:2], *output_size), x.dtype)
        b.step(elements.unpool_step(math.prod(x.shape[2:]), x.shape[1], pixels,
                                    x.dtype == np.float64, refuse), (x, indices, y), x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array, None]:
        """Return for each number the gradient at its place, be it shared, as PyTorch does."""
        places, shape = ctx.saved
        if not places.size:
            return np.zeros(shape, gy.dtype), None
        gx = np.take_along_axis(_pixels(to_last(gy)), places, 1)
        return from_last(gx.reshape(shape[0], *shape[2:], shape[1])), None
