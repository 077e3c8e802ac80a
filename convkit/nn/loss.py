"""Losses as layers."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MultiMarginLoss",
    "NLLLoss",
    "SmoothL1Loss",
]


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


class L1Loss(MSELoss):
    """Absolute difference of input and target; `reduction` as in `MSELoss`."""

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.l1_loss(input, target, self.reduction)


class HuberLoss(Module):
    """A parabola for differences up to `delta`, its tangents beyond.

    Parameters
    ----------
    reduction : str
        "mean", "sum" or "none".
    delta : float
        Where the parabola ends.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__()
        self.reduction = reduction
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.huber_loss(input, target, self.reduction, self.delta)


class SmoothL1Loss(Module):
    """The Huber loss over its delta, here `beta`.

    Parameters
    ----------
    reduction : str
        "mean", "sum" or "none".
    beta : float
        Where the parabola ends; 0 is `L1Loss`.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__()
        self.reduction = reduction
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)


class KLDivLoss(Module):
    """Divergence of Kullback and Leibler; see `functional.kl_div`.

    Parameters
    ----------
    reduction : str
        "mean", "batchmean", "sum" or "none".
    log_target : bool
        Whether targets are logarithms.
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__()
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of log-probabilities and probabilities."""
        return F.kl_div(input, target, self.reduction, self.log_target)


class BCELoss(Module):
    """Cross entropy between probabilities and targets from 0 to 1.

    Parameters
    ----------
    weight : Tensor or array, optional
        Factor of each element's loss, broadcast.
    reduction : str
        "mean", "sum" or "none".
    """

    def __init__(self, weight: Any = None, reduction: str = "mean"):
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.binary_cross_entropy(input, target, self.weight, self.reduction)


class HingeLoss(Module):
    """max(0, margin - target * input), with targets -1 and 1.

    Parameters
    ----------
    margin : float
        By how much scores should be on the right side of 0.
    reduction : str
        "mean", "sum" or "none".
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__()
        self.margin = margin
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of two tensors of one shape."""
        return F.hinge_loss(input, target, self.margin, self.reduction)


class MultiMarginLoss(Module):
    """The hinge loss over classes; see `functional.multi_margin_loss`.

    Parameters
    ----------
    p : int
        1, or 2 for the squared hinge.
    margin : float
        By how much the target's score should be above each other.
    weight : Tensor or array, optional
        Weight of each class, (C,).
    reduction : str
        "mean", "sum" or "none".
    """

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None,
                 reduction: str = "mean"):
        super().__init__()
        self.p = p
        self.margin = margin
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of scores (N, C) and class indices."""
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight,
                                   self.reduction)


class FocalLoss(Module):
    """Cross entropy times (1 - p)^gamma: less weight on what is right already.

    Parameters
    ----------
    gamma : float
        0 is the cross entropy.
    weight : Tensor or array, optional
        Weight of each class, (C,).
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted), "sum" or "none".

    References
    ----------
    Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """

    def __init__(self, gamma: float = 2.0, weight: Any = None, ignore_index: int = -100,
                 reduction: str = "mean"):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Any, target: Any) -> Tensor:
        """Return the loss of scores (N, C, ...) and class indices."""
        return F.focal_loss(input, target, self.weight, self.gamma, self.ignore_index,
                            self.reduction)
