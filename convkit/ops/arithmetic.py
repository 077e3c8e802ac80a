"""More arithmetic on two broadcasting operands, and clamping: extremes, powers, remainders."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convkit._kernels import memory
from convkit.errors import ShapeError
from convkit.ops.activation import apply_kernel, lower_kernel
from convkit.ops.layout import FLOATS, like
from convkit.ops.math import broadcast_shape, common_type, lower_function, sum_to
from convkit.ops.op import Context, Op, register

__all__ = ["Clamp", "Fmod", "Maximum", "Minimum", "Power", "Remainder"]


class _Pair(Op):
    """Base: ``ufunc`` of two operands in their common type."""

    reads = (0, 1)
    ufunc: ClassVar[np.ufunc]

    @staticmethod
    def shape(a, b):
        """Return the broadcast shape."""
        return broadcast_shape(a, b)

    @classmethod
    def forward(cls, ctx: Context, a, b):
        """Compute, laid out as the operand that has the result's shape."""
        kinds = (a.shape, a.dtype), (b.shape, b.dtype)
        a, b = common_type(a, b)
        if any(ctx.needs):
            ctx.saved = cls, a, b, kinds
        shape = broadcast_shape(a.shape, b.shape)
        whole = next((x for x in (a, b) if x.shape == shape), None)
        out = memory.empty(shape, a.dtype) if whole is None else like(whole)
        with np.errstate(all="ignore"):
            return cls.ufunc(a, b, out=out)

    @classmethod
    def lower(cls, b, x, y):
        """Emit NumPy's loop, for floating-point operands of one type."""
        return lower_function(b, cls.ufunc, x, y) if x.dtype in FLOATS else None

    @staticmethod
    def backward(ctx: Context, g):
        """Return g times the two derivatives, which are NumPy expressions of the operands."""
        cls, a, b, kinds = ctx.saved
        with np.errstate(all="ignore"):
            return tuple(
                sum_to(np.asarray(g * slope(a, b)), kind) if need else None
                for need, slope, kind in zip(ctx.needs, cls.slopes(), kinds, strict=True))

    @classmethod
    def slopes(cls):
        """Return the derivatives by a and by b as functions of both."""
        return cls.by_a, cls.by_b


class _Extreme(_Pair):
    """Base of maximum and minimum; of equals, each gets half of the gradient."""

    @staticmethod
    def shares(wins, a, b):
        """Return the share of the gradient of the operand that wins where `wins`."""
        return np.where(a == b, a.dtype.type(0.5), wins.astype(a.dtype))


@register
class Maximum(_Extreme):
    """The larger of two; NaN where one is."""

    name = "maximum"
    onnx = "Max"
    ufunc = staticmethod(np.maximum)

    @classmethod
    def slopes(cls):
        """Return what each operand gets of the gradient."""
        return (lambda a, b: cls.shares(a > b, a, b)), (lambda a, b: cls.shares(b > a, a, b))


@register
class Minimum(_Extreme):
    """The smaller of two; NaN where one is."""

    name = "minimum"
    onnx = "Min"
    ufunc = staticmethod(np.minimum)

    @classmethod
    def slopes(cls):
        """Return what each operand gets of the gradient."""
        return (lambda a, b: cls.shares(a < b, a, b)), (lambda a, b: cls.shares(b < a, a, b))


@register
class Power(_Pair):
    """A to the power b, both arrays; NaN for negative numbers to broken powers."""

    name = "power"
    onnx = "Pow"
    ufunc = staticmethod(np.power)

    @staticmethod
    def by_a(a, b):
        """Return b a^(b - 1)."""
        return np.where(b == 0, a.dtype.type(0), b * np.power(a, b - 1))

    @staticmethod
    def by_b(a, b):
        """Return a^b log a."""
        return np.where((a == 0) & (b >= 0), a.dtype.type(0), np.power(a, b) * np.log(a))


@register
class Remainder(_Pair):
    """What is left of a / b rounded down: it has the sign of b."""

    name = "remainder"
    onnx = "Mod"
    ufunc = staticmethod(np.remainder)

    @staticmethod
    def by_a(a, b):
        """Return one."""
        return np.ones_like(a)

    @staticmethod
    def by_b(a, b):
        """Return minus the rounded quotient."""
        return -np.floor(a / b)


@register
class Fmod(_Pair):
    """What is left of a / b rounded towards zero: it has the sign of a."""

    name = "fmod"
    onnx = "Mod"
    ufunc = staticmethod(np.fmod)

    @staticmethod
    def by_a(a, b):
        """Return one."""
        return np.ones_like(a)

    @staticmethod
    def by_b(a, b):
        """Return minus the rounded quotient."""
        return -np.trunc(a / b)


@register
class Clamp(Op):
    """X held between `min` and `max`, of which one may be None; NaN stays NaN.

    Where `min` is above `max`, everything becomes `max`.
    """

    name = "clamp"
    onnx = "Clip"
    reads = (0,)

    @staticmethod
    def shape(x, *, min=None, max=None):
        """Return the input's shape."""
        if min is None and max is None:
            raise ShapeError("expected min or max, got neither")
        return x

    @staticmethod
    def forward(ctx: Context, x, *, min=None, max=None):
        """Clamp, laid out in memory as `x` is; limits of integers are whole numbers."""
        Clamp.shape(x.shape, min=min, max=max)
        x, _ = common_type(x, x)
        if any(ctx.needs):
            ctx.saved = x, min, max
        if x.dtype in FLOATS:
            return apply_kernel("hardtanh", x, ctx.threads, Clamp._limits(x.dtype, min, max))
        out = like(x)
        low, high = (_limit(x.dtype, v) for v in (min, max))
        if low is not None:
            np.maximum(x, low, out=out)
        if high is not None:
            np.minimum(x if low is None else out, high, out=out)
        return out

    @staticmethod
    def _limits(dtype, low, high) -> tuple[float, float]:
        """Return the limits as the kernel takes them, rounded to the array's type."""
        return (-np.inf if low is None else float(dtype.type(low)),
                np.inf if high is None else float(dtype.type(high)))

    @staticmethod
    def lower(b, x, *, min=None, max=None):
        """Emit the kernel's step."""
        if x.dtype not in FLOATS:
            return None
        return lower_kernel(b, x, "hardtanh", Clamp._limits(x.dtype, min, max))

    @staticmethod
    def backward(ctx: Context, g):
        """Pass the gradient on where x lies within the limits."""
        x, low, high = ctx.saved
        inside = np.ones(x.shape, bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        return (np.multiply(g, inside, out=like(x)),)


def _limit(dtype: np.dtype, value: float | None):
    """Return a limit in the array's type; one beyond an integer type is its own limit."""
    if value is None or dtype.kind == "f":
        return None if value is None else dtype.type(value)
    info = np.iinfo(dtype)
    return dtype.type(max(min(int(value), info.max), info.min))
