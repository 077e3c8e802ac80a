"""Largest, smallest, product and running sum along axes, and where they are."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import memory
from convkit.errors import ShapeError
from convkit.ops.math import common_type, lower_reduction, normalize_axes
from convkit.ops.op import Context, Op, register

__all__ = ["Amax", "Amin", "Argmax", "Argmin", "Cumsum", "Prod", "Topk"]


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
        """Reduce axis after axis, the innermost in memory first."""
        axes = normalize_axes(dim, x.ndim)
        x, _ = common_type(x, x)
        y = cls.prepare(x)
        for axis in sorted(axes, key=lambda i: abs(x.strides[i])):
            y = cls.fold(y, axis)
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
    def fold(cls, x, axis):
        """Reduce one axis to size 1."""
        return cls.ufunc.reduce(x, axis=axis, keepdims=True)


class _Extreme(_Reduction):
    """Base of amax and amin: equal elements share the gradient evenly."""

    @classmethod
    def fold(cls, x, axis):
        """Reduce one axis to size 1; over nothing, the result is the least (or largest)."""
        if x.shape[axis]:
            return cls.ufunc.reduce(x, axis=axis, keepdims=True)
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1:])
        return np.full(shape, cls.of_nothing(x.dtype), x.dtype)

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
    def backward(ctx: Context, g):
        """Return the running sum from the other end."""
        dim = ctx.saved
        return (np.flip(np.cumsum(np.flip(g, dim), axis=dim), dim),)
