"""What is random while training: dropout in its forms, stochastic depth, noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import random
from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import as_tensor, shape_of
from convkit.ops import REGISTRY as OPS
from convkit.ops.layout import axis_order, like

__all__ = [
    "classic_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "gaussian_noise",
    "stochastic_depth",
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


def dropout1d(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Set whole channels of (N, C, L) to zero with probability `p`; see `dropout`."""
    shape = shape_of(input)
    if len(shape) != 3:
        raise ShapeError(f"expected x with 3 axes, got x of shape {shape}")
    return _drop(input, (*shape[:2], 1), p, training)


def classic_dropout(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Dropout as first published: nothing is scaled in training, everything by 1 - p after.

    Both forms have the same mean. `dropout` does the scaling in training, so that evaluation
    costs nothing.

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    p : float
        Probability of an element to be dropped, from 0 to 1.
    training : bool
        Drop elements; otherwise multiply all by 1 - p.

    References
    ----------
    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors",
    2012.
    """
    x = input if isinstance(input, Tensor) else Tensor(input)
    if training:
        return _drop(x, x.shape, p, True, scaled=False)
    _check_probability(p)
    return x * (1 - p)


def stochastic_depth(input: Any, p: float, mode: str = "row", training: bool = True) -> Tensor:
    """Set whole samples to zero with probability `p` and scale the others by 1 / (1 - p).

    Used on the branch of a residual block, it leaves the block out.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, ...).
    p : float
        From 0 to 1.
    mode : str
        "row": every sample by itself; "batch": all samples together.
    training : bool
        Otherwise the input is returned as it is.

    References
    ----------
    Huang, Sun, Liu, Sedra and Weinberger, "Deep Networks with Stochastic Depth", 2016.
    """
    if mode not in ("row", "batch"):
        raise ValueError(f"expected mode of 'row' or 'batch', got {mode!r}")
    shape = shape_of(input)
    if not shape:
        raise ShapeError("expected x with at least 1 axis, got shape ()")
    ones = (1,) * (len(shape) - 1)
    return _drop(input, (shape[0] if mode == "row" else 1, *ones), p, training)


def gaussian_noise(input: Any, std: float = 1.0, training: bool = True) -> Tensor:
    """Add normal noise of a standard deviation.

    On the input of a linear model with squared loss this is an L2 penalty in expectation
    (Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", 1995).

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    std : float
        At least 0.
    training : bool
        Otherwise the input is returned as it is.
    """
    if not std >= 0:
        raise ValueError(f"expected a standard deviation of at least 0, got {std}")
    x = input if isinstance(input, Tensor) else Tensor(input)
    if not training or std == 0:
        return x
    noise = like(x.data)
    order = axis_order(noise)
    flat = (noise if order is None else noise.transpose(order)).reshape(-1)  # a view
    random.generator().standard_normal(out=flat, dtype=x.dtype)
    flat *= x.dtype.type(std)
    return apply(OPS["add"], x, noise)


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {p}")


def _drop(x: Any, shape: tuple[int, ...], p: float, training: bool,
          scaled: bool = True) -> Tensor:
    """Multiply by random factors of a shape, 0 or 1 / (1 - p) (or 1)."""
    _check_probability(p)
    x = as_tensor(x)
    if not training or p == 0:
        return x
    factors = like(x.data) if shape == x.shape else np.empty(shape, x.dtype)
    order = axis_order(factors)
    flat = (factors if order is None else factors.transpose(order)).reshape(-1)  # a view
    random.generator().random(out=flat, dtype=x.dtype)
    keep = flat >= p
    np.multiply(keep, 1 / (1 - p) if scaled and p < 1 else 1, out=flat, casting="same_kind")
    return apply(OPS["mul"], x, factors)
