"""Losses as layers."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss", "NLLLoss"]


class MSELoss(Module):
    """Squared difference of input and target.

    Parameters
    ----------
    reduction : str
        "mean", "sum" or "none".
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.mse_loss(input, target, self.reduction)


class CrossEntropyLoss(Module):
    """Cross entropy between softmax(input) and the target classes.

    Parameters
    ----------
    weight : Tensor or array, optional
        Weight of each class, (C,).
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted), "sum" or "none".
    label_smoothing : float
        Share of the target spread evenly over all classes, from 0 to 1.
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                 label_smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of scores (N, C, ...) and class indices or probabilities."""
        return F.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction,
                               self.label_smoothing)


class NLLLoss(Module):
    """Minus the log-probability of the target classes.

    Parameters
    ----------
    weight : Tensor or array, optional
        Weight of each class, (C,).
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted), "sum" or "none".
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of log-probabilities (N, C, ...) and class indices."""
        return F.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class BCEWithLogitsLoss(Module):
    """Cross entropy between sigmoid(input) and targets from 0 to 1.

    Parameters
    ----------
    weight : Tensor or array, optional
        Factor of each element's loss, broadcast.
    reduction : str
        "mean", "sum" or "none".
    pos_weight : Tensor or array, optional
        Factor of the positive targets' part, broadcast.
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.binary_cross_entropy_with_logits(input, target, self.weight, self.reduction,
                                                  self.pos_weight)
