"""Reductions over axes, places of extremes, sorting."""

from __future__ import annotations

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.onnx.builder import Builder, axes_of, axis_of, handles
from convkit.io.onnx.node import Operator, Val

__all__ = ["flip"]


def _axes(b: Builder, node: Operator) -> tuple[int, ...]:
    """Return the axes of a reduction, which are an attribute or, later, an input."""
    x, given = node.input(0), node.input(1)
    axes = node.attrs.get("axes")
    if given is not None:
        axes = b.integers(given, "axes")
    if not axes:
        return () if node.attrs.get("noop_with_empty_axes") else tuple(range(x.rank))
    return tuple(sorted(axes_of(axes, x.rank)))


def _reduce(b: Builder, name: str, x: Val, axes: tuple[int, ...], keep: bool) -> Val:
    """Return a reduction in the type of x."""
    if not x.is_float and name in ("sum", "prod"):
        wide = b.op(name, b.cast(x, "int64"), dim=axes, keepdim=keep)
        return b.cast(wide, x.dtype)
    if name == "mean":
        return b.in_float(x, lambda x: b.op(name, x, dim=axes, keepdim=keep))
    return b.op(name, x, dim=axes, keepdim=keep)


@handles("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
def reduce(b: Builder, node: Operator) -> Val:
    """Return sum, mean, extremes or product over axes."""
    name = {"ReduceMax": "amax", "ReduceMin": "amin"}.get(node.type, node.type[6:].lower())
    return _reduce(b, name, node.input(0), _axes(b, node), bool(node.attrs["keepdims"]))


@handles("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def reduce_norm(b: Builder, node: Operator) -> Val:
    """Return sums of absolute values or squares, their roots; logarithms of sums."""
    x = node.input(0)
    axes, keep = _axes(b, node), bool(node.attrs["keepdims"])
    if node.type == "ReduceL1":
        x = b.op("abs", x)
    elif node.type in ("ReduceL2", "ReduceSumSquare"):
        x = b.op("mul", x, x)
    y = _reduce(b, "sum", x, axes, keep)
    after = {"ReduceL2": "sqrt", "ReduceLogSum": "log"}.get(node.type)
    return b.in_float(y, lambda y: b.op(after, y)) if after else y


@handles("ReduceLogSumExp")
def reduce_log_sum_exp(b: Builder, node: Operator) -> Val:
    """Return the logarithm of a sum of exponentials, with the largest taken out first."""
    axes, keep = _axes(b, node), bool(node.attrs["keepdims"])

    def apply(x: Val) -> Val:
        if not axes:
            return x
        top = b.op("amax", x, dim=axes, keepdim=True)
        top = b.op("where", b.op("isinf", top), b.like(0, top), top)
        total = b.op("sum", b.op("exp", b.op("sub", x, top)), dim=axes, keepdim=True)
        y = b.op("add", b.op("log", total), top)
        return y if keep else b.reshape(y, tuple(n for i, n in enumerate(x.shape)
                                                 if i not in axes))

    return b.in_float(node.input(0), apply)


def flip(b: Builder, x: Val, axis: int) -> Val:
    """Return x with an axis reversed."""
    none = (None,) * x.rank
    steps = tuple(-1 if i == axis else None for i in range(x.rank))
    return b.op("slice", x, starts=none, stops=none, steps=steps)


@handles("ArgMax", "ArgMin")
def arg_extreme(b: Builder, node: Operator) -> Val:
    """Return the place of the largest or smallest element; of equals the first, or the last."""
    x = node.input(0)
    axis = axis_of(node.attrs["axis"], x.rank)
    last = bool(node.attrs.get("select_last_index", 0))
    if last:
        x = flip(b, x, axis)
    place = b.op(node.type.lower(), x, dim=axis, keepdim=bool(node.attrs["keepdims"]))
    return b.op("sub", b.like(x.shape[axis] - 1, place), place) if last else place


@handles("TopK")
def topk(b: Builder, node: Operator) -> tuple[Val, Val]:
    """Return the k largest or smallest elements, in order."""
    x = node.input(0)
    if node.input(1) is None:
        k = node.attrs["k"]
    else:
        k = int(b.number(node.input(1), "k"))
    axis = axis_of(node.attrs["axis"], x.rank)
    if k < 0:
        raise ModelFormatError(f"TopK with k={k}")
    return b.op("topk", x, k=k, dim=axis, largest=bool(node.attrs.get("largest", 1)))


@handles("CumSum")
def cumsum(b: Builder, node: Operator) -> Val:
    """Return the running sum, from either end, with or without the element itself."""
    x = node.input(0)
    axis = axis_of(int(b.number(node.input(1), "axis")), x.rank)
    y = flip(b, x, axis) if node.attrs["reverse"] else x
    y = b.cast(b.op("cumsum", y, dim=axis), x.dtype)
    if node.attrs["exclusive"]:
        y = b.op("pad", y, padding=tuple((1, -1) if i == axis else (0, 0) for i in range(x.rank)))
    return flip(b, y, axis) if node.attrs["reverse"] else y


@handles("OneHot")
def one_hot(b: Builder, node: Operator) -> Val:
    """Return one of two values, by whether a place along a new axis is the index."""
    indices, depth, values = node.inputs
    count = int(b.number(depth, "depth"))
    if not 0 < count < 2**31:
        raise ModelFormatError(f"OneHot with depth {count}")
    b.spend(8 * count)
    axis = axis_of(node.attrs["axis"], indices.rank + 1)
    places = b.cast(indices, "int64")
    size = b.like(count, places)
    inside = b.op("logical_and", b.op("ge", places, b.op("neg", size)), b.op("lt", places, size))
    places = b.op("where", inside, b.op("remainder", places, size), b.like(-1, places))
    shape = (*indices.shape[:axis], 1, *indices.shape[axis:])
    steps = np.arange(count).reshape([count if i == axis else 1 for i in range(len(shape))])
    hot = b.op("eq", b.reshape(places, shape), b.constant(steps))
    off, on = (b.op("slice", values, starts=(i,), stops=(i + 1,), steps=(1,)) for i in (0, 1))
    return b.op("where", hot, b.reshape(on, ()), b.reshape(off, ()))
