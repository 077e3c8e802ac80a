"""Pools, of one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, handles
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.windows import Windows, per_axis, windows

__all__: list[str] = []


def _form(node: Operator) -> tuple[Val, Windows]:
    """Return a pool's input and windows."""
    x = node.input(0)
    if not 3 <= x.rank <= 5:
        raise UnsupportedOperatorError(f"{node.type} of x with {x.rank} axes")
    if "kernel_shape" not in node.attrs:
        raise ModelFormatError("attribute 'kernel_shape' is missing")
    return x, windows(node, x.shape[2:], per_axis(node, "kernel_shape", x.rank - 2, 1))


def _by_slices(b: Builder, x: Val, form: Windows, pool: Callable[[Val, Windows], Val]) -> Val:
    """Pool volumes: over height and width first, then over depth."""
    if x.rank < 5:
        return pool(x, form)
    n, c, depth, *sizes = x.shape
    y = pool(b.reshape(x, (n, c * depth, *sizes)), form.only(1, 2))
    flat = b.reshape(y, (n, c, depth, y.shape[2] * y.shape[3]))
    one = Windows((1,), (1,), (1,), ((0, 0),), (flat.shape[3],))
    both = Windows(*[a + b_ for a, b_ in zip(form.only(0), one, strict=True)])
    return b.reshape(pool(flat, both), (n, c, *form.outputs))


def _plain(form: Windows) -> bool:
    """Tell whether padding is what PyTorch's pools accept: the same on both sides, not wide."""
    return all(before == after and 2 * before <= form.reach(i)
               for i, (before, after) in enumerate(form.pads))


def _ceil(form: Windows, sizes: tuple[int, ...]) -> bool | None:
    """Return the ceil_mode that gives the windows' number on every axis; None if neither does."""
    spans = [n + sum(p) - form.reach(i) for i, (n, p) in enumerate(zip(
        sizes, form.pads, strict=True))]
    if form.outputs == tuple(v // s + 1 for v, s in zip(spans, form.stride, strict=True)):
        return False
    rounded = []
    for v, s, n, (before, _) in zip(spans, form.stride, sizes, form.pads, strict=True):
        count = -(-v // s) + 1
        rounded.append(count - 1 if (count - 1) * s >= n + before else count)
    return True if form.outputs == tuple(rounded) else None


def _padded(b: Builder, x: Val, form: Windows, value: float) -> Val:
    """Return x padded so that the windows just fill it."""
    edges = form.exact(x.shape[2:])
    if not any(e for pair in edges for e in pair):
        return x
    return b.op("pad", x, padding=((0, 0), (0, 0), *edges), value=value)


@handles("MaxPool")
def max_pool(b: Builder, node: Operator):
    """Return the largest value of each window, and its place in the flattened tensor."""
    x, form = _form(node)
    if node.wants(1):
        return _with_places(b, node, x, form)

    def pool(x: Val, form: Windows) -> Val:
        ceil = _ceil(form, x.shape[2:]) if _plain(form) else None
        if ceil is None:
            x = _padded(b, x, form, -math.inf)
        padding = (0,) * (x.rank - 2) if ceil is None else tuple(p for p, _ in form.pads)
        return b.op("max_pool", x, kernel_size=form.kernel, stride=form.stride,
                    dilation=form.dilation, padding=padding, ceil_mode=bool(ceil))

    return b.in_float(x, lambda x: _by_slices(b, x, form, pool))


def _with_places(b: Builder, node: Operator, x: Val, form: Windows) -> tuple[Val, Val]:
    """Return max pooling with indices; ONNX counts over all axes, convkit over the spatial ones."""
    ceil = _ceil(form, x.shape[2:]) if _plain(form) else None
    if ceil is None or x.rank > 4:
        raise UnsupportedOperatorError("MaxPool with indices and such padding, or of volumes")
    y, places = b.op("max_pool", x, kernel_size=form.kernel, stride=form.stride,
                     dilation=form.dilation, padding=tuple(p for p, _ in form.pads),
                     ceil_mode=ceil, return_indices=True)
    if node.attrs.get("storage_order") and x.rank == 4:
        height, width = (b.like(n, places) for n in x.shape[2:])
        row = b.op("div", places, width, rounding_mode="floor")
        column = b.op("remainder", places, width)
        places = b.op("add", b.op("mul", column, height), row)
    b.spend(8 * math.prod(x.shape[:2]))
    planes = np.arange(math.prod(x.shape[:2]), dtype=np.int64) * math.prod(x.shape[2:])
    offset = b.constant(planes.reshape(*x.shape[:2], *(1,) * (x.rank - 2)))
    return y, b.op("add", places, offset)


def _counts(form: Windows, sizes: tuple[int, ...], padding_counts: bool) -> np.ndarray:
    """Return by how many elements each window's sum is divided, shape of the output's axes."""
    total = np.ones(())
    for i, n in enumerate(sizes):
        start = np.arange(form.outputs[i]) * form.stride[i] - form.pads[i][0]
        taps = start[:, None] + np.arange(form.kernel[i]) * form.dilation[i]
        low, high = (-form.pads[i][0], n + form.pads[i][1]) if padding_counts else (0, n)
        total = total[..., None] * ((taps >= low) & (taps < high)).sum(axis=1)
    return total


def _sums(b: Builder, x: Val, form: Windows) -> Val:
    """Return the sum of each window."""
    x = _padded(b, x, form, 0.0)
    if all(d == 1 for d in form.dilation):
        return b.op("avg_pool", x, kernel_size=form.kernel, stride=form.stride,
                    padding=(0,) * (x.rank - 2), divisor_override=1)
    b.spend(8 * x.shape[1] * math.prod(form.kernel))
    ones = b.constant(np.ones((x.shape[1], 1, *form.kernel), x.dtype))
    return b.op("conv", x, ones, stride=form.stride, padding=((0, 0),) * (x.rank - 2),
                dilation=form.dilation, groups=x.shape[1])


@handles("AveragePool")
def average_pool(b: Builder, node: Operator) -> Val:
    """Return the mean of each window."""
    x, form = _form(node)
    padding_counts = bool(node.attrs.get("count_include_pad", 0))

    def pool(x: Val, form: Windows) -> Val:
        ceil = _ceil(form, x.shape[2:]) if _plain(form) else None
        if ceil is not None and all(d == 1 for d in form.dilation):
            return b.op("avg_pool", x, kernel_size=form.kernel, stride=form.stride,
                        padding=tuple(p for p, _ in form.pads), ceil_mode=ceil,
                        count_include_pad=padding_counts)
        b.spend(8 * (math.prod(form.outputs) + sum(
            n * k for n, k in zip(form.outputs, form.kernel, strict=True))))
        counts = _counts(form, x.shape[2:], padding_counts)
        return b.op("div", _sums(b, x, form), b.constant(counts.astype(x.dtype)))

    return _by_slices(b, x, form, pool)


@handles("LpPool")
def lp_pool(b: Builder, node: Operator) -> Val:
    """Return the p-norm of each window."""
    x, form = _form(node)
    p = float(node.attrs.get("p", 2))
    powers = b.op("pow", b.op("abs", x), exponent=p)
    sums = _by_slices(b, powers, form, lambda x, form: _sums(b, x, form))
    return b.op("pow", sums, exponent=1 / p)


@handles("GlobalAveragePool")
def global_average_pool(b: Builder, node: Operator) -> Val:
    """Return the mean over the spatial axes."""
    x = node.input(0)
    if x.rank in (3, 4):
        return b.op("adaptive_avg_pool", x, output_size=(1,) * (x.rank - 2))
    return b.op("mean", x, dim=tuple(range(2, x.rank)), keepdim=True)


@handles("GlobalMaxPool")
def global_max_pool(b: Builder, node: Operator) -> Val:
    """Return the largest value over the spatial axes."""
    x = node.input(0)
    if x.rank in (3, 4):
        return b.op("adaptive_max_pool", x, output_size=(1,) * (x.rank - 2))
    return b.op("amax", x, dim=tuple(range(2, x.rank)), keepdim=True)


@handles("GlobalLpPool")
def global_lp_pool(b: Builder, node: Operator) -> Val:
    """Return the p-norm over the spatial axes."""
    x, p = node.input(0), float(node.attrs.get("p", 2))
    powers = b.op("pow", b.op("abs", x), exponent=p)
    sums = b.op("sum", powers, dim=tuple(range(2, x.rank)), keepdim=True)
    return b.op("pow", sums, exponent=1 / p)
