"""Initialisers: functions that fill a tensor in place and return it.

Numbers are drawn from the generator that `convkit.manual_seed` restarts, unless one is
given.

References
----------
Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
networks", 2010 (xavier). He et al., "Delving deep into rectifiers", 2015 (kaiming). LeCun et
al., "Efficient BackProp", 1998 (lecun). Saxe, McClelland and Ganguli, "Exact solutions to the
nonlinear dynamics of learning in deep linear neural networks", 2014 (orthogonal).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit import random
from convkit.autograd import Tensor, no_grad
from convkit.errors import ShapeError

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_UNIT_GAIN = ("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "sigmoid")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor by which weights before a nonlinearity should be larger.

    Parameters
    ----------
    nonlinearity : str
        "linear", "sigmoid", "conv2d", ... (1), "tanh" (5/3), "relu" (sqrt 2), "leaky_relu"
        (sqrt(2 / (1 + slope^2))) or "selu" (3/4).
    param : float, optional
        The slope of "leaky_relu"; 0.01 unless given.
    """
    if nonlinearity in _UNIT_GAIN:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3.0
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1.0 + slope * slope))
    if nonlinearity == "selu":
        return 0.75
    raise ValueError(f"unknown nonlinearity {nonlinearity!r}")


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Return how many inputs an output depends on, and how many outputs an input feeds."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ShapeError(f"expected a weight with at least 2 axes, got shape {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def _fill(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        return tensor.copy_(np.asarray(values, tensor.dtype))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0,
             generator: np.random.Generator | None = None) -> Tensor:
    """Fill with numbers drawn evenly from [a, b)."""
    generator = generator or random.generator()
    return _fill(tensor, generator.uniform(a, b, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0,
            generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of a mean and standard deviation."""
    generator = generator or random.generator()
    return _fill(tensor, generator.normal(mean, std, tensor.shape))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one number."""
    with no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0,
                    generator: np.random.Generator | None = None) -> Tensor:
    """Fill evenly from within +- gain sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / max(1, sum(_fans(tensor))))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0,
                   generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of deviation gain sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(1, sum(_fans(tensor)))), generator)


def _kaiming_deviation(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, _fan(tensor, mode)))


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in",
                     nonlinearity: str = "leaky_relu",
                     generator: np.random.Generator | None = None) -> Tensor:
    """Fill evenly from within +- gain sqrt(3 / fan).

    Parameters
    ----------
    tensor : Tensor
        Weight of shape (O, I, ...).
    a : float
        Slope of the leaky ReLU that follows.
    mode : str
        "fan_in" keeps the size of activations, "fan_out" that of gradients.
    nonlinearity : str
        See `calculate_gain`.
    generator : numpy.random.Generator, optional
        Where numbers are drawn from.
    """
    bound = math.sqrt(3.0) * _kaiming_deviation(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in",
                    nonlinearity: str = "leaky_relu",
                    generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of deviation gain / sqrt(fan); see `kaiming_uniform_`."""
    return normal_(tensor, 0.0, _kaiming_deviation(tensor, a, mode, nonlinearity), generator)


def lecun_normal_(tensor: Tensor, generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers of deviation 1 / sqrt(fan_in); goes with SELU."""
    return normal_(tensor, 0.0, 1.0 / math.sqrt(max(1, _fan(tensor, "fan_in"))), generator)


def lecun_uniform_(tensor: Tensor, generator: np.random.Generator | None = None) -> Tensor:
    """Fill evenly from within +- sqrt(3 / fan_in)."""
    bound = math.sqrt(3.0 / max(1, _fan(tensor, "fan_in")))
    return uniform_(tensor, -bound, bound, generator)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0,
                  b: float = 2.0, generator: np.random.Generator | None = None) -> Tensor:
    """Fill with normal numbers, drawn again until they lie within [a, b].

    Parameters
    ----------
    tensor : Tensor
        Of any shape.
    mean, std : float
        Of the normal distribution before it is cut.
    a, b : float
        The bounds themselves, not multiples of `std`.
    generator : numpy.random.Generator, optional
        Where numbers are drawn from.

    Raises
    ------
    ValueError
        When the bounds are not in order, or so far out that hardly any number falls between.
    """
    low, high = ((bound - mean) / std for bound in (a, b))
    inside = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    if not a < b or inside < 1e-3:
        raise ValueError(f"expected bounds with a share of the normal distribution between "
                         f"them, got {a} and {b} for mean {mean} and std {std}")
    generator = generator or random.generator()
    values = generator.normal(mean, std, tensor.shape)
    outside = (values < a) | (values > b)
    while outside.any():
        values[outside] = generator.normal(mean, std, int(outside.sum()))
        outside = (values < a) | (values > b)
    return _fill(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1.0,
                generator: np.random.Generator | None = None) -> Tensor:
    """Fill with a random (half-)orthogonal matrix: rows or columns at right angles, of one length.

    Parameters
    ----------
    tensor : Tensor
        Weight of at least two axes; those after the first count as one.
    gain : float
        The length.
    generator : numpy.random.Generator, optional
        Where numbers are drawn from.
    """
    shape = tensor.shape
    if len(shape) < 2:
        raise ShapeError(f"expected a weight with at least 2 axes, got shape {shape}")
    generator = generator or random.generator()
    rows, columns = shape[0], math.prod(shape[1:])
    normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))  # makes the distribution even over all such matrices
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(shape))


def default_weight_and_bias_(weight: Tensor, bias: Tensor | None) -> None:
    """Fill as PyTorch's linear and convolution layers do: evenly from +- 1 / sqrt(fan_in)."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = _fan(weight, "fan_in")
        bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
        uniform_(bias, -bound, bound)
