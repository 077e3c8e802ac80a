"""Affine quantisation: real numbers as integers times a scale, and back.

The formulas are those of ONNX's QuantizeLinear and DequantizeLinear: ``q = saturate(round(x /
scale) + zero_point)`` with halves rounded to even, ``x = (q - zero_point) * scale``.
"""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import quant
from convkit._kernels.int8 import Finish
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import axis_order, empty_ordered, in_order, native
from convkit.ops.levels import BYTES
from convkit.ops.op import Context, Op, register

__all__ = ["DequantizeLinear", "QuantizeLinear"]

TYPES = ("int8", "uint8", "int16", "uint16", "int32")


def _spread_shape(x: tuple[int, ...], scale: tuple[int, ...], dim: int, block: int
                  ) -> tuple[int, ...]:
    """Return the shape under which a scale broadcasts against x; check that it fits."""
    if not scale or scale == (1,):
        return (1,) * len(x)
    if not -len(x) <= dim < len(x):
        raise ShapeError(f"dim {dim} is out of range for {len(x)} axes")
    axis = dim % len(x)
    if block:
        blocks = tuple(-(-n // block) if i == axis else n for i, n in enumerate(x))
        if scale != blocks:
            raise ShapeError(f"expected scale of shape {blocks} for blocks of {block} along dim "
                             f"{dim} of x of shape {x}, got {scale}")
        return scale
    if scale != (x[axis],):
        raise ShapeError(f"expected scale of shape () or ({x[axis]},) for x of shape {x}, "
                         f"got {scale}")
    return tuple(n if i == axis else 1 for i, n in enumerate(x))


def _spread(x: np.ndarray, values: np.ndarray, dim: int, block: int) -> np.ndarray:
    """Return scales or zero points so that they broadcast against x."""
    values = values.reshape(_spread_shape(x.shape, values.shape, dim, block))
    if block and values.shape != (1,) * x.ndim:
        values = np.repeat(values, block, axis=dim)
        values = values[tuple(slice(n) for n in x.shape)]
    return values


def _check(x, scale, zero_point, dim, block) -> tuple[int, ...]:
    """Return x's shape; raise ShapeError when scale or zero point do not fit."""
    if zero_point is not None and zero_point != scale:
        raise ShapeError(f"expected zero_point of the shape of scale, {scale}, got {zero_point}")
    _spread_shape(x, scale, dim, block)
    return x


def _whole(scale: np.ndarray, zero: np.ndarray | None, dtype: str) -> tuple[float, int] | None:
    """Return scale and zero point where compiled kernels take them: one for all, of bytes."""
    if scale.size != 1 or dtype not in BYTES or not 0 < scale.reshape(-1)[0] < np.inf:
        return None
    point = 0 if zero is None else int(zero.reshape(-1)[0])
    low = np.iinfo(dtype).min
    return (float(scale.reshape(-1)[0]), point) if low <= point <= low + 255 else None


def _quantiser(scale: float, zero: int, dtype: str) -> quant.Convert:
    return quant.Convert("float32", Finish(dtype, zero), scale, 0, divide=True)


def _dequantiser(scale: float, zero: int, dtype: str) -> quant.Convert:
    return quant.Convert(dtype, Finish("float32"), scale, zero)


def _convert(ctx: Context, x: np.ndarray, dtype: np.dtype, kernel: quant.Convert) -> np.ndarray:
    """Run a conversion in the order that x has in memory."""
    order = axis_order(x)
    y = empty_ordered(x.shape, order, dtype)
    kernel.run(in_order(x, order), None, in_order(y, order), ctx.threads)
    return y


def _lower_convert(b, x, dtype: np.dtype, kernel: quant.Convert):
    """Emit the step of a conversion."""
    x = b.compact(x)
    y = b.new(x.shape, dtype, x.order)
    b.step(kernel.step(math.prod(x.shape[1:])), (x, None, y), x.samples)
    return y


@register
class QuantizeLinear(Op):
    """Real numbers to integers.

    Attributes: dtype of the result; quant_min and quant_max (default: the type's own limits);
    dim, the axis of a scale (C,); block_size, for one scale per so many elements along `dim`
    (0 for none).
    """

    name = "quantize_linear"
    onnx = "QuantizeLinear"
    differentiable = 0

    @staticmethod
    def shape(x, scale, zero_point=None, *, dtype="uint8", quant_min=None, quant_max=None, dim=1,
              block_size=0):
        """Return the input's shape."""
        return _check(x, scale, zero_point, dim, block_size)

    @staticmethod
    def forward(ctx: Context, x, scale, zero_point=None, *, dtype="uint8", quant_min=None,
                quant_max=None, dim=1, block_size=0):
        """Quantise."""
        if dtype not in TYPES:
            raise DTypeError(f"expected dtype {', '.join(TYPES)}, got {dtype!r}")
        _check(x.shape, scale.shape, None if zero_point is None else zero_point.shape, dim,
               block_size)
        one = _whole(scale, zero_point, dtype)
        if one and x.dtype == np.float32 and quant_min is None and quant_max is None:
            return _convert(ctx, x, np.dtype(dtype), _quantiser(*one, dtype))
        x, info = native(x), np.iinfo(dtype)
        low = info.min if quant_min is None else max(quant_min, info.min)
        high = info.max if quant_max is None else min(quant_max, info.max)
        with np.errstate(all="ignore"):
            steps = np.rint(x / _spread(x, scale, dim, block_size))
            # Sums in float64: int32 and its zero points fit, and saturation is exact.
            steps = steps.astype(np.float64)
            if zero_point is not None:
                steps += _spread(x, zero_point, dim, block_size)
            return np.nan_to_num(np.clip(steps, low, high), nan=max(low, 0)).astype(dtype)


    @staticmethod
    def lower(b, x, scale, zero_point=None, *, dtype, quant_min=None, quant_max=None, dim=1,
              block_size=0):
        """Emit the kernel's step, for bytes with one scale."""
        one = _constants(scale, zero_point, dtype)
        if one is None or x.dtype != np.float32 or quant_min is not None or quant_max is not None:
            return None
        return _lower_convert(b, x, np.dtype(dtype), _quantiser(*one, dtype))


def _constants(scale, zero_point, dtype: str) -> tuple[float, int] | None:
    """Return scale and zero point of operands that are constants and one for all."""
    if scale.constant is None or (zero_point is not None and zero_point.constant is None):
        return None
    return _whole(scale.constant, None if zero_point is None else zero_point.constant, dtype)


@register
class DequantizeLinear(Op):
    """Integers back to real numbers, in the type of `scale`.

    Attributes as those of quantize_linear.
    """

    name = "dequantize_linear"
    onnx = "DequantizeLinear"
    differentiable = 0

    @staticmethod
    def shape(x, scale, zero_point=None, *, dim=1, block_size=0):
        """Return the input's shape."""
        return _check(x, scale, zero_point, dim, block_size)

    @staticmethod
    def forward(ctx: Context, x, scale, zero_point=None, *, dim=1, block_size=0):
        """Dequantise."""
        _check(x.shape, scale.shape, None if zero_point is None else zero_point.shape, dim,
               block_size)
        if x.dtype.kind not in "iu":
            raise DTypeError(f"expected x of integers, got {x.dtype}")
        one = _whole(scale, zero_point, x.dtype.name)
        if one and scale.dtype == np.float32:
            return _convert(ctx, x, scale.dtype, _dequantiser(*one, x.dtype.name))
        steps = x.astype(np.int64)
        if zero_point is not None:
            steps = steps - _spread(x, zero_point.astype(np.int64), dim, block_size)
        return steps.astype(scale.dtype) * _spread(x, native(scale, "scale"), dim, block_size)

    @staticmethod
    def lower(b, x, scale, zero_point=None, *, dim=1, block_size=0):
        """Emit the kernel's step, for bytes with one scale."""
        one = _constants(scale, zero_point, x.dtype.name)
        if one is None or scale.dtype != np.float32:
            return None
        return _lower_convert(b, x, scale.dtype, _dequantiser(*one, x.dtype.name))
