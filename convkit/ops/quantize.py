"""Affine quantisation: real numbers as integers times a scale, and back.

The formulas are those of ONNX's QuantizeLinear and DequantizeLinear: ``q = saturate(round(x /
scale) + zero_point)`` with halves rounded to even, ``x = (q - zero_point) * scale``.
"""

from __future__ import annotations

import numpy as np

from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import native
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
        steps = x.astype(np.int64)
        if zero_point is not None:
            steps = steps - _spread(x, zero_point.astype(np.int64), dim, block_size)
        return steps.astype(scale.dtype) * _spread(x, native(scale, "scale"), dim, block_size)
