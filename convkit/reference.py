"""What every operation and its gradient means: plain, slow, obvious float64 NumPy.

For each operation ``name`` there is ``name(*inputs, **attributes)``, which returns the output
(or the tuple of outputs), and ``name_grad(gy, *inputs, **attributes)``, which returns the tuple
of gradients of ``sum(gy * output)`` (of the first output) by the inputs: None for an input that
is missing or has no gradient. Inputs and attributes are those of ``docs/architecture.md``.
Arrays of any format come in, float64 goes out. Nothing here is fast, and nothing here looks at
how the fast code works; tests hold the one against the other.

Sizes per spatial axis may be given as one number for all; padding as one number, one number
per axis, or a (before, after) pair per axis. Where not said otherwise, the meaning is the one
that PyTorch documents for the operation of the same name
(https://docs.pytorch.org/docs/stable/nn.functional.html).
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Sizes = int | Sequence[int]
Pads = int | Sequence[int] | Sequence[tuple[int, int]]

_slice = builtins.slice
_sum = builtins.sum


def _wide(*arrays: Any) -> list[Any]:
    """Return the arrays in float64; None stays None."""
    return [None if a is None else np.asarray(a, np.float64) for a in arrays]


def _per_axis(value: Any, n: int) -> tuple:
    """Return one entry per axis."""
    return (value,) * n if np.ndim(value) == 0 else tuple(value)


def _pairs(padding: Pads, n: int) -> tuple[tuple[int, int], ...]:
    """Return (before, after) per axis."""
    return tuple((p, p) if np.ndim(p) == 0 else tuple(p) for p in _per_axis(padding, n))


def _spatial_axes(x: Array) -> tuple[int, ...]:
    """Return the axes after samples and channels."""
    return tuple(range(2, x.ndim))


# -- padding --------------------------------------------------------------------------------


def _pad_source(n: int, before: int, after: int, mode: str) -> Array:
    """Return, for each element of a padded axis, the element it copies; -1 for the pad value."""
    i = np.arange(-before, n + after)
    if mode in ("zeros", "constant"):
        return np.where((i >= 0) & (i < n), i, -1)
    if mode == "replicate":
        return np.clip(i, 0, n - 1)
    if mode == "circular":
        return i % n
    if mode == "reflect":
        period = max(2 * (n - 1), 1)
        i = i % period
        return np.where(i < n, i, period - i)
    raise ValueError(f"unknown padding mode {mode!r}")


def pad(x: Array, *, padding: Sequence[tuple[int, int]], mode: str = "constant",
        value: float = 0.0) -> Array:
    """Extend each axis by (before, after) elements; negative numbers cut some off."""
    (x,) = _wide(x)
    for axis, (before, after) in enumerate(padding):
        source = _pad_source(x.shape[axis], before, after, mode)
        outside = source < 0
        if x.shape[axis] == 0:
            shape = (*x.shape[:axis], len(source), *x.shape[axis + 1:])
            x = np.full(shape, float(value))
            continue
        x = np.take(x, np.where(outside, 0, source), axis=axis)
        x[(_slice(None),) * axis + (outside,)] = value
    return x


def pad_grad(gy: Array, x: Array, *, padding: Sequence[tuple[int, int]], mode: str = "constant",
             value: float = 0.0) -> tuple[Array]:
    """Give each element the sum of the gradients of its copies."""
    (gy,) = _wide(gy)
    for axis, (before, after) in enumerate(padding):
        n = np.shape(x)[axis]
        source = _pad_source(n, before, after, mode)
        inside = np.flatnonzero(source >= 0)
        gx = np.zeros((*gy.shape[:axis], n, *gy.shape[axis + 1:]))
        np.add.at(gx, (_slice(None),) * axis + (source[inside],), np.take(gy, inside, axis=axis))
        gy = gx
    return (gy,)


# -- convolution ----------------------------------------------------------------------------


def _conv_steps(kernel: Sequence[int], out: Sequence[int], stride: Sequence[int],
                dilation: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple]]:
    """Yield each kernel position and the slices of the padded input that it meets."""
    for at in np.ndindex(*kernel):
        yield at, (..., *(
            _slice(i * d, i * d + s * (n - 1) + 1, s) if n else _slice(0, 0)
            for i, n, s, d in zip(at, out, stride, dilation, strict=True)))


def _grouped(a: Array, groups: int) -> Array:
    """Return (N, C, spatial...) as (N, group, C / groups, pixels)."""
    n, c = a.shape[:2]
    return a.reshape(n, groups, c // groups, math.prod(a.shape[2:]))


def _grouped_weight(weight: Array, groups: int, at: tuple[int, ...]) -> Array:
    """Return a weight's matrices at one kernel position as (group, rows / groups, columns)."""
    w = weight[(_slice(None), _slice(None), *at)]
    return w.reshape(groups, w.shape[0] // groups, w.shape[1])


def _conv_setup(x: Array, weight: Array, stride: Sizes, padding: Pads, dilation: Sizes):
    """Return stride and dilation per axis, padding per axis of `x` and the output's size."""
    n = x.ndim - 2
    stride, dilation, pairs = _per_axis(stride, n), _per_axis(dilation, n), _pairs(padding, n)
    out = tuple((size + _sum(p) - d * (k - 1) - 1) // s + 1 for size, p, k, s, d in zip(
        x.shape[2:], pairs, weight.shape[2:], stride, dilation, strict=True))
    return stride, dilation, ((0, 0), (0, 0), *pairs), out


def _fused(activation: str | None, args: Sequence[float]) -> tuple[Callable, Callable]:
    """Return the function fused behind a convolution or linear layer, and its gradient."""
    if activation is None:
        return (lambda z: z), (lambda gy, z: (gy,))
    if activation == "leaky_relu":
        slope = {"negative_slope": args[0]} if len(args) else {}
        return (lambda z: leaky_relu(z, **slope)), (lambda gy, z: leaky_relu_grad(gy, z, **slope))
    if activation == "clamp":
        ends = dict(zip(("min", "max"), args, strict=False))
        return (lambda z: clamp(z, **ends)), (lambda gy, z: clamp_grad(gy, z, **ends))
    return {"relu": (relu, relu_grad), "relu6": (relu6, relu6_grad)}[activation]


def _conv_before_activation(x, weight, bias, residual, stride, padding, dilation, groups, mode):
    """Return the convolution with bias and residual added."""
    stride, dilation, pairs, out = _conv_setup(x, weight, stride, padding, dilation)
    xp = pad(x, padding=pairs, mode=mode)
    y = np.zeros((len(x), groups, weight.shape[0] // groups, math.prod(out)))
    for at, window in _conv_steps(weight.shape[2:], out, stride, dilation):
        y += np.einsum("ngcp,goc->ngop", _grouped(xp[window], groups),
                       _grouped_weight(weight, groups, at))
    y = y.reshape(len(x), weight.shape[0], *out)
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * len(out))
    return y if residual is None else y + residual


def conv(x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None, *,
         stride: Sizes = 1, padding: Pads = 0, dilation: Sizes = 1, groups: int = 1,
         padding_mode: str = "zeros", algorithm: str = "auto", activation: str | None = None,
         activation_args: Sequence[float] = ()) -> Array:
    """Cross-correlate x (N, C, spatial...) with weight (O, C / groups, kernel...).

    ``y = activation(conv(x) + bias + residual)``. `algorithm` changes nothing here;
    `activation_args` holds the slope of "leaky_relu".
    """
    x, weight, bias, residual = _wide(x, weight, bias, residual)
    function, _ = _fused(activation, activation_args)
    return function(_conv_before_activation(
        x, weight, bias, residual, stride, padding, dilation, groups, padding_mode))


def conv_grad(gy: Array, x: Array, weight: Array, bias: Array | None = None,
              residual: Array | None = None, *, stride: Sizes = 1, padding: Pads = 0,
              dilation: Sizes = 1, groups: int = 1, padding_mode: str = "zeros",
              algorithm: str = "auto", activation: str | None = None,
              activation_args: Sequence[float] = ()) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight, bias and residual."""
    gy, x, weight, bias, residual = _wide(gy, x, weight, bias, residual)
    if activation is not None:
        z = _conv_before_activation(
            x, weight, bias, residual, stride, padding, dilation, groups, padding_mode)
        (gy,) = _fused(activation, activation_args)[1](gy, z)
    stride, dilation, pairs, out = _conv_setup(x, weight, stride, padding, dilation)
    xp = pad(x, padding=pairs, mode=padding_mode)
    gxp, gw = np.zeros_like(xp), np.zeros_like(weight)
    gyg = _grouped(gy, groups)
    for at, window in _conv_steps(weight.shape[2:], out, stride, dilation):
        patch = xp[window]
        gxp[window] += np.einsum(
            "ngop,goc->ngcp", gyg, _grouped_weight(weight, groups, at)).reshape(patch.shape)
        gw[(_slice(None), _slice(None), *at)] = np.einsum(
            "ngop,ngcp->goc", gyg, _grouped(patch, groups)).reshape(weight.shape[:2])
    (gx,) = pad_grad(gxp, x, padding=pairs, mode=padding_mode)
    return (gx, gw, None if bias is None else gy.sum(axis=(0, *_spatial_axes(gy))),
            None if residual is None else gy)


def _transpose_setup(x, weight, stride, padding, output_padding, dilation):
    """Return stride, dilation, padding per axis and the uncropped output's size."""
    n = x.ndim - 2
    stride, dilation = _per_axis(stride, n), _per_axis(dilation, n)
    full = tuple((size - 1) * s + d * (k - 1) + 1 + extra for size, k, s, d, extra in zip(
        x.shape[2:], weight.shape[2:], stride, dilation, _per_axis(output_padding, n),
        strict=True))
    return stride, dilation, _pairs(padding, n), full


def conv_transpose(x: Array, weight: Array, bias: Array | None = None, *, stride: Sizes = 1,
                   padding: Pads = 0, output_padding: Sizes = 0, groups: int = 1,
                   dilation: Sizes = 1) -> Array:
    """Apply the transpose of a convolution of weight (C, O / groups, kernel...) to x.

    Each input element adds its multiple of the kernel to the output, `stride` apart; then
    `padding` elements are cut off each end, less `output_padding` at the far end.
    """
    x, weight, bias = _wide(x, weight, bias)
    stride, dilation, pairs, full = _transpose_setup(
        x, weight, stride, padding, output_padding, dilation)
    n_out = weight.shape[1] * groups
    y = np.zeros((len(x), n_out, *full))
    for at, window in _conv_steps(weight.shape[2:], x.shape[2:], stride, dilation):
        y[window] += np.einsum("ngcp,gco->ngop", _grouped(x, groups), _grouped_weight(
            weight, groups, at)).reshape(len(x), n_out, *x.shape[2:])
    y = pad(y, padding=((0, 0), (0, 0), *((-before, -after) for before, after in pairs)))
    return y if bias is None else y + bias.reshape(-1, *(1,) * len(full))


def conv_transpose_grad(gy: Array, x: Array, weight: Array, bias: Array | None = None, *,
                        stride: Sizes = 1, padding: Pads = 0, output_padding: Sizes = 0,
                        groups: int = 1, dilation: Sizes = 1) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight and bias."""
    gy, x, weight, bias = _wide(gy, x, weight, bias)
    stride, dilation, pairs, _ = _transpose_setup(
        x, weight, stride, padding, output_padding, dilation)
    gfull = pad(gy, padding=((0, 0), (0, 0), *pairs))
    gx, gw = np.zeros_like(x), np.zeros_like(weight)
    for at, window in _conv_steps(weight.shape[2:], x.shape[2:], stride, dilation):
        part = _grouped(gfull[window], groups)
        gx += np.einsum("ngop,gco->ngcp", part, _grouped_weight(
            weight, groups, at)).reshape(x.shape)
        gw[(_slice(None), _slice(None), *at)] = np.einsum(
            "ngcp,ngop->gco", _grouped(x, groups), part).reshape(weight.shape[:2])
    return gx, gw, None if bias is None else gy.sum(axis=(0, *_spatial_axes(gy)))


# -- linear and matmul ----------------------------------------------------------------------


def _linear_before_activation(x, weight, bias, residual):
    """Return ``x weight^T + bias + residual``."""
    y = x @ weight.T
    y = y if bias is None else y + bias
    return y if residual is None else y + residual


def linear(x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None, *,
           activation: str | None = None, activation_args: Sequence[float] = ()) -> Array:
    """Return ``activation(x weight^T + bias + residual)``; x (..., I), weight (O, I)."""
    function, _ = _fused(activation, activation_args)
    return function(_linear_before_activation(*_wide(x, weight, bias, residual)))


def linear_grad(gy: Array, x: Array, weight: Array, bias: Array | None = None,
                residual: Array | None = None, *, activation: str | None = None,
                activation_args: Sequence[float] = ()) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight, bias and residual."""
    gy, x, weight, bias, residual = _wide(gy, x, weight, bias, residual)
    z = _linear_before_activation(x, weight, bias, residual)
    (gy,) = _fused(activation, activation_args)[1](gy, z)
    rows = gy.reshape(math.prod(gy.shape[:-1]), gy.shape[-1])
    gw = rows.T @ x.reshape(len(rows), x.shape[-1])
    return (gy @ weight, gw, None if bias is None else rows.sum(axis=0),
            None if residual is None else gy)


def matmul(a: Array, b: Array) -> Array:
    """Multiply (batches of) matrices; 1-D arrays count as a row on the left, a column right."""
    a, b = _wide(a, b)
    return a @ b


def matmul_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``gy b^T`` and ``a^T gy``, summed over broadcast batches."""
    gy, a, b = _wide(gy, a, b)
    a2 = a[np.newaxis, :] if a.ndim == 1 else a
    b2 = b[:, np.newaxis] if b.ndim == 1 else b
    gy = np.expand_dims(gy, -1) if b.ndim == 1 else gy
    gy = np.expand_dims(gy, -2) if a.ndim == 1 else gy
    ga = _sum_to(gy @ np.swapaxes(b2, -1, -2), a2.shape)
    gb = _sum_to(np.swapaxes(a2, -1, -2) @ gy, b2.shape)
    return ga.reshape(a.shape), gb.reshape(b.shape)


# -- pooling --------------------------------------------------------------------------------


def _pool_size(n: int, k: int, s: int, pads: tuple[int, int], d: int, ceil_mode: bool) -> int:
    """Return a pooled axis' size; with `ceil_mode` no window may start in the far padding."""
    span = n + _sum(pads) - d * (k - 1) - 1
    out = (span + (s - 1 if ceil_mode else 0)) // s + 1
    if ceil_mode and (out - 1) * s >= n + pads[0]:
        out -= 1
    return out


def _pool_setup(x, kernel_size, stride, padding, dilation, ceil_mode):
    """Return kernel, stride, padding, dilation and output size per axis."""
    n = x.ndim - 2
    kernel, dilation, pairs = _per_axis(kernel_size, n), _per_axis(dilation, n), _pairs(padding, n)
    stride = kernel if stride is None else _per_axis(stride, n)
    out = tuple(_pool_size(*args, ceil_mode) for args in zip(
        x.shape[2:], kernel, stride, pairs, dilation, strict=True))
    return kernel, stride, pairs, dilation, out


def _max_of(x: Array, windows: Iterator[list[Array]], out: tuple[int, ...]):
    """Return the largest of the elements that each window meets, and its flat place.

    `windows` yields per axis the coordinate that each output position looks at, in reading
    order; coordinates outside of the input are passed over. The first of equal elements
    wins; NaN beats every number, and a later NaN an earlier one, as in PyTorch.
    """
    best = np.full((*x.shape[:2], *out), -np.inf)
    place = np.full(best.shape, -1, np.int64)
    sizes = x.shape[2:]
    for coordinates in windows:
        inside = np.ones(out, bool)
        for axis, (c, size) in enumerate(zip(coordinates, sizes, strict=True)):
            ok = (c >= 0) & (c < size)
            inside &= ok.reshape(-1, *(1,) * (len(out) - 1 - axis))
        grid = np.ix_(*(np.clip(c, 0, size - 1) for c, size in zip(
            coordinates, sizes, strict=True)))
        value = x[(_slice(None), _slice(None), *grid)]
        flat = np.ravel_multi_index(np.broadcast_arrays(*grid), sizes)
        better = inside & ((value > best) | np.isnan(value) | (place < 0))
        best = np.where(better, value, best)
        place = np.where(better, flat, place)
    return best, place


def _scatter(gy: Array, place: Array, shape: tuple[int, ...]) -> Array:
    """Add each gradient at its flat place over the spatial axes; -1 is nowhere."""
    n, c = shape[:2]
    gx = np.zeros((n, c, math.prod(shape[2:])))
    sample, channel, *_ = np.indices(gy.shape, sparse=True)
    sample, channel = (np.broadcast_to(i, gy.shape) for i in (sample, channel))
    there = place >= 0
    np.add.at(gx, (sample[there], channel[there], place[there]), gy[there])
    return gx.reshape(shape)


def max_pool(x: Array, *, kernel_size: Sizes, stride: Sizes | None = None, padding: Pads = 0,
             dilation: Sizes = 1, ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """Return the largest element of each window, and its place, flat over the spatial axes.

    The places come as a second array where `return_indices` asks for them.
    """
    (x,) = _wide(x)
    kernel, stride, pairs, dilation, out = _pool_setup(
        x, kernel_size, stride, padding, dilation, ceil_mode)
    windows = ([np.arange(n) * s - p[0] + i * d for n, s, p, i, d in zip(
        out, stride, pairs, at, dilation, strict=True)] for at in np.ndindex(*kernel))
    y, place = _max_of(x, windows, out)
    return (y, place) if return_indices else y


def max_pool_grad(gy: Array, x: Array, *, kernel_size: Sizes, stride: Sizes | None = None,
                  padding: Pads = 0, dilation: Sizes = 1, ceil_mode: bool = False,
                  return_indices: bool = False) -> tuple[Array]:
    """Send each gradient to the element that was chosen."""
    (gy,) = _wide(gy)
    _, place = max_pool(x, kernel_size=kernel_size, stride=stride, padding=padding,
                        dilation=dilation, ceil_mode=ceil_mode, return_indices=True)
    return (_scatter(gy, place, np.shape(x)),)


def max_unpool(x: Array, indices: Array, *, output_size: Sequence[int]) -> Array:
    """Put each number at its flat place over the spatial axes; zeros elsewhere."""
    (x,) = _wide(x)
    y = np.zeros((*x.shape[:2], math.prod(output_size)))
    for at in np.ndindex(*x.shape):
        y[at[0], at[1], indices[at]] = x[at]
    return y.reshape(*x.shape[:2], *output_size)


def max_unpool_grad(gy: Array, x: Array, indices: Array, *,
                    output_size: Sequence[int]) -> tuple[Array, None]:
    """Return for each number the gradient at its place."""
    (gy,) = _wide(gy)
    flat = gy.reshape(*gy.shape[:2], math.prod(output_size))
    places = indices.reshape(*indices.shape[:2], math.prod(indices.shape[2:]))
    return np.take_along_axis(flat, places, 2).reshape(np.shape(x)), None


def _averages(shape: tuple[int, ...], bounds: Sequence[list[tuple[int, int]]],
              divisors: Array) -> tuple[Array, ...]:
    """Yield each output position, the slices of its window and its divisor."""
    for at in np.ndindex(*shape):
        window = tuple(_slice(*b[i]) for b, i in zip(bounds, at, strict=True))
        yield at, (_slice(None), _slice(None), *window), divisors[at]


def _avg_pool_windows(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    """Return the output's size and an iterator over average windows."""
    kernel, stride, pairs, _, out = _pool_setup(x, kernel_size, stride, padding, 1, ceil_mode)
    bounds, lengths = [], []
    for n, k, s, (before, after), count in zip(
            x.shape[2:], kernel, stride, pairs, out, strict=True):
        starts = np.arange(count) * s - before
        ends = np.minimum(starts + k, n + after)
        first, last = np.clip(starts, 0, n), np.clip(ends, 0, n)
        bounds.append(list(zip(first.tolist(), last.tolist(), strict=True)))
        lengths.append(ends - starts if count_include_pad else last - first)
    divisors = np.ones(())
    for length in lengths:
        divisors = np.multiply.outer(divisors, length)
    if divisor is not None:
        divisors = np.full(out, float(divisor))
    return out, _averages(out, bounds, divisors)


def _average(x, out, windows):
    """Return the sum over each window divided by its divisor."""
    y = np.zeros((*x.shape[:2], *out))
    for at, window, divisor in windows:
        y[(..., *at)] = x[window].sum(axis=_spatial_axes(x)) / divisor
    return y


def _average_grad(gy, x, windows):
    """Spread each gradient evenly over its window."""
    gx = np.zeros(x.shape)
    for at, window, divisor in windows:
        gx[window] += (gy[(..., *at)] / divisor).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    return (gx,)


def avg_pool(x: Array, *, kernel_size: Sizes, stride: Sizes | None = None, padding: Pads = 0,
             ceil_mode: bool = False, count_include_pad: bool = True,
             divisor_override: int | None = None) -> Array:
    """Return the sum of each window over its size, with or without the padding counted."""
    (x,) = _wide(x)
    return _average(x, *_avg_pool_windows(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override))


def avg_pool_grad(gy: Array, x: Array, *, kernel_size: Sizes, stride: Sizes | None = None,
                  padding: Pads = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                  divisor_override: int | None = None) -> tuple[Array]:
    """Spread each gradient evenly over its window."""
    gy, x = _wide(gy, x)
    return _average_grad(gy, x, _avg_pool_windows(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)[1])


def _adaptive_bounds(x: Array, output_size: Any) -> tuple[tuple[int, ...], list[list]]:
    """Return the output's size and per axis the windows [floor(i n / m), ceil((i + 1) n / m))."""
    sizes = _per_axis(output_size, x.ndim - 2)
    out = tuple(n if m is None else m for n, m in zip(x.shape[2:], sizes, strict=True))
    return out, [[(i * n // m, -((i + 1) * n // -m)) for i in range(m)]
                 for n, m in zip(x.shape[2:], out, strict=True)]


def _adaptive_avg_windows(x, output_size):
    """Return the output's size and an iterator over average windows."""
    out, bounds = _adaptive_bounds(x, output_size)
    divisors = np.ones(())
    for axis in bounds:
        divisors = np.multiply.outer(divisors, [last - first for first, last in axis])
    return out, _averages(out, bounds, divisors)


def adaptive_avg_pool(x: Array, *, output_size: Any) -> Array:
    """Average over windows that cut each axis into `output_size` parts."""
    (x,) = _wide(x)
    return _average(x, *_adaptive_avg_windows(x, output_size))


def adaptive_avg_pool_grad(gy: Array, x: Array, *, output_size: Any) -> tuple[Array]:
    """Spread each gradient evenly over its window."""
    gy, x = _wide(gy, x)
    return _average_grad(gy, x, _adaptive_avg_windows(x, output_size)[1])


def adaptive_max_pool(x: Array, *, output_size: Any, return_indices: bool = False) -> Any:
    """Return the largest element of each of `output_size` parts, and if asked its flat place."""
    (x,) = _wide(x)
    out, bounds = _adaptive_bounds(x, output_size)
    longest = [max((last - first for first, last in axis), default=0) for axis in bounds]
    windows = ([np.array([first + i if first + i < last else -1 for first, last in axis], int)
                for axis, i in zip(bounds, at, strict=True)] for at in np.ndindex(*longest))
    y, place = _max_of(x, windows, out)
    return (y, place) if return_indices else y


def adaptive_max_pool_grad(gy: Array, x: Array, *, output_size: Any,
                           return_indices: bool = False) -> tuple[Array]:
    """Send each gradient to the element that was chosen."""
    (gy,) = _wide(gy)
    _, place = adaptive_max_pool(x, output_size=output_size, return_indices=True)
    return (_scatter(gy, place, np.shape(x)),)


# -- batch normalisation --------------------------------------------------------------------


def _by_channel(a: Array, ndim: int) -> Array:
    """Return (C,) in a shape that broadcasts over (N, C, spatial...)."""
    return a.reshape(-1, *(1,) * (ndim - 2))


def _affine(xhat: Array, weight: Array | None, bias: Array | None) -> Array:
    """Return ``xhat * weight + bias`` by channel."""
    y = xhat if weight is None else xhat * _by_channel(weight, xhat.ndim)
    return y if bias is None else y + _by_channel(bias, xhat.ndim)


def _affine_grads(gy: Array, xhat: Array, weight: Array | None, bias: Array | None):
    """Return the gradients by xhat, weight and bias."""
    axes = (0, *_spatial_axes(xhat))
    return (gy if weight is None else gy * _by_channel(weight, gy.ndim),
            None if weight is None else (gy * xhat).sum(axis=axes),
            None if bias is None else gy.sum(axis=axes))


def batch_norm(x: Array, weight: Array | None, bias: Array | None, running_mean: Array,
               running_var: Array, *, eps: float = 1e-5) -> Array:
    """Normalise each channel by given statistics (Ioffe and Szegedy, 2015, inference)."""
    x, weight, bias, mean, var = _wide(x, weight, bias, running_mean, running_var)
    xhat = (x - _by_channel(mean, x.ndim)) / np.sqrt(_by_channel(var, x.ndim) + eps)
    return _affine(xhat, weight, bias)


def batch_norm_grad(gy: Array, x: Array, weight: Array | None, bias: Array | None,
                    running_mean: Array, running_var: Array, *,
                    eps: float = 1e-5) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight and bias; the statistics are constants."""
    gy, x, weight, bias, mean, var = _wide(gy, x, weight, bias, running_mean, running_var)
    std = np.sqrt(_by_channel(var, x.ndim) + eps)
    gxhat, gw, gb = _affine_grads(gy, (x - _by_channel(mean, x.ndim)) / std, weight, bias)
    return gxhat / std, gw, gb, None, None


def batch_norm_train(x: Array, weight: Array | None = None, bias: Array | None = None, *,
                     eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """Normalise each channel by its own mean and biased variance; return those too."""
    x, weight, bias = _wide(x, weight, bias)
    axes = (0, *_spatial_axes(x))
    mean = x.mean(axis=axes)
    var = ((x - _by_channel(mean, x.ndim)) ** 2).mean(axis=axes)
    return batch_norm(x, weight, bias, mean, var, eps=eps), mean, var


def batch_norm_train_grad(gy: Array, x: Array, weight: Array | None = None,
                          bias: Array | None = None, *,
                          eps: float = 1e-5) -> tuple[Array | None, ...]:
    """Return the gradients by x (through mean and variance too), weight and bias.

    The three terms of the paper's section 3 together: the gradient by the normalised x less
    its mean and less its projection on the normalised x, over the standard deviation.
    """
    gy, x, weight, bias = _wide(gy, x, weight, bias)
    _, mean, var = batch_norm_train(x, eps=eps)
    std = np.sqrt(_by_channel(var, x.ndim) + eps)
    xhat = (x - _by_channel(mean, x.ndim)) / std
    gxhat, gw, gb = _affine_grads(gy, xhat, weight, bias)
    axes = (0, *_spatial_axes(x))
    gx = (gxhat - gxhat.mean(axis=axes, keepdims=True)
          - xhat * (gxhat * xhat).mean(axis=axes, keepdims=True)) / std
    return gx, gw, gb


def affine(x: Array, scale: Array, shift: Array, *, activation: str | None = None,
           activation_args: Sequence[float] = ()) -> Array:
    """Return ``activation(x * scale + shift)``, with one scale and shift per channel."""
    function, _ = _fused(activation, activation_args)
    return function(_affine(*_wide(x, scale, shift)))


def affine_grad(gy: Array, x: Array, scale: Array, shift: Array, *,
                activation: str | None = None,
                activation_args: Sequence[float] = ()) -> tuple[Array | None, ...]:
    """Return the gradients by x, scale and shift."""
    gy, x, scale, shift = _wide(gy, x, scale, shift)
    (gz,) = _fused(activation, activation_args)[1](gy, _affine(x, scale, shift))
    return _affine_grads(gz, x, scale, shift)


def image(x: Array, scale: Array, shift: Array, *, layout: str = "NHWC") -> Array:
    """Return ``x * scale + shift`` per channel, (N, C, H, W), for images of bytes."""
    x, scale, shift = _wide(x, scale, shift)
    x = x.transpose(0, 3, 1, 2) if layout == "NHWC" else x
    return x * scale[:, None, None] + shift[:, None, None]


# -- normalisation of each sample by itself ---------------------------------------------------


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    """Return x less its mean over axes, over its deviation, and that deviation."""
    d = x - x.mean(axis=axes, keepdims=True)
    std = np.sqrt((d**2).mean(axis=axes, keepdims=True) + eps)
    return d / std, std


def _normalised_grad(g: Array, xhat: Array, std: Array, axes: tuple[int, ...]) -> Array:
    """Return the gradient by x: g less its mean and its projection on the normalised x."""
    return (g - g.mean(axis=axes, keepdims=True)
            - xhat * (g * xhat).mean(axis=axes, keepdims=True)) / std


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *,
               normalized_shape: Sequence[int], eps: float = 1e-5) -> Array:
    """Normalise over the last axes; weight and bias have their shape (Ba et al., 2016)."""
    x, weight, bias = _wide(x, weight, bias)
    xhat, _ = _normalised(x, tuple(range(-len(normalized_shape), 0)), eps)
    y = xhat if weight is None else xhat * weight
    return y if bias is None else y + bias


def layer_norm_grad(gy: Array, x: Array, weight: Array | None = None, bias: Array | None = None,
                    *, normalized_shape: Sequence[int],
                    eps: float = 1e-5) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight and bias."""
    gy, x, weight, bias = _wide(gy, x, weight, bias)
    inner = tuple(range(-len(normalized_shape), 0))
    outer = tuple(range(x.ndim - len(normalized_shape)))
    xhat, std = _normalised(x, inner, eps)
    gx = _normalised_grad(gy if weight is None else gy * weight, xhat, std, inner)
    return (gx, None if weight is None else (gy * xhat).sum(axis=outer),
            None if bias is None else gy.sum(axis=outer))


def group_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *,
               num_groups: int, eps: float = 1e-5) -> Array:
    """Normalise each group of channels of each sample (Wu and He, 2018)."""
    x, weight, bias = _wide(x, weight, bias)
    xhat, _ = _normalised(_grouped(x, num_groups), (2, 3), eps)
    return _affine(xhat.reshape(x.shape), weight, bias)


def group_norm_grad(gy: Array, x: Array, weight: Array | None = None, bias: Array | None = None,
                    *, num_groups: int, eps: float = 1e-5) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight and bias."""
    gy, x, weight, bias = _wide(gy, x, weight, bias)
    xhat, std = _normalised(_grouped(x, num_groups), (2, 3), eps)
    gxhat, gw, gb = _affine_grads(gy, xhat.reshape(x.shape), weight, bias)
    gx = _normalised_grad(_grouped(gxhat, num_groups), xhat, std, (2, 3))
    return gx.reshape(x.shape), gw, gb


def instance_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *,
                  eps: float = 1e-5) -> Array:
    """Normalise each channel of each sample (Ulyanov et al., 2016)."""
    return group_norm(x, weight, bias, num_groups=np.shape(x)[1], eps=eps)


def instance_norm_grad(gy: Array, x: Array, weight: Array | None = None,
                       bias: Array | None = None, *,
                       eps: float = 1e-5) -> tuple[Array | None, ...]:
    """Return the gradients by x, weight and bias."""
    return group_norm_grad(gy, x, weight, bias, num_groups=np.shape(x)[1], eps=eps)


def _neighbours(x: Array, before: int, after: int) -> Array:
    """Return for each channel the sum over the channels from `before` before to `after` after."""
    padded = np.pad(x, ((0, 0), (before, after), *((0, 0),) * (x.ndim - 2)))
    return np.sum([padded[:, i:i + x.shape[1]] for i in range(before + after + 1)], axis=0)


def local_response_norm(x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> Array:
    """Return x / (k + alpha * mean of x^2 over `size` channels around)^beta.

    Krizhevsky et al., 2012. Channels beyond the edges count as zeros in the mean.
    """
    (x,) = _wide(x)
    return x * (k + alpha / size * _neighbours(x**2, size // 2, (size - 1) // 2)) ** -beta


def local_response_norm_grad(gy: Array, x: Array, *, size: int, alpha: float = 1e-4,
                             beta: float = 0.75, k: float = 1.0) -> tuple[Array]:
    """Return the gradient by x: directly, and through the sums that x is part of."""
    gy, x = _wide(gy, x)
    base = k + alpha / size * _neighbours(x**2, size // 2, (size - 1) // 2)
    around = _neighbours(gy * x * base ** (-beta - 1), (size - 1) // 2, size // 2)
    return (gy * base**-beta - 2 * alpha * beta / size * x * around,)


# -- activations ----------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    (x,) = _wide(x)
    return np.maximum(x, 0.0)


def relu_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy where x > 0; NaN counts as positive, as in PyTorch."""
    gy, x = _wide(gy, x)
    return (np.where(x <= 0, 0.0, gy),)


def relu6(x: Array) -> Array:
    """Return min(max(x, 0), 6)."""
    (x,) = _wide(x)
    return np.minimum(np.maximum(x, 0.0), 6.0)


def relu6_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy where 0 < x < 6."""
    gy, x = _wide(gy, x)
    return (np.where((x <= 0) | (x >= 6), 0.0, gy),)


def leaky_relu(x: Array, *, negative_slope: float = 0.01) -> Array:
    """Return x where x > 0, else negative_slope * x."""
    (x,) = _wide(x)
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_grad(gy: Array, x: Array, *, negative_slope: float = 0.01) -> tuple[Array]:
    """Return gy where x > 0, else negative_slope * gy."""
    gy, x = _wide(gy, x)
    return (np.where(x > 0, gy, negative_slope * gy),)


def _prelu_slopes(x: Array, weight: Array) -> Array:
    """Return the slopes in a shape that broadcasts over x (N, C, ...) or (C,)."""
    if len(weight) == 1 or x.ndim < 2:
        return weight.reshape(-1)
    return _by_channel(weight, x.ndim)


def prelu(x: Array, weight: Array) -> Array:
    """Return x where x > 0, else weight * x; weight (1,) or one per channel."""
    x, weight = _wide(x, weight)
    return np.where(x > 0, x, _prelu_slopes(x, weight) * x)


def prelu_grad(gy: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Return the gradients by x and weight."""
    gy, x, weight = _wide(gy, x, weight)
    slopes = _prelu_slopes(x, weight)
    gw = _sum_to(np.where(x > 0, 0.0, gy * x), slopes.shape)
    return np.where(x > 0, gy, slopes * gy), gw.reshape(weight.shape)


def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """Return x where x > 0, else alpha * (exp(x) - 1)."""
    (x,) = _wide(x)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def elu_grad(gy: Array, x: Array, *, alpha: float = 1.0) -> tuple[Array]:
    """Return gy where x > 0, else gy * alpha * exp(x)."""
    gy, x = _wide(gy, x)
    return (gy * np.where(x <= 0, alpha * np.exp(np.minimum(x, 0.0)), 1.0),)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    (x,) = _wide(x)
    return np.exp(-np.logaddexp(0.0, -x))


def sigmoid_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy * y * (1 - y), with 1 - sigmoid(x) = sigmoid(-x)."""
    gy, x = _wide(gy, x)
    return (gy * sigmoid(x) * sigmoid(-x),)


def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent."""
    (x,) = _wide(x)
    return np.tanh(x)


def tanh_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy / cosh(x)^2, as 4 sigmoid(2x) sigmoid(-2x) gy."""
    gy, x = _wide(gy, x)
    return (4.0 * gy * sigmoid(2.0 * x) * sigmoid(-2.0 * x),)


def silu(x: Array) -> Array:
    """Return x * sigmoid(x)."""
    (x,) = _wide(x)
    return x * sigmoid(x)


def silu_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy * s * (1 + x * (1 - s)) with s = sigmoid(x)."""
    gy, x = _wide(gy, x)
    return (gy * sigmoid(x) * (1.0 + x * sigmoid(-x)),)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_GELU_TANH = (math.sqrt(2.0 / math.pi), 0.044715)


def gelu(x: Array, *, approximate: str = "none") -> Array:
    """Return x times the normal distribution function of x, or its tanh approximation.

    Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
    """
    (x,) = _wide(x)
    if approximate == "tanh":
        a, b = _GELU_TANH
        return x * sigmoid(2.0 * a * (x + b * x**3))
    return x * 0.5 * _erfc(-x / math.sqrt(2.0))


def gelu_grad(gy: Array, x: Array, *, approximate: str = "none") -> tuple[Array]:
    """Return gy times the derivative."""
    gy, x = _wide(gy, x)
    if approximate == "tanh":
        a, b = _GELU_TANH
        inner = 2.0 * a * (x + b * x**3)
        s = sigmoid(inner)
        return (gy * (s + x * s * sigmoid(-inner) * 2.0 * a * (1.0 + 3.0 * b * x**2)),)
    density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return (gy * (0.5 * _erfc(-x / math.sqrt(2.0)) + x * density),)


def hardsigmoid(x: Array) -> Array:
    """Return min(max(x + 3, 0), 6) / 6."""
    return relu6(np.asarray(x, np.float64) + 3.0) / 6.0


def hardsigmoid_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy / 6 where -3 < x < 3."""
    gy, x = _wide(gy, x)
    return (np.where((x > -3) & (x < 3), gy / 6.0, 0.0),)


def hardswish(x: Array) -> Array:
    """Return x * hardsigmoid(x)."""
    (x,) = _wide(x)
    return x * hardsigmoid(x)


def hardswish_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return 0 where x <= -3, gy where x >= 3, gy * (x / 3 + 1/2) between."""
    gy, x = _wide(gy, x)
    return (np.where(x <= -3, 0.0, np.where(x < 3, gy * (x / 3.0 + 0.5), gy)),)


def hardtanh(x: Array, *, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Return x, or the nearer limit where x is beyond one."""
    return clamp(x, min=min_val, max=max_val)


def hardtanh_grad(gy: Array, x: Array, *, min_val: float = -1.0,
                  max_val: float = 1.0) -> tuple[Array]:
    """Return gy where x is within the limits and at none."""
    gy, x = _wide(gy, x)
    return (np.where((x <= min_val) | (x >= max_val), 0.0, gy),)


_SELU = (1.0507009873554805, 1.6732632423543772)


def selu(x: Array) -> Array:
    """Return ELU of a fixed alpha times a fixed scale (Klambauer et al., 2017)."""
    return _SELU[0] * elu(x, alpha=_SELU[1])


def selu_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return ELU's gradient times the scale."""
    return (_SELU[0] * elu_grad(gy, x, alpha=_SELU[1])[0],)


def celu(x: Array, *, alpha: float = 1.0) -> Array:
    """Return x where x > 0, else alpha * (exp(x / alpha) - 1)."""
    (x,) = _wide(x)
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def celu_grad(gy: Array, x: Array, *, alpha: float = 1.0) -> tuple[Array]:
    """Return gy where x > 0, else gy * exp(x / alpha)."""
    gy, x = _wide(gy, x)
    return (gy * np.where(x <= 0, np.exp(np.minimum(x, 0.0) / alpha), 1.0),)


def logsigmoid(x: Array) -> Array:
    """Return the logarithm of the sigmoid."""
    (x,) = _wide(x)
    return -np.logaddexp(0.0, -x)


def logsigmoid_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy * sigmoid(-x)."""
    gy, x = _wide(gy, x)
    return (gy * sigmoid(-x),)


def softsign(x: Array) -> Array:
    """Return x / (1 + |x|)."""
    (x,) = _wide(x)
    return x / (1.0 + np.abs(x))


def softsign_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy / (1 + |x|)^2."""
    gy, x = _wide(gy, x)
    return (gy / (1.0 + np.abs(x)) ** 2,)


def mish(x: Array) -> Array:
    """Return x * tanh(softplus(x)) (Misra, 2019)."""
    (x,) = _wide(x)
    return x * np.tanh(np.logaddexp(0.0, x))


def mish_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy times the derivative: t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))."""
    gy, x = _wide(gy, x)
    s = np.logaddexp(0.0, x)
    slope = 4.0 * sigmoid(2.0 * s) * sigmoid(-2.0 * s)
    return (gy * (np.tanh(s) + x * slope * sigmoid(x)),)


def softmax(x: Array, *, dim: int = -1) -> Array:
    """Return exp(x) over its sum along an axis."""
    return np.exp(log_softmax(x, dim=dim))


def softmax_grad(gy: Array, x: Array, *, dim: int = -1) -> tuple[Array]:
    """Return y * (gy - sum(gy * y))."""
    gy, x = _wide(gy, x)
    y = softmax(x, dim=dim)
    return (y * (gy - (gy * y).sum(axis=dim, keepdims=True)),)


def log_softmax(x: Array, *, dim: int = -1) -> Array:
    """Return x less the logarithm of the sum of exp(x) along an axis."""
    (x,) = _wide(x)
    if x.shape[dim] == 0:
        return x
    x = x - x.max(axis=dim, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=dim, keepdims=True))


def log_softmax_grad(gy: Array, x: Array, *, dim: int = -1) -> tuple[Array]:
    """Return gy - softmax(x) * sum(gy)."""
    gy, x = _wide(gy, x)
    return (gy - softmax(x, dim=dim) * gy.sum(axis=dim, keepdims=True),)


# -- arithmetic -----------------------------------------------------------------------------


def _sum_to(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an input of this shape was broadcast."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=axes, keepdims=True)


def add(a: Array, b: Array, *, activation: str | None = None,
        activation_args: Sequence[float] = ()) -> Array:
    """Return ``activation(a + b)``, broadcast."""
    a, b = _wide(a, b)
    return _fused(activation, activation_args)[0](a + b)


def add_grad(gy: Array, a: Array, b: Array, *, activation: str | None = None,
             activation_args: Sequence[float] = ()) -> tuple[Array, Array]:
    """Return gy, times the activation's slope, twice."""
    gy, a, b = _wide(gy, a, b)
    (gy,) = _fused(activation, activation_args)[1](gy, a + b)
    return _sum_to(gy, a.shape), _sum_to(gy, b.shape)


def sub(a: Array, b: Array) -> Array:
    """Return a - b, broadcast."""
    a, b = _wide(a, b)
    return a - b


def sub_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy and -gy."""
    gy, a, b = _wide(gy, a, b)
    return _sum_to(gy, a.shape), _sum_to(-gy, b.shape)


def mul(a: Array, b: Array) -> Array:
    """Return a * b, broadcast."""
    a, b = _wide(a, b)
    return a * b


def mul_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy * b and gy * a."""
    gy, a, b = _wide(gy, a, b)
    return _sum_to(gy * b, a.shape), _sum_to(gy * a, b.shape)


def div(a: Array, b: Array, *, rounding_mode: str | None = None) -> Array:
    """Return a / b, broadcast; as a whole number, rounded towards zero or down, on request."""
    a, b = _wide(a, b)
    return {None: np.positive, "trunc": np.trunc, "floor": np.floor}[rounding_mode](a / b)


def div_grad(gy: Array, a: Array, b: Array, *, rounding_mode: str | None = None
             ) -> tuple[Array, Array]:
    """Return gy / b and -gy * a / b^2; zeros where the quotient is rounded."""
    gy, a, b = _wide(gy, a, b)
    if rounding_mode:
        return np.zeros_like(a), np.zeros_like(b)
    return _sum_to(gy / b, a.shape), _sum_to(-gy * a / b**2, b.shape)


def neg(x: Array) -> Array:
    """Return -x."""
    (x,) = _wide(x)
    return -x


def neg_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return -gy."""
    (gy,) = _wide(gy)
    return (-gy,)


def exp(x: Array) -> Array:
    """Return e to the power of x."""
    (x,) = _wide(x)
    return np.exp(x)


def exp_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy * exp(x)."""
    gy, x = _wide(gy, x)
    return (gy * np.exp(x),)


def log(x: Array) -> Array:
    """Return the natural logarithm."""
    (x,) = _wide(x)
    return np.log(x)


def log_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy / x."""
    gy, x = _wide(gy, x)
    return (gy / x,)


def sqrt(x: Array) -> Array:
    """Return the square root."""
    (x,) = _wide(x)
    return np.sqrt(x)


def sqrt_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy / (2 sqrt(x))."""
    gy, x = _wide(gy, x)
    return (gy / (2.0 * np.sqrt(x)),)


def abs(x: Array) -> Array:
    """Return the absolute value."""
    (x,) = _wide(x)
    return np.abs(x)


def abs_grad(gy: Array, x: Array) -> tuple[Array]:
    """Return gy * sign(x), with sign(0) = 0."""
    gy, x = _wide(gy, x)
    return (gy * np.sign(x),)


def pow(x: Array, *, exponent: float) -> Array:
    """Return x to the power of a number."""
    (x,) = _wide(x)
    return x ** float(exponent)


def pow_grad(gy: Array, x: Array, *, exponent: float) -> tuple[Array]:
    """Return gy * exponent * x^(exponent - 1); zero for the exponent 0."""
    gy, x = _wide(gy, x)
    if exponent == 0:
        return (np.zeros_like(gy),)
    return (gy * exponent * x ** float(exponent - 1),)


# -- reductions -----------------------------------------------------------------------------


def _axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that `dim` (None, a number or several) means, none negative."""
    return tuple(range(ndim)) if dim is None else tuple(d % ndim for d in np.atleast_1d(dim))


def sum(x: Array, *, dim: Any = None, keepdim: bool = False) -> Array:
    """Return the sum over axes; None means all."""
    (x,) = _wide(x)
    return np.sum(x, axis=_axes(dim, x.ndim), keepdims=keepdim)


def sum_grad(gy: Array, x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array]:
    """Return gy, repeated along the axes."""
    (gy,) = _wide(gy)
    if not keepdim:
        gy = np.expand_dims(gy, _axes(dim, np.ndim(x)))
    return (np.broadcast_to(gy, np.shape(x)).copy(),)


def mean(x: Array, *, dim: Any = None, keepdim: bool = False) -> Array:
    """Return the mean over axes; None means all."""
    (x,) = _wide(x)
    return np.mean(x, axis=_axes(dim, x.ndim), keepdims=keepdim)


def mean_grad(gy: Array, x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array]:
    """Return gy over the number of elements, repeated along the axes."""
    count = math.prod(np.shape(x)[i] for i in _axes(dim, np.ndim(x)))
    return (sum_grad(gy, x, dim=dim, keepdim=keepdim)[0] / count,)


# -- shapes ---------------------------------------------------------------------------------


def reshape(x: Array, *, shape: Sequence[int]) -> Array:
    """Return the elements in a new shape; one -1 stands for what is left."""
    (x,) = _wide(x)
    return x.reshape(tuple(shape))


def reshape_grad(gy: Array, x: Array, *, shape: Sequence[int]) -> tuple[Array]:
    """Return gy in the shape of x."""
    (gy,) = _wide(gy)
    return (gy.reshape(np.shape(x)),)


def flatten(x: Array, *, start_dim: int = 0, end_dim: int = -1) -> Array:
    """Join the axes from start_dim to end_dim, both included, into one."""
    (x,) = _wide(x)
    if x.ndim == 0:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start:end + 1]), *x.shape[end + 1:])


def flatten_grad(gy: Array, x: Array, *, start_dim: int = 0, end_dim: int = -1) -> tuple[Array]:
    """Return gy in the shape of x."""
    return reshape_grad(gy, x, shape=())


def permute(x: Array, *, dims: Sequence[int]) -> Array:
    """Reorder the axes."""
    (x,) = _wide(x)
    return x.transpose(dims)


def permute_grad(gy: Array, x: Array, *, dims: Sequence[int]) -> tuple[Array]:
    """Put the axes back."""
    (gy,) = _wide(gy)
    return (gy.transpose(np.argsort([d % gy.ndim for d in dims])),)


def concat(*xs: Array, dim: int = 0) -> Array:
    """Join arrays along an axis."""
    return np.concatenate(_wide(*xs), axis=dim)


def concat_grad(gy: Array, *xs: Array, dim: int = 0) -> tuple[Array, ...]:
    """Cut gy where the arrays were joined."""
    (gy,) = _wide(gy)
    return tuple(np.split(gy, np.cumsum([np.shape(x)[dim] for x in xs])[:-1], axis=dim))


def _cut(ndim: int, starts: Any, stops: Any, steps: Any) -> tuple:
    """Return one slice per axis."""
    return tuple(_slice(*bounds) for bounds in zip(
        *(_per_axis(v, ndim) for v in (starts, stops, steps)), strict=True))


def slice(x: Array, *, starts: Any = None, stops: Any = None, steps: Any = None) -> Array:
    """Return ``x[starts[0]:stops[0]:steps[0], ...]``; None for the whole axis."""
    (x,) = _wide(x)
    return x[_cut(x.ndim, starts, stops, steps)]


def slice_grad(gy: Array, x: Array, *, starts: Any = None, stops: Any = None,
               steps: Any = None) -> tuple[Array]:
    """Return gy where the slice was taken, zero elsewhere."""
    gx = np.zeros(np.shape(x))
    gx[_cut(gx.ndim, starts, stops, steps)] = gy
    return (gx,)


# -- resampling -----------------------------------------------------------------------------


def _resample_matrix(n: int, m: int, mode: str, align_corners: bool | None,
                     factor: float | None) -> Array:
    """Return the (m, n) matrix that takes an axis of n elements to one of m.

    PyTorch's habits in 2-D: an axis that keeps its size is copied whatever the factor, nearest
    doubling repeats every element, and "nearest" rounds the scale to float32. (In 1-D, its
    nearest gradients follow these habits, its values do not.)
    """
    if m == n:
        return np.eye(n)
    matrix = np.zeros((m, n))
    i = np.arange(m)
    if mode == "nearest" and m == 2 * n:
        matrix[i, i // 2] = 1.0
        return matrix
    if mode == "nearest":
        scale = np.float32(1.0 / factor) if factor else np.float32(n) / np.float32(m)
        source = np.floor(i.astype(np.float32) * scale).astype(int)
        matrix[i, np.minimum(source, n - 1)] = 1.0
        return matrix
    if align_corners:
        place = i * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        place = np.maximum((i + 0.5) * (1.0 / factor if factor else n / m) - 0.5, 0.0)
    low = np.minimum(place.astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    weight = np.clip(place - low, 0.0, 1.0)
    np.add.at(matrix, (i, low), 1.0 - weight)
    np.add.at(matrix, (i, high), weight)
    return matrix


def _resample_matrices(shape, size, mode, align_corners, scale_factor) -> list[Array]:
    """Return one matrix per spatial axis."""
    spatial = shape[2:]
    factors = _per_axis(scale_factor, len(spatial))
    return [_resample_matrix(n, m, mode, align_corners, f)
            for n, m, f in zip(spatial, _per_axis(size, len(spatial)), factors, strict=True)]


def _apply_matrix(matrix: Array, x: Array, axis: int) -> Array:
    """Multiply a matrix with an array along one axis."""
    return np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)


def upsample(x: Array, *, size: Sizes, mode: str = "nearest", align_corners: bool | None = None,
             scale_factor: Any = None) -> Array:
    """Resample the spatial axes to `size`; the scale is 1 / scale_factor where that is given."""
    (x,) = _wide(x)
    for axis, matrix in enumerate(
            _resample_matrices(x.shape, size, mode, align_corners, scale_factor)):
        x = _apply_matrix(matrix, x, axis + 2)
    return x


def upsample_grad(gy: Array, x: Array, *, size: Sizes, mode: str = "nearest",
                  align_corners: bool | None = None, scale_factor: Any = None) -> tuple[Array]:
    """Apply the transposed matrices."""
    (gy,) = _wide(gy)
    for axis, matrix in enumerate(
            _resample_matrices(np.shape(x), size, mode, align_corners, scale_factor)):
        gy = _apply_matrix(matrix.T, gy, axis + 2)
    return (gy,)


# -- more functions of one variable -----------------------------------------------------------


def _function(name: str, compute: Callable, slope: Callable) -> None:
    """Define a function of one variable and its gradient under a name and name_grad."""
    def function(x: Array) -> Array:
        return compute(*_wide(x))

    def gradient(gy: Array, x: Array) -> tuple[Array]:
        gy, x = _wide(gy, x)
        return (gy * slope(x),)

    function.__doc__ = f"Return {name} of x."
    gradient.__doc__ = f"Return gy times the derivative of {name}."
    globals().update({name: function, f"{name}_grad": gradient})


for _name, _compute, _slope in (
        ("floor", np.floor, np.zeros_like), ("ceil", np.ceil, np.zeros_like),
        ("round", np.round, np.zeros_like), ("sign", np.sign, np.zeros_like),
        ("reciprocal", lambda x: 1.0 / x, lambda x: -(x ** -2.0)),
        ("sin", np.sin, np.cos), ("cos", np.cos, lambda x: -np.sin(x)),
        ("tan", np.tan, lambda x: 1.0 + np.tan(x) ** 2),
        ("asin", np.arcsin, lambda x: (1.0 - x**2) ** -0.5),
        ("acos", np.arccos, lambda x: -((1.0 - x**2) ** -0.5)),
        ("atan", np.arctan, lambda x: 1.0 / (1.0 + x**2)),
        ("sinh", np.sinh, np.cosh), ("cosh", np.cosh, np.sinh),
        ("asinh", np.arcsinh, lambda x: (x**2 + 1.0) ** -0.5),
        ("acosh", np.arccosh, lambda x: (x**2 - 1.0) ** -0.5),
        ("atanh", np.arctanh, lambda x: 1.0 / (1.0 - x**2)),
        ("erf", np.vectorize(math.erf, otypes=[np.float64]),
         lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-(x**2)))):
    _function(_name, _compute, _slope)


def softplus(x: Array, *, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """Return log(1 + exp(beta x)) / beta, or x where beta x is above the threshold."""
    (x,) = _wide(x)
    return np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta)


def softplus_grad(gy: Array, x: Array, *, beta: float = 1.0, threshold: float = 20.0
                  ) -> tuple[Array]:
    """Return gy times the sigmoid of beta x, or gy above the threshold."""
    gy, x = _wide(gy, x)
    return (gy * np.where(beta * x > threshold, 1.0, sigmoid(beta * x)),)


# -- more arithmetic, comparisons, choice -----------------------------------------------------


def maximum(a: Array, b: Array) -> Array:
    """Return the larger of two."""
    return np.maximum(*_wide(a, b))


def maximum_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy for the larger one; half of it for each of equals."""
    gy, a, b = _wide(gy, a, b)
    share = 0.5 * (1.0 + np.sign(a - b))
    return _sum_to(gy * share, a.shape), _sum_to(gy * (1.0 - share), b.shape)


def minimum(a: Array, b: Array) -> Array:
    """Return the smaller of two."""
    return np.minimum(*_wide(a, b))


def minimum_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy for the smaller one; half of it for each of equals."""
    return maximum_grad(gy, -_wide(a)[0], -_wide(b)[0])


def power(a: Array, b: Array) -> Array:
    """Return a to the power b."""
    return np.power(*_wide(a, b))


def power_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy b a^(b - 1) and gy a^b log a."""
    gy, a, b = _wide(gy, a, b)
    return (_sum_to(gy * b * a ** (b - 1.0), a.shape), _sum_to(gy * a**b * np.log(a), b.shape))


def remainder(a: Array, b: Array) -> Array:
    """Return a - b floor(a / b)."""
    a, b = _wide(a, b)
    return a - b * np.floor(a / b)


def remainder_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy and -gy floor(a / b)."""
    gy, a, b = _wide(gy, a, b)
    return _sum_to(gy * np.ones_like(a), a.shape), _sum_to(-gy * np.floor(a / b), b.shape)


def fmod(a: Array, b: Array) -> Array:
    """Return a - b trunc(a / b)."""
    a, b = _wide(a, b)
    return a - b * np.trunc(a / b)


def fmod_grad(gy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return gy and -gy trunc(a / b)."""
    gy, a, b = _wide(gy, a, b)
    return _sum_to(gy * np.ones_like(a), a.shape), _sum_to(-gy * np.trunc(a / b), b.shape)


def clamp(x: Array, *, min: float | None = None, max: float | None = None) -> Array:
    """Return x held between min and max."""
    (x,) = _wide(x)
    return np.clip(x, -np.inf if min is None else min, np.inf if max is None else max)


def clamp_grad(gy: Array, x: Array, *, min: float | None = None, max: float | None = None
               ) -> tuple[Array]:
    """Return gy where x lies within the limits, them included."""
    gy, x = _wide(gy, x)
    return (gy * (clamp(x, min=min, max=max) == x),)


def eq(a: Array, b: Array) -> Array:
    """Return whether a == b."""
    return np.equal(a, b)


def ne(a: Array, b: Array) -> Array:
    """Return whether a != b."""
    return np.not_equal(a, b)


def lt(a: Array, b: Array) -> Array:
    """Return whether a < b."""
    return np.less(a, b)


def le(a: Array, b: Array) -> Array:
    """Return whether a <= b."""
    return np.less_equal(a, b)


def gt(a: Array, b: Array) -> Array:
    """Return whether a > b."""
    return np.greater(a, b)


def ge(a: Array, b: Array) -> Array:
    """Return whether a >= b."""
    return np.greater_equal(a, b)


def logical_and(a: Array, b: Array) -> Array:
    """Return whether both are true."""
    return np.logical_and(a, b)


def logical_or(a: Array, b: Array) -> Array:
    """Return whether one is true."""
    return np.logical_or(a, b)


def logical_xor(a: Array, b: Array) -> Array:
    """Return whether exactly one is true."""
    return np.logical_xor(a, b)


def logical_not(x: Array) -> Array:
    """Return whether x is false."""
    return np.logical_not(x)


def isnan(x: Array) -> Array:
    """Return whether x is not a number."""
    return np.isnan(x)


def isinf(x: Array) -> Array:
    """Return whether x is infinite."""
    return np.isinf(x)


def where(condition: Array, a: Array, b: Array) -> Array:
    """Return a where the condition is true, else b."""
    return np.where(condition, *_wide(a, b))


def where_grad(gy: Array, condition: Array, a: Array, b: Array) -> tuple[None, Array, Array]:
    """Return gy for the one that was chosen."""
    gy, a, b = _wide(gy, a, b)
    return (None, _sum_to(np.where(condition, gy, 0.0), a.shape),
            _sum_to(np.where(condition, 0.0, gy), b.shape))


def cast(x: Array, *, dtype: str) -> Array:
    """Return x as another type."""
    return np.asarray(x).astype(dtype)


# -- more reductions --------------------------------------------------------------------------


def amax(x: Array, *, dim: Any = None, keepdim: bool = False) -> Array:
    """Return the largest element over axes; None means all."""
    (x,) = _wide(x)
    return np.max(x, axis=_axes(dim, x.ndim), keepdims=keepdim)


def amax_grad(gy: Array, x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array]:
    """Return gy, shared among the elements that are the largest."""
    (x,) = _wide(x)
    axes = _axes(dim, x.ndim)
    chosen = x == np.max(x, axis=axes, keepdims=True)
    (gy,) = sum_grad(gy, x, dim=dim, keepdim=keepdim)
    return (gy * chosen / chosen.sum(axis=axes, keepdims=True),)


def amin(x: Array, *, dim: Any = None, keepdim: bool = False) -> Array:
    """Return the smallest element over axes; None means all."""
    return -amax(-_wide(x)[0], dim=dim, keepdim=keepdim)


def amin_grad(gy: Array, x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array]:
    """Return gy, shared among the elements that are the smallest."""
    return amax_grad(gy, -_wide(x)[0], dim=dim, keepdim=keepdim)


def prod(x: Array, *, dim: Any = None, keepdim: bool = False) -> Array:
    """Return the product over axes; None means all."""
    (x,) = _wide(x)
    return np.prod(x, axis=_axes(dim, x.ndim), keepdims=keepdim)


def prod_grad(gy: Array, x: Array, *, dim: Any = None, keepdim: bool = False) -> tuple[Array]:
    """Return gy times the product of the other elements."""
    (x,) = _wide(x)
    axes = _axes(dim, x.ndim)
    slope = np.empty_like(x)
    for at in np.ndindex(*x.shape):
        others = x.copy()
        others[at] = 1.0
        slope[at] = np.prod(others[tuple(
            _slice(None) if i in axes else at[i] for i in range(x.ndim))])
    return (sum_grad(gy, x, dim=dim, keepdim=keepdim)[0] * slope,)


def argmax(x: Array, *, dim: int | None = None, keepdim: bool = False) -> Array:
    """Return the place of the largest element, the first of equals."""
    return np.argmax(x, axis=dim, keepdims=keepdim)


def argmin(x: Array, *, dim: int | None = None, keepdim: bool = False) -> Array:
    """Return the place of the smallest element, the first of equals."""
    return np.argmin(x, axis=dim, keepdims=keepdim)


def topk(x: Array, *, k: int, dim: int = -1, largest: bool = True) -> tuple[Array, Array]:
    """Return the k largest (smallest) elements in order and their places, equals as they come."""
    (x,) = _wide(x)
    places = np.argsort(-x if largest else x, axis=dim, kind="stable")
    places = np.take(places, np.arange(k), axis=dim)
    return np.take_along_axis(x, places, dim), places


def topk_grad(gy: Array, x: Array, *, k: int, dim: int = -1, largest: bool = True
              ) -> tuple[Array]:
    """Return gy at the elements that were taken."""
    gx = np.zeros(np.shape(x))
    np.put_along_axis(gx, topk(x, k=k, dim=dim, largest=largest)[1], _wide(gy)[0], dim)
    return (gx,)


def cumsum(x: Array, *, dim: int) -> Array:
    """Return the running sum."""
    (x,) = _wide(x)
    return np.cumsum(x, axis=dim)


def cumsum_grad(gy: Array, x: Array, *, dim: int) -> tuple[Array]:
    """Return the running sum of gy from the other end."""
    (gy,) = _wide(gy)
    return (gy.sum(axis=dim, keepdims=True) - np.cumsum(gy, axis=dim) + gy,)


# -- picking and repeating --------------------------------------------------------------------


def take(x: Array, indices: Array, *, dim: int = 0) -> Array:
    """Return the slices at the indices along an axis."""
    return np.take(_wide(x)[0], indices, axis=dim)


def take_grad(gy: Array, x: Array, indices: Array, *, dim: int = 0) -> tuple[Array, None]:
    """Return the sum of the gradients of every slice's copies."""
    dim %= np.ndim(x)
    one_hot = np.arange(np.shape(x)[dim]) == np.asarray(indices)[..., None] % np.shape(x)[dim]
    axes = tuple(range(dim, dim + np.ndim(indices)))
    gx = np.tensordot(_wide(gy)[0], one_hot, (axes, tuple(range(np.ndim(indices)))))
    return np.moveaxis(gx, -1, dim), None


def gather(x: Array, indices: Array, *, dim: int = 0) -> Array:
    """Return x[.., indices[i, .., j], ..] for every place of the indices."""
    (x,) = _wide(x)
    y = np.empty(np.shape(indices))
    for at in np.ndindex(*y.shape):
        source = list(at)
        source[dim] = indices[at]
        y[at] = x[tuple(source)]
    return y


def gather_grad(gy: Array, x: Array, indices: Array, *, dim: int = 0) -> tuple[Array, None]:
    """Return the sum of the gradients of every element's copies."""
    gx = np.zeros(np.shape(x))
    for at in np.ndindex(*np.shape(indices)):
        source = list(at)
        source[dim] = indices[at]
        gx[tuple(source)] += gy[at]
    return gx, None


def expand(x: Array, *, shape: Sequence[int]) -> Array:
    """Return x repeated along axes of size one; -1 keeps an axis."""
    (x,) = _wide(x)
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x, [n if m == -1 else m for n, m in zip(own, shape, strict=True)])


def expand_grad(gy: Array, x: Array, *, shape: Sequence[int]) -> tuple[Array]:
    """Return gy summed over the copies."""
    return (_sum_to(_wide(gy)[0], np.shape(x)),)


# -- quantisation -----------------------------------------------------------------------------


def _levels(a: Array, x: Array, dim: int, block_size: int) -> Array:
    """Return scales or zero points in a form that broadcasts against x."""
    a = np.asarray(a)
    if a.size == 1:
        return a.reshape((1,) * np.ndim(x))
    if block_size:
        return np.take(np.repeat(a, block_size, dim), np.arange(np.shape(x)[dim]), axis=dim)
    return a.reshape([-1 if i == dim % np.ndim(x) else 1 for i in range(np.ndim(x))])


def quantize_linear(x: Array, scale: Array, zero_point: Array | None = None, *,
                    dtype: str = "uint8", quant_min: int | None = None,
                    quant_max: int | None = None, dim: int = 1, block_size: int = 0) -> Array:
    """Return round(x / scale) + zero_point, saturated; x / scale is rounded as float32 first."""
    info = np.iinfo(dtype)
    x = np.asarray(x)
    q = np.round(x / _levels(scale, x, dim, block_size).astype(x.dtype)).astype(np.float64)
    if zero_point is not None:
        q = q + _levels(zero_point, x, dim, block_size)
    return np.clip(q, info.min if quant_min is None else quant_min,
                   info.max if quant_max is None else quant_max).astype(dtype)


def dequantize_linear(x: Array, scale: Array, zero_point: Array | None = None, *, dim: int = 1,
                      block_size: int = 0) -> Array:
    """Return (x - zero_point) * scale."""
    q = np.asarray(x, np.float64)
    if zero_point is not None:
        q = q - _levels(zero_point, x, dim, block_size)
    return q * _levels(scale, x, dim, block_size)


def _real(q: Array, scale: float, zero: int) -> Array:
    """Return the real numbers that a quantised array stands for."""
    return (np.asarray(q, np.float64) - zero) * scale


def _quantised(v: Array, dtype: str, scale: float, zero: int) -> Array:
    """Return real numbers in steps of `scale`, rounded and saturated; as they are for floats."""
    if dtype == "float32":
        return v
    info = np.iinfo(dtype)
    return np.clip(np.round(v / scale) + zero, info.min, info.max).astype(dtype)


def _quantised_layer(sums: Array, x_scale: float, scale: Array, bias: Array | None,
                     residual: Array | None, dtype: str, y_scale: float, y_zero: int,
                     residual_scale: float, residual_zero: int, activation: str | None,
                     activation_args: Sequence[float]) -> Array:
    """Return a layer's result from its sums, output channels last."""
    sums = sums if bias is None else sums + bias
    if dtype == "int32":
        return sums.astype(np.int64).astype(np.int32)
    v = sums * (x_scale * np.asarray(scale, np.float64))
    if residual is not None:
        quantised = np.asarray(residual).dtype.kind in "iu"
        v = v + (_real(residual, residual_scale, residual_zero) if quantised else residual)
    return _quantised(_fused(activation, activation_args)[0](v), dtype, y_scale, y_zero)


def quant_conv(x: Array, weight: Array, scale: Array, bias: Array | None = None,
               residual: Array | None = None, *, stride: Sizes = 1, padding: Pads = 0,
               dilation: Sizes = 1, groups: int = 1, x_scale: float, x_zero: int, dtype: str,
               y_scale: float = 1.0, y_zero: int = 0, residual_scale: float = 1.0,
               residual_zero: int = 0, activation: str | None = None,
               activation_args: Sequence[float] = ()) -> Array:
    """Convolve quantised x with int8 weights, then scale, add, activate and quantise."""
    sums = conv(np.asarray(x, np.float64) - x_zero, weight, stride=stride, padding=padding,
                dilation=dilation, groups=groups)
    y = _quantised_layer(
        np.moveaxis(sums, 1, -1), x_scale, scale, bias,
        None if residual is None else np.moveaxis(np.asarray(residual), 1, -1), dtype, y_scale,
        y_zero, residual_scale, residual_zero, activation, activation_args)
    return np.moveaxis(y, -1, 1)


def quant_linear(x: Array, weight: Array, scale: Array, bias: Array | None = None,
                 residual: Array | None = None, *, x_scale: float, x_zero: int, dtype: str,
                 y_scale: float = 1.0, y_zero: int = 0, residual_scale: float = 1.0,
                 residual_zero: int = 0, activation: str | None = None,
                 activation_args: Sequence[float] = ()) -> Array:
    """Return what quant_conv does for a linear layer."""
    sums = (np.asarray(x, np.float64) - x_zero) @ np.asarray(weight, np.float64).T
    return _quantised_layer(sums, x_scale, scale, bias, residual, dtype, y_scale, y_zero,
                            residual_scale, residual_zero, activation, activation_args)


def quant_add(a: Array, b: Array, *, a_scale: float, a_zero: int, b_scale: float, b_zero: int,
              dtype: str, y_scale: float = 1.0, y_zero: int = 0, activation: str | None = None,
              activation_args: Sequence[float] = ()) -> Array:
    """Add the real numbers, activate, and quantise."""
    v = _real(a, a_scale, a_zero) + _real(b, b_scale, b_zero)
    return _quantised(_fused(activation, activation_args)[0](v), dtype, y_scale, y_zero)


def quant_avg_pool(x: Array, *, kernel_size: Sizes, stride: Sizes | None = None,
                   padding: Pads = 0, ceil_mode: bool = False, count_include_pad: bool = True,
                   x_scale: float, x_zero: int, dtype: str, y_scale: float = 1.0,
                   y_zero: int = 0) -> Array:
    """Average the real numbers over windows, and quantise."""
    return _quantised(avg_pool(_real(x, x_scale, x_zero), kernel_size=kernel_size, stride=stride,
                               padding=padding, ceil_mode=ceil_mode,
                               count_include_pad=count_include_pad), dtype, y_scale, y_zero)


def lookup(x: Array, table: Array) -> Array:
    """Return the table's entry for every byte."""
    return np.asarray(table)[np.asarray(x).view(np.uint8)]


# -- resizing ---------------------------------------------------------------------------------


def _resize_place(y: int, n: int, m: int, scale: float, how: str, roi: Sequence[float]) -> float:
    """Return where output y of m comes from in an axis of n elements, by ONNX's formulas."""
    length = scale * n
    if how == "align_corners":
        return 0.0 if length == 1 else y * (n - 1) / (length - 1)
    if how == "asymmetric":
        return y / scale
    if how == "tf_crop_and_resize":
        start, end = roi
        if length == 1:
            return 0.5 * (start + end) * (n - 1)
        return start * (n - 1) + y * (end - start) * (n - 1) / (length - 1)
    if how == "pytorch_half_pixel" and length == 1:
        return -0.5
    shift = n / 2 * (1 - m / length) if how == "half_pixel_symmetric" else 0.0
    return shift + (y + 0.5) / scale - 0.5


def _resize_taps(place: float, n: int, scale: float, mode: str, nearest_mode: str, a: float,
                 exclude_outside: bool, antialias: bool) -> list[tuple[int, float]]:
    """Return (source, weight) of everything that an output element is made of."""
    if mode == "nearest":
        half_up, half_down = math.floor(place + 0.5), math.ceil(place - 0.5)
        found = {"floor": math.floor(place), "ceil": math.ceil(place),
                 "round_prefer_floor": half_down, "round_prefer_ceil": half_up}[nearest_mode]
        return [(min(max(found, 0), n - 1), 1.0)]
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / stretch)
    taps = []
    for i in range(math.floor(place) - reach, math.floor(place) + reach + 2):
        d = builtins.abs(i - place) * stretch
        if mode == "linear":
            w = max(0.0, 1.0 - d)
        elif d <= 1:
            w = (a + 2) * d**3 - (a + 3) * d**2 + 1
        else:
            w = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0
        if not (exclude_outside and not 0 <= i < n):
            taps.append((min(max(i, 0), n - 1), w))
    total = _sum(w for _, w in taps) if exclude_outside or antialias else 1.0
    return [(i, w / total) for i, w in taps]


def _resize_matrices(x, size, scale, mode, coordinates, nearest_mode, cubic_coeff_a,
                     exclude_outside, antialias, roi):
    """Return a matrix per axis, and which outputs lie outside of the input."""
    size = [n if m is None else m for n, m in zip(x.shape, size, strict=True)]
    matrices, outside = [], np.zeros(size, bool)
    for axis, (n, m) in enumerate(zip(x.shape, size, strict=True)):
        ratio = m / n if scale is None else scale[axis]
        window = (0.0, 1.0) if roi is None else roi[axis]
        matrix = np.zeros((m, n))
        for y in range(m):
            place = _resize_place(y, n, m, ratio, coordinates, window)
            if coordinates == "tf_crop_and_resize" and not 0 <= place <= n - 1:
                outside[(_slice(None),) * axis + (y,)] = True
            for i, w in _resize_taps(place, n, ratio, mode, nearest_mode, cubic_coeff_a,
                                     exclude_outside, antialias):
                matrix[y, i] += w
        matrices.append(matrix)
    return matrices, outside


def resize(x: Array, *, size: Sequence[int | None], scale: Sequence[float] | None = None,
           mode: str = "nearest", coordinates: str = "half_pixel",
           nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75,
           exclude_outside: bool = False, antialias: bool = False,
           roi: Sequence[Sequence[float]] | None = None, extrapolation_value: float = 0.0) -> Array:
    """Resample every axis by its matrix (https://onnx.ai/onnx/operators/onnx__Resize.html)."""
    (x,) = _wide(x)
    matrices, outside = _resize_matrices(x, size, scale, mode, coordinates, nearest_mode,
                                         cubic_coeff_a, exclude_outside, antialias, roi)
    for axis, matrix in enumerate(matrices):
        x = _apply_matrix(matrix, x, axis)
    return np.where(outside, extrapolation_value, x)


def resize_grad(gy: Array, x: Array, *, size: Sequence[int | None],
                scale: Sequence[float] | None = None, mode: str = "nearest",
                coordinates: str = "half_pixel",
                nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75,
                exclude_outside: bool = False, antialias: bool = False,
                roi: Sequence[Sequence[float]] | None = None, extrapolation_value: float = 0.0
                ) -> tuple[Array]:
    """Apply the transposed matrices."""
    gy, x = _wide(gy, x)
    matrices, outside = _resize_matrices(x, size, scale, mode, coordinates, nearest_mode,
                                         cubic_coeff_a, exclude_outside, antialias, roi)
    gy = np.where(outside, 0.0, gy)
    for axis, matrix in enumerate(matrices):
        gy = _apply_matrix(matrix.T, gy, axis)
    return (gy,)


# -- losses ---------------------------------------------------------------------------------


def _reduce(losses: Array, reduction: str, weight_sum: float) -> Array:
    """Return the losses, their sum, or their sum over a total weight."""
    if reduction == "none":
        return losses
    total = losses.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / np.float64(weight_sum) if reduction == "mean" else total


def _reduce_grad(gy: Array, shape: tuple[int, ...], reduction: str, weight_sum: float) -> Array:
    """Return the gradient by each loss."""
    if reduction == "none":
        return gy
    with np.errstate(invalid="ignore", divide="ignore"):
        gy = gy / np.float64(weight_sum) if reduction == "mean" else gy
    return np.broadcast_to(gy, shape)


def _one_hot(target: Array, classes: int, weight: Array, ignore_index: int) -> Array:
    """Return (N, C, ...) with each target's class weight at its class, zero where ignored."""
    target = np.asarray(target)
    kept = target != ignore_index
    hot = np.arange(classes).reshape(-1, *(1,) * (target.ndim - 1)) == target[:, np.newaxis]
    return hot * kept[:, np.newaxis] * weight.reshape(-1, *(1,) * (target.ndim - 1))


def _class_weight(weight: Array | None, classes: int) -> Array:
    """Return the class weights, or ones."""
    return np.ones(classes) if weight is None else weight


def _smoothed(x, target, weight, ignore_index, label_smoothing):
    """Return each class's share of every loss (N, C, ...), and what a mean divides by."""
    classes = x.shape[1]
    by_class = _class_weight(weight, classes)
    column = by_class.reshape(-1, *(1,) * (x.ndim - 2))
    target = np.asarray(target)
    if target.dtype.kind == "f":
        share = target.astype(np.float64) * (1.0 - label_smoothing) + label_smoothing / classes
        return share * column, x.size / classes
    hot = _one_hot(target, classes, by_class, ignore_index)
    kept = (target != ignore_index)[:, np.newaxis]
    share = (1.0 - label_smoothing) * hot + label_smoothing / classes * kept * column
    return share, hot.sum()


def cross_entropy(x: Array, target: Array, weight: Array | None = None, *,
                  ignore_index: int = -100, label_smoothing: float = 0.0,
                  reduction: str = "mean") -> Array:
    """Return the cross entropy of log_softmax(x), x (N, C, ...), with classes or probabilities.

    Integer targets have shape (N, ...), and a mean divides by the sum of their class weights;
    floating-point targets are probabilities (N, C, ...), and a mean divides by the number of
    samples and places. Label smoothing mixes in the uniform distribution (Szegedy et al., 2016).
    """
    x, weight = _wide(x, weight)
    share, total = _smoothed(x, target, weight, ignore_index, label_smoothing)
    losses = -(share * log_softmax(x, dim=1)).sum(axis=1)
    return _reduce(losses, reduction, total)


def cross_entropy_grad(gy: Array, x: Array, target: Array, weight: Array | None = None, *,
                       ignore_index: int = -100, label_smoothing: float = 0.0,
                       reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return the gradients by x and, where it holds probabilities, by target."""
    gy, x, weight = _wide(gy, x, weight)
    share, total = _smoothed(x, target, weight, ignore_index, label_smoothing)
    shape = (x.shape[0], *x.shape[2:])
    by_loss = _reduce_grad(gy, shape, reduction, total)[:, np.newaxis]
    (gx,) = log_softmax_grad(-share * by_loss, x, dim=1)
    if np.asarray(target).dtype.kind != "f":
        return gx, None, None
    column = _class_weight(weight, x.shape[1]).reshape(-1, *(1,) * (x.ndim - 2))
    gt = -(1.0 - label_smoothing) * column * log_softmax(x, dim=1) * by_loss
    return gx, gt, None


def nll_loss(x: Array, target: Array, weight: Array | None = None, *, ignore_index: int = -100,
             reduction: str = "mean") -> Array:
    """Return minus x at each target's class, times its weight; x (N, C, ...) log-probabilities."""
    x, weight = _wide(x, weight)
    hot = _one_hot(target, x.shape[1], _class_weight(weight, x.shape[1]), ignore_index)
    return _reduce(-np.where(hot != 0, hot * x, 0.0).sum(axis=1), reduction, hot.sum())


def nll_loss_grad(gy: Array, x: Array, target: Array, weight: Array | None = None, *,
                  ignore_index: int = -100,
                  reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return the gradient by x."""
    gy, x, weight = _wide(gy, x, weight)
    hot = _one_hot(target, x.shape[1], _class_weight(weight, x.shape[1]), ignore_index)
    shape = (x.shape[0], *x.shape[2:])
    return -hot * _reduce_grad(gy, shape, reduction, hot.sum())[:, np.newaxis], None, None


def mse_loss(x: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Return (x - target)^2."""
    x, target = _wide(x, target)
    losses = (x - target) ** 2
    return _reduce(losses, reduction, losses.size)


def mse_loss_grad(gy: Array, x: Array, target: Array, *,
                  reduction: str = "mean") -> tuple[Array, Array]:
    """Return 2 (x - target) gy and its negative."""
    gy, x, target = _wide(gy, x, target)
    difference = x - target
    g = 2.0 * difference * _reduce_grad(gy, difference.shape, reduction, difference.size)
    return _sum_to(g, x.shape), _sum_to(-g, target.shape)


def _elementwise_grads(gy, x, target, reduction, slopes) -> tuple[Array, Array]:
    """Return the gradients by x and target, summed where one was broadcast."""
    by_loss = _reduce_grad(gy, slopes[0].shape, reduction, slopes[0].size)
    return _sum_to(slopes[0] * by_loss, x.shape), _sum_to(slopes[1] * by_loss, target.shape)


def l1_loss(x: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Return |x - target|."""
    x, target = _wide(x, target)
    losses = np.abs(x - target)
    return _reduce(losses, reduction, losses.size)


def l1_loss_grad(gy: Array, x: Array, target: Array, *,
                 reduction: str = "mean") -> tuple[Array, Array]:
    """Return the sign of x - target and its negative, times gy."""
    gy, x, target = _wide(gy, x, target)
    sign = np.sign(x - target)
    return _elementwise_grads(gy, x, target, reduction, (sign, -sign))


def huber_loss(x: Array, target: Array, *, reduction: str = "mean", delta: float = 1.0) -> Array:
    """Return d^2 / 2 for d = |x - target| up to delta, delta (d - delta / 2) beyond."""
    x, target = _wide(x, target)
    d = np.abs(x - target)
    losses = np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))
    return _reduce(losses, reduction, losses.size)


def huber_loss_grad(gy: Array, x: Array, target: Array, *, reduction: str = "mean",
                    delta: float = 1.0) -> tuple[Array, Array]:
    """Return x - target, held between -delta and delta, and its negative, times gy."""
    gy, x, target = _wide(gy, x, target)
    slope = np.clip(x - target, -delta, delta)
    return _elementwise_grads(gy, x, target, reduction, (slope, -slope))


def smooth_l1_loss(x: Array, target: Array, *, reduction: str = "mean",
                   beta: float = 1.0) -> Array:
    """Return the Huber loss over its delta; |x - target| for beta = 0."""
    if beta == 0:
        return l1_loss(x, target, reduction=reduction)
    return huber_loss(x, target, reduction=reduction, delta=beta) / beta


def smooth_l1_loss_grad(gy: Array, x: Array, target: Array, *, reduction: str = "mean",
                        beta: float = 1.0) -> tuple[Array, Array]:
    """Return the Huber loss' gradients over its delta."""
    if beta == 0:
        return l1_loss_grad(gy, x, target, reduction=reduction)
    gx, gt = huber_loss_grad(gy, x, target, reduction=reduction, delta=beta)
    return gx / beta, gt / beta


def kl_div(x: Array, target: Array, *, reduction: str = "mean", log_target: bool = False) -> Array:
    """Return t (log t - x), x a log-probability; t is given by its logarithm if `log_target`."""
    x, target = _wide(x, target)
    t = np.exp(target) if log_target else target
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = np.where(t == 0, 0.0, t * ((target if log_target else np.log(t)) - x))
    return _reduce(losses, reduction, losses.size)


def kl_div_grad(gy: Array, x: Array, target: Array, *, reduction: str = "mean",
                log_target: bool = False) -> tuple[Array, Array]:
    """Return -t and the slope by the target, times gy."""
    gy, x, target = _wide(gy, x, target)
    if log_target:
        t = np.exp(target)
        return _elementwise_grads(gy, x, target, reduction, (-t + 0 * x, t * (target - x + 1)))
    with np.errstate(divide="ignore"):
        by_target = np.where(target == 0, -x, np.log(target) + 1 - x)
    return _elementwise_grads(gy, x, target, reduction, (-target + 0 * x, by_target))


def hinge_loss(x: Array, target: Array, *, reduction: str = "mean", margin: float = 1.0) -> Array:
    """Return max(0, margin - target x), with targets -1 and 1."""
    x, target = _wide(x, target)
    losses = np.maximum(margin - target * x, 0.0)
    return _reduce(losses, reduction, losses.size)


def hinge_loss_grad(gy: Array, x: Array, target: Array, *, reduction: str = "mean",
                    margin: float = 1.0) -> tuple[Array, Array]:
    """Return -target and -x where the loss is not 0, times gy."""
    gy, x, target = _wide(gy, x, target)
    near = margin - target * x > 0
    return _elementwise_grads(gy, x, target, reduction, (-target * near, -x * near))


def bce(x: Array, target: Array, weight: Array | None = None, *,
        reduction: str = "mean") -> Array:
    """Return -weight (t log x + (1 - t) log(1 - x)), with logarithms of at least -100."""
    x, target, weight = _wide(x, target, weight)
    with np.errstate(divide="ignore"):
        losses = (target - 1) * np.maximum(np.log1p(-x), -100.0) \
            - target * np.maximum(np.log(x), -100.0)
    losses = losses if weight is None else losses * weight
    return _reduce(losses, reduction, losses.size)


def bce_grad(gy: Array, x: Array, target: Array, weight: Array | None = None, *,
             reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return (x - t) / max(x (1 - x), 1e-12) and the difference of the logarithms, times gy."""
    gy, x, target, weight = _wide(gy, x, target, weight)
    by_loss = _reduce_grad(gy, x.shape, reduction, x.size)
    by_loss = by_loss if weight is None else by_loss * weight
    with np.errstate(divide="ignore"):
        by_target = np.maximum(np.log1p(-x), -100.0) - np.maximum(np.log(x), -100.0)
    return (x - target) / np.maximum((1 - x) * x, 1e-12) * by_loss, by_target * by_loss, None


def _focal_terms(x, target, alpha):
    """Return share, chance of missing and cross entropy of sigmoid(x)."""
    share = np.ones(()) if alpha < 0 else alpha * target + (1 - alpha) * (1 - target)
    miss = target * sigmoid(-x) + (1 - target) * sigmoid(x)
    return share, miss, bce_with_logits(x, target, reduction="none")


def sigmoid_focal_loss(x: Array, target: Array, *, alpha: float = 0.25, gamma: float = 2.0,
                       reduction: str = "none") -> Array:
    """Return share * miss^gamma times the binary cross entropy of sigmoid(x) (Lin et al., 2017)."""
    x, target = _wide(x, target)
    share, miss, entropy = _focal_terms(x, target, alpha)
    return _reduce(share * miss**gamma * entropy, reduction, x.size)


def sigmoid_focal_loss_grad(gy: Array, x: Array, target: Array, *, alpha: float = 0.25,
                            gamma: float = 2.0,
                            reduction: str = "none") -> tuple[Array, None]:
    """Return the gradient by x, by the product rule."""
    gy, x, target = _wide(gy, x, target)
    share, miss, entropy = _focal_terms(x, target, alpha)
    by_miss = (1 - 2 * target) * sigmoid(x) * sigmoid(-x)
    slope = share * (miss**gamma * (sigmoid(x) - target)
                     + gamma * miss ** (gamma - 1) * by_miss * entropy)
    return slope * _reduce_grad(gy, x.shape, reduction, x.size), None


def focal_loss(x: Array, target: Array, weight: Array | None = None, *, gamma: float = 2.0,
               ignore_index: int = -100, reduction: str = "mean") -> Array:
    """Return weight (1 - p)^gamma times -log p, p = softmax(x) at the target (Lin et al., 2017)."""
    x, weight = _wide(x, weight)
    hot = _one_hot(target, x.shape[1], _class_weight(weight, x.shape[1]), ignore_index)
    log_p = log_softmax(x, dim=1)
    losses = -(hot * (-np.expm1(log_p)) ** gamma * log_p).sum(axis=1)
    return _reduce(losses, reduction, hot.sum())


def focal_loss_grad(gy: Array, x: Array, target: Array, weight: Array | None = None, *,
                    gamma: float = 2.0, ignore_index: int = -100,
                    reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return the gradient by x: through log p, then through log_softmax."""
    gy, x, weight = _wide(gy, x, weight)
    hot = _one_hot(target, x.shape[1], _class_weight(weight, x.shape[1]), ignore_index)
    log_p = log_softmax(x, dim=1)
    miss = -np.expm1(log_p)
    by_log_p = -hot * (miss**gamma - gamma * miss ** (gamma - 1) * np.exp(log_p) * log_p)
    shape = (x.shape[0], *x.shape[2:])
    by_loss = _reduce_grad(gy, shape, reduction, hot.sum())[:, np.newaxis]
    return log_softmax_grad(by_log_p * by_loss, x, dim=1)[0], None, None


def _margins(x, target, margin):
    """Return how far each wrong class is within the margin of the target's, and the target."""
    at = np.asarray(target)[:, np.newaxis]
    short = np.maximum(margin - np.take_along_axis(x, at, 1) + x, 0.0)
    np.put_along_axis(short, at, 0.0, 1)
    return short, at


def multi_margin_loss(x: Array, target: Array, weight: Array | None = None, *, p: int = 1,
                      margin: float = 1.0, reduction: str = "mean") -> Array:
    """Return weight[t] / C times the sum over j != t of max(0, margin - x[t] + x[j])^p."""
    x, weight = _wide(x, weight)
    short, at = _margins(x, target, margin)
    losses = (short**p).sum(axis=1) * _class_weight(weight, x.shape[1])[at[:, 0]] / x.shape[1]
    return _reduce(losses, reduction, losses.size)


def multi_margin_loss_grad(gy: Array, x: Array, target: Array, weight: Array | None = None, *,
                           p: int = 1, margin: float = 1.0,
                           reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return the gradient by x."""
    gy, x, weight = _wide(gy, x, weight)
    short, at = _margins(x, target, margin)
    scale = _class_weight(weight, x.shape[1])[at[:, 0]] / x.shape[1]
    by_loss = _reduce_grad(gy, (len(x),), reduction, len(x)) * scale
    g = p * short ** (p - 1) * (short > 0) * by_loss[:, np.newaxis]
    np.put_along_axis(g, at, -g.sum(axis=1, keepdims=True), 1)
    return g, None, None


def _bce_terms(x, target, weight, pos_weight):
    """Return the weights of an element and of its positive part."""
    weight = np.ones(()) if weight is None else weight
    pos_weight = np.ones(()) if pos_weight is None else pos_weight
    return weight, 1.0 + (pos_weight - 1.0) * target, pos_weight


def bce_with_logits(x: Array, target: Array, weight: Array | None = None,
                    pos_weight: Array | None = None, *, reduction: str = "mean") -> Array:
    """Return the binary cross entropy of sigmoid(x).

    -weight (pos_weight t log s(x) + (1 - t) log(1 - s(x))), with s the sigmoid.
    """
    x, target, weight, pos_weight = _wide(x, target, weight, pos_weight)
    weight, positive, _ = _bce_terms(x, target, weight, pos_weight)
    losses = weight * ((1.0 - target) * x + positive * np.logaddexp(0.0, -x))
    return _reduce(losses, reduction, losses.size)


def bce_with_logits_grad(gy: Array, x: Array, target: Array, weight: Array | None = None,
                         pos_weight: Array | None = None, *,
                         reduction: str = "mean") -> tuple[Array | None, ...]:
    """Return the gradients by x and target."""
    gy, x, target, weight, pos_weight = _wide(gy, x, target, weight, pos_weight)
    weight, positive, pos = _bce_terms(x, target, weight, pos_weight)
    losses = np.broadcast_shapes(x.shape, target.shape, weight.shape, pos.shape)
    by_loss = weight * _reduce_grad(gy, losses, reduction, math.prod(losses))
    gx = by_loss * ((1.0 - target) - positive * sigmoid(-x))
    gt = by_loss * ((pos - 1.0) * np.logaddexp(0.0, -x) - x)
    return _sum_to(gx, x.shape), _sum_to(gt, target.shape), None, None
