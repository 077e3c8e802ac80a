"""Images and sequences in other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import ndim_of, per_axis, shape_of
from convkit.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d
from convkit.ops import REGISTRY as OPS

__all__ = ["interpolate", "upsample"]

# By the number of spatial axes; then those that `align_corners` and `antialias` are for.
MODES = {1: ("nearest", "nearest-exact", "area", "linear"),
         2: ("nearest", "nearest-exact", "area", "bilinear", "bicubic")}
FILTERS = ("linear", "bilinear", "bicubic")
SMOOTHED = ("bilinear", "bicubic")
# Keys' coefficient of the cubic filter as PyTorch has it, and where it smooths.
CUBIC, SMOOTHED_CUBIC = -0.75, -0.5


def interpolate(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize (N, C, L) or (N, C, H, W).

    Parameters
    ----------
    input : Tensor or array
        Sequences or images.
    size : int or tuple, optional
        Spatial size of the output.
    scale_factor : float or tuple, optional
        Output size over input size (rounded down); one of the two is given.
    mode : str
        "nearest" (the pixel in which the output's corner lies), "nearest-exact" (in which its
        centre lies), "area" (means, as adaptive average pooling), "linear" (sequences), "bilinear"
        or "bicubic" (images; Keys 1981).
    align_corners : bool, optional
        For the linear and cubic modes: corners' centres keep their place, instead of corners.
    recompute_scale_factor : bool, optional
        Place pixels by the ratio of the sizes even where `scale_factor` is given.
    antialias : bool
        For "bilinear" and "bicubic": stretch the filter where an image shrinks, so that every
        pixel has a part in the result.

    Raises
    ------
    ValueError
        When both or neither of `size` and `scale_factor` are given, or the mode is unknown
        or does not fit the number of axes, `align_corners` or `antialias`.
    """
    axes = ndim_of(input) - 2
    if axes not in MODES:
        raise ShapeError(f"expected x with 3 or 4 axes, got shape {shape_of(input)}")
    _check(axes, input, mode, align_corners, antialias)
    sizes, scales = _sizes(axes, shape_of(input)[2:], size, scale_factor)
    if recompute_scale_factor:
        if scales is None:
            raise ValueError("recompute_scale_factor is for scale_factor")
        scales = None
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d)[axes - 1](input, sizes)
    if mode not in ("nearest-exact", "bicubic") and not antialias:
        return apply(OPS["upsample"], input, size=sizes, mode=mode,
                     align_corners=bool(align_corners), scale_factor=scales)
    if any(n < 1 for n in sizes):
        raise ShapeError(f"expected size of at least 1, got {sizes}")
    kept = (None, None)
    return apply(
        OPS["resize"], input, size=(*kept, *sizes),
        scale=None if scales is None or align_corners else (1.0, 1.0, *scales),
        mode={"nearest-exact": "nearest", "bicubic": "cubic"}.get(mode, "linear"),
        coordinates="align_corners" if align_corners else "half_pixel",
        nearest_mode="round_prefer_ceil", cubic_coeff_a=SMOOTHED_CUBIC if antialias else CUBIC,
        exclude_outside=antialias, antialias=antialias)


upsample = interpolate


def _check(axes: int, x: Any, mode: str, align_corners: bool | None, antialias: bool) -> None:
    """Raise ValueError where settings do not go together."""
    if mode not in MODES[axes]:
        raise ValueError(f"mode {mode!r} does not fit x of shape {shape_of(x)}: expected "
                         f"{', '.join(map(repr, MODES[axes]))}")
    if align_corners is not None and mode not in FILTERS:
        raise ValueError("align_corners is for the modes 'linear', 'bilinear' and 'bicubic'")
    if antialias and (mode not in SMOOTHED or align_corners):
        raise ValueError("antialias is for the modes 'bilinear' and 'bicubic' without "
                         "align_corners")


def _sizes(axes: int, shape: tuple[int, ...], size: Any, scale_factor: Any
           ) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Return the spatial size of the output, and the scales where these were given."""
    if (size is None) == (scale_factor is None):
        raise ValueError("exactly one of size and scale_factor must be given")
    if size is not None:
        return per_axis(size, axes, "size"), None
    scales = tuple(float(s) for s in scale_factor) if isinstance(scale_factor, Sequence) \
        else (float(scale_factor),) * axes
    if len(scales) != axes:
        raise ShapeError(f"expected {axes} scale factors, got {scale_factor!r}")
    if not all(0 < s < math.inf for s in scales):
        raise ValueError(f"scale factors must be positive, got {scale_factor!r}")
    return tuple(math.floor(n * s) for n, s in zip(shape, scales, strict=True)), scales
