"""Change of element type."""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import elements
from convkit.errors import DTypeError
from convkit.ops.layout import like
from convkit.ops.op import Context, Op, register

__all__ = ["DTYPES", "Cast"]

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
          "uint64", "bool")


@register
class Cast(Op):
    """x as another element type, by NumPy's rules; numbers other than 0 become True."""

    name = "cast"
    onnx = "Cast"
    passes_gradient = True

    @staticmethod
    def shape(x, *, dtype):
        """Return the input's shape."""
        return x

    @staticmethod
    def forward(ctx: Context, x, *, dtype):
        """Convert, laid out in memory as `x` is."""
        if dtype not in DTYPES:
            raise DTypeError(f"expected dtype {', '.join(DTYPES)}, got {dtype!r}")
        ctx.saved = x.dtype
        out = like(x, np.dtype(dtype))
        with np.errstate(all="ignore"):
            np.copyto(out, x, casting="unsafe")
        return out

    @staticmethod
    def lower(b, x, *, dtype):
        """Emit a step where the type is another."""
        target = np.dtype(dtype)
        if x.dtype == target:
            return x
        if not x.regular or x.dtype.name not in DTYPES:
            return None
        x = b.compact(x)
        y = b.new(x.shape, target, x.order)
        b.step(elements.cast_step(x.dtype, target, math.prod(x.shape[1:])), (x, y), x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, g):
        """Convert the gradient back."""
        return (g.astype(ctx.saved),) if ctx.saved.kind == "f" else (None,)
