"""Activations."""

from __future__ import annotations

from typing import Any

from convkit import tensors as T
from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]


def relu(input: Any) -> Tensor:
    """Return max(x, 0)."""
    return apply(OPS["relu"], input)


def relu6(input: Any) -> Tensor:
    """Return min(max(x, 0), 6)."""
    return apply(OPS["relu6"], input)


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Tensor:
    """Return x where it is positive, negative_slope * x elsewhere."""
    return apply(OPS["leaky_relu"], input, negative_slope=negative_slope)


def prelu(input: Any, weight: Any) -> Tensor:
    """Return x where it is positive, weight * x elsewhere; weight is (1,) or (C,)."""
    return apply(OPS["prelu"], input, weight)


def elu(input: Any, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, alpha * (exp(x) - 1) elsewhere."""
    return apply(OPS["elu"], input, alpha=alpha)


def gelu(input: Any, approximate: str = "none") -> Tensor:
    """Return x times the normal distribution function of x ("tanh": its approximation)."""
    return apply(OPS["gelu"], input, approximate=approximate)


def sigmoid(input: Any) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return apply(OPS["sigmoid"], input)


def tanh(input: Any) -> Tensor:
    """Return the hyperbolic tangent."""
    return apply(OPS["tanh"], input)


def silu(input: Any) -> Tensor:
    """Return x * sigmoid(x)."""
    return apply(OPS["silu"], input)


def hardswish(input: Any) -> Tensor:
    """Return x * min(max(x + 3, 0), 6) / 6."""
    return apply(OPS["hardswish"], input)


def hardsigmoid(input: Any) -> Tensor:
    """Return min(max(x + 3, 0), 6) / 6."""
    return apply(OPS["hardsigmoid"], input)


def softmax(input: Any, dim: int) -> Tensor:
    """Return exp(x) over its sum along `dim`."""
    return apply(OPS["softmax"], input, dim=dim)


def log_softmax(input: Any, dim: int) -> Tensor:
    """Return the logarithm of `softmax`."""
    return apply(OPS["log_softmax"], input, dim=dim)


def mish(input: Any) -> Tensor:
    """Return x * tanh(log(1 + exp(x))) (Misra, 2019)."""
    return apply(OPS["mish"], input)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta * x)) / beta, and x where beta * x > threshold."""
    return apply(OPS["softplus"], input, beta=beta, threshold=threshold)


def logsigmoid(input: Any) -> Tensor:
    """Return the logarithm of `sigmoid`."""
    return apply(OPS["logsigmoid"], input)


def softsign(input: Any) -> Tensor:
    """Return x / (1 + |x|)."""
    return apply(OPS["softsign"], input)


def selu(input: Any) -> Tensor:
    """Return 1.0507 * elu(x, 1.6733), which keeps mean 0 and variance 1 from layer to layer.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter, "Self-Normalizing Neural Networks", 2017.
    """
    return apply(OPS["selu"], input)


def celu(input: Any, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, alpha * (exp(x / alpha) - 1) elsewhere (Barron, 2017)."""
    return apply(OPS["celu"], input, alpha=alpha)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return min(max(x, min_val), max_val); no gradient passes at the limits."""
    return apply(OPS["hardtanh"], input, min_val=min_val, max_val=max_val)


def glu(input: Any, dim: int = -1) -> Tensor:
    """Return a * sigmoid(b), with a and b the two halves of the input along `dim`.

    Raises
    ------
    ShapeError
        When the axis has an odd size.

    References
    ----------
    Dauphin, Fan, Auli and Grangier, "Language Modeling with Gated Convolutional Networks", 2017.
    """
    shape = shape_of(input)
    if not -len(shape) <= dim < len(shape) or shape[dim] % 2:
        raise ShapeError(f"expected an even size along dim {dim}, got x of shape {shape}")
    half = shape[dim] // 2
    input = input if isinstance(input, Tensor) else Tensor(input)
    cut = (slice(None),) * (dim % len(shape))
    return input[(*cut, slice(half))] * sigmoid(input[(*cut, slice(half, None))])


def hardshrink(input: Any, lambd: float = 0.5) -> Tensor:
    """Return 0 where ``|x| <= lambd``, x elsewhere."""
    return T.where(T.le(T.abs(input), lambd), 0.0, input)  # NaN is NaN


def softshrink(input: Any, lambd: float = 0.5) -> Tensor:
    """Return x moved towards 0 by `lambd`, and 0 where it is no further away."""
    if lambd < 0:
        raise ValueError(f"expected lambd of at least 0, got {lambd}")
    return T.sub(input, T.clamp(input, -lambd, lambd))


def tanhshrink(input: Any) -> Tensor:
    """Return x - tanh(x)."""
    return T.sub(input, tanh(input))


def threshold(input: Any, threshold: float, value: float) -> Tensor:
    """Return `value` where x is at most `threshold`, x elsewhere."""
    return T.where(T.le(input, threshold), value, input)  # NaN is NaN


def softmin(input: Any, dim: int) -> Tensor:
    """Return the softmax of -x along `dim`."""
    return softmax(T.neg(input), dim)
