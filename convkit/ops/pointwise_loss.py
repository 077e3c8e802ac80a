"""Losses of single numbers x with a target each: errors, divergences, hinges.

Sums are taken in float64 in a fixed order. With ``reduction="none"`` the result has one number
for each loss, else it is a scalar. Nothing but the inputs is kept for backward.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import loss as kernels
from convkit._kernels import memory
from convkit.errors import ShapeError
from convkit.ops.layout import axis_order, in_order, logical, native
from convkit.ops.loss import check_reduction, factor_of, no_gradient, same_type, scalar, shape_of
from convkit.ops.op import Context, Op, register

__all__ = ["Bce", "BceWithLogits", "HingeLoss", "HuberLoss", "KlDiv", "L1Loss", "MseLoss",
           "SigmoidFocalLoss", "SmoothL1Loss"]

Array = np.ndarray
Shape = tuple[int, ...]


def _sum_to(g: Array | None, shape: Shape) -> Array | None:
    """Sum a gradient over the axes along which its input was broadcast."""
    if g is None or g.shape == shape:
        return g
    added = g.ndim - len(shape)
    axes = (*range(added),
            *(i + added for i, n in enumerate(shape) if n == 1 and g.shape[i + added] != 1))
    return g.sum(axis=axes, keepdims=True).reshape(shape)


class _Pointwise(Op):
    """A loss of every number of `x` and `target`; `kernel` is its name among the kernels.

    Shapes that differ are broadcast, with a warning.
    """

    kernel: ClassVar[str] = ""
    reads = (0, 1)

    @staticmethod
    def shape(x: Shape, target: Shape, *weights: Shape | None, reduction: str = "mean",
              **attrs: Any) -> Shape:
        """Return () or, without reduction, the inputs' common shape."""
        check_reduction(reduction)
        try:
            common = np.broadcast_shapes(x, target)
        except ValueError:
            raise ShapeError(f"expected a target of shape {x} like x, got {target}") from None
        return common if reduction == "none" else ()

    @classmethod
    def _run(cls, ctx: Context, x: Array, target: Array, reduction: str, *parameters: float,
             kernel: str = "", weights: tuple[Array | None, ...] = (None, None)) -> Array:
        """Compute the losses, their sum or their mean."""
        shapes = x.shape, target.shape
        _Pointwise.shape(*shapes, reduction=reduction)
        x = native(x)
        target = same_type(target, x, "target")
        if x.shape != target.shape:
            warnings.warn(
                f"{cls.name} broadcasts a target of shape {target.shape} against x of shape "
                f"{x.shape}, which is rarely meant", UserWarning, stacklevel=2)
            x, target = np.broadcast_arrays(x, target)
        order = axis_order(x)
        inputs = [None if a is None else in_order(a, order, ctx.threads)
                  for a in (x, target, *weights)]
        which = (kernel or cls.kernel, tuple(map(float, parameters)))
        losses = memory.empty(inputs[0].shape, x.dtype) if reduction == "none" else None
        total = kernels.pointwise(*which, *inputs, losses, ctx.threads)
        if any(ctx.needs):
            ctx.saved = (which, inputs, order, reduction, shapes)
        if losses is None:
            return scalar(total, x.size, reduction, x.dtype)
        return logical(losses, order)

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradients of x and target; weights have none."""
        which, inputs, order, reduction, shapes = ctx.saved
        x = inputs[0]
        each = in_order(gy, order, ctx.threads) if reduction == "none" else None
        factor = 1.0 if reduction == "none" else factor_of(gy, x.size, reduction)
        grads = [memory.empty(x.shape, x.dtype) if need else None for need in ctx.needs[:2]]
        kernels.pointwise_grad(*which, each, factor, *inputs, *grads, ctx.threads)
        grads = [None if g is None else logical(g, order) for g in grads]
        return (*map(_sum_to, grads, shapes), *(None for _ in ctx.needs[2:]))


@register
class MseLoss(_Pointwise):
    """(x - target)^2."""

    name = "mse_loss"
    kernel = "mse"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        return cls._run(ctx, x, target, reduction)


@register
class L1Loss(_Pointwise):
    """|x - target|; the slope at 0 is 0."""

    name = "l1_loss"
    kernel = "l1"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        return cls._run(ctx, x, target, reduction)


@register
class HuberLoss(_Pointwise):
    """(x - target)^2 / 2 up to a distance of delta, then delta (|x - target| - delta / 2).

    Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    name = "huber_loss"
    kernel = "huber"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean",
                delta: float = 1.0) -> Array:
        """Compute the losses, their sum or their mean."""
        if not delta > 0:
            raise ValueError(f"expected delta above 0, got {delta}")
        return cls._run(ctx, x, target, reduction, delta)


@register
class SmoothL1Loss(_Pointwise):
    """The Huber loss over its delta, here beta; with beta = 0 |x - target|.

    Girshick, "Fast R-CNN", 2015.
    """

    name = "smooth_l1_loss"
    kernel = "smooth_l1"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean",
                beta: float = 1.0) -> Array:
        """Compute the losses, their sum or their mean."""
        if beta < 0:
            raise ValueError(f"expected beta of at least 0, got {beta}")
        return cls._run(ctx, x, target, reduction, beta, kernel="" if beta else "l1")


@register
class KlDiv(_Pointwise):
    """Kullback and Leibler's divergence: t (log t - x), with x the logarithm of a probability.

    With ``log_target`` the target is a logarithm too: exp(t) (t - x).
    """

    name = "kl_div"
    kernel = "kl"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean",
                log_target: bool = False) -> Array:
        """Compute the losses, their sum or their mean."""
        return cls._run(ctx, x, target, reduction, kernel="kl_log" if log_target else "")


@register
class HingeLoss(_Pointwise):
    """max(0, margin - target * x), with targets -1 and 1 (Cortes and Vapnik, 1995)."""

    name = "hinge_loss"
    kernel = "hinge"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, reduction: str = "mean",
                margin: float = 1.0) -> Array:
        """Compute the losses, their sum or their mean."""
        return cls._run(ctx, x, target, reduction, margin)


@register
class SigmoidFocalLoss(_Pointwise):
    """Binary cross entropy of sigmoid(x), less where the answer is right already.

    share * miss^gamma * cross entropy, with miss the probability of the wrong answer and share
    alpha for targets of 1, 1 - alpha for targets of 0 (no share where alpha is below 0). Lin
    et al., "Focal Loss for Dense Object Detection", 2017.
    """

    name = "sigmoid_focal_loss"
    kernel = "focal"

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, *, alpha: float = 0.25,
                gamma: float = 2.0, reduction: str = "none") -> Array:
        """Compute the losses, their sum or their mean."""
        no_gradient(ctx, 1, "target")
        if gamma < 0:
            raise ValueError(f"expected gamma of at least 0, got {gamma}")
        return cls._run(ctx, x, target, reduction, alpha, gamma)


# -- binary cross entropy -----------------------------------------------------------------------


def _check_weight(x: Shape, weight: Shape | None, name: str) -> None:
    """Raise ShapeError unless a weight broadcasts to the shape of `x`."""
    try:
        fits = weight is None or np.broadcast_shapes(weight, x) == x
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"expected {name} that broadcasts to the shape {x} of x, got {weight}")


def _binary_shape(x: Shape, target: Shape, reduction: str, **weights: Shape | None) -> Shape:
    """Return a binary cross entropy's shape; raise ShapeError where an input does not fit."""
    check_reduction(reduction)
    if target != x:
        raise ShapeError(f"expected a target of shape {x} like x, got {target}")
    for name, shape in weights.items():
        _check_weight(x, shape, name)
    return x if reduction == "none" else ()


def _broadcast(a: Array | None, x: Array, what: str) -> Array | None:
    """Return a weight as a view of the shape of `x`."""
    return None if a is None else np.broadcast_to(same_type(a, native(x), what), x.shape)


@register
class BceWithLogits(_Pointwise):
    """Binary cross entropy of sigmoid(x) with targets from 0 to 1.

    weight * ((1 - t) * x + (1 + (pos_weight - 1) * t) * log(1 + exp(-x))), with weight and
    pos_weight broadcast.
    """

    name = "bce_with_logits"
    kernel = "bce_logits"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None,
              pos_weight: Shape | None = None, *, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x`."""
        return _binary_shape(x, target, reduction, weight=weight, pos_weight=pos_weight)

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, weight: Array | None = None,
                pos_weight: Array | None = None, *, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        cls.shape(x.shape, target.shape, shape_of(weight), shape_of(pos_weight),
                  reduction=reduction)
        no_gradient(ctx, 2, "weight", "pos_weight")
        return cls._run(ctx, x, target, reduction, weights=(
            _broadcast(weight, x, "weight"), _broadcast(pos_weight, x, "pos_weight")))


@register
class Bce(_Pointwise):
    """Binary cross entropy of probabilities x with targets from 0 to 1.

    -weight * (t * log(x) + (1 - t) * log(1 - x)), with logarithms of at least -100.
    """

    name = "bce"
    kernel = "bce"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *,
              reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x`."""
        return _binary_shape(x, target, reduction, weight=weight)

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        cls.shape(x.shape, target.shape, shape_of(weight), reduction=reduction)
        no_gradient(ctx, 2, "weight")
        if x.size and not (x.min() >= 0 and x.max() <= 1) and not np.isnan(x).any():
            raise ValueError(f"expected probabilities from 0 to 1, got numbers from {x.min()} to "
                             f"{x.max()}; for scores there is binary_cross_entropy_with_logits")
        return cls._run(ctx, x, target, reduction, weights=(_broadcast(weight, x, "weight"), None))
