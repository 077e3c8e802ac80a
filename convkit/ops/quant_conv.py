"""Convolution and linear layers on bytes, with exact int32 sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import int8, memory
from convkit.errors import DTypeError, ShapeError
from convkit.ops.conv_problem import ConvProblem, forward_problem
from convkit.ops.layout import from_last, to_last
from convkit.ops.levels import RESULTS, checked_bytes, checked_scale, finish, prepared
from convkit.ops.op import Context, Op, register

__all__ = ["QuantConv", "QuantLinear"]


def _check_columns(channels: int, scale: tuple, bias: tuple | None, out: tuple,
                   residual: tuple | None) -> None:
    """Raise ShapeError unless scale, bias and residual fit the output channels."""
    if scale != (channels,):
        raise ShapeError(f"expected scale of shape ({channels},), got {scale}")
    if bias is not None and bias != (channels,):
        raise ShapeError(f"expected bias of shape ({channels},), got {bias}")
    if residual is not None and residual != out:
        raise ShapeError(f"expected residual of shape {out}, got {residual}")


def _check_types(weight, scale, bias, residual, dtype: str) -> None:
    """Raise DTypeError unless weight and bias are integers and scale is float32."""
    if weight.dtype != np.int8 or scale.dtype != np.float32:
        raise DTypeError(f"expected weight of int8 and scale of float32, got {weight.dtype} and "
                         f"{scale.dtype}")
    if bias is not None and bias.dtype != np.int32:
        raise DTypeError(f"expected bias of int32, got {bias.dtype}")
    if residual is not None and residual.dtype.name not in RESULTS:
        raise DTypeError(f"expected residual of uint8, int8 or float32, got {residual.dtype}")
    if dtype not in (*RESULTS, "int32"):
        raise DTypeError(f"expected dtype uint8, int8, float32 or int32, got {dtype!r}")
    if dtype == "int32" and residual is not None:
        raise DTypeError("int32 results take no residual")


def make_layer(p: ConvProblem, signed: bool, weight, scale, bias, residual: str | None,
               attrs: dict[str, Any]) -> int8.Conv:
    """Return the packed layer of a problem.

    Besides the operation's attributes `attrs` may have ``between``, a `levels.Between`.
    """
    a, between = attrs, attrs.get("between")
    checked_scale(a["x_scale"], a["x_zero"], "int8" if signed else "uint8", "x")
    end = finish(a["dtype"], a["y_scale"], a["y_zero"], a["activation"], a["activation_args"],
                 residual, a["residual_scale"], a["residual_zero"], between)
    steps = a["y_scale"] if between is None else between.y_scale
    factor = (scale.astype(np.float64) * (a["x_scale"] / steps)).astype(np.float32)
    return int8.Conv(weight, end, p.groups, p.stride, (p.padding[0][0], p.padding[1][0]),
                     p.dilation, signed, a["x_zero"], factor, bias)


def _attributes(**attrs: Any) -> dict[str, Any]:
    return attrs


def _run(ctx: Context, p: ConvProblem, x, weight, scale, bias, residual, attrs):
    """Compute y (N, H', W', O) of x (N, H, W, C)."""
    kind = None if residual is None else residual.dtype.name
    signed = checked_bytes(x) == "int8"
    key = ("quant_conv", signed, kind, p.stride, p.padding, p.dilation, p.groups,
           *attrs.values())
    layer = prepared(ctx.cache[1] if len(ctx.cache) > 1 else None, key, lambda: make_layer(
        p, signed, np.ascontiguousarray(weight), scale, bias, kind, attrs))
    y = memory.empty((p.batch, *p.out_size, p.out_channels), attrs["dtype"])
    layer.run(x, residual, y, ctx.threads)
    return y


@register
class QuantConv(Op):
    """Convolution of a quantised x with int8 weights, one scale per output channel.

    ``y = quantise(activation(x_scale * scale[o] * (sum of (x - x_zero) * weight + bias[o])
    + (residual - residual_zero) * residual_scale))``, where the sum is exact, padding counts as
    zero (Jacob and others, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018) and ``quantise(v) = saturate(round(v / y_scale) +
    y_zero)``, halves to even. With dtype "float32" the result is not quantised; with "int32"
    it is the sum with its bias.
    """

    name = "quant_conv"
    onnx = "QLinearConv"
    packs = True
    differentiable = 0

    @staticmethod
    def shape(x, weight, scale, bias=None, residual=None, *, stride, padding, dilation, groups,
              x_scale, x_zero, dtype, y_scale=1.0, y_zero=0, residual_scale=1.0, residual_zero=0,
              activation=None, activation_args=()):
        """Return (N, O, spatial...)."""
        p = forward_problem(x, weight, np.dtype(np.float32), stride=stride, padding=padding,
                            dilation=dilation, groups=groups)
        out = (p.batch, p.out_channels, *p.out_size[4 - len(x):])
        _check_columns(p.out_channels, scale, bias, out, residual)
        return out

    @staticmethod
    def forward(ctx: Context, x, weight, scale, bias=None, residual=None, *, stride, padding,
                dilation, groups, x_scale, x_zero, dtype, y_scale=1.0, y_zero=0,
                residual_scale=1.0, residual_zero=0, activation=None, activation_args=()):
        """Compute y, channels-last in memory."""
        p = forward_problem(x.shape, weight.shape, np.dtype(np.float32), stride=stride,
                            padding=padding, dilation=dilation, groups=groups)
        _check_types(weight, scale, bias, residual, dtype)
        out = (p.batch, p.out_channels, *p.out_size[4 - x.ndim:])
        _check_columns(p.out_channels, scale.shape, None if bias is None else bias.shape, out,
                       None if residual is None else residual.shape)
        attrs = _attributes(x_scale=x_scale, x_zero=x_zero, dtype=dtype, y_scale=y_scale,
                            y_zero=y_zero, residual_scale=residual_scale,
                            residual_zero=residual_zero, activation=activation,
                            activation_args=tuple(activation_args))
        y = _run(ctx, p, _four(x), weight if weight.ndim == 4 else weight[:, :, None], scale, bias,
                 None if residual is None else _four(residual), attrs)
        return from_last(y if x.ndim == 4 else y[:, 0])


    @staticmethod
    def lower(b, x, weight, scale, bias=None, residual=None, *, stride, padding, dilation, groups,
              **attrs):
        """Emit the kernel's step, where weight, scale and bias are constants."""
        if not _constant(weight, scale, bias):
            return None
        p = forward_problem((1, *x.shape[1:]), weight.shape, np.dtype(np.float32), stride=stride,
                            padding=padding, dilation=dilation, groups=groups)
        taps = weight.constant
        layer = _lowered_layer(p, x, taps if taps.ndim == 4 else taps[:, :, None], scale, bias,
                               residual, attrs)
        x, residual = b.last(x), None if residual is None else b.last(residual)
        y = b.new_last((x.shape[0], p.out_channels, *p.out_size[4 - len(x.shape):]),
                       np.dtype(attrs["dtype"]))
        b.step(layer.step(p.in_size, p.out_size), (x, residual, y), x.samples)
        return y


def _constant(*operands: Any) -> bool:
    return all(x is None or x.is_constant for x in operands)


def _lowered_layer(p: ConvProblem, x, weight, scale, bias, residual, attrs) -> int8.Conv:
    """Return the packed layer of operands of a Program."""
    return make_layer(p, x.dtype == np.int8, np.ascontiguousarray(weight), scale.constant,
                      None if bias is None else bias.constant,
                      None if residual is None else residual.dtype.name, attrs)


def _four(x: np.ndarray) -> np.ndarray:
    """Return (N, C, L) or (N, C, H, W) as (N, H, W, C), C-contiguous."""
    last = to_last(x)
    return last if last.ndim == 4 else last[:, None]


@register
class QuantLinear(Op):
    """``y = x @ weight.T + bias`` for a quantised x (..., I) and int8 weight (O, I).

    Attributes and results as those of quant_conv.
    """

    name = "quant_linear"
    onnx = "QGemm"
    packs = True
    differentiable = 0

    @staticmethod
    def shape(x, weight, scale, bias=None, residual=None, *, x_scale, x_zero, dtype, y_scale=1.0,
              y_zero=0, residual_scale=1.0, residual_zero=0, activation=None, activation_args=()):
        """Return (..., O)."""
        if len(weight) != 2 or 0 in weight:
            raise ShapeError(f"expected a weight of shape (out, in), got {weight}")
        if not x or x[-1] != weight[1]:
            raise ShapeError(f"expected {weight[1]} input features, got x of shape {x}")
        out = (*x[:-1], weight[0])
        _check_columns(weight[0], scale, bias, out, residual)
        return out

    @staticmethod
    def forward(ctx: Context, x, weight, scale, bias=None, residual=None, *, x_scale, x_zero,
                dtype, y_scale=1.0, y_zero=0, residual_scale=1.0, residual_zero=0,
                activation=None, activation_args=()):
        """Compute y."""
        _check_types(weight, scale, bias, residual, dtype)
        attrs = _attributes(x_scale=x_scale, x_zero=x_zero, dtype=dtype, y_scale=y_scale,
                            y_zero=y_zero, residual_scale=residual_scale,
                            residual_zero=residual_zero, activation=activation,
                            activation_args=tuple(activation_args))
        out = QuantLinear.shape(x.shape, weight.shape, scale.shape,
                                None if bias is None else bias.shape,
                                None if residual is None else residual.shape, **attrs)
        wide, deep = weight.shape
        pixels = np.ascontiguousarray(x).reshape(x.size // deep, 1, 1, deep)
        p = ConvProblem(len(pixels), deep, (1, 1), wide, (1, 1), (1, 1), (1, 1),
                        ((0, 0), (0, 0)), (1, 1), 1, np.dtype(np.float32))
        if residual is not None:
            residual = np.ascontiguousarray(residual).reshape(len(pixels), 1, 1, wide)
        return _run(ctx, p, pixels, weight[:, :, None, None], scale, bias, residual,
                    attrs).reshape(out)

    @staticmethod
    def lower(b, x, weight, scale, bias=None, residual=None, **attrs):
        """Emit the kernel's step, where weight, scale and bias are constants."""
        if len(x.shape) < 2 or not _constant(weight, scale, bias):
            return None
        wide, deep = weight.shape
        p = ConvProblem(1, deep, (1, 1), wide, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1),
                        1, np.dtype(np.float32))
        layer = _lowered_layer(p, x, weight.constant[:, :, None, None], scale, bias, residual,
                               attrs)
        order = tuple(range(len(x.shape)))
        x, residual = (None if v is None else b.in_order(v, order) for v in (x, residual))
        y = b.new((*x.shape[:-1], wide), np.dtype(attrs["dtype"]))
        rows = math.prod(x.shape[1:-1])
        b.step(layer.step((1, 1), (1, 1)), (x, residual, y),
               tuple([n * rows for n in x.samples]))
        return y
