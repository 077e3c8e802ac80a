"""Layer normalisation over the last axes (Ba et al., "Layer Normalization", 2016)."""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import memory, rownorm
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import FLOATS, axis_order, in_order, logical, native
from convkit.ops.op import Context, Op, register

__all__ = ["LayerNorm"]

Array = np.ndarray
Shape = tuple[int, ...]


def _check(x: Shape, weight: Shape | None, bias: Shape | None, normalized: Shape) -> None:
    """Raise ShapeError when a shape does not fit."""
    if not normalized or len(normalized) > len(x) or x[len(x) - len(normalized):] != normalized:
        raise ShapeError(f"expected x whose last axes are {normalized}, got x of shape {x}")
    for name, shape in (("weight", weight), ("bias", bias)):
        if shape is not None and shape != normalized:
            raise ShapeError(f"expected {name} of shape {normalized}, got {shape}")


def _parameter(a: Array | None, x: Array, what: str, order: tuple[int, ...]) -> Array | None:
    """Return a parameter with its axes in the order that the axes of a row have in memory."""
    if a is None:
        return None
    a = native(a, what)
    if a.dtype != x.dtype:
        raise DTypeError(f"expected {what} of {x.dtype} like x, got {a.dtype}")
    return in_order(a, order)


def _row_order(x: Array, axes: int) -> tuple[int, ...]:
    """Return the order of axes to work in: the array's own if rows are whole in it."""
    kept = x.ndim - axes
    order = axis_order(x)
    if order is not None and set(order[:kept]) == set(range(kept)):
        return order
    return tuple(range(x.ndim))


@register
class LayerNorm(Op):
    """Numbers over the last axes to mean 0 and variance 1, then scaled and shifted.

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and biased variance over the
    axes that `normalized_shape` lists the sizes of; weight and bias have that shape. A row
    may lie in memory in any order of those axes (channels-last images stay so).
    """

    name = "layer_norm"
    onnx = "LayerNormalization"
    reads = (0, 1)

    @staticmethod
    def shape(x, weight=None, bias=None, *, normalized_shape: Shape, eps: float = 1e-5):
        """Return the input's shape."""
        _check(x, weight, bias, tuple(normalized_shape))
        return x

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array | None = None, bias: Array | None = None,
                *, normalized_shape: Shape, eps: float = 1e-5) -> Array:
        """Normalise; the result is laid out in memory as `x` is, where rows allow."""
        _check(x.shape, None if weight is None else weight.shape,
               None if bias is None else bias.shape, tuple(normalized_shape))
        x = native(x)
        axes = len(normalized_shape)
        order = _row_order(x, axes)
        inner = tuple(i - (x.ndim - axes) for i in order[x.ndim - axes:])
        rows = in_order(x, order, ctx.threads)
        length = int(np.prod(normalized_shape, dtype=np.int64))
        weight, bias = (_parameter(a, x, what, inner)
                        for a, what in ((weight, "weight"), (bias, "bias")))
        y = memory.empty(rows.shape, x.dtype)
        mean, inverse = (np.empty(x.size // length if length else 0) for _ in range(2))
        rownorm.layer_norm(rows, length, weight, bias, eps, y, mean, inverse, ctx.threads)
        if any(ctx.needs):
            ctx.saved = (rows, weight, mean, inverse, length, order, inner)
        return logical(y, order)

    @staticmethod
    def lower(b, x, weight=None, bias=None, *, normalized_shape: Shape, eps: float = 1e-5):
        """Emit the kernel's step, where weight and bias are constants."""
        axes, rank = len(normalized_shape), len(x.shape)
        if x.dtype not in FLOATS or axes >= rank or any(
                a is not None and (a.constant is None or a.dtype != x.dtype)
                for a in (weight, bias)):
            return None
        kept = rank - axes
        order = x.order if set(x.order[:kept]) == set(range(kept)) else tuple(range(rank))
        x = b.in_order(x, order)
        y = b.new(x.shape, x.dtype, order)
        inner = tuple(i - kept for i in order[kept:])
        arrays = [None if a is None else in_order(a.constant, inner) for a in (weight, bias)]
        b.step(rownorm.layer_step(math.prod(x.shape[1:kept]), math.prod(normalized_shape),
                                  x.dtype == np.float64, *arrays, eps), (x, y), x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias.

        With z the normalised x, g = gy * weight and means over a row:
        gx = (g - mean(g) - z * mean(g * z)) / sqrt(var + eps).
        """
        rows, weight, mean, inverse, length, order, inner = ctx.saved
        gy = in_order(gy, order, ctx.threads)
        gx = g_weight = g_bias = None
        if ctx.needs[0]:
            gx = memory.empty(rows.shape, rows.dtype)
            rownorm.layer_norm_grad(gy, rows, length, weight, mean, inverse, gx, ctx.threads)
            gx = logical(gx, order)
        if ctx.needs[1] or ctx.needs[2]:
            shape = rows.shape[rows.ndim - len(inner):]
            with np.errstate(over="ignore"):
                g_bias, g_weight = (
                    logical(a.astype(rows.dtype).reshape(shape), inner)
                    for a in rownorm.layer_norm_sums(gy, rows, length, mean, inverse,
                                                     ctx.threads))
        return (gx, g_weight if ctx.needs[1] else None, g_bias if ctx.needs[2] else None)
