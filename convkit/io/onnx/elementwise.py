"""Elementwise operators: activations, arithmetic with broadcasting, comparisons, types."""

from __future__ import annotations

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, axis_of, handles
from convkit.io.onnx.gated import gated
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.types import held

__all__: list[str] = []

# Operators that are operations of one or two inputs, without attributes.
_SAME = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh",
    "Atan": "atan", "Atanh": "atanh", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf",
    "Exp": "exp", "Floor": "floor", "HardSwish": "hardswish", "Log": "log", "Neg": "neg",
    "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid",
    "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
}
_COMPARISONS = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt",
                "GreaterOrEqual": "ge"}
_LOGIC = {"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not"}


@handles(*_SAME)
def same(b: Builder, node: Operator) -> Val:
    """Return an operation of the same meaning; integers pass through floats where need be."""
    name = _SAME[node.type]
    if name in ("abs", "neg"):
        return b.op(name, node.input(0))
    return b.in_float(node.input(0), lambda x: b.op(name, x))


# -- activations ------------------------------------------------------------------------------


@handles("LeakyRelu")
def leaky_relu(b: Builder, node: Operator) -> Val:
    """Return x above zero, else alpha x."""
    return b.op("leaky_relu", node.input(0), negative_slope=node.attrs["alpha"])


@handles("PRelu")
def prelu(b: Builder, node: Operator) -> Val:
    """Return leaky ReLU with a learnt slope: one, one per channel, or any that broadcasts."""
    x, slope = node.inputs
    channels = x.shape[1] if x.rank > 1 else 1
    per_channel = (channels, *(1,) * (x.rank - 2))
    if slope.size == 1 and slope.rank <= x.rank:
        return b.op("prelu", x, b.reshape(slope, (1,)))
    fits = (per_channel, (1, *per_channel), *([(channels,)] if node.opset < 7 else []))
    if slope.shape in fits and x.rank > 1:
        return b.op("prelu", x, b.reshape(slope, (channels,)))
    negative = b.op("lt", x, b.like(0, x))
    return b.op("where", negative, b.op("mul", x, slope), x)


@handles("Elu")
def elu(b: Builder, node: Operator) -> Val:
    """Return x above zero, else alpha (exp(x) - 1)."""
    return b.op("elu", node.input(0), alpha=node.attrs["alpha"])


@handles("Selu")
def selu(b: Builder, node: Operator) -> Val:
    """Return ELU, scaled."""
    x, alpha, gamma = node.input(0), node.attrs["alpha"], node.attrs["gamma"]
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return b.op("selu", x)
    return b.op("mul", b.op("elu", x, alpha=alpha), b.like(gamma, x))


@handles("Celu")
def celu(b: Builder, node: Operator) -> Val:
    """Return alpha elu(x / alpha)."""
    return b.op("celu", node.input(0), alpha=node.attrs["alpha"])


@handles("Gelu")
def gelu(b: Builder, node: Operator) -> Val:
    """Return x times the normal distribution function."""
    return b.op("gelu", node.input(0), approximate=node.attrs["approximate"])


@handles("HardSigmoid")
def hard_sigmoid(b: Builder, node: Operator) -> Val:
    """Return alpha x + beta held between 0 and 1."""
    x, alpha, beta = node.input(0), node.attrs["alpha"], node.attrs["beta"]
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return b.op("hardsigmoid", x)
    line = b.op("add", b.op("mul", x, b.like(alpha, x)), b.like(beta, x))
    return b.op("clamp", line, min=0.0, max=1.0)


@handles("Softplus")
def softplus(b: Builder, node: Operator) -> Val:
    """Return log(1 + exp(x))."""
    return b.op("softplus", node.input(0))


@handles("Mish", "Softsign")
def plain_activation(b: Builder, node: Operator) -> Val:
    """Return x tanh(softplus(x)) (Misra, 2019) or x / (1 + |x|)."""
    return b.op(node.type.lower(), node.input(0))


@handles("Swish")
def swish(b: Builder, node: Operator) -> Val:
    """Return x sigmoid(alpha x)."""
    x, alpha = node.input(0), node.attrs["alpha"]
    if alpha == 1:
        return b.op("silu", x)
    return b.op("mul", x, b.op("sigmoid", b.op("mul", x, b.like(alpha, x))))


@handles("ThresholdedRelu")
def thresholded_relu(b: Builder, node: Operator) -> Val:
    """Return x above alpha, else 0."""
    x = node.input(0)
    above = b.op("gt", x, b.like(node.attrs["alpha"], x))
    return b.op("where", above, x, b.like(0, x))


@handles("Shrink")
def shrink(b: Builder, node: Operator) -> Val:
    """Return x moved towards zero by `bias` where it is further from it than `lambd`, else 0."""
    x, limit, bias = node.input(0), node.attrs["lambd"], node.attrs["bias"]

    def apply(x: Val) -> Val:
        low = b.op("lt", x, b.like(-limit, x))
        high = b.op("gt", x, b.like(limit, x))
        inner = b.op("where", high, b.op("sub", x, b.like(bias, x)), b.like(0, x))
        return b.op("where", low, b.op("add", x, b.like(bias, x)), inner)

    return b.in_float(x, apply)


@handles("Softmax", "LogSoftmax", "Hardmax")
def softmax(b: Builder, node: Operator) -> Val:
    """Return the function along one axis; before opset 13, over all axes from it on together."""
    x = node.input(0)
    if x.rank == 0:
        raise UnsupportedOperatorError(f"{node.type} of a number")
    axis = node.attrs.get("axis", -1 if node.opset >= 13 else 1)
    if node.opset >= 13:
        return _normalised(b, node.type, x, axis_of(axis, x.rank))
    axis = axis if axis == x.rank else axis_of(axis, x.rank)
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    flat = b.reshape(x, (rows, int(np.prod(x.shape[axis:], dtype=np.int64))))
    return b.reshape(_normalised(b, node.type, flat, 1), x.shape)


def _normalised(b: Builder, kind: str, x: Val, axis: int) -> Val:
    if kind != "Hardmax":
        return b.op("softmax" if kind == "Softmax" else "log_softmax", x, dim=axis)
    place = b.op("argmax", x, dim=axis, keepdim=True)
    b.spend(8 * x.shape[axis])
    count = [1] * x.rank
    count[axis] = x.shape[axis]
    steps = b.constant(np.arange(x.shape[axis]).reshape(count))
    return b.cast(b.op("eq", place, steps), x.dtype)


@handles("Clip")
def clip(b: Builder, node: Operator) -> Val:
    """Return x between two limits, either of which may be missing."""
    x = node.input(0)
    if node.opset < 11:
        low, high = node.attrs.get("min"), node.attrs.get("max")
        # These are the float32 limits that mean none.
        low, high = (None if v is None or abs(v) > 3.4e38 else v for v in (low, high))
    else:
        low, high = (None if v is None else v if v.array is None else b.number(v, "a limit")
                     for v in (node.input(1), node.input(2)))
    if isinstance(low, Val) or isinstance(high, Val) or any(
            isinstance(v, int) and abs(v) > 2**53 for v in (low, high)):
        for name, v in (("maximum", low), ("minimum", high)):
            if v is not None:
                x = b.op(name, x, v if isinstance(v, Val) else b.like(v, x))
        return x
    if low is None and high is None:
        return x
    if x.is_float and low == 0 and high in (None, 6):
        return b.op("relu" if high is None else "relu6", x)
    return b.op("clamp", x, min=None if low is None else float(low),
                max=None if high is None else float(high))


# -- arithmetic -------------------------------------------------------------------------------


def _operands(b: Builder, node: Operator) -> tuple[Val, Val]:
    """Return two operands; before opset 7, the second is lined up with an axis of the first."""
    x, y = node.inputs
    if node.opset >= 7 or not node.attrs.get("broadcast") or "axis" not in node.attrs:
        return x, y
    axis = axis_of(node.attrs["axis"], x.rank)
    after = x.rank - axis - y.rank
    if after < 0:
        raise ModelFormatError(f"axis {axis} for shapes {x.shape} and {y.shape}")
    return x, b.reshape(y, (*y.shape, *(1,) * after))


@handles("Add", "Sub", "Mul")
def arithmetic(b: Builder, node: Operator) -> Val:
    """Return a + b, a - b, a * b; activations that are written out as products are recognised."""
    x, y = _operands(b, node)
    if node.type == "Mul" and (whole := gated(b, x, y)) is not None:
        return whole
    return b.op(node.type.lower(), x, y)


@handles("Div")
def div(b: Builder, node: Operator) -> Val:
    """Return a / b; integers are rounded towards zero."""
    x, y = _operands(b, node)
    return b.op("div", x, y, rounding_mode=None if x.is_float else "trunc")


@handles("Mod")
def mod(b: Builder, node: Operator) -> Val:
    """Return the remainder, with the sign of the divisor (fmod=0) or of the dividend (fmod=1)."""
    return b.op("fmod" if node.attrs["fmod"] else "remainder", *node.inputs)


@handles("Pow")
def power(b: Builder, node: Operator) -> Val:
    """Return a to the power b, in the type of a."""
    x, y = _operands(b, node)
    if y.array is not None and y.size == 1 and x.is_float and y.rank <= x.rank:
        exponent = float(b.number(y, "exponent"))
        return b.op("sqrt", x) if exponent == 0.5 else b.op("pow", x, exponent=exponent)
    if x.is_float:
        return b.op("power", x, b.cast(y, x.dtype))
    return b.cast(b.op("power", b.cast(x, "float64"), b.cast(y, "float64")), x.dtype)


@handles("Max", "Min", "Sum", "Mean")
def variadic(b: Builder, node: Operator) -> Val:
    """Return the largest, smallest, sum or mean of any number of arrays."""
    if any(x is None for x in node.inputs):
        raise ModelFormatError("an input is missing")
    name = {"Max": "maximum", "Min": "minimum"}.get(node.type, "add")
    total = node.inputs[0]
    for x in node.inputs[1:]:
        total = b.op(name, total, x)
    if node.type == "Mean" and len(node.inputs) > 1:
        total = b.op("div", total, b.like(len(node.inputs), total))
    return total


# -- comparisons, logic, types ----------------------------------------------------------------


@handles(*_COMPARISONS)
def comparison(b: Builder, node: Operator) -> Val:
    """Return whether a is equal to, less or greater than b."""
    return b.op(_COMPARISONS[node.type], *_operands(b, node))


@handles(*_LOGIC)
def logic(b: Builder, node: Operator) -> Val:
    """Return boolean arithmetic."""
    operands = node.inputs if node.type == "Not" else _operands(b, node)
    return b.op(_LOGIC[node.type], *operands)


@handles("IsNaN")
def isnan(b: Builder, node: Operator) -> Val:
    """Return whether x is not a number."""
    return b.op("isnan", node.input(0))


@handles("IsInf")
def isinf(b: Builder, node: Operator) -> Val:
    """Return whether x is infinite, with the sign asked for."""
    x = node.input(0)
    positive, negative = node.attrs["detect_positive"], node.attrs["detect_negative"]
    if positive and negative:
        return b.op("isinf", x)
    if not (positive or negative):
        return b.op("lt", x, b.like(-np.inf, x))  # never
    return b.op("eq", x, b.like(np.inf if positive else -np.inf, x))


@handles("Where")
def where(b: Builder, node: Operator) -> Val:
    """Return a where the condition is true, else b."""
    return b.op("where", *node.inputs)


@handles("Cast")
def cast(b: Builder, node: Operator) -> Val:
    """Return x in another type; half precision is held as float32."""
    return b.cast(node.input(0), held(node.attrs["to"]))


@handles("CastLike")
def cast_like(b: Builder, node: Operator) -> Val:
    """Return x in the type of another value."""
    return b.cast(node.input(0), node.input(1).dtype)


@handles("Identity")
def identity(b: Builder, node: Operator) -> Val:
    """Return X."""
    return node.input(0)


@handles("Dropout")
def dropout(b: Builder, node: Operator):
    """Return X: nothing is dropped in inference."""
    x = node.input(0)
    if node.input(2) is not None and b.number(node.input(2), "training_mode"):
        ratio = node.input(1)
        if ratio is None or b.number(ratio, "ratio"):
            raise UnsupportedOperatorError("Dropout in training")
    if not node.wants(1):
        return x
    b.spend(x.size)
    return x, b.constant(np.ones(x.shape, bool))
