"""Functions of one variable that NumPy computes: rounding, trigonometry; and erf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import elementwise, memory
from convkit.ops.activation import lower_kernel
from convkit.ops.layout import FLOATS, axis_order, in_order, like, logical, native
from convkit.ops.math import lower_function
from convkit.ops.op import Context, Op, register

__all__ = ["Erf"]


class _Function(Op):
    """A function of one variable, applied over the array as it lies in memory.

    `compute` writes f(x) to ``out``; `slope` gives f' from x, or is None for a step
    function, whose gradient is zero everywhere.
    """

    reads = (0,)
    compute: ClassVar[Callable]
    slope: ClassVar[Callable | None] = None

    @staticmethod
    def shape(x, **attrs: Any):
        """Return the input's shape."""
        return x

    @classmethod
    def forward(cls, ctx: Context, x):
        """Compute f(x)."""
        x = native(x)
        if any(ctx.needs):
            ctx.saved = cls, x
        with np.errstate(all="ignore"):
            return cls.compute(x, out=like(x))

    @classmethod
    def lower(cls, b, x):
        """Emit NumPy's loop."""
        return lower_function(b, cls.compute, x) if x.dtype in FLOATS else None

    @staticmethod
    def backward(ctx: Context, g):
        """Return g f'(x)."""
        cls, x = ctx.saved
        gx = like(x)
        if cls.slope is None:
            gx.fill(0)
            return (gx,)
        with np.errstate(all="ignore"):
            return (np.multiply(cls.slope(x), g, out=gx),)


# Name, ONNX operator, function, derivative (None for steps), what it is.
_TABLE: tuple[tuple[str, str, np.ufunc, Callable | None, str], ...] = (
    ("floor", "Floor", np.floor, None, "The largest whole number not above x."),
    ("ceil", "Ceil", np.ceil, None, "The smallest whole number not below x."),
    ("round", "Round", np.rint, None, "The nearest whole number, the even one of two."),
    ("sign", "Sign", np.sign, None, "-1, 0 or 1."),
    ("reciprocal", "Reciprocal", np.reciprocal, lambda x: -1 / (x * x), "1 / x."),
    ("sin", "Sin", np.sin, np.cos, "The sine of an angle in radians."),
    ("cos", "Cos", np.cos, lambda x: -np.sin(x), "The cosine of an angle in radians."),
    ("tan", "Tan", np.tan, lambda x: 1 / np.square(np.cos(x)), "The tangent."),
    ("asin", "Asin", np.arcsin, lambda x: 1 / np.sqrt(1 - x * x), "The inverse sine."),
    ("acos", "Acos", np.arccos, lambda x: -1 / np.sqrt(1 - x * x), "The inverse cosine."),
    ("atan", "Atan", np.arctan, lambda x: 1 / (1 + x * x), "The inverse tangent."),
    ("sinh", "Sinh", np.sinh, np.cosh, "The hyperbolic sine."),
    ("cosh", "Cosh", np.cosh, np.sinh, "The hyperbolic cosine."),
    ("asinh", "Asinh", np.arcsinh, lambda x: 1 / np.sqrt(x * x + 1), "The inverse of sinh."),
    ("acosh", "Acosh", np.arccosh, lambda x: 1 / np.sqrt(x * x - 1), "The inverse of cosh."),
    ("atanh", "Atanh", np.arctanh, lambda x: 1 / (1 - x * x), "The inverse of tanh."),
)

for _name, _onnx, _compute, _slope, _doc in _TABLE:
    register(type(_name.capitalize(), (_Function,), {
        "__doc__": _doc, "__module__": __name__, "name": _name, "onnx": _onnx,
        "compute": staticmethod(_compute), "slope": _slope and staticmethod(_slope)}))


@register
class Erf(Op):
    """The error function, ``2 / sqrt(pi)`` times the integral of ``exp(-t^2)`` from 0 to x."""

    name = "erf"
    onnx = "Erf"
    reads = (0,)

    @staticmethod
    def shape(x):
        """Return the input's shape."""
        return x

    @staticmethod
    def forward(ctx: Context, x):
        """Compute erf(x), laid out in memory as `x` is."""
        x = native(x)
        if any(ctx.needs):
            ctx.saved = x
        order = axis_order(x)
        flat = in_order(x, order, ctx.threads)
        y = memory.empty(flat.shape, x.dtype)
        elementwise.unary("erf", flat, y, ctx.threads)
        return logical(y, order)

    @staticmethod
    def lower(b, x):
        """Emit the kernel's step."""
        return lower_kernel(b, x, "erf", ()) if x.dtype in FLOATS else None

    @staticmethod
    def backward(ctx: Context, g):
        """Return g 2 / sqrt(pi) exp(-x^2)."""
        x = ctx.saved
        order = axis_order(x)
        flat = in_order(x, order, ctx.threads)
        gx = memory.empty(flat.shape, x.dtype)
        elementwise.unary_grad("erf", in_order(g, order, ctx.threads), flat, gx, ctx.threads)
        return (logical(gx, order),)
