"""Pooling: the largest or the mean value of windows, of fixed size or adapted to the output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import dispatch, memory, quant, resample
from convkit._kernels import pool as kernels
from convkit._kernels.axis import Axis
from convkit.errors import DTypeError, ShapeError
from convkit.ops.activated import Activated, Pooling, Unpooled
from convkit.ops.deferred import gradient_last, plain
from convkit.ops.halves import Halves, Narrow
from convkit.ops.kept import HALF
from convkit.ops.layout import BFLOAT16, FLOATS, to_last
from convkit.ops.op import Context, Op, register
from convkit.ops.spatial import (
    UNIT,
    empty_image,
    image,
    image_gradient,
    per_axis,
    remembered,
    spatial_axes,
)

__all__ = ["AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "MaxPool"]


# -- windows along one axis -----------------------------------------------------------------


class _Windows(NamedTuple):
    """The windows along one axis: where they start, their taps' spacing, and the lists."""

    start: np.ndarray  # position of tap 0, negative in the padding
    taps: int  # in the longest window
    step: int
    axis: Axis


def _entries(start: np.ndarray, taps: int, step: int, low: np.ndarray | int,
             high: np.ndarray | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (output, position, tap) of every tap whose position is in low <= p < high."""
    position = start[:, None] + step * np.arange(taps)
    inside = (position >= np.reshape(low, (-1, 1))) & (position < np.reshape(high, (-1, 1)))
    output, tap = np.nonzero(inside)
    return output, position[inside], tap


@remembered
def _max_windows(size: int, outputs: int, kernel: int, stride: int, padding: int,
                 dilation: int) -> _Windows:
    """Return the windows of max pooling along an axis."""
    start = np.arange(outputs) * stride - padding
    output, position, tap = _entries(start, kernel, dilation, 0, size)
    return _Windows(start, kernel, dilation, Axis(outputs, size, output, position, tap=tap))


@remembered
def _adaptive_windows(size: int, outputs: int) -> _Windows:
    """Return windows from floor(o * size / outputs) to ceil((o + 1) * size / outputs)."""
    start = np.arange(outputs) * size // outputs
    stop = -(-np.arange(1, outputs + 1) * size // outputs)
    length = stop - start
    output, position, tap = _entries(start, int(length.max()), 1, start, stop)
    axis = Axis(outputs, size, output, position, 1.0 / length[output], tap)
    return _Windows(start, int(length.max()), 1, axis)


@remembered
def _avg_axis(size: int, outputs: int, kernel: int, stride: int, padding: int,
              count_include_pad: bool, divisor: int | None) -> Axis:
    """Return the averaging lists along an axis; `divisor` replaces the count of taps."""
    start = np.arange(outputs) * stride - padding
    output, position, _ = _entries(start, kernel, 1, 0, size)
    if divisor is not None:
        count = np.full(outputs, divisor)
    elif count_include_pad:  # as far as the padding reaches; ceil_mode can go beyond
        count = np.minimum(start + kernel, size + padding) - start
    else:
        count = np.bincount(output, minlength=outputs)
    return Axis(outputs, size, output, position, 1.0 / count[output])


_BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
_NO_HEIGHT = _Windows(np.zeros(1, np.int64), 1, 1, UNIT)


# -- sizes ----------------------------------------------------------------------------------


def _pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int,
                 ceil_mode: bool) -> int:
    """Return PyTorch's number of windows along an axis."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    outputs = -(-span // stride) + 1
    # the last window must start inside the input or the padding before it
    return outputs - 1 if (outputs - 1) * stride >= size + padding else outputs


class _Geometry(NamedTuple):
    """Attributes of a pool with fixed windows, one value per axis, and its output size."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    outputs: tuple[int, ...]


def _geometry(x: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any,
              ceil_mode: bool) -> _Geometry:
    """Check a pool's attributes against the input's shape."""
    axes = spatial_axes(x)
    kernel = per_axis(kernel_size, axes, "kernel_size", 1)
    steps = kernel if stride is None or stride == () else per_axis(stride, axes, "stride", 1)
    pads = per_axis(padding, axes, "padding", 0)
    spacing = per_axis(dilation, axes, "dilation", 1)
    for k, p, d in zip(kernel, pads, spacing, strict=True):
        if 2 * p > d * (k - 1) + 1:
            raise ShapeError(
                "padding should be at most half of the effective kernel size, "
                f"but got padding={p}, kernel_size={k} and dilation={d}")
    outputs = tuple(_pooled_size(*size, ceil_mode)
                    for size in zip(x[2:], kernel, steps, pads, spacing, strict=True))
    if min(outputs) < 1:
        padded = tuple(n + 2 * p for n, p in zip(x[2:], pads, strict=True))
        raise ShapeError(
            f"kernel_size {kernel} with dilation {spacing} is larger than the padded input of "
            f"spatial size {padded}: output size {outputs} for x of shape {tuple(x)}")
    return _Geometry(kernel, steps, pads, spacing, outputs)


def _adaptive_size(x: tuple[int, ...], output_size: Any) -> tuple[int, ...]:
    """Return an adaptive pool's output size; None stands for the input's."""
    axes = spatial_axes(x)
    if output_size is None or hasattr(output_size, "__index__"):
        output_size = (output_size,) * axes
    if len(output_size) == axes:
        output_size = [n if want is None else want
                       for n, want in zip(x[2:], output_size, strict=True)]
    return per_axis(output_size, axes, "output_size", 1)


# -- the operations -------------------------------------------------------------------------


class _Saved(NamedTuple):
    """What backward of a pool needs."""

    shape: tuple[int, ...]
    dtype: np.dtype
    h: Any
    w: Any
    index: np.ndarray | None = None
    pooling: Pooling | None = None


def _max_forward(ctx: Context, x: np.ndarray | Narrow, sizes: tuple[int, ...],
                 windows: Iterable[_Windows], return_indices: bool):
    """Run max pooling; keep the taps where somebody will ask for them."""
    source = x.halves() if isinstance(x, Narrow) else image(x, ctx.threads)
    shape = (*x.shape[:2], *sizes)
    y, target = empty_image(shape, source.dtype)  # before the lists, which it may dwarf
    *first, w = windows
    h = first[0] if first else _NO_HEIGHT
    index = None
    if return_indices or any(ctx.needs):
        _, index = empty_image(shape, kernels.index_dtype(h.taps, w.taps))
    kernels.max_forward(source, target, index, h.axis, w.axis, w.taps, ctx.threads)
    if any(ctx.needs):
        ctx.saved = _Saved(x.shape, source.dtype, h, w, index)
    if source.dtype is HALF:
        return Halves(target, ctx.threads)
    return (y, _flat_indices(ctx, shape, index, h, w)) if return_indices else y


def _max_before(ctx: Context, x: Activated, g: _Geometry, windows: Iterable[_Windows]) -> Halves:
    """Run max pooling before the activation, which is then that of what was pooled."""
    h, w = windows
    source = x.to_pool()
    shape = source.shape[0], *g.outputs, source.shape[3]
    target = memory.empty(shape, source.dtype)
    index = memory.empty(shape, kernels.index_dtype(h.taps, w.taps)) if ctx.needs[0] else None
    kernels.max_forward(source, target, index, h.axis, w.axis, w.taps, ctx.threads)
    values = x.activate(target, target if source.dtype is HALF else memory.empty(shape, HALF))
    if ctx.needs[0]:
        ctx.saved = _Saved(x.shape, HALF, h, w, index,
                           Pooling(x.shape, h, w, index, values, x.held))
    return Halves(values, ctx.threads)


def _lower_max(b: Any, x: Any, sizes: tuple[int, ...], windows: Iterable[_Windows],
               return_indices: bool) -> Any:
    """Emit the steps of `_max_forward`."""
    x = b.last(x)
    shape, channels = (*x.shape[:2], *sizes), x.shape[1]
    y = b.new_last(shape, x.dtype)
    *first, w = windows
    h = first[0] if first else _NO_HEIGHT
    taken = np.dtype(kernels.index_dtype(h.taps, w.taps)) if return_indices else None
    index = None if taken is None else b.new_last(shape, taken)
    b.step(kernels.max_step(channels, x.dtype.itemsize, h.axis, w.axis, w.taps,
                            taken.itemsize if taken else 0), (x, y, index), x.samples)
    if taken is None:
        return y
    flat = b.new_last(shape, np.dtype(np.int64))
    b.step(kernels.flat_step(channels, taken.itemsize, h.axis, w.axis, *_corners(h, w)),
           (index, flat), x.samples)
    return y, flat


def _bytes_pool(h: _Windows, w: _Windows, x: Any) -> quant.Pool:
    """Return max pooling of bytes like those of x."""
    return quant.Pool(h.axis, w.axis, x.shape[1], x.dtype == np.int8)


def _max_of_bytes(ctx: Context, x: np.ndarray, sizes: tuple[int, ...],
                  windows: Iterable[_Windows], return_indices: bool) -> np.ndarray:
    """Run max pooling on quantised numbers."""
    if return_indices:
        raise DTypeError(f"expected x of floats where return_indices is set, got {x.dtype}")
    last = to_last(x, ctx.threads)
    y, target = empty_image((*x.shape[:2], *sizes), x.dtype)
    h, w = (_NO_HEIGHT, *windows)[-2:]
    _bytes_pool(h, w, x).run(last if x.ndim == 4 else last[:, None], target, ctx.threads)
    return y


def _flat_indices(ctx: Context, shape: tuple[int, ...], index: np.ndarray, h: _Windows,
                  w: _Windows) -> np.ndarray:
    """Return PyTorch's indices: int64 places in the flattened spatial axes of the input."""
    flat, target = empty_image(shape, np.int64)
    kernels.flat_indices(index, target, h.axis, w.axis, *_corners(h, w), ctx.threads)
    return flat


def _corners(h: _Windows, w: _Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places of windows' first rows and first columns, and of taps from there."""
    width = w.axis.sources
    offset = (np.arange(h.taps) * h.step * width)[:, None] + np.arange(w.taps) * w.step
    return h.start * width, w.start, offset.ravel()


def _max_backward(ctx: Context, g: np.ndarray | Narrow | None) -> tuple[np.ndarray | Narrow]:
    """Send each output's gradient to the input that it came from."""
    shape, dtype, h, w, index, pooling = ctx.saved
    if pooling is not None:
        return (Unpooled(gradient_last(g, True, ctx.threads), pooling, ctx.threads, ctx.owned),)
    if dtype is HALF:
        gy = gradient_last(g, True, ctx.threads)
        dtype = gy.dtype
    else:
        gy = image_gradient(plain(g), dtype, ctx.threads)
    gx, target = empty_image(shape, dtype)
    kernels.max_backward(gy, index, target, h.axis, w.axis, w.taps, ctx.threads)
    return (Halves(target, ctx.threads) if dtype is HALF else gx,)


def average_windows(x: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any,
                    ceil_mode: bool, count_include_pad: bool
                    ) -> tuple[tuple[int, ...], tuple[Axis, Axis]]:
    """Return the sizes of average pooling's result, and its windows along height and width."""
    g = _geometry(x, kernel_size, stride, padding, 1, ceil_mode)
    return g.outputs, (UNIT, *AvgPool._axes(x, g, count_include_pad, None))[-2:]


def _avg_forward(ctx: Context, x: np.ndarray, sizes: tuple[int, ...],
                 axes: Iterable[Axis]) -> np.ndarray:
    """Run average pooling as a weighted gather."""
    source = image(x, ctx.threads)
    y, target = empty_image((*x.shape[:2], *sizes), source.dtype)
    *first, w = axes
    h = first[0] if first else UNIT
    resample.gather(source, target, h, w, ctx.threads)
    if any(ctx.needs):
        ctx.saved = _Saved(x.shape, source.dtype, h, w)
    return y


def _lower_avg(b: Any, x: Any, sizes: tuple[int, ...], axes: Iterable[Axis]) -> Any:
    """Emit the step of `_avg_forward`."""
    x = b.last(x)
    y = b.new_last((*x.shape[:2], *sizes), x.dtype)
    *first, w = axes
    h = first[0] if first else UNIT
    b.step(resample.step(False, x.shape[1], x.dtype.itemsize, h, w), (x, y), x.samples)
    return y


def _avg_backward(ctx: Context, g: np.ndarray | None) -> tuple[np.ndarray | None]:
    """Share each output's gradient out to its inputs: the transposed gather."""
    shape, dtype, h, w, *_ = ctx.saved
    gx, target = empty_image(shape, dtype)
    resample.gather(image_gradient(g, dtype, ctx.threads), target, h.transposed(), w.transposed(),
                    ctx.threads)
    return (gx,)


@register
class MaxPool(Op):
    """The largest value of each window, as `torch.nn.functional.max_pool2d`; of bytes, too.

    Attributes: kernel_size, stride (default: kernel_size), padding, dilation, one value per
    spatial axis; ceil_mode; return_indices. Padding counts as minus infinity and is at most half
    of what a window spans, dilated as it is (ONNX has such; `F.max_pool2d` takes half of
    kernel_size, as PyTorch does). NaN is larger than everything. With return_indices a second
    output holds each value's place in the flattened spatial axes of the input (int64; -1 for a
    window that meets padding alone).
    """

    name = "max_pool"
    onnx = "MaxPool"
    takes_deferred = True
    takes_masked = True

    @staticmethod
    def shape(x, *, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
              return_indices=False):
        """Return (N, C, windows...)."""
        return (*x[:2], *_geometry(x, kernel_size, stride, padding, dilation, ceil_mode).outputs)

    @staticmethod
    def forward(ctx: Context, x, *, kernel_size, stride=None, padding=0, dilation=1,
                ceil_mode=False, return_indices=False):
        """Pool (N, C, L) or (N, C, H, W)."""
        if not (isinstance(x, Narrow) and x.narrow and len(x.shape) == 4
                and dispatch.has_bfloat16() and not return_indices):
            x = plain(x)
        g = _geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
        windows = MaxPool._windows(x.shape, g)
        if x.dtype in _BYTES:
            return _max_of_bytes(ctx, x, g.outputs, windows, return_indices)
        if x.__class__ is Activated and max(g.dilation) == 1:   # no window is all padding
            return _max_before(ctx, x, g, windows)
        return _max_forward(ctx, x, g.outputs, windows, return_indices)

    @staticmethod
    def _windows(x, g: _Geometry) -> Iterable[_Windows]:
        return (_max_windows(*a) for a in zip(
            x[2:], g.outputs, g.kernel, g.stride, g.padding, g.dilation, strict=True))

    @staticmethod
    def lower(b, x, *, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
              return_indices=False):
        """Emit the kernel's step."""
        shape = (1, *x.shape[1:])
        g = _geometry(shape, kernel_size, stride, padding, dilation, ceil_mode)
        if x.dtype in _BYTES and not return_indices:
            h, w = (_NO_HEIGHT, *MaxPool._windows(shape, g))[-2:]
            x, y = b.last(x), b.new_last((*x.shape[:2], *g.outputs), x.dtype)
            b.step(_bytes_pool(h, w, x).step(), (x, y), x.samples)
            return y
        if x.dtype not in FLOATS and x.dtype != BFLOAT16:
            return None
        return _lower_max(b, x, g.outputs, MaxPool._windows(shape, g), return_indices)

    @staticmethod
    def reads_halves(ctx: Context, gy: Any) -> bool:
        """Tell whether the values came as bfloat16."""
        return ctx.saved.dtype is HALF

    backward = staticmethod(_max_backward)


@register
class AdaptiveMaxPool(Op):
    """The largest value of windows that divide the input into `output_size` parts."""

    name = "adaptive_max_pool"

    @staticmethod
    def shape(x, *, output_size, return_indices=False):
        """Return (N, C, output_size...)."""
        return (*x[:2], *_adaptive_size(x, output_size))

    @staticmethod
    def forward(ctx: Context, x, *, output_size, return_indices=False):
        """Pool (N, C, L) or (N, C, H, W)."""
        sizes = _adaptive_size(x.shape, output_size)
        windows = (_adaptive_windows(*a) for a in zip(x.shape[2:], sizes, strict=True))
        return _max_forward(ctx, x, sizes, windows, return_indices)

    @staticmethod
    def lower(b, x, *, output_size, return_indices=False):
        """Emit the kernel's step."""
        if x.dtype not in FLOATS:
            return None
        sizes = _adaptive_size((1, *x.shape[1:]), output_size)
        return _lower_max(b, x, sizes, (
            _adaptive_windows(*a) for a in zip(x.shape[2:], sizes, strict=True)), return_indices)

    backward = staticmethod(_max_backward)


@register
class AvgPool(Op):
    """The mean of each window, as `torch.nn.functional.avg_pool2d`.

    Attributes: kernel_size, stride (default: kernel_size), padding, one value per spatial
    axis; ceil_mode; count_include_pad (whether zeros in the padding count); divisor_override
    (what the sum is divided by instead of the count).
    """

    name = "avg_pool"
    onnx = "AveragePool"

    @staticmethod
    def shape(x, *, kernel_size, stride=None, padding=0, ceil_mode=False,
              count_include_pad=True, divisor_override=None):
        """Return (N, C, windows...)."""
        return (*x[:2], *_geometry(x, kernel_size, stride, padding, 1, ceil_mode).outputs)

    @staticmethod
    def forward(ctx: Context, x, *, kernel_size, stride=None, padding=0, ceil_mode=False,
                count_include_pad=True, divisor_override=None):
        """Pool (N, C, L) or (N, C, H, W)."""
        g = _geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
        return _avg_forward(ctx, x, g.outputs,
                            AvgPool._axes(x.shape, g, count_include_pad, divisor_override))

    @staticmethod
    def _axes(x, g: _Geometry, count_include_pad, divisor_override) -> Iterable[Axis]:
        if divisor_override == 0:
            raise ShapeError("expected a divisor_override other than zero, got 0")
        # the override divides along one axis, the other ones only sum
        divisors = [None] * len(g.kernel) if divisor_override is None \
            else [divisor_override, 1][:len(g.kernel)]
        return (_avg_axis(size, *a, bool(count_include_pad), divisor) for size, *a, divisor in zip(
            x[2:], g.outputs, g.kernel, g.stride, g.padding, divisors, strict=True))

    @staticmethod
    def lower(b, x, *, kernel_size, stride=None, padding=0, ceil_mode=False,
              count_include_pad=True, divisor_override=None):
        """Emit the kernel's step."""
        if x.dtype not in FLOATS:
            return None
        shape = (1, *x.shape[1:])
        g = _geometry(shape, kernel_size, stride, padding, 1, ceil_mode)
        return _lower_avg(b, x, g.outputs,
                          AvgPool._axes(shape, g, count_include_pad, divisor_override))

    backward = staticmethod(_avg_backward)


@register
class AdaptiveAvgPool(Op):
    """The mean of windows that divide the input into `output_size` parts."""

    name = "adaptive_avg_pool"

    @staticmethod
    def shape(x, *, output_size):
        """Return (N, C, output_size...)."""
        return (*x[:2], *_adaptive_size(x, output_size))

    @staticmethod
    def forward(ctx: Context, x, *, output_size):
        """Pool (N, C, L) or (N, C, H, W)."""
        sizes = _adaptive_size(x.shape, output_size)
        axes = (_adaptive_windows(*a).axis for a in zip(x.shape[2:], sizes, strict=True))
        return _avg_forward(ctx, x, sizes, axes)

    @staticmethod
    def lower(b, x, *, output_size):
        """Emit the kernel's step."""
        if x.dtype not in FLOATS:
            return None
        sizes = _adaptive_size((1, *x.shape[1:]), output_size)
        return _lower_avg(b, x, sizes, (
            _adaptive_windows(*a).axis for a in zip(x.shape[2:], sizes, strict=True)))

    backward = staticmethod(_avg_backward)
