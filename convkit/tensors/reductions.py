"""Sums, means, extremes and their kin along axes, with PyTorch's names and defaults."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels.tape import TensorBase, apply, wrap
from convkit.ops import REGISTRY as OPS
from convkit.tensors import elements
from convkit.tensors.arranging import narrow, sizes_of

__all__ = [
    "Picked", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "cumsum", "logsumexp",
    "max", "mean", "median", "min", "norm", "prod", "sort", "std", "sum", "topk", "var",
]


class Picked(NamedTuple):
    """Elements, and their places along the axis that they were picked from."""

    values: Any
    indices: Any


def axes_of(dim: Any) -> tuple[int, ...] | None:
    """Return the `dim` of a reduction as operations want it: a tuple or None."""
    return None if dim is None else sizes_of((dim,))


def _reduce(name: str, input: Any, dim: Any, keepdim: bool) -> Any:
    return apply(OPS[name], input, dim=axes_of(dim), keepdim=keepdim)


def _plain(input: Any) -> np.ndarray:
    return input.data if isinstance(input, TensorBase) else np.asarray(input)


def sum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the sum over `dim` (an int, a tuple, or None for all axes)."""
    return _reduce("sum", input, dim, keepdim)


def mean(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the mean over `dim` (an int, a tuple, or None for all axes)."""
    return _reduce("mean", input, dim, keepdim)


def prod(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the product over `dim` (an int, a tuple, or None for all axes)."""
    return _reduce("prod", input, dim, keepdim)


def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the largest element over `dim`; equal ones share the gradient."""
    return _reduce("amax", input, dim, keepdim)


def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the smallest element over `dim`; equal ones share the gradient."""
    return _reduce("amin", input, dim, keepdim)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the place of the (first) largest element along `dim`, or among all."""
    return apply(OPS["argmax"], input, dim=dim, keepdim=keepdim)


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the place of the (first) smallest element along `dim`, or among all."""
    return apply(OPS["argmin"], input, dim=dim, keepdim=keepdim)


def max(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the largest element; along `dim`, with its place; of two tensors, the larger.

    Returns
    -------
    Tensor or Picked
        With `dim` an int: ``values`` and ``indices``.
    """
    return _extreme(input, dim, keepdim, "amax", argmax, elements.maximum)


def min(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the smallest element; along `dim`, with its place; of two tensors, the smaller.

    Returns
    -------
    Tensor or Picked
        With `dim` an int: ``values`` and ``indices``.
    """
    return _extreme(input, dim, keepdim, "amin", argmin, elements.minimum)


def _extreme(input: Any, dim: Any, keepdim: bool, name: str, place: Any, of_two: Any) -> Any:
    if dim is None:
        return _reduce(name, input, None, False)
    if isinstance(dim, (TensorBase, np.ndarray)):
        return of_two(input, dim)
    indices = place(input, dim, True)
    values = apply(OPS["gather"], input, indices, dim=dim)
    return Picked(*(v if keepdim else v.squeeze(dim) for v in (values, indices)))


def var(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: float = 1) -> Any:
    """Return the variance over `dim`.

    Parameters
    ----------
    input : Tensor or array
        Of floating-point numbers.
    dim : int, tuple of int or None
        The axes; None for all.
    unbiased : bool, optional
        The old form of `correction`: 1 or 0.
    keepdim : bool
        Whether the axes stay, of size 1.
    correction : float
        What is taken from the number of elements before dividing by it.
    """
    away = elements.sub(input, mean(input, dim, True))  # which checks `dim`
    shape = np.shape(_plain(input))
    axes = range(len(shape)) if dim is None else axes_of(dim)
    count = math.prod(shape[a] for a in axes)
    if unbiased is not None:
        correction = int(unbiased)
    total = sum(elements.square(away), dim, keepdim)
    left = builtins.max(count - correction, 0)
    return elements.mul(total, 1 / left if left else math.inf)


def std(input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *,
        correction: float = 1) -> Any:
    """Return the standard deviation over `dim`; parameters are those of `var`.

    The gradient is 0 where all elements are equal.
    """
    return _root(var(input, dim, unbiased, keepdim, correction=correction))


def _root(square: Any) -> Any:
    """Return the square root, with a gradient of 0 at 0."""
    none = elements.eq(square, 0)
    return elements.where(none, 0.0, elements.sqrt(elements.where(none, 1.0, square)))


def norm(input: Any, p: float = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the p-norm over `dim`: ``sum(|x|^p)^(1/p)``, the largest |x| for infinity.

    The gradient is 0 where all elements are.
    """
    size = elements.abs(input)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(size, dim, keepdim)
    if p == 0:
        return sum(elements.where(elements.ne(size, 0), np.ones((), size.dtype),
                                  np.zeros((), size.dtype)), dim, keepdim)
    if p == 1:
        return sum(size, dim, keepdim)
    total = sum(elements.square(input) if p == 2 else _powers(size, p), dim, keepdim)
    if p == 2:
        return _root(total)
    none = elements.eq(total, 0)
    root = elements.pow(elements.where(none, 1.0, total), 1 / p)
    return elements.where(none, 0.0, root)


def _powers(size: Any, p: float) -> Any:
    """Return numbers of at least 0 to the power p, with a gradient of 0 at 0."""
    if not 0 < p < 1:
        return elements.pow(size, p)
    none = elements.eq(size, 0)  # where the slope is infinite
    return elements.where(none, 0.0, elements.pow(elements.where(none, 1.0, size), p))


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """Return ``log(sum(exp(x)))`` over `dim`, where the sum itself may be beyond the type."""
    most = amax(wrap(_plain(input)), dim, True)  # any number near it would do: no gradient
    most = elements.where(elements.isfinite(most), most, 0.0)
    total = elements.log(sum(elements.exp(elements.sub(input, most)), dim, True))
    out = elements.add(total, most)
    return out if keepdim else sum(out, dim)


def cumsum(input: Any, dim: int) -> Any:
    """Return the running sum along `dim`."""
    return apply(OPS["cumsum"], input, dim=dim)


def topk(input: Any, k: int, dim: int = -1, largest: bool = True) -> Picked:
    """Return the k largest (or smallest) elements along `dim`, in order, and their places."""
    return Picked(*apply(OPS["topk"], input, k=k, dim=dim, largest=largest))


def argsort(input: Any, dim: int = -1, descending: bool = False) -> Any:
    """Return the places of the elements along `dim` in order; equal ones keep theirs."""
    return sort(input, dim, descending).indices


def sort(input: Any, dim: int = -1, descending: bool = False) -> Picked:
    """Return the elements along `dim` in order, and the places where they were.

    Equal elements keep their order; NaN counts as the largest.
    """
    sizes = np.shape(_plain(input))
    return topk(input, sizes[dim] if -len(sizes) <= dim < len(sizes) else 0, dim, descending)


def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the middle element, the lower of two; NaN where there is one.

    Without `dim` of all elements, else along `dim`, with its place.
    """
    if dim is None:
        return median(input.reshape(-1) if isinstance(input, TensorBase)
                      else wrap(_plain(input).reshape(-1)), 0).values
    values, indices = sort(input, dim)
    size = values.shape[dim]
    last, middle = ([narrow(part, dim, at, 1) for part in (values, indices)]
                    for at in (size - 1, (size - 1) // 2))
    if values.dtype.kind == "f":
        bad = elements.isnan(last[0])
        middle = [elements.where(bad, *both) for both in zip(last, middle, strict=True)]
    return Picked(*(part if keepdim else part.squeeze(dim) for part in middle))


def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether all elements are true (not 0), along `dim` or altogether."""
    return amin(_truth(input), dim, keepdim)


def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether an element is true (not 0), along `dim` or altogether."""
    return amax(_truth(input), dim, keepdim)


def _truth(input: Any) -> Any:
    """Return which elements are not 0."""
    return input if _plain(input).dtype.kind == "b" else elements.ne(input, 0)
