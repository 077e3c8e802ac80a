"""One multiply-add per channel, what an inference batch norm amounts to."""

from __future__ import annotations

import numpy as np

from convkit._kernels import memory, norm
from convkit.errors import ShapeError
from convkit.ops.conv import activation_arguments
from convkit.ops.layout import from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["Affine"]


def _per_channel(v: np.ndarray, ndim: int) -> np.ndarray:
    """Return (C,) so that it broadcasts over axis 1 of an array of `ndim` axes."""
    return v.reshape(-1, *(1,) * (ndim - 2))


@register
class Affine(Op):
    """activation(x * scale + shift), with one scale and shift per channel (axis 1).

    Compiled graphs use it for batch norms that no layer takes up, with `activation` one of
    None, "relu", "relu6" and "leaky_relu" (its slope in `activation_args`).
    """

    name = "affine"
    reads = (0, 1)
    reads_output = True

    @staticmethod
    def shape(x, scale, shift, *, activation=None, activation_args=()):
        """Return the input's shape."""
        if not 2 <= len(x) <= 4:
            raise ShapeError(f"expected x of shape (N, C), (N, C, L) or (N, C, H, W), got {x}")
        for what, got in (("scale", scale), ("shift", shift)):
            if got != (x[1],):
                raise ShapeError(
                    f"expected {what} of shape ({x[1]},) for x of shape {x}, got {got}")
        return x

    @staticmethod
    def forward(ctx: Context, x, scale, shift, *, activation=None, activation_args=()):
        """Scale, shift and activate."""
        Affine.shape(x.shape, scale.shape, shift.shape)
        last = to_last(native(x))
        scale, shift = native(scale, "scale"), native(shift, "shift")
        y = memory.empty(last.shape, last.dtype)
        norm.affine(last, scale, shift, out=y, threads=ctx.threads,
                    **activation_arguments(activation, activation_args))
        y = from_last(y)
        if any(ctx.needs):
            ctx.saved = x, scale, y, activation, activation_args
        return y

    @staticmethod
    def backward(ctx, g):
        """Return the gradients of x, scale and shift.

        The activation's slope is read off its output: none of them (with a slope of at
        least 0) changes the sign.
        """
        x, scale, y, activation, args = ctx.saved
        if activation == "leaky_relu":
            g = np.where(y > 0, g, g * g.dtype.type(args[0]))
        elif activation is not None:
            g = np.where((y > 0) & ((y < 6) | (activation == "relu")), g, g.dtype.type(0))
        axes = tuple(i for i in range(x.ndim) if i != 1)
        return (g * _per_channel(scale, x.ndim).astype(x.dtype) if ctx.needs[0] else None,
                np.sum(g * x, axis=axes).astype(scale.dtype) if ctx.needs[1] else None,
                np.sum(g, axis=axes) if ctx.needs[2] else None)
