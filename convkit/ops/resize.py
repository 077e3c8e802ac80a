"""Resampling of any axes by the coordinates, filters and roundings of ONNX's Resize.

The formulas are those of the operator's document
(https://onnx.ai/onnx/operators/onnx__Resize.html). `upsample` is the same in PyTorch's words.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import memory
from convkit._kernels import resample as kernels
from convkit._kernels.axis import Axis
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS, axis_order, in_order, logical, native
from convkit.ops.op import Context, Op, register
from convkit.ops.spatial import LIMIT, UNIT, remembered

__all__ = ["COORDINATES", "MODES", "NEAREST", "Resize"]

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
               "asymmetric", "tf_crop_and_resize")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


class _Rule(NamedTuple):
    """How one axis is resampled: everything but its sizes."""

    scale: float
    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    roi: tuple[float, float]


def _positions(size: int, outputs: int, rule: _Rule) -> np.ndarray:
    """Return the place in the source that every output element is taken from."""
    y = np.arange(outputs, dtype=np.float64)
    length = rule.scale * size  # of the output before it was rounded to a whole number
    match rule.coordinates:
        case "align_corners":
            return y * ((size - 1) / (length - 1)) if length != 1 else np.zeros(outputs)
        case "asymmetric":
            return y / rule.scale
        case "tf_crop_and_resize":
            start, end = rule.roi
            span = (end - start) * (size - 1)
            step = y * (span / (length - 1)) if length != 1 else np.full(outputs, span / 2)
            return step + start * (size - 1)
        case "pytorch_half_pixel" if length == 1:
            return np.full(outputs, -0.5)
        case "half_pixel_symmetric":
            return size / 2 * (1 - outputs / length) + (y + 0.5) / rule.scale - 0.5
    return (y + 0.5) / rule.scale - 0.5


def _kernel(distance: np.ndarray, rule: _Rule) -> np.ndarray:
    """Return the filter's value at distances from its middle (Keys, 1981, for cubic)."""
    d, a = np.abs(distance), rule.cubic
    if rule.mode == "linear":
        return np.clip(1 - d, 0, None)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _nearest(place: np.ndarray, how: str) -> np.ndarray:
    """Return the source element for places between elements."""
    match how:
        case "floor":
            return np.floor(place)
        case "ceil":
            return np.ceil(place)
        case "round_prefer_floor":
            return np.ceil(place - 0.5)
    return np.floor(place + 0.5)


@remembered
def _axis_lists(size: int, outputs: int, rule: _Rule) -> tuple[Axis, np.ndarray | None]:
    """Return the weighted sources of every output, and which outputs lie outside (or None)."""
    place = _positions(size, outputs, rule)
    outside = None
    if rule.coordinates == "tf_crop_and_resize":
        outside = (place < 0) | (place > size - 1)
    place = np.clip(place, -LIMIT, LIMIT)
    if rule.mode == "nearest":
        source = np.clip(_nearest(place, rule.nearest), 0, size - 1)
        return Axis(outputs, size, np.arange(outputs), source, np.ones(outputs)), outside
    # A filter that is stretched when shrinking averages all that it passes over.
    stretch = min(rule.scale, 1.0) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.mode == "linear" else 2) / stretch)
    taps = np.floor(place)[:, None] + np.arange(1 - reach, reach + 1)
    weight = _kernel((taps - place[:, None]) * stretch, rule)
    if rule.exclude_outside:
        weight = np.where((taps >= 0) & (taps < size), weight, 0.0)
    if rule.exclude_outside or rule.antialias:
        weight = weight / weight.sum(axis=1, keepdims=True)
    output, tap = np.nonzero(weight)
    source = np.clip(taps[output, tap], 0, size - 1)
    return Axis(outputs, size, output, source, weight[output, tap]), outside


def _sizes(x: tuple[int, ...], size: Any, scale: Any, mode: str, coordinates: str,
           nearest_mode: str, roi: Any) -> tuple[int, ...]:
    """Return the output's size; raise where an attribute does not fit the shape."""
    for value, words, name in ((mode, MODES, "mode"), (coordinates, COORDINATES, "coordinates"),
                               (nearest_mode, NEAREST, "nearest_mode")):
        if value not in words:
            raise ValueError(f"expected {name} {', '.join(map(repr, words))}, got {value!r}")
    for name, value in (("size", size), ("scale", scale), ("roi", roi)):
        if value is not None and len(value) != len(x):
            raise ShapeError(f"expected {name} with a value for each of {len(x)} axes, got {value}")
    sizes = tuple(n if m is None else m for n, m in zip(x, size, strict=True))
    if any(not 0 <= m <= LIMIT or n == 0 < m for n, m in zip(x, sizes, strict=True)):
        raise ShapeError(f"cannot resize x of shape {x} to {sizes}")
    if scale is not None and not all(0 < s < np.inf for s in scale):
        raise ShapeError(f"expected positive finite scales, got {scale}")
    if scale is not None and any(s * n < 0.5 for s, n in zip(scale, x, strict=True) if n):
        raise ShapeError(f"scales {scale} leave less than half an element of x of shape {x}")
    return sizes


@register
class Resize(Op):
    """x resampled to another size along any axes.

    Attributes: size, one per axis (None keeps an axis); scale (default: the ratio of the
    sizes), what coordinates are computed with; mode ("nearest", or the separable "linear" and
    "cubic"); coordinates and nearest_mode, ONNX's words; cubic_coeff_a; exclude_outside, whether
    taps beyond the border count for nothing instead of repeating the border; antialias; roi,
    (start, end) per axis, and extrapolation_value for "tf_crop_and_resize".
    """

    name = "resize"
    onnx = "Resize"

    @staticmethod
    def shape(x, *, size, scale=None, mode="nearest", coordinates="half_pixel",
              nearest_mode="round_prefer_floor", cubic_coeff_a=-0.75, exclude_outside=False,
              antialias=False, roi=None, extrapolation_value=0.0):
        """Return `size`, axes that are kept filled in."""
        return _sizes(x, size, scale, mode, coordinates, nearest_mode, roi)

    @staticmethod
    def forward(ctx: Context, x, *, size, scale=None, mode="nearest", coordinates="half_pixel",
                nearest_mode="round_prefer_floor", cubic_coeff_a=-0.75, exclude_outside=False,
                antialias=False, roi=None, extrapolation_value=0.0):
        """Resample one axis after the other, the outermost first."""
        size = _sizes(x.shape, size, scale, mode, coordinates, nearest_mode, roi)
        x = native(x)
        if 0 in (*x.shape, *size):
            ctx.saved = None, None, None, x.dtype, x.shape
            return np.zeros(size, x.dtype)
        order = axis_order(x)
        array, dtype = in_order(x, order, ctx.threads), x.dtype
        done, fills = [], []
        for at, axis in enumerate(order or range(x.ndim)):
            n, m = x.shape[axis], size[axis]
            ratio = m / n if scale is None else scale[axis]
            window = (0.0, 1.0) if roi is None else tuple(roi[axis])
            if n == m and ratio == 1 and coordinates != "tf_crop_and_resize":
                continue
            lists, outside = _axis_lists(n, m, _Rule(
                ratio, mode, coordinates, nearest_mode, cubic_coeff_a, bool(exclude_outside),
                bool(antialias), window))
            if outside is not None and outside.any():
                fills.append((slice(None),) * axis + (outside,))
            array = _gather(array, at, lists, ctx.threads)
            done.append((at, lists))
        if any(ctx.needs):
            ctx.saved = order, done, fills, dtype, x.shape
        y = logical(array, order) if done else x.copy(order="K")
        for index in fills:
            y[index] = extrapolation_value
        return y

    @staticmethod
    def lower(b, x, *, size, scale=None, mode="nearest", coordinates="half_pixel",
              nearest_mode="round_prefer_floor", cubic_coeff_a=-0.75, exclude_outside=False,
              antialias=False, roi=None, extrapolation_value=0.0):
        """Emit a step for each axis but the first; none for what reaches beyond the input."""
        if x.dtype not in FLOATS or not x.regular or (
                coordinates == "tf_crop_and_resize" or size[0] not in (None, x.shape[0])
                or (scale is not None and scale[0] != 1)):
            return None
        sizes = _sizes((1, *x.shape[1:]), (None, *size[1:]), scale, mode, coordinates,
                       nearest_mode, roi)
        x = b.compact(x)
        order, shape = x.order, list(x.shape)
        for at, axis in enumerate(order):
            n, m = shape[axis], sizes[axis]
            ratio = 1 if axis == 0 else m / n if scale is None else scale[axis]
            if axis == 0 or (n == m and ratio == 1):
                continue
            lists, _ = _axis_lists(n, m, _Rule(
                ratio, mode, coordinates, nearest_mode, cubic_coeff_a, bool(exclude_outside),
                bool(antialias), (0.0, 1.0)))
            outer, inner = (math.prod(shape[i] for i in part)
                            for part in (order[1:at], order[at + 1:]))
            shape[axis] = m
            y = b.new(tuple(shape), x.dtype, order)
            b.step(kernels.step(False, inner, x.dtype.itemsize, UNIT, lists), (x, y),
                   tuple([outer * k for k in x.samples]))
            x = y
        return x

    @staticmethod
    def backward(ctx: Context, g):
        """Give each input the weighted sum of the gradients of the outputs that it went into."""
        order, done, fills, dtype, shape = ctx.saved
        if done is None:
            return (np.zeros(shape, dtype),)
        if fills:
            g = g.copy(order="K")
            for index in fills:
                g[index] = 0
        array = in_order(g.astype(dtype, copy=False), order, ctx.threads)
        for at, lists in reversed(done):
            array = _gather(array, at, lists.transposed(), ctx.threads)
        return (logical(array, order),)


def _gather(array: np.ndarray, at: int, lists: Axis, threads: int) -> np.ndarray:
    """Return a C-contiguous array with the axis `at` resampled."""
    s = array.shape
    after = (*s[:at], lists.targets, *s[at + 1:])
    out = memory.empty(after, array.dtype)
    outer, inner = math.prod(s[:at]), math.prod(s[at + 1:])
    kernels.gather(array.reshape(outer, 1, s[at], inner),
                   out.reshape(outer, 1, lists.targets, inner), UNIT, lists, threads)
    return out
