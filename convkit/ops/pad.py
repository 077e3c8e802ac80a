"""Padding: elements added around an array, or cut off."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from convkit._kernels import copies, memory
from convkit._kernels import resample as kernels
from convkit._kernels.axis import Axis
from convkit._kernels.tape import literal
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS, axis_order, in_order, logical, native
from convkit.ops.op import Context, Op, register
from convkit.ops.passes import Pass, passes
from convkit.ops.spatial import LIMIT, remembered

__all__ = ["Pad"]

MODES = ("constant", "zeros", "reflect", "replicate", "circular")


@remembered
def _pad_axis(size: int, outputs: int, before: int, mode: str) -> Axis:
    """Return the element that each padded position copies, or none."""
    output = np.arange(outputs)
    place = output - before
    if mode == "replicate":
        place = np.clip(place, 0, size - 1)
    elif mode == "circular":
        place = place % max(size, 1)
    elif mode == "reflect":
        place = np.abs(place)
        place = np.where(place < size, place, 2 * (size - 1) - place)
    inside = (place >= 0) & (place < size)
    return Axis(outputs, size, output[inside], place[inside], np.ones(np.count_nonzero(inside)))


def _padded(x: tuple[int, ...], padding: Any, mode: str) -> tuple[int, ...]:
    """Return the padded shape; raise ShapeError where the padding does not fit."""
    if mode not in MODES:
        raise ValueError(f"expected mode {', '.join(map(repr, MODES))}, got {mode!r}")
    if not x:
        raise ShapeError("expected x with at least one axis, got shape ()")
    if len(padding) != len(x) or any(len(pair) != 2 for pair in padding):
        raise ShapeError(
            f"expected padding with (before, after) for each of {len(x)} axes, got {padding}")
    shape = []
    for n, (before, after) in zip(x, padding, strict=True):
        most = {"reflect": n - 1, "circular": n, "replicate": LIMIT if n else 0}.get(mode, LIMIT)
        if max(before, after) > max(most, 0):
            raise ShapeError(
                f"expected {mode} padding of at most {max(most, 0)} for an axis of size {n}, "
                f"got {(before, after)} for x of shape {tuple(x)}")
        size = n + before.__index__() + after.__index__()
        if size < 0 or size > LIMIT:
            raise ShapeError(f"padding {(before, after)} makes an axis of size {n} one of {size}")
        shape.append(size)
    return tuple(shape)


def _inner(x: tuple[int, ...], pads: tuple[tuple[int, int], ...], mode: str
           ) -> tuple[slice, ...] | None:
    """Return where an array lies in its padded form where filling that and a copy do best.

    That is where the last axis in memory gets numbers: passes would move it number by number.
    """
    if mode not in ("constant", "zeros") or not any(pads[-1]) or min(map(min, pads)) < 0:
        return None
    return tuple([slice(before, before + n) for n, (before, _) in zip(x, pads, strict=True)])


# Layers pad the same few shapes again and again.
_known_shape = functools.lru_cache(maxsize=1024)(_padded)


@remembered
def _passes(size: int, outputs: int, x: tuple[int, ...], padding: tuple[tuple[int, int], ...],
            mode: str) -> list[Pass]:
    """Cut the padding of an array in memory order, of at most so large axes, into passes."""
    axes = [_pad_axis(n, n + sum(pair), pair[0], mode) if any(pair) else None
            for n, pair in zip(x, padding, strict=True)]
    if not any(axis is not None for axis in axes):
        axes[-1] = _pad_axis(x[-1], x[-1], 0, mode)
    return passes(x, axes)


def _pad_integers(x: np.ndarray, padding: Any, mode: str, value: float) -> np.ndarray:
    """Pad integers or booleans, by NumPy."""
    names = {"constant": "constant", "zeros": "constant", "reflect": "reflect",
             "replicate": "edge", "circular": "wrap"}
    extra = {"constant_values": x.dtype.type(value)} if mode == "constant" else {}
    wide = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in padding], names[mode], **extra)
    return wide[tuple(slice(max(-a, 0), n - max(-b, 0))
                      for (a, b), n in zip(padding, wide.shape, strict=True))]


def _lower_integers(b: Any, x: Any, padding: Any, value: float) -> Any:
    """Emit copies of one number and of x, where nothing is cut off."""
    if min(map(min, padding)) < 0:
        return None
    shape = _padded((1, *x.shape[1:]), padding, "constant")
    y = b.new((x.shape[0], *shape[1:]), x.dtype, x.order)
    fill = b.constant(np.array([x.dtype.type(value)]))
    b.copy(fill.with_axes((1, *shape[1:]), (0,) * len(shape)), y)
    inner = y
    for axis in range(1, len(shape)):
        inner = inner.part(axis, padding[axis][0], padding[axis][0] + x.shape[axis])
    b.copy(x, inner)
    return y


@register
class Pad(Op):
    """x with elements added before and after each axis, as `torch.nn.functional.pad`.

    Attributes: padding, (before, after) for every axis of x, of which negative numbers cut
    elements off; mode ("constant" or "zeros", "reflect", "replicate", "circular", each by the
    whole of x, whatever is cut off); value, for the mode "constant". The output has the
    memory order of x.
    """

    name = "pad"
    onnx = "Pad"

    @staticmethod
    def shape(x, *, padding, mode="constant", value=0.0):
        """Return the padded shape."""
        return _padded(x, padding, mode)

    @staticmethod
    def forward(ctx: Context, x, *, padding, mode="constant", value=0.0):
        """Pad an array of one axis or more."""
        shape = (_known_shape if literal((padding, mode)) else _padded)(x.shape, padding, mode)
        if x.dtype.kind in "iub":
            return _pad_integers(x, padding, mode, value)
        memory.empty(shape, x.dtype)  # refuses sizes beyond memory before lists are made
        x = native(x)
        order = axis_order(x)
        array = in_order(x, order, ctx.threads)
        pads = tuple([tuple(padding[i]) for i in order or range(x.ndim)])
        fill = float(value) if mode == "constant" else 0.0
        inner = _inner(array.shape, pads, mode)
        if inner is not None:
            walk = []
            out = memory.empty(tuple([shape[i] for i in order or range(x.ndim)]), x.dtype)
            out.fill(fill)
            copies.copyto(out[inner], array, ctx.threads)
            array = out
        else:
            walk = _passes(max(x.shape), max(shape), array.shape, pads, mode)
        for one in walk:
            out = memory.empty(one.after, x.dtype)
            kernels.copy(array.reshape(one.source), out.reshape(one.target), one.h, one.w, fill,
                         ctx.threads)
            array = out
        if any(ctx.needs):
            ctx.saved = order, walk, inner, x.dtype, mode
        return logical(array, order)

    @staticmethod
    def lower(b, x, *, padding, mode="constant", value=0.0):
        """Emit a step for each pass, where the samples are left alone."""
        if any(padding[0]) or len(x.shape) < 2:
            return None
        if x.dtype not in FLOATS:
            return _lower_integers(b, x, padding, value) if mode == "constant" else None
        sample = (1, *x.shape[1:])
        _padded(sample, padding, mode)
        x = b.compact(x)
        order = x.order
        fill = float(value) if mode == "constant" else 0.0
        pads = tuple([tuple(padding[i]) for i in order])
        for one in _passes(max(sample), max(sample), tuple([sample[i] for i in order]), pads, mode):
            shape = [0] * len(order)
            for axis, size in zip(order, one.after, strict=True):
                shape[axis] = size
            y = b.new((x.shape[0], *shape[1:]), x.dtype, order)
            outer, _, _, inner = one.source
            b.step(kernels.step(True, inner, x.dtype.itemsize, one.h, one.w, fill), (x, y),
                   tuple([n * outer for n in x.samples]))
            x = y
        return x

    @staticmethod
    def backward(ctx: Context, g):
        """Give each element the sum of the gradients of its copies."""
        order, walk, inner, dtype, mode = ctx.saved
        array = in_order(g.astype(dtype, copy=False), order, ctx.threads)
        if inner is not None:
            kept = array[inner]
            array = memory.empty(kept.shape, dtype)
            copies.copyto(array, kept, ctx.threads)
        for one in reversed(walk):
            out = memory.empty(one.before, dtype)
            args = (array.reshape(one.target), out.reshape(one.source), one.h.transposed(),
                    one.w.transposed())
            if mode in ("constant", "zeros"):  # one copy of each element at most
                kernels.copy(*args, 0.0, ctx.threads)
            else:
                kernels.gather(*args, ctx.threads)
            array = out
        return (logical(array, order),)
