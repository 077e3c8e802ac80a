"""Focal loss over classes (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

from __future__ import annotations

import numpy as np

from convkit._kernels import loss as kernels
from convkit._kernels import memory
from convkit.ops.loss import ClassLoss, class_shape, shape_of
from convkit.ops.op import Context, register

__all__ = ["FocalLoss"]

Array = np.ndarray
Shape = tuple[int, ...]


@register
class FocalLoss(ClassLoss):
    """weight * (1 - p)^gamma * -log(p), with p the softmax of x at the target's class.

    With gamma = 0 it is the cross entropy. A mean divides by the sum of the class weights of
    the targets that count. The work over classes is cross entropy's; what is new is one number
    for each row, in float64.
    """

    name = "focal_loss"
    kernel = "focal"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *, gamma: float = 2.0,
              ignore_index: int = -100, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x` without its axis 1."""
        return class_shape(x, target, weight, reduction, False)

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                gamma: float = 2.0, ignore_index: int = -100, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        class_shape(x.shape, target.shape, shape_of(weight), reduction, False)
        if gamma < 0:
            raise ValueError(f"expected gamma of at least 0, got {gamma}")
        rows, target, weight, ignore = cls._inputs(ctx, x, target, weight, ignore_index)
        most, log_sum = (memory.empty(target.shape, rows.dtype) for _ in range(2))
        kernels.cross_entropy(rows, target, None, ignore, 0.0, most, log_sum, None, ctx.threads)
        return cls._run(ctx, (gamma,), rows, target, weight, ignore, reduction, (most, log_sum))

    @classmethod
    def backward(cls, ctx: Context, gy: Array) -> tuple[Array, None, None]:
        """Return the gradient of x: cross entropy's, times the slope by each row's."""
        rows, target, _, most, log_sum, ignore = ctx.saved[1]
        slopes = cls._gradient(ctx, gy, target.shape)
        gx = memory.empty(rows.shape, rows.dtype)
        kernels.cross_entropy_grad(slopes, 1.0, rows, target, None, ignore, 0.0, most, log_sum, gx,
                                   None, ctx.threads)
        return np.moveaxis(gx, -1, 1), None, None
