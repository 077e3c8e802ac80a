"""Change of spatial size: nearest and linear interpolation by PyTorch's coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit._kernels import resample as kernels
from convkit._kernels.axis import Axis
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS
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

__all__ = ["Upsample", "nearest_sources"]


def nearest_sources(size: int, outputs: int, factor: float | None) -> np.ndarray:
    """Return each output's source floor(o * scale), with the scale rounded to float32.

    An axis that keeps its size is copied and a doubled one repeats every element, whatever
    the factor says.
    """
    output = np.arange(outputs)
    if outputs == size:
        return output
    if outputs == 2 * size:
        return output // 2
    scale = np.float32(1.0 / factor) if factor else np.float32(size) / np.float32(outputs)
    places = np.floor(output.astype(np.float32) * scale).astype(np.int64)
    return np.minimum(places, size - 1)


@remembered
def _nearest_axis(size: int, outputs: int, factor: float | None) -> Axis:
    """Return the lists of `nearest_sources`."""
    return Axis(outputs, size, np.arange(outputs), nearest_sources(size, outputs, factor),
                np.ones(outputs))


@remembered
def _linear_axis(size: int, outputs: int, align_corners: bool, factor: float | None) -> Axis:
    """Return each output's two neighbours and their weights.

    Outputs sit at ``o * (size - 1) / (outputs - 1)`` where corners are aligned, else at
    ``max((o + 0.5) * scale - 0.5, 0)``.
    """
    output = np.arange(outputs)
    if outputs == size:
        return Axis(outputs, size, output, output, np.ones(outputs))
    if align_corners:
        place = output * ((size - 1) / (outputs - 1) if outputs > 1 else 0.0)
    else:
        scale = 1.0 / factor if factor else size / outputs
        place = np.maximum((output + 0.5) * scale - 0.5, 0.0)
    low = np.minimum(np.floor(place), size - 1)
    high = np.minimum(low + 1, size - 1)
    part = np.minimum(place - low, 1.0)
    return Axis(outputs, size, np.repeat(output, 2), np.stack([low, high], 1).ravel(),
                np.stack([1.0 - part, part], 1).ravel())


def _sizes(x: tuple[int, ...], size: Any, mode: str, scale_factor: Any) -> tuple:
    """Return the output's spatial size and the scale factor (or None) of each axis."""
    axes = spatial_axes(x)
    if mode not in ("nearest", "linear", "bilinear"):
        raise ValueError(f"expected mode 'nearest', 'linear' or 'bilinear', got {mode!r}")
    if mode != "nearest" and mode != ("linear", "bilinear")[axes - 1]:
        raise ShapeError(f"mode {mode!r} does not fit x of shape {tuple(x)}: 'linear' is for "
                         "(N, C, L), 'bilinear' for (N, C, H, W)")
    factors = tuple(scale_factor) if hasattr(scale_factor, "__len__") else (scale_factor,) * axes
    if len(factors) != axes:
        raise ShapeError(
            f"expected scale_factor with {axes} values, one per spatial axis, got {scale_factor}")
    if not all(f is None or 0 < f < np.inf for f in factors):
        raise ShapeError(f"expected positive finite scale factors, got {scale_factor}")
    return per_axis(size, axes, "size", 1), factors


def _axes(x: tuple[int, ...], sizes: tuple[int, ...], factors: tuple, mode: str,
          align_corners: Any) -> tuple[Axis, Axis]:
    """Return the lists of both axes."""
    if mode == "nearest":
        axes = [_nearest_axis(*a) for a in zip(x[2:], sizes, factors, strict=True)]
    else:
        axes = [_linear_axis(n, m, bool(align_corners), f)
                for n, m, f in zip(x[2:], sizes, factors, strict=True)]
    return (UNIT, *axes)[-2:]


@register
class Upsample(Op):
    """x resampled to another spatial size, as `torch.nn.functional.interpolate`.

    Attributes: size, one value per spatial axis; mode ("nearest", "linear" for signals,
    "bilinear" for images); align_corners; scale_factor: None, or the factors (one or one
    per axis) that `size` was computed from: coordinates then use 1 / factor, not the ratio of
    the sizes, as PyTorch does unless told to recompute it.
    """

    name = "upsample"
    onnx = "Resize"

    @staticmethod
    def shape(x, *, size, mode="nearest", align_corners=False, scale_factor=None):
        """Return (N, C, size...)."""
        return (*x[:2], *_sizes(x, size, mode, scale_factor)[0])

    @staticmethod
    def forward(ctx: Context, x, *, size, mode="nearest", align_corners=False,
                scale_factor=None):
        """Resample (N, C, L) or (N, C, H, W)."""
        sizes, factors = _sizes(x.shape, size, mode, scale_factor)
        source = image(x, ctx.threads)
        y, target = empty_image((*x.shape[:2], *sizes), source.dtype)
        h, w = _axes(x.shape, sizes, factors, mode, align_corners)
        if mode == "nearest":
            kernels.copy(source, target, h, w, 0.0, ctx.threads)
        else:
            kernels.gather(source, target, h, w, ctx.threads)
        if any(ctx.needs):
            ctx.saved = x.shape, source.dtype, h, w
        return y

    @staticmethod
    def lower(b, x, *, size, mode="nearest", align_corners=False, scale_factor=None):
        """Emit the kernel's step."""
        if x.dtype not in FLOATS:
            return None
        shape = (1, *x.shape[1:])
        sizes, factors = _sizes(shape, size, mode, scale_factor)
        h, w = _axes(shape, sizes, factors, mode, align_corners)
        x = b.last(x)
        y = b.new_last((*x.shape[:2], *sizes), x.dtype)
        b.step(kernels.step(mode == "nearest", x.shape[1], x.dtype.itemsize, h, w), (x, y),
               x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, g):
        """Give each input the weighted sum of the gradients of the outputs that it went into."""
        shape, dtype, h, w = ctx.saved
        gx, target = empty_image(shape, dtype)
        gy = image_gradient(g, dtype, ctx.threads)
        kernels.gather(gy, target, h.transposed(), w.transposed(), ctx.threads)
        return (gx,)
