"""Functions that move, repeat or pad elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.autograd import Tensor, apply
from convkit.errors import DTypeError, ShapeError
from convkit.functional.arguments import ndim_of, per_axis, shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "concat",
    "flatten",
    "interpolate",
    "one_hot",
    "pad",
    "upsample",
]


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge axes `start_dim` to `end_dim` into one."""
    return apply(OPS["flatten"], input, start_dim=start_dim, end_dim=end_dim)


def concat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Join tensors along `dim`."""
    return apply(OPS["concat"], *tensors, dim=dim)


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """Pad the last axes.

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    pad : sequence of int
        (before, after) of the last axis, then of the one before it, and so on.
    mode : str
        "constant", "reflect", "replicate" or "circular".
    value : float or None
        What constant padding holds.
    """
    ndim = ndim_of(input)
    pad = tuple(pad)
    if len(pad) % 2 or len(pad) > 2 * ndim:
        raise ShapeError(f"expected (before, after) for at most {ndim} axes, got pad={pad}")
    pad = per_axis(pad, len(pad), "pad") if pad else ()
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    pairs += [(0, 0)] * (ndim - len(pairs))
    return apply(OPS["pad"], input, padding=tuple(pairs[::-1]), mode=mode,
                 value=0.0 if value is None else value)


def interpolate(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None,
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
        "nearest", "linear" (sequences) or "bilinear" (images).
    align_corners : bool, optional
        For the linear modes: corners' centres keep their place, instead of corners.

    Raises
    ------
    ValueError
        When both or neither of `size` and `scale_factor` are given, or the mode is unknown
        or does not fit the number of axes or `align_corners`.
    """
    axes = ndim_of(input) - 2
    if axes not in (1, 2):
        raise ShapeError(f"expected x with 3 or 4 axes, got shape {shape_of(input)}")
    if (size is None) == (scale_factor is None):
        raise ValueError("exactly one of size and scale_factor must be given")
    if mode != "nearest" and mode != ("linear", "bilinear")[axes - 1]:
        raise ValueError(f"mode {mode!r} does not fit x of shape {shape_of(input)}")
    if mode == "nearest" and align_corners is not None:
        raise ValueError("align_corners is for the modes 'linear' and 'bilinear'")
    scales = None
    if size is None:
        scales = tuple(float(s) for s in scale_factor) if isinstance(scale_factor, Sequence) \
            else (float(scale_factor),) * axes
        if len(scales) != axes:
            raise ShapeError(f"expected {axes} scale factors, got {scale_factor!r}")
        if not all(0 < s < math.inf for s in scales):
            raise ValueError(f"scale factors must be positive, got {scale_factor!r}")
        size = tuple(math.floor(n * s) for n, s in zip(shape_of(input)[2:], scales, strict=True))
    return apply(OPS["upsample"], input, size=per_axis(size, axes, "size"), mode=mode,
                 align_corners=bool(align_corners), scale_factor=scales)


upsample = interpolate


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
