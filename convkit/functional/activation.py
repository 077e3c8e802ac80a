"""Activations."""

from __future__ import annotations

from typing import Any

from convkit.autograd import Tensor, apply
from convkit.ops import REGISTRY as OPS

__all__ = [
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "leaky_relu",
    "log_softmax",
    "prelu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
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
