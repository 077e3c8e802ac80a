"""Picking elements by integer places, and repeating them along axes of size one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit._kernels import elements, memory
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import axis_order, logical
from convkit.ops.math import sum_to
from convkit.ops.op import Context, Op, register
from convkit.ops.shape import _axis, _native_order

__all__ = ["Expand", "Gather", "Take"]


# What compiled steps take for indices that are computed.
PLACES = (np.dtype(np.int64), np.dtype(np.int32))


def _places(indices: np.ndarray, size: int) -> np.ndarray:
    """Return indices counted from the front; raise where one leads out of the axis."""
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"expected indices of integers, got {indices.dtype}")
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        wrong = indices.max() if indices.max() >= size else indices.min()
        raise ShapeError(f"index {wrong} is out of range for an axis of size {size}")
    places = indices.astype(np.int64)
    return np.where(places < 0, places + size, places)


def _rows_alike(places: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return (count, step) of rows and of columns that places are, both with one step.

    None where they form no such table.
    """
    if not len(places):
        return None
    steps = np.diff(places)
    breaks = np.flatnonzero(steps != steps[0]) if len(steps) else steps
    width = int(breaks[0]) + 1 if len(breaks) else len(places)
    if len(places) % width:
        return None
    table = places.reshape(-1, width)
    right = int(table[0, 1] - table[0, 0]) if width > 1 else 0
    down = int(table[1, 0] - table[0, 0]) if len(table) > 1 else 0
    wanted = places[0] + down * np.arange(len(table))[:, None] + right * np.arange(width)
    return ((len(table), down), (width, right)) if (table == wanted).all() else None


def _refuse(size: int) -> Callable:
    """Return what a step calls where an index leads out of an axis."""
    def refuse(addresses: list[int], samples: int, threads: int, scratch: int) -> None:
        raise ShapeError(f"expected indices from {-size} to {size - 1} for an axis of size {size}")
    return refuse


def _lower_take(b: Any, x: Any, indices: Any, axis: int) -> Any:
    """Emit a copy of slices: at constant places of an array, or rows of a constant."""
    if x.is_constant and axis == 0 and indices.regular and indices.dtype in PLACES:
        shared_x, count = True, math.prod(indices.shape[1:])
    elif indices.is_constant and axis and x.regular:
        shared_x, count = False, math.prod(indices.shape)
        indices = b.constant(_places(indices.constant, x.shape[axis]))
    else:
        return None
    x, places = (b.in_order(v, tuple(range(len(v.shape)))) for v in (x, indices))
    y = b.new((*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]), x.dtype)
    b.step(elements.take_step(
        math.prod(x.shape[1:axis]), x.shape[axis], count,
        math.prod(x.shape[axis + 1:]) * x.dtype.itemsize, shared_x, not shared_x,
        indices.dtype == np.int64, _refuse(x.shape[axis])), (x, places, y), y.samples)
    return y


@register
class Take(Op):
    """The slices of x at `indices` (of any shape) along an axis, as `numpy.take`.

    Indices may be negative: they then count from the end.
    """

    name = "take"
    onnx = "Gather"
    reads = (1,)

    @staticmethod
    def shape(x, indices, *, dim=0):
        """Return the shape with the axis replaced by those of the indices."""
        axis = _axis(dim, len(x))
        return (*x[:axis], *indices, *x[axis + 1:])

    @staticmethod
    def forward(ctx: Context, x, indices, *, dim=0):
        """Copy the slices; one index per slice keeps the order of axes in memory."""
        axis = _axis(dim, x.ndim)
        x, places = _native_order(x), _places(indices, x.shape[axis])
        ctx.saved = x.shape, places, axis
        order = axis_order(x) if places.ndim == 1 else None
        if order is None:
            return np.take(x, places, axis=axis)
        return logical(np.take(x.transpose(order), places, axis=order.index(axis)), order)

    @staticmethod
    def lower(b, x, indices, *, dim=0):
        """Look at every so-many-th slice, or copy rows of them that lie alike (a shuffle)."""
        axis = _axis(dim, len(x.shape))
        if indices.constant is None or indices.constant.ndim != 1 or axis == 0:
            return _lower_take(b, x, indices, axis)
        places = _places(indices.constant, x.shape[axis])
        rows = _rows_alike(places)
        if rows is None:
            return _lower_take(b, x, indices, axis)
        (count, down), (width, right) = rows
        stride = x.strides[axis]
        first = x.part(axis, int(places[0]), int(places[0]) + 1)
        split = (first.with_axes((*x.shape[:axis], count, width, *x.shape[axis + 1:]),
                                 (*x.strides[:axis], down * stride, right * stride,
                                  *x.strides[axis + 1:])))
        if count == 1:
            return first.with_axes((*x.shape[:axis], width, *x.shape[axis + 1:]),
                                   (*x.strides[:axis], right * stride, *x.strides[axis + 1:]))
        y = b.new((*x.shape[:axis], len(places), *x.shape[axis + 1:]), x.dtype, x.order)
        own = y.strides[axis]
        b.copy(split, y.with_axes(split.shape, (*y.strides[:axis], width * own, own,
                                                *y.strides[axis + 1:])))
        return y

    @staticmethod
    def backward(ctx: Context, g):
        """Add every slice's gradient where it came from."""
        shape, places, axis = ctx.saved
        gx = np.zeros(shape, g.dtype)
        moved = g.reshape((*shape[:axis], places.size, *shape[axis + 1:]))
        np.add.at(np.moveaxis(gx, axis, 0), places.reshape(-1), np.moveaxis(moved, axis, 0))
        return gx, None


@register
class Gather(Op):
    """One element per index along an axis, as `torch.gather`: the other axes go in step."""

    name = "gather"
    onnx = "GatherElements"
    reads = (1,)

    @staticmethod
    def shape(x, indices, *, dim=0):
        """Return the shape of the indices."""
        axis = _axis(dim, len(x))
        if len(indices) != len(x) or any(
                n > m for i, (n, m) in enumerate(zip(indices, x, strict=True)) if i != axis):
            raise ShapeError(f"expected indices of no more than x of shape {x} along every axis "
                             f"but {dim}, got shape {indices}")
        return indices

    @staticmethod
    def forward(ctx: Context, x, indices, *, dim=0):
        """Pick the elements."""
        Gather.shape(x.shape, indices.shape, dim=dim)
        axis = _axis(dim, x.ndim)
        x, places = _native_order(x), _places(indices, x.shape[axis])
        within = tuple(slice(None) if i == axis else slice(n)
                       for i, n in enumerate(indices.shape))
        ctx.saved = x.shape, places, axis, within
        return np.take_along_axis(x[within], places, axis)

    @staticmethod
    def lower(b, x, indices, *, dim=0):
        """Emit a step for an axis but the first."""
        axis = _axis(dim, len(x.shape))
        if axis == 0 or not x.regular or not indices.regular or (
                indices.dtype not in PLACES or indices.shape[0] != x.shape[0]):
            return None
        strides = (*x.strides[:axis], 0, *x.strides[axis + 1:])
        order = indices.order
        step = elements.gather_step(
            [indices.shape[i] for i in order[1:]],
            [[v[i] for i in order] for v in (indices.strides, strides)], x.dtype.itemsize,
            x.shape[axis], x.strides[axis], indices.dtype == np.int64, _refuse(x.shape[axis]))
        if step is None:
            return None
        y = b.new(indices.shape, x.dtype, order)
        b.step(step, (indices, x, y), y.samples)
        return y

    @staticmethod
    def backward(ctx: Context, g):
        """Add every element's gradient where it came from."""
        shape, places, axis, within = ctx.saved
        gx = np.zeros(shape, g.dtype)
        index = list(np.indices(places.shape, sparse=True))
        index[axis] = places
        np.add.at(gx[within], tuple(index), g)
        return gx, None


@register
class Expand(Op):
    """x repeated along axes of size one, as `torch.Tensor.expand`.

    In `shape`, -1 keeps an axis; it may have more axes than x, which come first.
    """

    name = "expand"
    onnx = "Expand"

    @staticmethod
    def shape(x, *, shape):
        """Return the expanded shape."""
        extra = len(shape) - len(x)
        if extra < 0 or -1 in shape[:extra]:
            raise ShapeError(f"cannot expand {x} to {tuple(shape)}")
        sizes = tuple(n if want == -1 else want
                      for n, want in zip((-1,) * extra + tuple(x), shape, strict=True))
        if any(n not in (1, want) for n, want in zip(x, sizes[extra:], strict=True)):
            raise ShapeError(f"cannot expand {x} to {tuple(shape)}")
        return sizes

    @staticmethod
    def forward(ctx: Context, x, *, shape):
        """Copy x as often as needed."""
        x = _native_order(x)
        ctx.saved = x.shape, x.dtype
        out = memory.empty(Expand.shape(x.shape, shape=shape), x.dtype)
        np.copyto(out, x)
        return out

    @staticmethod
    def lower(b, x, *, shape):
        """Look at the same elements again and again."""
        y = Expand.shape(x.shape, shape=shape)
        extra = len(y) - len(x.shape)
        strides = [0 if n == 1 else step for n, step in zip(x.shape, x.strides, strict=True)]
        y = x.with_axes(y, (*[0] * extra, *strides))
        return y if y.regular else None

    @staticmethod
    def backward(ctx: Context, g):
        """Sum the gradients of the copies."""
        return (sum_to(g, ctx.saved),)
