"""Lengths and distances of vectors, and the losses made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit import tensors as T
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.functional.activation import logsigmoid
from convkit.functional.arguments import as_tensor, shape_of
from convkit.functional.loss import reduced

__all__ = ["cosine_embedding_loss", "cosine_similarity", "gaussian_nll_loss",
           "hinge_embedding_loss", "margin_ranking_loss", "normalize", "pairwise_distance",
           "poisson_nll_loss", "soft_margin_loss", "triplet_margin_loss"]


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along `dim`, which counts as at least `eps`."""
    return T.div(input, T.norm(input, p, dim, True).clamp(min=eps))


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between vectors along `dim`; lengths are at least `eps`."""
    a, b = _one_shape(as_tensor(x1), as_tensor(x2))  # `dim` may be one that is repeated
    lengths = [T.norm(x, 2, dim, True).clamp(min=eps) for x in (a, b)]
    return T.sum(T.mul(T.div(a, lengths[0]), T.div(b, lengths[1])), dim)


def _one_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors repeated to the shape that they broadcast to."""
    if a.shape == b.shape:
        return a, b
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ShapeError(f"shapes {a.shape} and {b.shape} do not broadcast together") from None
    return T.expand(a, shape), T.expand(b, shape)


def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6,
                      keepdim: bool = False) -> Tensor:
    """Return the p-norm of ``x1 - x2 + eps`` along the last axis."""
    return T.norm(T.add(T.sub(as_tensor(x1), x2), eps), p, -1, keepdim)


def margin_ranking_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0,
                        reduction: str = "mean") -> Tensor:
    """Return ``max(0, -target * (input1 - input2) + margin)``; targets are 1 and -1."""
    away = T.mul(T.neg(as_tensor(target)), T.sub(as_tensor(input1), input2))
    return reduced((away + margin).clamp(min=0), reduction)


def hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0,
                         reduction: str = "mean") -> Tensor:
    """Return distances for targets of 1, ``max(0, margin - input)`` for those of -1.

    Both are added for any other target.
    """
    x, t = as_tensor(input), as_tensor(target)
    return reduced(T.where(T.ne(t, -1), x, 0.0)
                   + T.where(T.ne(t, 1), (margin - x).clamp(min=0), 0.0), reduction)


def soft_margin_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return ``log(1 + exp(-target * input))``; targets are 1 and -1."""
    return reduced(-logsigmoid(T.mul(as_tensor(target), input)), reduction)


def cosine_embedding_loss(input1: Any, input2: Any, target: Any, margin: float = 0.0,
                          reduction: str = "mean") -> Tensor:
    """Return ``1 - cos`` for targets of 1, ``max(0, cos - margin)`` for those of -1.

    Inputs are (N, D) with targets (N,), or (D,) with a target ().
    """
    a, b = as_tensor(input1), as_tensor(input2)
    squares = [T.sum(T.square(x), -1) + 1e-12 for x in (a, b)]
    cosine = T.sum(a * b, -1) / T.sqrt(squares[0] * squares[1])
    return reduced(T.where(T.gt(as_tensor(target), 0), 1 - cosine, (cosine - margin).clamp(min=0)),
                   reduction)


def triplet_margin_loss(anchor: Any, positive: Any, negative: Any, margin: float = 1.0,
                        p: float = 2.0, eps: float = 1e-6, swap: bool = False,
                        reduction: str = "mean") -> Tensor:
    """Return ``max(0, d(anchor, positive) - d(anchor, negative) + margin)``.

    d is `pairwise_distance`; with `swap`, the negative's is the smaller of its distances to
    the other two (Balntas et al., "Learning local feature descriptors with triplets and shallow
    convolutional neural networks", 2016).
    """
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = T.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced((near - far + margin).clamp(min=0), reduction)


def poisson_nll_loss(input: Any, target: Any, log_input: bool = True, full: bool = False,
                     eps: float = 1e-8, reduction: str = "mean") -> Tensor:
    """Return the negative log likelihood of counts under Poisson distributions.

    Parameters
    ----------
    input : Tensor or array
        The distributions' means, or with `log_input` their logarithms.
    target : Tensor or array
        Counts.
    full : bool
        Whether the constant is there, by Stirling's formula for counts above 1.
    eps : float
        Added to means before their logarithm is taken.
    reduction : str
        "mean", "sum" or "none".
    """
    x, count = as_tensor(input), as_tensor(target)
    loss = T.exp(x) - count * x if log_input else x - count * T.log(x + eps)
    if full:
        many = T.gt(count, 1)
        n = T.where(many, count, 1.0)
        loss = loss + T.where(many, n * T.log(n) - n + 0.5 * T.log(2 * math.pi * n), 0.0)
    return reduced(loss, reduction)


def gaussian_nll_loss(input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Tensor:
    """Return the negative log likelihood of targets under normal distributions.

    Parameters
    ----------
    input, var : Tensor or array
        Means and variances, which count as at least `eps` (gradients pass all the same). Variances
        without the input's last axis hold for all of it.
    target : Tensor or array
        What was observed.
    full : bool
        Whether the constant is there.
    eps : float
    reduction : str
        "mean", "sum" or "none".
    """
    spread = as_tensor(var)
    if len(shape_of(input)) and spread.shape == shape_of(input)[:-1]:
        spread = spread.unsqueeze(-1)
    if (spread.data < 0).any():
        raise ValueError("expected variances of at least 0")
    spread = spread + (spread.detach().clamp(min=eps) - spread.detach())
    loss = 0.5 * (T.log(spread) + T.square(T.sub(as_tensor(input), target)) / spread)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
