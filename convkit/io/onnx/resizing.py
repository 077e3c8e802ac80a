"""Resize and Upsample."""

from __future__ import annotations

import math

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, axes_of, handles
from convkit.io.onnx.node import Operator, Val
from convkit.ops.resize import COORDINATES, NEAREST

__all__: list[str] = []


def _numbers(b: Builder, x: Val | None, what: str) -> tuple[float, ...]:
    """Return a constant's elements as floats; none where it is left out or empty."""
    return () if x is None else tuple(float(v) for v in b.known(x, what).reshape(-1))


def _spread(values: tuple, axes: tuple[int, ...], rank: int, default: float) -> tuple[float, ...]:
    """Return values given for some axes for all of them."""
    if len(values) != len(axes):
        raise ModelFormatError(f"expected values for {len(axes)} axes, got {len(values)}")
    found = [default] * rank
    for axis, value in zip(axes, values, strict=True):
        found[axis] = value
    return tuple(found)


def _sized(size: int, scale: float) -> int:
    """Return floor(size * scale), where the product of float32 numbers is taken as meant."""
    product = size * scale
    return math.floor(round(product) if abs(product - round(product)) < 1e-4 else product)


def _sizes(b: Builder, node: Operator, axes: tuple[int, ...]):
    """Return the output's sizes and the scale of every axis."""
    x = node.input(0)
    scales = _numbers(b, node.input(2), "scales")
    wanted = _numbers(b, node.input(3), "sizes")
    if bool(scales) == bool(wanted):
        raise ModelFormatError("expected scales or sizes, and not both")
    if scales:
        scales = _spread(scales, axes, x.rank, 1.0)
        if not all(0 < s < 1e9 for s in scales):
            raise ModelFormatError(f"expected positive scales, got {scales[:8]}")
        return tuple(_sized(n, s) for n, s in zip(x.shape, scales, strict=True)), scales
    sizes = _spread(wanted, axes, x.rank, -1.0)
    sizes = tuple(n if m == -1 else int(m) for n, m in zip(x.shape, sizes, strict=True))
    policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        pick = {"not_larger": min, "not_smaller": max}.get(policy)
        if pick is None or any(x.shape[i] == 0 for i in axes):
            raise ModelFormatError(f"keep_aspect_ratio_policy {policy!r:.80}")
        scale = pick(sizes[i] / x.shape[i] for i in axes)
        sizes = tuple(math.floor(scale * n + 0.5) if i in axes else n
                      for i, n in enumerate(x.shape))
        return sizes, tuple(scale if i in axes else 1.0 for i in range(x.rank))
    return sizes, None


@handles("Resize")
def resize(b: Builder, node: Operator) -> Val:
    """Return resampling in every mode; what PyTorch's interpolate does too becomes `upsample`."""
    if node.opset < 11:
        return _by_scales(b, node)
    x, attrs = node.input(0), node.attrs
    axes = axes_of(attrs.get("axes") or tuple(range(x.rank)), x.rank)
    size, scale = _sizes(b, node, axes)
    coordinates, mode = attrs["coordinate_transformation_mode"], attrs["mode"]
    if coordinates == "tf_half_pixel_for_nn" or coordinates not in COORDINATES or \
            attrs["nearest_mode"] not in NEAREST or mode not in ("nearest", "linear", "cubic"):
        raise UnsupportedOperatorError(f"Resize with {coordinates!r:.40}, {mode!r:.40}, "
                                       f"{attrs['nearest_mode']!r:.40}")
    roi = None
    if coordinates == "tf_crop_and_resize":
        ends = _numbers(b, node.input(1), "roi")
        if len(ends) != 2 * len(axes):
            raise ModelFormatError(f"roi: expected {2 * len(axes)} values, got {len(ends)}")
        roi = tuple(zip(_spread(ends[:len(axes)], axes, x.rank, 0.0),
                        _spread(ends[len(axes):], axes, x.rank, 1.0), strict=True))
    if x.rank in (3, 4) and not attrs.get("antialias") and x.is_float and (
            size[:2] == x.shape[:2]) and not attrs["exclude_outside"]:
        same = _as_upsample(mode, coordinates, attrs["nearest_mode"], x.shape[2:], size[2:],
                            None if scale is None else scale[2:])
        if same is not None:
            return b.op("upsample", x, size=size[2:], mode=same[0], align_corners=same[1],
                        scale_factor=same[2])
    return b.in_float(x, lambda x: b.op(
        "resize", x, size=_kept(x, size), scale=scale, mode=mode, coordinates=coordinates,
        nearest_mode=attrs["nearest_mode"], cubic_coeff_a=attrs["cubic_coeff_a"],
        exclude_outside=bool(attrs["exclude_outside"]), antialias=bool(attrs.get("antialias", 0)),
        roi=roi, extrapolation_value=attrs["extrapolation_value"]))


def _as_upsample(mode: str, coordinates: str, nearest: str, before, after, scale
                 ) -> tuple | None:
    """Return upsample's mode, align_corners and scale_factor where it means the same, else None."""
    linear = "linear" if len(before) == 1 else "bilinear"
    exact = scale is None or all(s * n == m for s, n, m in zip(scale, before, after, strict=True))
    if mode == "nearest" and (coordinates, nearest) == ("asymmetric", "floor") and exact:
        # At other ratios the two round at different places.
        even = all(m in (n, 2 * n) for n, m in zip(before, after, strict=True))
        return ("nearest", False, None) if even else None
    if mode == "linear" and coordinates == "align_corners" and exact:
        return linear, True, None
    # At an output of one element the two words for half pixels differ.
    if mode == "linear" and 1 not in after and coordinates in ("half_pixel", "pytorch_half_pixel"):
        return linear, False, None if exact else tuple(scale)
    return None


def _kept(x: Val, size: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return sizes with None for axes that stay as they are, such as the batch."""
    return tuple(None if n == m else m for n, m in zip(x.shape, size, strict=True))


@handles("Upsample")
def upsample(b: Builder, node: Operator) -> Val:
    """Return resize of older operator sets."""
    return _by_scales(b, node)


def _by_scales(b: Builder, node: Operator) -> Val:
    """Resample with x / scale as coordinates, rounded down."""
    x, mode = node.input(0), node.attrs.get("mode", "nearest")
    scales = node.attrs.get("scales") or _numbers(b, node.input(1), "scales")
    if len(scales) != x.rank or not all(0 < s < 1e9 for s in scales):
        raise ModelFormatError(f"expected {x.rank} positive scales, got {scales[:8]}")
    mode = {"bilinear": "linear"}.get(mode, mode)
    if mode not in ("nearest", "linear"):
        raise UnsupportedOperatorError(f"{node.type} in mode {mode!r:.40}")
    size = tuple(_sized(n, s) for n, s in zip(x.shape, scales, strict=True))
    return b.in_float(x, lambda x: b.op(
        "resize", x, size=_kept(x, size), scale=tuple(scales), mode=mode, coordinates="asymmetric",
        nearest_mode="floor"))
