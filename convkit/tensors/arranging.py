"""Functions that cut, join, repeat, pick and turn, with PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit._kernels.tape import TensorBase, apply, wrap
from convkit.errors import ShapeError
from convkit.ops import REGISTRY as OPS
from convkit.tensors.elements import where

__all__ = [
    "broadcast_to", "chunk", "diff", "expand", "flip", "gather", "index_select", "movedim",
    "narrow", "repeat", "repeat_interleave", "roll", "select", "split", "swapaxes", "t",
    "tile", "tril", "triu", "unbind", "unflatten",
]


def sizes_of(values: tuple) -> tuple[int, ...]:
    """Return sizes given as separate arguments or as one sequence."""
    if len(values) == 1 and not hasattr(values[0], "__index__"):
        values = values[0]
    return tuple([v.__index__() for v in values])


def axis_of(dim: int, input: Any) -> int:
    """Return a non-negative axis; raise IndexError where there is none."""
    ndim = len(input.shape)
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim {dim} is out of range for {ndim} axes")
    return dim % ndim


def _tensor(input: Any) -> Any:
    return input if isinstance(input, TensorBase) else wrap(np.asarray(input))


def _cut(input: Any, axis: int, start: int | None, stop: int | None) -> Any:
    """Return part of one axis."""
    ndim = len(input.shape)

    def only(value: int | None) -> tuple:
        return tuple([value if i == axis else None for i in range(ndim)])

    return apply(OPS["slice"], input, starts=only(start), stops=only(stop), steps=only(None))


def _concat(parts: Sequence[Any], dim: int) -> Any:
    return apply(OPS["concat"], *parts, dim=dim)


# -- parts --------------------------------------------------------------------------------------


def split(input: Any, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple:
    """Cut along `dim` into parts of one size (the last may be smaller) or of given sizes.

    Raises
    ------
    ShapeError
        When the sizes do not add up to that of the axis, or one is below 0.
    """
    input = _tensor(input)
    axis = axis_of(dim, input)
    size = input.shape[axis]
    if isinstance(split_size_or_sections, Sequence):
        sizes = [n.__index__() for n in split_size_or_sections]
        if sum(sizes) != size or min(sizes, default=0) < 0:
            raise ShapeError(f"expected sections that add up to {size}, got {sizes}")
    else:
        each = split_size_or_sections.__index__()
        if each < 1:
            raise ShapeError(f"expected a split size of at least 1, got {each}")
        sizes = [min(each, size - at) for at in range(0, size, each)] or [0]
    ends = np.cumsum(sizes).tolist()
    return tuple([_cut(input, axis, end - n, end) for n, end in zip(sizes, ends, strict=True)])


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple:
    """Cut along `dim` into so many parts of one size; the last ones may be smaller or missing."""
    if chunks < 1:
        raise ShapeError(f"expected at least 1 chunk, got {chunks}")
    input = _tensor(input)
    return split(input, max(1, math.ceil(input.shape[axis_of(dim, input)] / chunks)), dim)


def unbind(input: Any, dim: int = 0) -> tuple:
    """Return every slice along `dim`, without that axis."""
    input = _tensor(input)
    return tuple([select(input, dim, i) for i in range(input.shape[axis_of(dim, input)])])


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """Return `length` elements along `dim` from `start` on."""
    input = _tensor(input)
    axis = axis_of(dim, input)
    size = input.shape[axis]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        raise IndexError(f"elements {start} to {start + length} are out of range for axis {dim} of "
                         f"size {size}")
    return _cut(input, axis, first, first + length)


def select(input: Any, dim: int, index: int) -> Any:
    """Return one slice along `dim`, without that axis."""
    input = _tensor(input)
    axis = axis_of(dim, input)
    return input[(slice(None),) * axis + (index,)]


def gather(input: Any, dim: int, index: Any) -> Any:
    """Pick one element per index along `dim`; the other axes go in step."""
    return apply(OPS["gather"], input, index, dim=dim)


def index_select(input: Any, dim: int, index: Any) -> Any:
    """Return the slices along `dim` that a list of indices names."""
    return apply(OPS["take"], input, index if isinstance(index, TensorBase)
                 else np.asarray(index, np.int64), dim=dim)


# -- order --------------------------------------------------------------------------------------


def flip(input: Any, *dims: Any) -> Any:
    """Return the elements in reverse order along axes."""
    input = _tensor(input)
    axes = {axis_of(d, input) for d in sizes_of(dims)}
    steps = tuple([-1 if i in axes else None for i in range(len(input.shape))])
    none = (None,) * len(steps)
    return apply(OPS["slice"], input, starts=none, stops=none, steps=steps)


def roll(input: Any, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Any:
    """Return the elements moved along axes, those beyond the end back at the beginning.

    Without `dims`, elements move in the order of the flattened tensor.
    """
    input = _tensor(input)
    if dims is None:
        shape = input.shape
        return roll(input.reshape(-1), shifts, 0).reshape(*shape)
    several = isinstance(dims, Sequence)
    pairs = list(zip(shifts, dims, strict=True)) if several else [(shifts, dims)]
    for shift, dim in pairs:
        axis = axis_of(dim, input)
        size = input.shape[axis]
        if size and shift % size:
            at = size - shift % size
            input = _concat([_cut(input, axis, at, None), _cut(input, axis, None, at)], axis)
    return input


def movedim(input: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """Return a view with some axes at other places, the rest in their order."""
    input = _tensor(input)
    origin, target = ([axis_of(d, input) for d in (v if isinstance(v, Sequence) else (v,))]
                      for v in (source, destination))
    order = [i for i in range(len(input.shape)) if i not in origin]
    for to, axis in sorted(zip(target, origin, strict=True)):
        order.insert(to, axis)
    return input.permute(*order)


def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """Return a view with two axes exchanged."""
    return _tensor(input).transpose(axis0, axis1)


def t(input: Any) -> Any:
    """Return the transpose of a matrix; what has fewer axes stays as it is."""
    input = _tensor(input)
    if len(input.shape) > 2:
        raise ShapeError(f"expected at most 2 axes, got shape {input.shape}")
    return input if len(input.shape) < 2 else input.transpose(0, 1)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """Return the tensor with one axis cut into several, of which one size may be -1."""
    input = _tensor(input)
    axis = axis_of(dim, input)
    shape = input.shape
    sizes = list(sizes)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = shape[axis] // known if known else 0
    if math.prod(sizes) != shape[axis]:
        raise ShapeError(f"cannot cut an axis of size {shape[axis]} into {tuple(sizes)}")
    return input.reshape(*shape[:axis], *sizes, *shape[axis + 1:])


# -- again --------------------------------------------------------------------------------------


def expand(input: Any, *sizes: Any) -> Any:
    """Repeat axes of size 1; -1 keeps an axis, and new axes come first."""
    return apply(OPS["expand"], input, shape=sizes_of(sizes))


def broadcast_to(input: Any, size: Sequence[int]) -> Any:
    """Repeat axes of size 1, and put new ones in front, to get a shape."""
    return expand(input, size)


def repeat(input: Any, *repeats: Any) -> Any:
    """Return the tensor again and again along its axes, new axes first."""
    input = _tensor(input)
    times = sizes_of(repeats)
    extra = len(times) - len(input.shape)
    if extra < 0 or min(times, default=1) < 0:
        raise ShapeError(f"expected a number of at least 0 for each axis of shape {input.shape}, "
                         f"got {times}")
    out = input.reshape(*(1,) * extra, *input.shape) if extra else input
    for axis, k in enumerate(times):    # one by one: files take 8 axes at most
        if k != 1:
            shape = out.shape
            wide = [-1] * axis + [k] + [-1] * (len(shape) - axis)
            out = expand(out.unsqueeze(axis), *wide).reshape(
                *shape[:axis], k * shape[axis], *shape[axis + 1:])
    return out


def tile(input: Any, *dims: Any) -> Any:
    """Return the tensor again and again along its last axes, or along new ones before."""
    input = _tensor(input)
    times = sizes_of(dims)
    return repeat(input, (1,) * (len(input.shape) - len(times)) + times)


def repeat_interleave(input: Any, repeats: int | Sequence[int], dim: int | None = None) -> Any:
    """Repeat every slice along `dim` so many times, or each as often as a list says.

    Without `dim`, elements of the flattened tensor.
    """
    input = _tensor(input)
    if dim is None:
        input, dim = input.reshape(-1), 0
    places = np.repeat(np.arange(input.shape[axis_of(dim, input)]), np.asarray(repeats))
    return index_select(input, dim, places)


# -- triangles and differences ---------------------------------------------------------------------


def tril(input: Any, diagonal: int = 0) -> Any:
    """Return matrices with zeros above a diagonal."""
    return where(np.tri(*input.shape[-2:], diagonal, dtype=bool), input, 0)


def triu(input: Any, diagonal: int = 0) -> Any:
    """Return matrices with zeros below a diagonal."""
    return where(~np.tri(*input.shape[-2:], diagonal - 1, dtype=bool), input, 0)


def diff(input: Any, n: int = 1, dim: int = -1) -> Any:
    """Return the differences of neighbours along `dim`, taken `n` times."""
    input = _tensor(input)
    axis = axis_of(dim, input)
    for _ in range(n):
        input = apply(OPS["sub"], _cut(input, axis, 1, None), _cut(input, axis, None, -1))
    return input
