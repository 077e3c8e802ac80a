"""The hinge loss over classes."""

from __future__ import annotations

import numpy as np

from convkit.errors import ShapeError
from convkit.ops.loss import ClassLoss, class_shape, shape_of
from convkit.ops.op import Context, register

__all__ = ["MultiMarginLoss"]

Array = np.ndarray
Shape = tuple[int, ...]


@register
class MultiMarginLoss(ClassLoss):
    """Sum over wrong classes j of max(0, margin - x[t] + x[j])^p * weight[t], over C.

    `x` holds scores (N, C), targets t are classes (N,). Weston and Watkins, "Support Vector
    Machines for Multi-Class Pattern Recognition", 1999.
    """

    name = "multi_margin_loss"
    kernel = "multi_margin"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *, p: int = 1,
              margin: float = 1.0, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, (N,)."""
        if len(x) != 2:
            raise ShapeError(f"expected x of shape (N, C), got {x}")
        return class_shape(x, target, weight, reduction, False)

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                p: int = 1, margin: float = 1.0, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        cls.shape(x.shape, target.shape, shape_of(weight), reduction=reduction)
        if p not in (1, 2):
            raise ValueError(f"expected p of 1 or 2, got {p}")
        inputs = cls._inputs(ctx, x, target, weight, None)
        return cls._run(ctx, (margin, p), *inputs, reduction)
