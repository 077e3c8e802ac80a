"""One multiply-add per channel, what an inference batch norm amounts to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import memory, norm
from convkit.errors import ShapeError
from convkit.ops.conv import activation_arguments
from convkit.ops.layout import FLOATS, from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["Affine", "lower_affine"]


@register
class Affine(Op):
    """activation(x * scale + shift), with one scale and shift per channel (axis 1).

    Compiled graphs use it for batch norms that no layer takes up, with `activation` one of
    None, "relu", "relu6", "clamp" and "leaky_relu" (ends or slope in `activation_args`).
    """

    name = "affine"
    reads = (0, 1)

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
        last = to_last(native(x), ctx.threads)
        scale, shift = native(scale, "scale"), native(shift, "shift")
        y = memory.empty(last.shape, last.dtype)
        norm.affine(last, scale, shift, out=y, threads=ctx.threads,
                    **activation_arguments(activation, activation_args))
        if any(ctx.needs):
            ctx.saved = last, scale, shift, activation, activation_args
        return from_last(y)

    @staticmethod
    def lower(b, x, scale, shift, *, activation=None, activation_args=()):
        """Emit the kernel's step, where scale and shift are constants."""
        if scale.constant is None or shift.constant is None or x.dtype not in FLOATS:
            return None
        return lower_affine(b, x, scale.constant, shift.constant,
                            **activation_arguments(activation, activation_args))

    @staticmethod
    def backward(ctx, g):
        """Return the gradients of x, scale and shift."""
        last, scale, shift, activation, args = ctx.saved
        g = to_last(g, ctx.threads)
        if activation is not None:
            z = _scaled(last, scale, shift, ctx.threads)
            g = g * _slope(z, activation, args)
        gx = from_last(_scaled(g, scale, np.zeros_like(scale), ctx.threads)) \
            if ctx.needs[0] else None
        sums, products = norm.grad_sums(g, last, np.zeros(scale.shape, last.dtype), ctx.threads)
        return (gx, products.astype(scale.dtype) if ctx.needs[1] else None,
                sums.astype(scale.dtype) if ctx.needs[2] else None)


def lower_affine(b: Any, x: Any, scale: np.ndarray, shift: np.ndarray, activation: int = 0,
                 alpha: float = 0.0, beta: float = 0.0) -> Any:
    """Emit a step that computes activation(x * scale + shift) per channel."""
    pixel = x.pixel
    x = b.last(x) if pixel is None else x
    y = b.new_last(x.shape, x.dtype)
    b.step(norm.affine_step(math.prod(x.shape[2:]), x.dtype == np.float64, scale, shift,
                            activation, alpha, beta, pixel), (x, y), x.samples)
    return y


def _scaled(last: np.ndarray, scale: np.ndarray, shift: np.ndarray, threads: int) -> np.ndarray:
    """Return last * scale + shift."""
    out = memory.empty(last.shape, last.dtype)
    norm.affine(last, scale, shift, 0, out, threads)
    return out


def _slope(z: np.ndarray, activation: str, args: tuple) -> np.ndarray:
    """Return the derivative of an activation; NaN counts as positive, as in PyTorch."""
    low = args[0] if activation == "leaky_relu" and args else 0.01
    slope = np.where(z <= 0, low if activation == "leaky_relu" else 0, 1)
    if activation == "relu6":
        slope = np.where(z >= 6, 0, slope)
    elif activation == "clamp":
        low, high = (*args, math.inf)[:2] if args else (-math.inf, math.inf)
        slope = np.where((z < low) | (z > high), 0, 1)
    return slope.astype(z.dtype)
