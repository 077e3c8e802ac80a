"""Losses."""

from __future__ import annotations

from typing import Any

from convkit.autograd import Tensor, apply
from convkit.functional.arguments import ndim_of, shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "mse_loss",
    "nll_loss",
]


_REDUCTIONS = ("none", "mean", "sum")


def _checked(reduction: str) -> str:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    return reduction


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
