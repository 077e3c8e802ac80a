"""The hinge loss over classes."""

from __future__ import annotations

import numpy as np

from convkit.errors import ShapeError
from convkit.ops.layout import native
from convkit.ops.loss import (
    class_shape,
    classes_of,
    factor_of,
    no_gradient,
    same_type,
    scalar,
    shape_of,
)
from convkit.ops.op import Context, Op, register

__all__ = ["MultiMarginLoss"]

Array = np.ndarray
Shape = tuple[int, ...]


@register
class MultiMarginLoss(Op):
    """Sum over wrong classes j of max(0, margin - x[t] + x[j])^p * weight[t], over C.

    `x` holds scores (N, C), targets t are classes (N,). Weston and Watkins, "Support Vector
    Machines for Multi-Class Pattern Recognition", 1999.
    """

    name = "multi_margin_loss"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *, p: int = 1,
              margin: float = 1.0, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, (N,)."""
        if len(x) != 2:
            raise ShapeError(f"expected x of shape (N, C), got {x}")
        return class_shape(x, target, weight, reduction, False)

    @staticmethod
    def forward(ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                p: int = 1, margin: float = 1.0, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        MultiMarginLoss.shape(x.shape, target.shape, shape_of(weight), reduction=reduction)
        no_gradient(ctx, 2, "weight")
        if p not in (1, 2):
            raise ValueError(f"expected p of 1 or 2, got {p}")
        x = native(x)
        target = classes_of(target, x.shape[1], -100)
        if (target < 0).any():
            raise IndexError(f"expected target classes from 0 to {x.shape[1] - 1}, got -100")
        index = target[:, np.newaxis]
        short = x.dtype.type(margin) - np.take_along_axis(x, index, 1) + x
        np.put_along_axis(short, index, 0, 1)
        short = np.where(short <= 0, x.dtype.type(0), short)
        scale = np.full(len(x), 1.0 / max(x.shape[1], 1))
        if weight is not None:
            scale *= same_type(weight, x, "weight")[target]
        losses = (short.astype(np.float64) ** p).sum(axis=1) * scale
        if any(ctx.needs):
            ctx.saved = (short, index, scale, p, reduction)
        if reduction == "none":
            return losses.astype(x.dtype)
        return scalar(float(losses.sum()), len(x), reduction, x.dtype)

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array, None, None]:
        """Return the gradient of x: of each class that is too near, and of the target."""
        short, index, scale, p, reduction = ctx.saved
        by_loss = gy if reduction == "none" else factor_of(gy, len(short), reduction)
        slope = (short > 0) if p == 1 else 2 * short
        gx = slope * (scale * by_loss)[:, np.newaxis]
        np.put_along_axis(gx, index, -gx.sum(axis=1, keepdims=True), 1)
        return gx.astype(short.dtype), None, None
