"""Focal loss over classes (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

from __future__ import annotations

import numpy as np

from convkit._kernels import loss as kernels
from convkit._kernels import memory
from convkit.ops.layout import native
from convkit.ops.loss import (
    class_shape,
    classes_of,
    factor_of,
    no_gradient,
    rows_of,
    same_type,
    scalar,
    shape_of,
)
from convkit.ops.op import Context, Op, register

__all__ = ["FocalLoss"]

Array = np.ndarray
Shape = tuple[int, ...]


@register
class FocalLoss(Op):
    """weight * (1 - p)^gamma * -log(p), with p the softmax of x at the target's class.

    With gamma = 0 it is the cross entropy. A mean divides by the sum of the class weights of
    the targets that count. The work over classes is cross entropy's; what is new is one
    number for each row, in float64.
    """

    name = "focal_loss"
    reads = (0, 1, 2)

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *, gamma: float = 2.0,
              ignore_index: int = -100, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x` without its axis 1."""
        return class_shape(x, target, weight, reduction, False)

    @staticmethod
    def forward(ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                gamma: float = 2.0, ignore_index: int = -100, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        each = class_shape(x.shape, target.shape, shape_of(weight), "none", False)
        FocalLoss.shape(x.shape, target.shape, shape_of(weight), reduction=reduction)
        no_gradient(ctx, 2, "weight")
        if gamma < 0:
            raise ValueError(f"expected gamma of at least 0, got {gamma}")
        x = native(x)
        rows = rows_of(x)
        target = classes_of(target, x.shape[1], ignore_index)
        kept = target != ignore_index
        share = kept.astype(np.float64)
        if weight is not None:
            weight = same_type(weight, x, "weight")
            share *= weight.astype(np.float64)[np.where(kept, target, 0)]
        most, log_sum, entropy = (memory.empty(each, x.dtype) for _ in range(3))
        kernels.cross_entropy(rows, target, None, ignore_index, 0.0, most, log_sum, entropy,
                              ctx.threads)
        wide = entropy.astype(np.float64)
        miss = -np.expm1(-wide)
        losses = share * miss**gamma * wide
        total = float(share.sum())
        if any(ctx.needs):
            ctx.saved = ((rows, target, None, ignore_index, 0.0, most, log_sum),
                         (wide, miss, share, gamma), total, reduction)
        if reduction == "none":
            return losses.astype(x.dtype)
        return scalar(float(losses.sum()), total, reduction, x.dtype)

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, None, None]:
        """Return the gradient of x.

        With e the cross entropy and q = 1 - exp(-e) the chance of missing:
        d (q^gamma e) / d e = q^gamma + gamma q^(gamma - 1) exp(-e) e.
        """
        arguments, (entropy, miss, share, gamma), total, reduction = ctx.saved
        rows = arguments[0]
        by_loss = gy if reduction == "none" else factor_of(gy, total, reduction)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Where nothing is missed e is 0 too, and e / q is 1.
            ratio = np.where(miss > 0, entropy / miss, 1.0)
        slope = share * miss**gamma + share * gamma * miss**gamma * np.exp(-entropy) * ratio
        gx = memory.empty(rows.shape, rows.dtype)
        each = np.ascontiguousarray(slope * by_loss, dtype=rows.dtype)
        kernels.cross_entropy_grad(each, 1.0, *arguments, gx, None, ctx.threads)
        return np.moveaxis(gx, -1, 1), None, None
