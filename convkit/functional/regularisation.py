"""Dropout: random zeros while training."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import random
from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import shape_of
from convkit.ops import REGISTRY as OPS
from convkit.ops.layout import axis_order, like

__all__ = [
    "dropout",
    "dropout2d",
]


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    p : float
        From 0 to 1.
    training : bool
        Otherwise the input is returned as it is.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014.
    """
    return _drop(input, shape_of(input), p, training)


def dropout2d(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Set whole channels of (N, C, H, W) to zero with probability `p`; see `dropout`."""
    shape = shape_of(input)
    if len(shape) != 4:
        raise ShapeError(f"expected x with 4 axes, got x of shape {shape}")
    return _drop(input, (*shape[:2], 1, 1), p, training)


def _drop(x: Any, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    """Multiply by random factors of a shape, 0 or 1 / (1 - p)."""
    if not 0 <= p <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {p}")
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    factors = like(x.data) if shape == x.shape else np.empty(shape, x.dtype)
    order = axis_order(factors)
    flat = (factors if order is None else factors.transpose(order)).reshape(-1)  # a view
    random.generator().random(out=flat, dtype=x.dtype)
    keep = flat >= p
    np.multiply(keep, 1 / (1 - p) if p < 1 else 0, out=flat, casting="same_kind")
    return apply(OPS["mul"], x, factors)
