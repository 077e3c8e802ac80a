"""Dropout layers."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = ["Dropout", "Dropout2d"]


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
