"""Layers that are random while training: dropout, stochastic depth, noise."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = [
    "ClassicDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "GaussianNoise",
    "StochasticDepth",
]


class Dropout(Module):
    """Sets elements to zero when training, and scales the others.

    Parameters
    ----------
    p : float
        Probability of an element to be dropped.
    inplace : bool
        Accepted for PyTorch's sake; results are always new.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected a probability from 0 to 1, got {p}")
        self.p = p

    def forward(self, input: Any) -> Tensor:
        """Drop elements when training."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Sets whole channels of (N, C, H, W) to zero when training, and scales the others."""

    def forward(self, input: Any) -> Tensor:
        """Drop channels when training."""
        return F.dropout2d(input, self.p, self.training)


class Dropout1d(Dropout):
    """Sets whole channels of (N, C, L) to zero when training, and scales the others."""

    def forward(self, input: Any) -> Tensor:
        """Drop channels when training."""
        return F.dropout1d(input, self.p, self.training)


class ClassicDropout(Dropout):
    """Sets elements to zero when training, and multiplies all by 1 - p in evaluation.

    Parameters
    ----------
    p : float
        Probability of an element to be dropped.

    References
    ----------
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
    2012.
    """

    def forward(self, input: Any) -> Tensor:
        """Drop elements when training, scale them otherwise."""
        return F.classic_dropout(input, self.p, self.training)


class StochasticDepth(Dropout):
    """Sets samples to zero when training, and scales the others: leaves out residual branches.

    Parameters
    ----------
    p : float
        Probability of a sample to be dropped.
    mode : str
        "row": every sample by itself; "batch": all samples together.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    def __init__(self, p: float, mode: str = "row"):
        super().__init__(p)
        if mode not in ("row", "batch"):
            raise ValueError(f"expected mode of 'row' or 'batch', got {mode!r}")
        self.mode = mode

    def forward(self, input: Any) -> Tensor:
        """Drop samples when training."""
        return F.stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"p={self.p}, mode={self.mode!r}"


class GaussianNoise(Module):
    """Adds normal noise when training.

    Parameters
    ----------
    std : float
        Standard deviation, at least 0.
    """

    def __init__(self, std: float = 1.0):
        super().__init__()
        if not std >= 0:
            raise ValueError(f"expected a standard deviation of at least 0, got {std}")
        self.std = std

    def forward(self, input: Any) -> Tensor:
        """Add noise when training."""
        return F.gaussian_noise(input, self.std, self.training)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"std={self.std}"
