"""Quantised arrays added, looked up in tables and averaged over windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import memory, quant
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import axis_order, empty_ordered, from_last, in_order, to_last
from convkit.ops.levels import RESULTS, checked_bytes, checked_scale, finish
from convkit.ops.op import Context, Op, register
from convkit.ops.pool import average_windows

__all__ = ["Lookup", "QuantAdd", "QuantAvgPool"]


@register
class QuantAdd(Op):
    """Sum of two quantised arrays of one shape, quantised again (or float32).

    ``y = quantise(activation((a - a_zero) * a_scale + (b - b_zero) * b_scale))``
    """

    name = "quant_add"
    onnx = "QLinearAdd"
    differentiable = 0

    @staticmethod
    def shape(a, b, *, a_scale, a_zero, b_scale, b_zero, dtype, y_scale=1.0, y_zero=0,
              activation=None, activation_args=()):
        """Return the shape of both."""
        if a != b:
            raise ShapeError(f"expected arrays of one shape, got {a} and {b}")
        return a

    @staticmethod
    def forward(ctx: Context, a, b, *, a_scale, a_zero, b_scale, b_zero, dtype, y_scale=1.0,
                y_zero=0, activation=None, activation_args=()):
        """Add, in the order that `a` has in memory."""
        QuantAdd.shape(a.shape, b.shape, a_scale=a_scale, a_zero=a_zero, b_scale=b_scale,
                       b_zero=b_zero, dtype=dtype)
        checked_scale(a_scale, a_zero, checked_bytes(a, "a"), "a")
        if dtype not in RESULTS:
            raise DTypeError(f"expected dtype uint8, int8 or float32, got {dtype!r}")
        checked_bytes(b, "b")
        kernel = QuantAdd._kernel(a, b, a_scale, a_zero, b_scale, b_zero, dtype, y_scale, y_zero,
                                  activation, activation_args)
        order = axis_order(a)
        y = empty_ordered(a.shape, order, np.dtype(dtype))
        kernel.run(in_order(a, order), in_order(b, order), in_order(y, order), ctx.threads)
        return y


    @staticmethod
    def _kernel(a, b, a_scale, a_zero, b_scale, b_zero, dtype, y_scale, y_zero, activation,
                activation_args) -> quant.Convert:
        end = finish(dtype, y_scale, y_zero, activation, activation_args, b.dtype.name, b_scale,
                     b_zero)
        return quant.Convert(a.dtype.name, end, a_scale / y_scale, a_zero)

    @staticmethod
    def lower(builder, a, b, **attrs):
        """Emit the kernel's step."""
        a = builder.compact(a)
        b = builder.in_order(b, a.order)
        y = builder.new(a.shape, np.dtype(attrs["dtype"]), a.order)
        kernel = QuantAdd._kernel(a, b, **attrs)
        builder.step(kernel.step(math.prod(a.shape[1:])), (a, b, y), a.samples)
        return y


@register
class Lookup(Op):
    """``y = table[x]`` for bytes x and a table of 256 bytes, in the order of x's bit patterns.

    Any function of a single quantised number is such a table. For int8 the entries are those
    of 0 to 127, then of -128 to -1.
    """

    name = "lookup"
    differentiable = 0

    @staticmethod
    def shape(x, table):
        """Return the shape of x."""
        if table != (256,):
            raise ShapeError(f"expected a table of shape (256,), got {table}")
        return x

    @staticmethod
    def forward(ctx: Context, x, table):
        """Look up, in the order that x has in memory."""
        Lookup.shape(x.shape, table.shape)
        checked_bytes(x)
        checked_bytes(table, "table")
        order = axis_order(x)
        y = empty_ordered(x.shape, order, table.dtype)
        quant.LookUp(np.ascontiguousarray(table)).run(in_order(x, order), in_order(y, order),
                                                      ctx.threads)
        return y


    @staticmethod
    def lower(b, x, table):
        """Emit the kernel's step, where the table is a constant."""
        if table.constant is None:
            return None
        x = b.compact(x)
        y = b.new(x.shape, table.dtype, x.order)
        kernel = quant.LookUp(np.ascontiguousarray(table.constant))
        b.step(kernel.step(math.prod(x.shape[1:])), (x, None, y), x.samples)
        return y


@register
class QuantAvgPool(Op):
    """The mean of each window of a quantised array, quantised again (or float32).

    Attributes as those of avg_pool; padding counts as zero.
    """

    name = "quant_avg_pool"
    onnx = "QLinearAveragePool"
    differentiable = 0

    @staticmethod
    def shape(x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True, x_scale,
              x_zero, dtype, y_scale=1.0, y_zero=0):
        """Return (N, C, windows...)."""
        sizes, _ = average_windows(x, kernel_size, stride, padding, ceil_mode, count_include_pad)
        return (*x[:2], *sizes)

    @staticmethod
    def forward(ctx: Context, x, *, kernel_size, stride, padding, ceil_mode=False,
                count_include_pad=True, x_scale, x_zero, dtype, y_scale=1.0, y_zero=0):
        """Pool (N, C, L) or (N, C, H, W)."""
        if dtype not in RESULTS:
            raise DTypeError(f"expected dtype uint8, int8 or float32, got {dtype!r}")
        name = checked_bytes(x)
        checked_scale(x_scale, x_zero, name, "x")
        _, (h, w) = average_windows(x.shape, kernel_size, stride, padding, ceil_mode,
                                    count_include_pad)
        last = to_last(x)
        pool = quant_pool(h, w, x.shape[1], name, x_scale, x_zero, dtype, y_scale, y_zero)
        y = memory.empty((x.shape[0], h.targets, w.targets, x.shape[1]), dtype)
        pool.run(last if x.ndim == 4 else last[:, None], y, ctx.threads)
        return from_last(y if x.ndim == 4 else y[:, 0])


    @staticmethod
    def lower(b, x, *, kernel_size, stride, padding, ceil_mode=False, count_include_pad=True,
              x_scale, x_zero, dtype, y_scale=1.0, y_zero=0):
        """Emit the kernel's step."""
        sizes, (h, w) = average_windows((1, *x.shape[1:]), kernel_size, stride, padding,
                                        ceil_mode, count_include_pad)
        x, y = b.last(x), b.new_last((*x.shape[:2], *sizes), np.dtype(dtype))
        pool = quant_pool(h, w, x.shape[1], x.dtype.name, x_scale, x_zero, dtype, y_scale, y_zero)
        b.step(pool.step(), (x, y), x.samples)
        return y


def quant_pool(h: Any, w: Any, channels: int, source: str, x_scale: float, x_zero: int,
               dtype: str, y_scale: float, y_zero: int) -> quant.Pool:
    """Return the kernel that averages over the windows of two axes."""
    factor = np.float32(x_scale / y_scale)
    return quant.Pool(h, w, channels, source == "int8", finish(dtype, y_scale, y_zero), x_zero,
                      h.shares() * factor, w.shares())
