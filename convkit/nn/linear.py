"""Linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.nn import init
from convkit.nn.module import Module, weight_and_bias
from convkit.nn.parameter import Parameter

__all__ = ["Identity", "Linear"]


def positive(value: Any, what: str) -> int:
    """Return a size as an int; raise ShapeError unless it is at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"expected {what} as an integer, got {value!r}")
    if value < 1:
        raise ShapeError(f"expected {what} of at least 1, got {value}")
    return value.__index__()


class Identity(Module):
    """Returns its input; arguments are accepted and ignored."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Return the input."""
        return input


class Linear(Module):
    """y = x W^T + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis before and after.
    bias : bool
        Whether there is a b.
    dtype : dtype_like
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        Shape (out_features, in_features), drawn evenly from +- 1 / sqrt(in_features).
    bias : Parameter or None
        Shape (out_features,), drawn likewise.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32
    ):
        super().__init__()
        self.in_features = positive(in_features, "in_features")
        self.out_features = positive(out_features, "out_features")
        self.weight = Parameter.empty((self.out_features, self.in_features), dtype)
        self.register_parameter("bias", Parameter.empty(out_features, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_weight_and_bias_(self.weight, self.bias)

    def forward(self, input: Any) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(input, *weight_and_bias(self))

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}")
