"""Local response normalisation over neighbouring channels (Krizhevsky et al., 2012)."""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import memory, rownorm
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS, from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["LocalResponseNorm"]

Array = np.ndarray


def _check(x: tuple[int, ...], size: int) -> None:
    """Raise ShapeError when the input or the window does not fit."""
    if not 2 <= len(x) <= 4:
        raise ShapeError(f"expected x of shape (N, C), (N, C, L) or (N, C, H, W), got {x}")
    if size < 1:
        raise ShapeError(f"expected a window of at least 1 channel, got size={size}")


@register
class LocalResponseNorm(Op):
    """X / (k + alpha * mean)^beta, with the mean of x^2 over `size` neighbouring channels.

    The window reaches from size // 2 channels before to (size - 1) // 2 after; channels beyond
    the edges count as zeros. Krizhevsky et al., "ImageNet Classification with Deep
    Convolutional Neural Networks", 2012, section 3.3 (there with a sum: alpha is PyTorch's and
    ONNX's, `size` times theirs).
    """

    name = "local_response_norm"
    onnx = "LRN"
    reads = (0,)

    @staticmethod
    def shape(x, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        """Return the input's shape."""
        _check(x, size)
        return x

    @staticmethod
    def forward(ctx: Context, x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75,
                k: float = 1.0) -> Array:
        """Normalise; the result is channels-last in memory."""
        _check(x.shape, size)
        last = to_last(native(x), ctx.threads)
        y = memory.empty(last.shape, last.dtype)
        base = memory.empty(last.shape, last.dtype) if ctx.needs[0] else None
        rownorm.local_response_norm(last, size, alpha, beta, k, y, base, ctx.threads)
        if ctx.needs[0]:
            ctx.saved = (last, base, size, alpha, beta, k)
        return from_last(y)

    @staticmethod
    def lower(b, x, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        """Emit the kernel's step, on values with channels last."""
        if x.dtype not in FLOATS or len(x.shape) not in (2, 3, 4):
            return None
        x = b.last(x) if len(x.shape) > 2 else b.in_order(x, (0, 1))
        y = b.new(x.shape, x.dtype, x.order)
        b.step(rownorm.local_response_norm_step(
            math.prod(x.shape[2:]), x.shape[1], x.dtype == np.float64, size, alpha, beta, k),
            (x, y), x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array]:
        """Return the gradient of x.

        With d = k + alpha * mean: gx = gy / d^beta - 2 alpha beta / size * x * sum(gy x /
        d^(beta + 1)), the sum over the channels in whose window x lies.
        """
        last, base, *attrs = ctx.saved
        gx = memory.empty(last.shape, last.dtype)
        gy = to_last(gy, ctx.threads)
        rownorm.local_response_norm_grad(gy, last, base, *attrs, gx, ctx.threads)
        return (from_last(gx),)
