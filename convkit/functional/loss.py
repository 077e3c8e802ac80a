"""Losses."""

from __future__ import annotations

from typing import Any

from convkit.autograd import Tensor, apply
from convkit.functional.arguments import ndim_of, shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "focal_loss",
    "hinge_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
]


_REDUCTIONS = ("none", "mean", "sum")


def _checked(reduction: str) -> str:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    return reduction


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Return losses as they are ("none"), their mean or their sum."""
    return losses if _checked(reduction) == "none" else getattr(losses, reduction)()


def _class_loss(name: str, x: Any, target: Any, weight: Any, **attrs: Any) -> Tensor:
    """Run a loss over classes, whose input may be unbatched (C,)."""
    if ndim_of(x) != 1:
        return apply(OPS[name], x, target, weight, **attrs)
    x = apply(OPS["reshape"], x, shape=(1, *shape_of(x)))
    target = apply(OPS["reshape"], target, shape=(1, *shape_of(target)))
    loss = apply(OPS[name], x, target, weight, **attrs)
    return apply(OPS["reshape"], loss, shape=())


def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy between softmax(input) and the target classes.

    Parameters
    ----------
    input : Tensor or array
        Unnormalised scores, (N, C), (N, C, d...) or (C,).
    target : Tensor or array
        Class indices (N,), (N, d...) or (), or probabilities of the input's shape.
    weight : Tensor or array, optional
        Weight of each class, (C,).
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted), "sum" or "none".
    label_smoothing : float
        Share of the target spread evenly over all classes, from 0 to 1.
    """
    return _class_loss("cross_entropy", input, target, weight, ignore_index=ignore_index,
                       label_smoothing=label_smoothing, reduction=_checked(reduction))


def nll_loss(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Return minus the input, which holds log-probabilities, at the target classes."""
    return _class_loss("nll_loss", input, target, weight, ignore_index=ignore_index,
                       reduction=_checked(reduction))


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the squared difference of two tensors of one shape."""
    return apply(OPS["mse_loss"], input, target, reduction=_checked(reduction))


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Return the cross entropy between sigmoid(input) and targets from 0 to 1.

    Parameters
    ----------
    input, target : Tensor or array
        Of one shape.
    weight : Tensor or array, optional
        Factor of each element's loss, broadcast.
    reduction : str
        "mean", "sum" or "none".
    pos_weight : Tensor or array, optional
        Factor of the positive targets' part, broadcast.
    """
    return apply(OPS["bce_with_logits"], input, target, weight, pos_weight,
                 reduction=_checked(reduction))


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the absolute difference of two tensors of one shape."""
    return apply(OPS["l1_loss"], input, target, reduction=_checked(reduction))


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 for differences d up to `delta`, delta (d - delta / 2) beyond.

    References
    ----------
    Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    return apply(OPS["huber_loss"], input, target, reduction=_checked(reduction), delta=delta)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Return d^2 / (2 beta) for differences d below `beta`, d - beta / 2 beyond.

    References
    ----------
    Girshick, "Fast R-CNN", 2015.
    """
    return apply(OPS["smooth_l1_loss"], input, target, reduction=_checked(reduction), beta=beta)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Return the divergence of Kullback and Leibler, t (log t - input).

    Parameters
    ----------
    input : Tensor or array
        Logarithms of probabilities.
    target : Tensor or array
        Probabilities t, or their logarithms with `log_target`.
    reduction : str
        "batchmean" (the divergence: the sum over the first axis' size), "mean" (over all
        numbers), "sum" or "none".
    log_target : bool
        See `target`.
    """
    if reduction == "batchmean":
        total = apply(OPS["kl_div"], input, target, reduction="sum", log_target=log_target)
        return total / (shape_of(input)[0] if ndim_of(input) else 1)
    return apply(OPS["kl_div"], input, target, reduction=_checked(reduction),
                 log_target=log_target)


def hinge_loss(input: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return max(0, margin - target * input), with targets -1 and 1.

    References
    ----------
    Cortes and Vapnik, "Support-Vector Networks", 1995.
    """
    return apply(OPS["hinge_loss"], input, target, reduction=_checked(reduction), margin=margin)


def multi_margin_loss(
    input: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the hinge loss over classes: how far wrong classes come within the margin.

    Parameters
    ----------
    input : Tensor or array
        Scores (N, C) or (C,).
    target : Tensor or array
        Class indices (N,) or ().
    p : int
        1, or 2 for the squared hinge.
    margin : float
        By how much the target's score should be above each other.
    weight : Tensor or array, optional
        Weight of each class, (C,).
    reduction : str
        "mean" (over samples, whatever the weights), "sum" or "none".

    References
    ----------
    Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", 1999.
    """
    return _class_loss("multi_margin_loss", input, target, weight, p=p, margin=margin,
                       reduction=_checked(reduction))


def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Return the cross entropy between probabilities and targets from 0 to 1.

    Logarithms below -100 count as -100. From scores, `binary_cross_entropy_with_logits` is
    more accurate.

    Parameters
    ----------
    input, target : Tensor or array
        Of one shape; the input from 0 to 1.
    weight : Tensor or array, optional
        Factor of each element's loss, broadcast.
    reduction : str
        "mean", "sum" or "none".
    """
    return apply(OPS["bce"], input, target, weight, reduction=_checked(reduction))


def sigmoid_focal_loss(
    inputs: Any, targets: Any, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """Return the binary focal loss of scores, with torchvision's arguments.

    share * miss^gamma times the cross entropy, with miss the probability given to the wrong
    answer, and share alpha for targets of 1 and 1 - alpha for those of 0.

    Parameters
    ----------
    inputs, targets : Tensor or array
        Scores, and targets from 0 to 1, of one shape.
    alpha : float
        Share of the positive; below 0 for no shares.
    gamma : float
        How strongly what is right already is turned down.
    reduction : str
        "none", "mean" or "sum".

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", 2017.
    """
    return apply(OPS["sigmoid_focal_loss"], inputs, targets, alpha=alpha, gamma=gamma,
                 reduction=_checked(reduction))


def focal_loss(
    input: Any, target: Any, weight: Any = None, gamma: float = 2.0, ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the focal loss over classes: weight (1 - p)^gamma times -log p.

    p is the softmax at the target's class; with gamma = 0 it is the cross entropy.

    Parameters
    ----------
    input : Tensor or array
        Scores, (N, C), (N, C, d...) or (C,).
    target : Tensor or array
        Class indices (N,), (N, d...) or ().
    weight : Tensor or array, optional
        Weight of each class, (C,): the paper's alpha.
    gamma : float
        How strongly what is right already is turned down.
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted, as in `cross_entropy`), "sum" or "none".

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar, "Focal Loss for Dense Object Detection", 2017.
    """
    return _class_loss("focal_loss", input, target, weight, gamma=gamma,
                       ignore_index=ignore_index, reduction=_checked(reduction))
