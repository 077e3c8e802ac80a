"""Functions that move, repeat or pad elements."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convkit._kernels.tape import literal
from convkit.autograd import Tensor, apply
from convkit.errors import DTypeError, ShapeError
from convkit.functional.arguments import as_tensor, batched, ndim_of, per_axis, shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "channel_shuffle",
    "concat",
    "flatten",
    "one_hot",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "stack",
    "unfold",
]


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge axes `start_dim` to `end_dim` into one."""
    return apply(OPS["flatten"], input, start_dim=start_dim, end_dim=end_dim)


def concat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Join tensors along `dim`."""
    return apply(OPS["concat"], *tensors, dim=dim)


def stack(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis `dim`."""
    tensors = [as_tensor(t) for t in tensors]
    shapes = {t.shape for t in tensors}
    if len(shapes) != 1:
        raise ShapeError("expected tensors of one shape to stack, got "
                         + (", ".join(map(str, sorted(shapes))) or "none"))
    shape, = shapes
    if not -len(shape) - 1 <= dim <= len(shape):
        raise ShapeError(f"expected dim from {-len(shape) - 1} to {len(shape)}, got {dim}")
    dim %= len(shape) + 1
    return concat([t.unsqueeze(dim) for t in tensors], dim)


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Pad the last axes.

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    pad : sequence of int
        (before, after) of the last axis, then of the one before it, and so on.
    mode : str
        "constant", "reflect", "replicate" or "circular" (of what negative numbers leave).
    value : float or None
        What constant padding holds.
    """
    pad = tuple(pad)
    pairs = (_known_pairs if literal(pad) else _pairs)(pad, ndim_of(input))
    if mode == "circular" and min(map(min, pairs), default=0) < 0:
        left = tuple([(min(a, 0), min(b, 0)) for a, b in pairs])
        input = apply(OPS["pad"], input, padding=left, mode="constant", value=0.0)
        pairs = tuple([(max(a, 0), max(b, 0)) for a, b in pairs])
    return apply(OPS["pad"], input, padding=pairs, mode=mode,
                 value=0.0 if value is None else value)


def _pairs(pad: tuple, ndim: int) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each of `ndim` axes."""
    if len(pad) % 2 or len(pad) > 2 * ndim:
        raise ShapeError(f"expected (before, after) for at most {ndim} axes, got pad={pad}")
    pad = per_axis(pad, len(pad), "pad") if pad else ()
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    pairs += [(0, 0)] * (ndim - len(pairs))
    return tuple(pairs[::-1])


_known_pairs = functools.lru_cache(maxsize=1024)(_pairs)


def _regrouped(x: Any, axes: int, run: Callable[[tuple[int, ...]], tuple]) -> Tensor:
    """Reshape the last `axes` axes, permute, and reshape again; other axes stay in front."""
    shape = shape_of(x)
    if len(shape) < axes:
        raise ShapeError(f"expected x with at least {axes} axes, got shape {shape}")
    lead, last = shape[:len(shape) - axes], shape[len(shape) - axes:]
    split, order, joined = run(last)
    dims = (*range(len(lead)), *(len(lead) + i for i in order))
    y = apply(OPS["reshape"], x, shape=(*lead, *split))
    return apply(OPS["reshape"], apply(OPS["permute"], y, dims=dims), shape=(*lead, *joined))


def pixel_shuffle(input: Any, upscale_factor: int) -> Tensor:
    """Turn channels into pixels: (..., C r^2, H, W) to (..., C, H r, W r).

    References
    ----------
    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", 2016.
    """
    r = upscale_factor

    def run(last: tuple[int, ...]) -> tuple:
        c, h, w = last
        if r < 1 or c % (r * r):
            raise ShapeError(f"expected a number of channels that {r}^2 divides, got {c}")
        return (c // (r * r), r, r, h, w), (0, 3, 1, 4, 2), (c // (r * r), h * r, w * r)

    return _regrouped(input, 3, run)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Tensor:
    """Turn pixels into channels, `pixel_shuffle` undone."""
    r = downscale_factor

    def run(last: tuple[int, ...]) -> tuple:
        c, h, w = last
        if r < 1 or h % r or w % r:
            raise ShapeError(f"expected height and width that {r} divides, got {h} and {w}")
        return (c, h // r, r, w // r, r), (0, 2, 4, 1, 3), (c * r * r, h // r, w // r)

    return _regrouped(input, 3, run)


def channel_shuffle(input: Any, groups: int) -> Tensor:
    """Deal the channels of (N, C, ...) out: those of each group go to all groups in turn.

    References
    ----------
    Zhang, Zhou, Lin and Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network
    for Mobile Devices", 2018.
    """
    def run(last: tuple[int, ...]) -> tuple:
        c, *spatial = last
        if groups < 1 or c % groups:
            raise ShapeError(f"expected a number of channels that {groups} divides, got {c}")
        return ((groups, c // groups, *spatial), (1, 0, *range(2, len(last) + 1)), last)

    return _regrouped(input, ndim_of(input) - 1, run)


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """Return int64 (..., num_classes) with a one where each index points.

    Parameters
    ----------
    tensor : Tensor or array
        Integers from 0 to num_classes - 1.
    num_classes : int
        How many there are; -1 for the largest index plus one.
    """
    index = np.asarray(tensor)
    if index.dtype.kind not in "iu":
        raise DTypeError(f"expected integer class indices, got {index.dtype}")
    if num_classes == -1:
        num_classes = int(index.max(initial=-1)) + 1
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < num_classes:
        raise ValueError(f"class indices run from {index.min()} to {index.max()}, "
                         f"expected 0 to {num_classes - 1}")
    return Tensor((index[..., None] == np.arange(num_classes)).astype(np.int64))


def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
           stride: Any = 1) -> Tensor:
    """Return the windows of images as columns.

    Parameters
    ----------
    input : Tensor or array
        (N, C, H, W) or (C, H, W).
    kernel_size, dilation, padding, stride : int or (int, int)
        As for `conv2d`; `padding` is of zeros.

    Returns
    -------
    Tensor
        (N, C * kH * kW, L) with the L places of a window, or the same without N.
    """
    return batched(input, 2, lambda x: _unfolded(
        as_tensor(x),
        *(per_axis(v, 2, name) for v, name in ((kernel_size, "kernel_size"),
                                               (dilation, "dilation"), (padding, "padding"),
                                               (stride, "stride")))))


def _unfolded(x: Tensor, kernel: tuple, dilation: tuple, padding: tuple, stride: tuple) -> Tensor:
    if any(padding):
        x = pad(x, (padding[1], padding[1], padding[0], padding[0]))
    n, channels, *size = x.shape
    out = [(m - d * (k - 1) - 1) // s + 1
           for m, k, d, s in zip(size, kernel, dilation, stride, strict=True)]
    if min(out) < 1:
        raise ShapeError(f"expected images of at least the window's size, got x of shape {x.shape} "
                         f"and kernel_size={kernel}")
    ends = [s * (m - 1) + 1 for s, m in zip(stride, out, strict=True)]
    taps = [x[:, :, r * dilation[0]:r * dilation[0] + ends[0]:stride[0],
              c * dilation[1]:c * dilation[1] + ends[1]:stride[1]]
            for r in range(kernel[0]) for c in range(kernel[1])]
    return stack(taps, 2).reshape(n, channels * len(taps), math.prod(out))
