"""Operations that move elements and compute nothing: reshape, permute, concat, slice."""

from __future__ import annotations

import itertools
import math

import numpy as np

from convkit._kernels import copies, memory, resample
from convkit._kernels.axis import Axis
from convkit.errors import ShapeError
from convkit.ops.deferred import gradient_last, plain
from convkit.ops.halves import Halves, Narrow, as_handed_on
from convkit.ops.kept import HALF
from convkit.ops.layout import (
    axis_order,
    dense_strides,
    empty_ordered,
    in_order,
    like,
    logical,
)
from convkit.ops.op import Context, Op, register
from convkit.ops.passes import Pass, passes
from convkit.ops.spatial import remembered

__all__ = ["Concat", "Flatten", "Permute", "Reshape", "Slice", "resolve_shape"]


def _axis(dim: int, ndim: int, what: str = "dim") -> int:
    """Return a non-negative axis; raise ShapeError when it is out of range."""
    if not -ndim <= dim < ndim:
        raise ShapeError(f"{what} {dim} is out of range for {ndim} axes")
    return dim % ndim


def resolve_shape(x: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape` with its -1 filled in; raise ShapeError when `x` does not fit it."""
    shape = tuple(n.__index__() for n in shape)
    size = math.prod(x)
    unknown = shape.count(-1)
    known = math.prod(n for n in shape if n != -1)
    if unknown > 1 or any(n < -1 for n in shape):
        raise ShapeError(f"expected sizes of at least 0 and at most one -1, got {shape}")
    if unknown and known and size % known == 0:
        return tuple(size // known if n == -1 else n for n in shape)
    if unknown or known != size:
        raise ShapeError(f"cannot reshape {x} ({size} elements) to {shape}")
    return shape


def _native_order(x: np.ndarray) -> np.ndarray:
    """Return `x` of whatever type in native byte order."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def _regroup(x: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
    """Return the elements of `x`, in logical (C) order, under another shape.

    A view where axes of size 1 come or go alone, whatever the order in memory, so that changing
    ``t[0]`` in place changes ``t``; else where memory is in logical order.
    """
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        x = in_order(x, None, threads)
    return x.reshape(shape)


# A reshape with an open batch is worked out for two batches and joined.
BATCHES = (2, 5)


def _at(shape: tuple, batch: int) -> tuple[int, ...]:
    """Return a shape whose first size may follow the batch, for one batch."""
    return (getattr(shape[0], "factor", 0) * batch or shape[0], *shape[1:])


def _lower_reshape(b, x, shapes: list[tuple[int, ...]]):
    """Return an operand's elements under another shape, given for both of `BATCHES`."""
    first, second = shapes
    if not first or first[1:] != second[1:]:
        return None
    samples = x.shape[0]
    if first[0] != second[0]:
        factor = first[0] // BATCHES[0]
        if (factor * BATCHES[0], factor * BATCHES[1]) != (first[0], second[0]):
            return None
        samples = type(samples)(factor)
    elif hasattr(samples, "factor"):
        return None
    else:
        samples = first[0]
    shape = (samples, *first[1:])
    strides = None
    if samples == x.shape[0]:
        strides = regrouped(x.shape[1:], x.strides[1:], first[1:])
    if strides is not None:
        return x.with_axes(shape, (x.strides[0], *strides))
    x = b.in_order(x, tuple(range(len(x.shape))))
    return x.with_axes(shape, dense_strides(shape, range(len(shape)), x.dtype.itemsize))


def regrouped(shape: tuple[int, ...], strides: tuple[int, ...],
              wanted: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the strides under which the same elements have another shape, None without.

    Both shapes are cut into the shortest runs of axes of equal size; the axes of a run must
    walk on alike.
    """
    found: list[int] = []
    i = j = 0
    while i < len(shape) or j < len(wanted):
        own, new = 1, 1
        first_own, first_new = i, j
        while True:
            if own <= new and i < len(shape):
                own *= shape[i]
                i += 1
            elif j < len(wanted):
                new *= wanted[j]
                j += 1
            else:
                break
            if own == new and (i < len(shape) or j < len(wanted)) and own != 1:
                break
        axes = [k for k in range(first_own, i) if shape[k] != 1]
        for k, after in itertools.pairwise(axes):
            if strides[k] != strides[after] * shape[after]:
                return None
        step = strides[axes[-1]] if axes else 0
        run = []
        for size in reversed(wanted[first_new:j]):
            run.append(step)
            step *= size
        found.extend(reversed(run))
    return tuple(found)


@register
class Reshape(Op):
    """The same elements, in logical (C) order, under another shape."""

    name = "reshape"
    onnx = "Reshape"
    passes_gradient = True
    views = True

    @staticmethod
    def shape(x, *, shape):
        """Return the new shape with its -1 filled in."""
        return resolve_shape(x, shape)

    @staticmethod
    def forward(ctx: Context, x, *, shape):
        """Reshape; a view of `x` where that can be (see `_regroup`)."""
        ctx.saved = x.shape
        return _regroup(_native_order(x), resolve_shape(x.shape, shape), ctx.threads)

    @staticmethod
    def lower(b, x, *, shape):
        """Give the elements another shape, copied only where their order in memory asks."""
        return _lower_reshape(b, x, [resolve_shape(_at(x.shape, n), shape) for n in BATCHES])

    @staticmethod
    def backward(ctx, g):
        """Reshape the gradient back."""
        return (_regroup(g, ctx.saved, ctx.threads),)


@register
class Flatten(Op):
    """Axes start_dim to end_dim merged into one."""

    name = "flatten"
    onnx = "Flatten"
    passes_gradient = True
    views = True

    @staticmethod
    def shape(x, *, start_dim=0, end_dim=-1):
        """Return the shape with the axes merged."""
        if not x:
            return (1,)
        start, end = _axis(start_dim, len(x), "start_dim"), _axis(end_dim, len(x), "end_dim")
        if start > end:
            raise ShapeError(f"start_dim {start_dim} comes after end_dim {end_dim}")
        return (*x[:start], math.prod(x[start:end + 1]), *x[end + 1:])

    @staticmethod
    def forward(ctx: Context, x, *, start_dim=0, end_dim=-1):
        """Merge the axes; a view of `x` where that can be (see `_regroup`)."""
        ctx.saved = x.shape
        shape = Flatten.shape(x.shape, start_dim=start_dim, end_dim=end_dim)
        return _regroup(_native_order(x), shape, ctx.threads)

    @staticmethod
    def lower(b, x, *, start_dim=0, end_dim=-1):
        """Merge the axes, with a copy only where their order in memory asks."""
        return _lower_reshape(b, x, [Flatten.shape(_at(x.shape, n), start_dim=start_dim,
                                                   end_dim=end_dim) for n in BATCHES])

    @staticmethod
    def backward(ctx, g):
        """Reshape the gradient back."""
        return (_regroup(g, ctx.saved, ctx.threads),)


@register
class Permute(Op):
    """Axes in another order; always a view."""

    name = "permute"
    onnx = "Transpose"
    passes_gradient = True
    views = True

    @staticmethod
    def shape(x, *, dims):
        """Return the permuted shape."""
        axes = [_axis(d, len(x)) for d in dims]
        if sorted(axes) != list(range(len(x))):
            raise ShapeError(f"expected a permutation of {len(x)} axes, got dims {tuple(dims)}")
        return tuple(x[i] for i in axes)

    @staticmethod
    def forward(ctx: Context, x, *, dims):
        """Permute."""
        Permute.shape(x.shape, dims=dims)
        ctx.saved = axes = [d % x.ndim for d in dims]
        return _native_order(x).transpose(axes)

    @staticmethod
    def lower(b, x, *, dims):
        """Look at the elements in another order of axes, as long as samples stay in front."""
        axes = [d % len(x.shape) for d in dims]
        if axes[0] != 0:
            return None
        return x.with_axes([x.shape[i] for i in axes], [x.strides[i] for i in axes])

    @staticmethod
    def backward(ctx, g):
        """Permute the gradient back."""
        return (g.transpose(sorted(range(g.ndim), key=ctx.saved.__getitem__)),)


@register
class Concat(Op):
    """Arrays joined along one axis, in the memory order of the first."""

    name = "concat"
    onnx = "Concat"
    takes_deferred = True
    takes_masked = True

    @staticmethod
    def shape(*shapes, dim=0):
        """Return the joined shape."""
        if not shapes:
            raise ShapeError("concat needs at least one array")
        first = shapes[0]
        axis = _axis(dim, len(first))
        for x in shapes:
            if len(x) != len(first) or x[:axis] + x[axis + 1:] != first[:axis] + first[axis + 1:]:
                raise ShapeError(
                    f"expected shapes that differ only along dim {dim}, got {list(shapes)}")
        return (*first[:axis], sum(x[axis] for x in shapes), *first[axis + 1:])

    @staticmethod
    def forward(ctx: Context, *arrays, dim=0):
        """Copy the arrays side by side; as bfloat16 where all come so."""
        shape = Concat.shape(*[x.shape for x in arrays], dim=dim)
        axis = dim % len(shape)
        narrow = axis == 1 and all(isinstance(x, Narrow) and x.narrow for x in arrays)
        ctx.saved = axis, [x.shape[axis] for x in arrays], narrow
        if narrow:
            parts = [x.halves() for x in arrays]
            out = memory.empty((*parts[0].shape[:-1], shape[1]), HALF)
            _join(parts, out, -1, ctx.threads)
            return Halves(out, ctx.threads)
        arrays = [plain(x) for x in arrays]
        dtype = np.result_type(*arrays).newbyteorder("=")
        out = empty_ordered(shape, axis_order(arrays[0]), dtype)
        _join(arrays, out, axis, ctx.threads)
        return out

    @staticmethod
    def lower(b, *xs, dim=0):
        """Copy what does not lie in its part of the result already."""
        axis = dim % len(xs[0].shape)
        if axis == 0 or len({x.dtype for x in xs}) > 1 or not all(x.regular for x in xs):
            return None
        joined = b.joined(axis)
        if joined is not None:
            return joined
        shape = list(xs[0].shape)
        shape[axis] = sum([x.shape[axis] for x in xs])
        y = b.new(tuple(shape), xs[0].dtype, xs[0].order)
        start = 0
        for x in xs:
            b.copy(x, y.part(axis, start, start + x.shape[axis]))
            start += x.shape[axis]
        return y

    @staticmethod
    def reads_halves(ctx, gy):
        """Tell whether the arrays came so."""
        return ctx.saved[2]

    @staticmethod
    def backward(ctx, g):
        """Cut the gradient apart."""
        axis, sizes, narrow = ctx.saved
        if not narrow:
            return _parts(plain(g), axis, sizes, ctx)
        last = gradient_last(g, True, ctx.threads)
        return tuple([part if part is None else as_handed_on(part, ctx.threads)
                      for part in _parts(last, 3, sizes, ctx)])


def _parts(whole: np.ndarray, axis: int, sizes: list[int], ctx: Context
           ) -> tuple[np.ndarray | None, ...]:
    """Return copies of an array's parts along an axis, of those that are needed."""
    parts = [None] * len(sizes)
    for i, part in enumerate(_cut(whole, axis, sizes)):
        if ctx.needs[i]:
            parts[i] = like(part)
            copies.copyto(parts[i], part, ctx.threads)
    return tuple(parts)


def _cut(whole: np.ndarray, axis: int, sizes: list[int]) -> list[np.ndarray]:
    """Return views of an array's parts along an axis."""
    return np.split(whole, np.cumsum(sizes[:-1]), axis)


def _join(parts: list[np.ndarray], out: np.ndarray, axis: int, threads: int) -> None:
    """Copy arrays side by side along an axis."""
    places = _cut(out, axis, [x.shape[axis] for x in parts])
    for place, x in zip(places, parts, strict=True):
        copies.copyto(place, x, threads)


@register
class Slice(Op):
    """Elements start, start + step, ... before stop of every axis.

    A view, unless a step is negative: kernels need not expect negative strides.
    """

    name = "slice"
    onnx = "Slice"
    views = True

    @staticmethod
    def shape(x, *, starts, stops, steps):
        """Return the shape of what is kept."""
        return tuple(len(range(*s.indices(n)))
                     for s, n in zip(_slices(x, starts, stops, steps), x, strict=True))

    @staticmethod
    def forward(ctx: Context, x, *, starts, stops, steps):
        """Cut out a view, or a copy where steps are negative."""
        index = _slices(x.shape, starts, stops, steps)
        ctx.saved = x.shape, axis_order(x), starts, stops, steps
        y = _native_order(x)[index]
        return y if all(n >= 0 for n in y.strides) else y.copy()

    @staticmethod
    def lower(b, x, *, starts, stops, steps):
        """Look at a part of every sample."""
        cuts = _slices((*[1], *x.shape[1:]), starts, stops, steps)
        if any(v is not None for v in (starts[0], stops[0])) or steps[0] not in (None, 1):
            return None
        for axis, cut in enumerate(cuts[1:], 1):
            x = x.part(axis, *cut.indices(x.shape[axis]))
        return x

    @staticmethod
    def backward(ctx, g):
        """Put the gradient in its place, with zeros around it."""
        shape, order, *cut = ctx.saved
        array = in_order(g, order, ctx.threads)
        walk = _ways_back(max(shape, default=0), 1, shape, order, *[tuple(part) for part in cut])
        if not walk:                       # everything was kept; others may hold `g`
            return (g.copy(order="K"),)
        for one in walk:
            out = memory.empty(one.after, g.dtype)
            resample.copy(array.reshape(one.source), out.reshape(one.target), one.h, one.w, 0.0,
                          ctx.threads)
            array = out
        return (logical(array, order),)


@remembered
def _ways_back(size: int, outputs: int, shape: tuple[int, ...], order: tuple[int, ...] | None,
               *cut: tuple) -> list[Pass]:
    """Return the passes that put what a slice kept of axes of at most `size` back among zeros."""
    index = _slices(shape, *cut)
    kept = [len(range(*s.indices(n))) for s, n in zip(index, shape, strict=True)]
    order = order or tuple(range(len(shape)))
    axes = [None if kept[i] == shape[i] and index[i].step in (None, 1)
            else _kept_axis(shape[i], *index[i].indices(shape[i])) for i in order]
    return passes(tuple([kept[i] for i in order]), axes)


@remembered
def _kept_axis(size: int, start: int, stop: int, step: int) -> Axis:
    """Return where the elements that a slice keeps lay."""
    places = range(start, stop, step)
    return Axis(size, len(places), places, range(len(places)))


def _slices(x: tuple[int, ...], starts, stops, steps) -> tuple[slice, ...]:
    """Return one slice per axis; raise ShapeError for wrong counts and steps of 0."""
    if not len(x) == len(starts) == len(stops) == len(steps):
        raise ShapeError(f"expected {len(x)} starts, stops and steps for shape {x}, "
                         f"got {len(starts)}, {len(stops)} and {len(steps)}")
    if 0 in steps:
        raise ShapeError(f"slice steps must not be 0, got {tuple(steps)}")
    return tuple(slice(*s) for s in zip(starts, stops, steps, strict=True))
