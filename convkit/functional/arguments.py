"""What the arguments of the functions have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convkit._precision import checked_precision
from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.ops import REGISTRY as OPS

__all__ = [
    "batched",
    "ndim_of",
    "padding_pairs",
    "per_axis",
    "precision_of",
    "shape_of",
]


def per_axis(value: Any, axes: int, what: str) -> tuple[int, ...]:
    """Return one integer per spatial axis from a number or a sequence of them.

    Raises
    ------
    ShapeError
        When the sequence has another length.
    TypeError
        When an entry is no integer.
    """
    values = (value,) * axes if not isinstance(value, Sequence) else tuple(value)
    if len(values) == 1:
        values *= axes
    if len(values) != axes:
        raise ShapeError(f"expected {what} as one integer or {axes}, got {value!r}")
    for v in values:
        if isinstance(v, bool) or not hasattr(v, "__index__"):
            raise TypeError(f"expected {what} as integers, got {value!r}")
    return tuple([v.__index__() for v in values])


def padding_pairs(
    padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each spatial axis of a convolution.

    Parameters
    ----------
    padding : int, str or sequence
        One number, one per axis, one (before, after) pair per axis, ``"valid"`` (none) or
        ``"same"`` (the output has the input's size; where the total is odd, the larger half
        comes after).
    kernel, stride, dilation : sequence of int
        One per axis.

    Raises
    ------
    ValueError
        For another word, or "same" with a stride.
    """
    axes = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * axes
        if padding != "same":
            raise ValueError(f"padding must be a number, 'valid' or 'same', got {padding!r}")
        if any(s != 1 for s in stride):
            raise ValueError("padding='same' is not supported for strided convolutions")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, Sequence) and padding and isinstance(padding[0], Sequence):
        if len(padding) != axes:
            raise ShapeError(f"expected {axes} (before, after) pairs of padding, got {padding!r}")
        return tuple(per_axis(pair, 2, "padding") for pair in padding)
    return tuple((p, p) for p in per_axis(padding, axes, "padding"))


def as_tensor(x: Any) -> Tensor:
    """Return a tensor as it is, and anything else as one."""
    return x if isinstance(x, Tensor) else Tensor(x)


def ndim_of(x: Any) -> int:
    """Return the number of axes of a tensor or array."""
    return x.ndim if isinstance(x, Tensor) else np.ndim(x)


def shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or array."""
    return x.shape if isinstance(x, Tensor) else np.shape(x)


def batched(x: Any, axes: int, run: Callable) -> Any:
    """Run a function of (N, C, spatial...) on `x`, which may lack the batch axis."""
    if ndim_of(x) != axes + 1:
        return run(x)
    out = run(apply(OPS["reshape"], x, shape=(1, *shape_of(x))))
    if isinstance(out, tuple):
        return tuple([apply(OPS["reshape"], y, shape=y.shape[1:]) for y in out])
    return apply(OPS["reshape"], out, shape=out.shape[1:])


def precision_of(name: str | None) -> str | None:
    """Check a precision; None leaves the choice to `convkit.set_precision`."""
    return None if name is None else checked_precision(name)
