"""Activations as layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.linear import positive
from convkit.nn.module import Module
from convkit.nn.parameter import Parameter

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class ReLU(Module):
    """max(x, 0). `inplace` is accepted for PyTorch's sake; results are always new."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.relu(input)


class ReLU6(ReLU):
    """min(max(x, 0), 6)."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.relu6(input)


class Hardswish(ReLU):
    """x min(max(x + 3, 0), 6) / 6."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.hardswish(input)


class Hardsigmoid(ReLU):
    """min(max(x + 3, 0), 6) / 6."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.hardsigmoid(input)


class SiLU(ReLU):
    """x / (1 + exp(-x))."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.silu(input)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.tanh(input)


class LeakyReLU(Module):
    """x where it is positive, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where it is positive, a learned factor times x elsewhere.

    Parameters
    ----------
    num_parameters : int
        1, or the number of channels.
    init : float
        The factors at first.
    dtype : dtype_like
        float32 or float64.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: Any = np.float32):
        super().__init__()
        self.num_parameters = positive(num_parameters, "num_parameters")
        self.weight = Parameter(np.full(num_parameters, init, dtype))

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where it is positive, alpha (exp(x) - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"alpha={self.alpha}"


class GELU(Module):
    """x times the normal distribution function of x; "tanh" is its approximation."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"approximate={self.approximate!r}"


class Softmax(Module):
    """exp(x) over its sum along an axis."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Tensor:
        """Apply along `dim`."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Logarithm of `Softmax`."""

    def forward(self, input: Any) -> Tensor:
        """Apply along `dim`."""
        return F.log_softmax(input, self.dim)


class Mish(ReLU):
    """x tanh(log(1 + exp(x)))."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.mish(input)


class SELU(ReLU):
    """1.0507 times the ELU of alpha 1.6733; see `functional.selu`."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.selu(input)


class CELU(ELU):
    """x where it is positive, alpha (exp(x / alpha) - 1) elsewhere."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.celu(input, self.alpha)


class LogSigmoid(Module):
    """Logarithm of the sigmoid."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.logsigmoid(input)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.softsign(input)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta, and x where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"beta={self.beta}, threshold={self.threshold}"


class Hardtanh(Module):
    """min(max(x, min_val), max_val)."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        if not min_val < max_val:
            raise ValueError(f"expected min_val below max_val, got {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class GLU(Module):
    """The first half along an axis times the sigmoid of the second."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input: Any) -> Tensor:
        """Gate the first half by the second."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"dim={self.dim}"


class Hardshrink(Module):
    """x where ``|x| > lambd``, 0 elsewhere."""

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{self.lambd}"


class Softshrink(Hardshrink):
    """x moved towards 0 by `lambd`, and 0 where it is no further away."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.softshrink(input, self.lambd)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.tanhshrink(input)


class Threshold(Module):
    """x where it is above `threshold`, `value` elsewhere."""

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self.threshold = threshold
        self.value = value

    def forward(self, input: Any) -> Tensor:
        """Apply to each element."""
        return F.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"threshold={self.threshold}, value={self.value}"


class Softmin(Softmax):
    """Softmax of -x along `dim`."""

    def forward(self, input: Any) -> Tensor:
        """Apply along `dim`."""
        return F.softmin(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of each pixel of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Any) -> Tensor:
        """Apply along the axis of channels."""
        return F.softmax(input, -3)
