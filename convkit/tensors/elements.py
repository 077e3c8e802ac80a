"""Functions of single elements, with PyTorch's names: unary, of two tensors, comparisons."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from convkit._kernels.tape import TensorBase, apply
from convkit.ops import REGISTRY as OPS

__all__ = [
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atanh", "ceil", "clamp", "cos", "cosh",
    "div", "eq", "erf", "exp", "floor", "fmod", "ge", "gt", "isfinite", "isinf", "isnan", "le",
    "log", "log10", "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
    "masked_fill", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "remainder",
    "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "where",
]


def as_operand(value: Any, other: Any) -> Any:
    """Return a number as an array of the type that it has beside `other`; anything else as it is.

    Beside integers, broken numbers are float32; beside truth values, whole ones are int64.
    """
    if not isinstance(value, (numbers.Real, np.generic)):
        return value
    kind = other.dtype if isinstance(other, (TensorBase, np.ndarray)) else np.asarray(other).dtype
    if kind.kind not in "f" and isinstance(value, (float, np.floating)):
        kind = np.dtype(np.float32)
    elif kind.kind == "b" and not isinstance(value, (bool, np.bool_)):
        kind = np.dtype(np.int64)
    return np.asarray(value, dtype=kind)


def _pair(name: str, a: Any, b: Any, **attrs: Any) -> Any:
    """Apply an operation to two tensors, arrays or numbers."""
    return apply(OPS[name], as_operand(a, b), as_operand(b, a), **attrs)


# -- of one tensor ----------------------------------------------------------------------------


def abs(input: Any) -> Any:
    """Return the absolute value of each element."""
    return apply(OPS["abs"], input)


def acos(input: Any) -> Any:
    """Return the inverse cosine of each element."""
    return apply(OPS["acos"], input)


def acosh(input: Any) -> Any:
    """Return the inverse hyperbolic cosine of each element."""
    return apply(OPS["acosh"], input)


def asin(input: Any) -> Any:
    """Return the inverse sine of each element."""
    return apply(OPS["asin"], input)


def asinh(input: Any) -> Any:
    """Return the inverse hyperbolic sine of each element."""
    return apply(OPS["asinh"], input)


def atan(input: Any) -> Any:
    """Return the inverse tangent of each element."""
    return apply(OPS["atan"], input)


def atanh(input: Any) -> Any:
    """Return the inverse hyperbolic tangent of each element."""
    return apply(OPS["atanh"], input)


def ceil(input: Any) -> Any:
    """Return each element rounded up."""
    return apply(OPS["ceil"], input)


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """Hold each element between `min` and `max` (numbers or tensors), of which one may be None."""
    if min is None and max is None:
        raise ValueError("expected min, max or both, got neither")
    if all(v is None or isinstance(v, numbers.Real) for v in (min, max)):
        return apply(OPS["clamp"], input, min=min, max=max)
    out = input if min is None else maximum(input, min)
    return out if max is None else minimum(out, max)


def cos(input: Any) -> Any:
    """Return the cosine of each element, in radians."""
    return apply(OPS["cos"], input)


def cosh(input: Any) -> Any:
    """Return the hyperbolic cosine of each element."""
    return apply(OPS["cosh"], input)


def erf(input: Any) -> Any:
    """Return the error function of each element."""
    return apply(OPS["erf"], input)


def exp(input: Any) -> Any:
    """Return e to the power of each element."""
    return apply(OPS["exp"], input)


def floor(input: Any) -> Any:
    """Return each element rounded down."""
    return apply(OPS["floor"], input)


def log(input: Any) -> Any:
    """Return the natural logarithm of each element."""
    return apply(OPS["log"], input)


def log2(input: Any) -> Any:
    """Return the logarithm to base 2 of each element."""
    return mul(log(input), 1 / math.log(2))


def log10(input: Any) -> Any:
    """Return the logarithm to base 10 of each element."""
    return mul(log(input), 1 / math.log(10))


def neg(input: Any) -> Any:
    """Return the negative of each element."""
    return apply(OPS["neg"], input)


def reciprocal(input: Any) -> Any:
    """Return 1 / x of each element."""
    return apply(OPS["reciprocal"], input)


def round(input: Any) -> Any:
    """Return the nearest whole number of each element, the even one of two."""
    return apply(OPS["round"], input)


def rsqrt(input: Any) -> Any:
    """Return 1 / sqrt(x) of each element."""
    return reciprocal(sqrt(input))


def sign(input: Any) -> Any:
    """Return -1, 0 or 1 by the sign of each element."""
    return apply(OPS["sign"], input)


def sin(input: Any) -> Any:
    """Return the sine of each element, in radians."""
    return apply(OPS["sin"], input)


def sinh(input: Any) -> Any:
    """Return the hyperbolic sine of each element."""
    return apply(OPS["sinh"], input)


def sqrt(input: Any) -> Any:
    """Return the square root of each element."""
    return apply(OPS["sqrt"], input)


def square(input: Any) -> Any:
    """Return the square of each element."""
    return mul(input, input)


def tan(input: Any) -> Any:
    """Return the tangent of each element, in radians."""
    return apply(OPS["tan"], input)


# -- of two tensors, or a tensor and a number -----------------------------------------------------


def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Return ``input + alpha * other``."""
    return _pair("add", input, other if alpha == 1 else mul(other, alpha))


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Return ``input / other``, rounded "floor" or "trunc" where that is asked for."""
    return _pair("div", input, other, rounding_mode=rounding_mode)


def fmod(input: Any, other: Any) -> Any:
    """Return what is left of ``input / other`` rounded towards zero."""
    return _pair("fmod", input, other)


def maximum(input: Any, other: Any) -> Any:
    """Return the larger of two; NaN where one is."""
    return _pair("maximum", input, other)


def minimum(input: Any, other: Any) -> Any:
    """Return the smaller of two; NaN where one is."""
    return _pair("minimum", input, other)


def mul(input: Any, other: Any) -> Any:
    """Return ``input * other``."""
    return _pair("mul", input, other)


def pow(input: Any, exponent: Any) -> Any:
    """Return `input` to the power `exponent`; either may be a number."""
    if isinstance(exponent, numbers.Real):
        return apply(OPS["pow"], input, exponent=exponent)
    return _pair("power", input, exponent)


def remainder(input: Any, other: Any) -> Any:
    """Return what is left of ``input / other`` rounded down."""
    return _pair("remainder", input, other)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Return ``input - alpha * other``."""
    return _pair("sub", input, other if alpha == 1 else mul(other, alpha))


# -- true or false ------------------------------------------------------------------------------


def eq(input: Any, other: Any) -> Any:
    """Tell where two are equal."""
    return _pair("eq", input, other)


def ge(input: Any, other: Any) -> Any:
    """Tell where the first is at least the second."""
    return _pair("ge", input, other)


def gt(input: Any, other: Any) -> Any:
    """Tell where the first is larger."""
    return _pair("gt", input, other)


def isfinite(input: Any) -> Any:
    """Tell which elements are neither infinite nor NaN."""
    return logical_not(logical_or(isinf(input), isnan(input)))


def isinf(input: Any) -> Any:
    """Tell which elements are infinite."""
    return apply(OPS["isinf"], input)


def isnan(input: Any) -> Any:
    """Tell which elements are NaN."""
    return apply(OPS["isnan"], input)


def le(input: Any, other: Any) -> Any:
    """Tell where the first is at most the second."""
    return _pair("le", input, other)


def logical_and(input: Any, other: Any) -> Any:
    """Tell where both are true."""
    return apply(OPS["logical_and"], input, other)


def logical_not(input: Any) -> Any:
    """Tell which elements are false."""
    return apply(OPS["logical_not"], input)


def logical_or(input: Any, other: Any) -> Any:
    """Tell where one or both are true."""
    return apply(OPS["logical_or"], input, other)


def logical_xor(input: Any, other: Any) -> Any:
    """Tell where one alone is true."""
    return apply(OPS["logical_xor"], input, other)


def lt(input: Any, other: Any) -> Any:
    """Tell where the first is smaller."""
    return _pair("lt", input, other)


def ne(input: Any, other: Any) -> Any:
    """Tell where two differ."""
    return _pair("ne", input, other)


def where(condition: Any, input: Any, other: Any) -> Any:
    """Return the elements of `input` where `condition` is true, those of `other` elsewhere."""
    if isinstance(input, numbers.Real) and isinstance(other, numbers.Real):
        input = np.asarray(input, np.int64 if isinstance(input, int) and isinstance(other, int)
                           else np.float32)
    return apply(OPS["where"], condition, as_operand(input, other), as_operand(other, input))


def masked_fill(input: Any, mask: Any, value: float) -> Any:
    """Return `input` with `value` where `mask` is true."""
    return where(mask, np.asarray(value, input.dtype), input)
