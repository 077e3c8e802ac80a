"""DropConnect: random zeros among the weights of a linear layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit import functional as F
from convkit import random
from convkit.autograd import Tensor, apply
from convkit.nn.linear import Linear
from convkit.ops import REGISTRY as OPS

__all__ = ["DropConnectLinear"]

# Keeps the slope of the root finite where a variance is zero.
TINY = 1e-12


class DropConnectLinear(Linear):
    """activation((M * weight) x + bias) with a random mask M of zeros and ones.

    In evaluation the sum over the random weights is taken to be normal, by the central limit
    theorem: its mean is ``q weight x + bias`` and its variance ``q (1 - q) weight^2 x^2``, with
    q = 1 - p the share of weights that are kept, and the output is the mean of the activation
    over that distribution: in closed form for "relu" and "identity", else over samples.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis before and after.
    p : float
        Probability of a weight to be dropped, from 0 to 1.
    activation : str or callable
        "relu", "identity", or a function of a Tensor.
    bias : bool
        Whether there is a bias; it is never dropped.
    samples : int
        How many draws the mean of another activation is taken over.
    per_sample : bool
        Draw a mask for each sample, as in the paper, instead of one for the batch. It takes
        N times the memory of the weights.
    dtype : dtype_like
        float32 or float64.

    References
    ----------
    Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of Neural Networks using DropConnect",
    2013; section 3.2 for the inference. The mean of a rectified normal variable is m Phi(m / s)
    + s phi(m / s).
    """

    def __init__(self, in_features: int, out_features: int, p: float = 0.5,
                 activation: str | Callable[[Tensor], Tensor] = "relu", bias: bool = True,
                 samples: int = 100, per_sample: bool = False, *, dtype: Any = np.float32):
        super().__init__(in_features, out_features, bias, dtype=dtype)
        if not 0 <= p <= 1:
            raise ValueError(f"expected a probability from 0 to 1, got {p}")
        if not callable(activation) and activation not in ("relu", "identity"):
            raise ValueError(f"expected activation of 'relu', 'identity' or a function, "
                             f"got {activation!r}")
        if samples < 1:
            raise ValueError(f"expected at least 1 sample, got {samples}")
        self.p = p
        self.activation = activation
        self.samples = samples
        self.per_sample = per_sample

    def forward(self, input: Any) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        if self.training:
            return self._activate(self._with_mask(input))
        mean = F.linear(input, self.weight * (1 - self.p), self.bias)
        if self.activation == "identity" or self.p in (0, 1):
            return self._activate(mean)
        spread = (F.linear(input * input, self.weight * self.weight) * (self.p * (1 - self.p))
                  + TINY).sqrt()
        return _rectified_mean(mean, spread) if self.activation == "relu" \
            else self._sampled_mean(mean, spread)

    def _activate(self, x: Tensor) -> Tensor:
        if callable(self.activation):
            return self.activation(x)
        return F.relu(x) if self.activation == "relu" else x

    def _with_mask(self, input: Any) -> Tensor:
        """Return the sums with some of the weights left out."""
        lead = (len(input),) if self.per_sample else ()
        mask = random.generator().random((*lead, *self.weight.shape), np.float32) >= self.p
        weight = self.weight * mask.astype(self.weight.dtype)
        if not self.per_sample:
            return F.linear(input, weight, self.bias)
        columns = input.reshape(*input.shape, 1)
        y = apply(OPS["matmul"], weight, columns)
        y = y.reshape(y.shape[:-1])
        return y if self.bias is None else y + self.bias

    def _sampled_mean(self, mean: Tensor, spread: Tensor) -> Tensor:
        """Return the mean of the activation over draws from the normal distribution."""
        draws = random.generator().standard_normal((self.samples, *mean.shape))
        values = self._activate(mean + spread * draws.astype(mean.dtype))
        return values.mean(0)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{super().extra_repr()}, p={self.p}"


def _rectified_mean(mean: Tensor, spread: Tensor) -> Tensor:
    """Return the mean of max(0, u) for normal u."""
    z = mean / spread
    below = (apply(OPS["erf"], z * math.sqrt(0.5)) + 1) * 0.5
    density = (z * z * -0.5).exp() * (1 / math.sqrt(2 * math.pi))
    return mean * below + spread * density
