"""Largest, smallest, product and running sum along axes, and where they are."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import binary, elements, memory
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS
from convkit.ops.math import common_type, lower_reduction, normalize_axes
from convkit.ops.op import Context, Op, register

__all__ = ["Amax", "Amin", "Argmax", "Argmin", "Cumsum", "Prod", "Topk"]


# Elements that a compiled step keeps in order at most: each new one moves those behind it.
MOST_KEPT = 1024


def _without(x: tuple[int, ...], axes: tuple[int, ...], keepdim: bool) -> tuple[int, ...]:
    """Return a shape without some axes, or with ones in their place."""
    if keepdim:
        return tuple(1 if i in axes else n for i, n in enumerate(x))
    return tuple(n for i, n in enumerate(x) if i not in axes)


def _one_axis(dim: int, ndim: int) -> int:
    """Return a non-negative axis; raise ShapeError where there is no such axis."""
    if not -ndim <= dim < ndim:
        raise ShapeError(f"dim {dim} is out of range for {ndim} axes")
    return dim % ndim


def _innermost(b: Any, x: Any, dim: int) -> tuple[Any, int, tuple[int, ...]]:
    """Return a place dense with an axis innermost, the axis, and the order of all."""
    axis = _one_axis(dim, len(x.shape))
    order = (*[i for i in x.order if i != axis], axis)
    return b.in_order(x, order), axis, order


class _Reduction(Op):
    """Base of the reductions over several axes."""

    reads = (0,)
    ufunc: ClassVar[np.ufunc]

    @staticmethod
    def shape(x, *, dim=None, keepdim=False):
        """Return the shape without the reduced axes (or with ones in their place)."""
        return _without(x, normalize_axes(dim, len(x)), keepdim)

    @classmethod
    def forward(cls, ctx: Context, x, *, dim=None, keepdim=False):
        """Reduce over all axes."""
        axes = normalize_axes(dim, x.ndim)
        x, _ = common_type(x, x)
        y = cls.reduced(cls.prepare(x), axes)
        if any(ctx.needs):
            ctx.saved = x, y, axes
        return np.array(y.reshape(_without(x.shape, axes, keepdim)))

    @classmethod
    def lower(cls, b, x, *, dim=None, keepdim=False):
        """Emit steps for axes but the first."""
        return lower_reduction(b, cls.ufunc, x, normalize_axes(dim, len(x.shape)), keepdim)

    @staticmethod
    def prepare(x):
        """Return the array in the type in which it is reduced."""
        return x

    @classmethod
    def reduced(cls, x, axes):
        """Reduce axis after axis to size 1, the innermost in memory first."""
        for axis in sorted(axes, key=lambda i: abs(x.strides[i])):
            x = cls.ufunc.reduce(x, axis=axis, keepdims=True)
        return x


class _Extreme(_Reduction):
    """Base of amax and amin: equal elements share the gradient evenly."""

    @classmethod
    def reduced(cls, x, axes):
        """Reduce axes to size 1; over nothing, the result is the least (or largest)."""
        if all(x.shape[axis] for axis in axes):
            return cls.ufunc.reduce(x, axis=axes, keepdims=True)
        return np.full(_without(x.shape, axes, True), cls.of_nothing(x.dtype), x.dtype)

    @staticmethod
    def backward(ctx: Context, g):
        """Give the gradient to the elements that are the extreme."""
        x, y, axes = ctx.saved
        chosen = (x == y).astype(x.dtype)
        chosen /= chosen.sum(axis=axes, keepdims=True)
        return (chosen * g.reshape(y.shape),)


@register
class Amax(_Extreme):
    """The largest element along axes (all for dim=None); NaN where there is one."""

    name = "amax"
    onnx = "ReduceMax"
    ufunc = np.maximum

    @staticmethod
    def of_nothing(dtype):
        """Return what no element is below."""
        return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


@register
class Amin(_Extreme):
    """The smallest element along axes (all for dim=None); NaN where there is one."""

    name = "amin"
    onnx = "ReduceMin"
    ufunc = np.minimum

    @staticmethod
    def of_nothing(dtype):
        """Return what no element is above."""
        return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


@register
class Prod(_Reduction):
    """The product along axes (all for dim=None); integers are multiplied as int64."""

    name = "prod"
    onnx = "ReduceProd"
    ufunc = np.multiply

    @staticmethod
    def prepare(x):
        """Widen integers."""
        return x if x.dtype.kind == "f" else x.astype(np.int64)

    @staticmethod
    def backward(ctx: Context, g):
        """Return g times the product of the other elements, zeros among them or not."""
        x, y, axes = ctx.saved
        rest = [i for i in range(x.ndim) if i not in axes]
        count = math.prod(x.shape[i] for i in axes)
        rows = x.transpose((*rest, *axes)).reshape(-1, count)
        ones = np.ones((len(rows), 1), x.dtype)
        before = np.cumprod(np.concatenate([ones, rows[:, :-1]], 1), axis=1)
        after = np.cumprod(np.concatenate([ones, rows[:, :0:-1]], 1), axis=1)[:, ::-1]
        slope = (before * after).reshape([x.shape[i] for i in (*rest, *axes)])
        return (slope.transpose(np.argsort([*rest, *axes])) * g.reshape(y.shape),)


class _Place(Op):
    """Base of argmax and argmin: int64 places along one axis, or in the flattened array."""

    differentiable = 0
    find: ClassVar[Any]

    @staticmethod
    def shape(x, *, dim=None, keepdim=False):
        """Return the shape without the axis (or with one in its place)."""
        axes = tuple(range(len(x))) if dim is None else (_one_axis(dim, len(x)),)
        if 0 in [x[i] for i in axes]:
            raise ShapeError(f"expected at least one element along dim {dim}, got x of shape {x}")
        return _without(x, axes, keepdim)

    @classmethod
    def forward(cls, ctx: Context, x, *, dim=None, keepdim=False):
        """Find the first of equals; NaN counts as the extreme."""
        shape = cls.shape(x.shape, dim=dim, keepdim=keepdim)
        return np.asarray(cls.find(x, axis=dim), np.int64).reshape(shape)

    @classmethod
    def lower(cls, b, x, *, dim=None, keepdim=False):
        """Emit NumPy's own search along an axis but the first."""
        if dim is None or not x.regular or not _one_axis(dim, len(x.shape)):
            return None
        x, axis, order = _innermost(b, x, dim)
        shape = _without(x.shape, (axis,), False)
        y = b.new(shape, np.dtype(np.int64), tuple([i - (i > axis) for i in order[:-1]]))
        b.step(elements.extreme_step(x.dtype, math.prod(shape[1:]), x.shape[axis],
                                     cls.name == "argmax"), (x, y), y.samples)
        return y.with_axes(_without(x.shape, (axis,), True), (
            *y.strides[:axis], 0, *y.strides[axis:])) if keepdim else y


@register
class Argmax(_Place):
    """The place of the largest element."""

    name = "argmax"
    onnx = "ArgMax"
    find = staticmethod(np.argmax)


@register
class Argmin(_Place):
    """The place of the smallest element."""

    name = "argmin"
    onnx = "ArgMin"
    find = staticmethod(np.argmin)


@register
class Topk(Op):
    """The k largest (or smallest) elements along an axis, in order, and their places (int64).

    Of equals, the first comes first. NaN counts as the largest.
    """

    name = "topk"
    onnx = "TopK"

    @staticmethod
    def shape(x, *, k, dim=-1, largest=True):
        """Return the shape with k elements along the axis."""
        axis = _one_axis(dim, len(x))
        if not 0 <= k <= x[axis]:
            raise ShapeError(f"expected k from 0 to {x[axis]}, the size of dim {dim}, got {k}")
        return (*x[:axis], k, *x[axis + 1:])

    @staticmethod
    def forward(ctx: Context, x, *, k, dim=-1, largest=True):
        """Sort stably and keep k."""
        Topk.shape(x.shape, k=k, dim=dim, largest=largest)
        x, _ = common_type(x, x)
        moved = np.moveaxis(x, dim, -1)
        if largest:  # backwards twice: equal elements keep their order
            backwards = np.argsort(moved[..., ::-1], axis=-1, kind="stable")
            order = x.shape[dim] - 1 - backwards[..., ::-1]
        else:
            order = np.argsort(moved, axis=-1, kind="stable")
        places = np.ascontiguousarray(order[..., :k], np.int64)
        values = np.take_along_axis(moved, places, -1)
        if any(ctx.needs):
            ctx.saved = x.shape, places, dim
        return np.moveaxis(values, -1, dim), np.moveaxis(places, -1, dim)

    @staticmethod
    def lower(b, x, *, k, dim=-1, largest=True):
        """Emit a step for a few elements along an axis but the first."""
        if x.dtype not in FLOATS or not x.regular or not 0 < k <= MOST_KEPT or not _one_axis(
                dim, len(x.shape)):
            return None
        x, axis, order = _innermost(b, x, dim)
        shape = (*x.shape[:axis], k, *x.shape[axis + 1:])
        values, places = b.new(shape, x.dtype, order), b.new(shape, np.dtype(np.int64), order)
        b.step(elements.top_step(math.prod(shape[1:]) // k, x.shape[axis], k,
                                 x.dtype == np.float64, largest), (x, values, places), x.samples)
        return values, places

    @staticmethod
    def backward(ctx: Context, g):
        """Put the gradients where the elements were."""
        shape, places, dim = ctx.saved
        gx = np.zeros(shape, g.dtype)
        np.put_along_axis(np.moveaxis(gx, dim, -1), places, np.moveaxis(g, dim, -1), -1)
        return (gx,)


@register
class Cumsum(Op):
    """The running sum along an axis; integers are summed as int64."""

    name = "cumsum"
    onnx = "CumSum"

    @staticmethod
    def shape(x, *, dim):
        """Return the input's shape."""
        _one_axis(dim, len(x))
        return x

    @staticmethod
    def forward(ctx: Context, x, *, dim):
        """Sum."""
        Cumsum.shape(x.shape, dim=dim)
        x, _ = common_type(x, x)
        ctx.saved = dim
        out = memory.empty(x.shape, x.dtype if x.dtype.kind == "f" else np.dtype(np.int64))
        return np.cumsum(x, axis=dim, out=out)

    @staticmethod
    def lower(b, x, *, dim):
        """Emit NumPy's own loop along an axis but the first."""
        axis = _one_axis(dim, len(x.shape))
        if x.dtype not in (*FLOATS, np.int64) or not axis or not x.regular:
            return None
        x = b.compact(x)
        at = x.order.index(axis)
        outer, inner = (math.prod(x.shape[i] for i in part)
                        for part in (x.order[1:at], x.order[at + 1:]))
        y = b.new(x.shape, x.dtype, x.order)
        b.step(binary.reduce_step(np.add, x.dtype, outer, x.shape[axis], inner, True), (x, y),
               x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, g):
        """Return the running sum from the other end."""
        dim = ctx.saved
        return (np.flip(np.cumsum(np.flip(g, dim), axis=dim), dim),)
