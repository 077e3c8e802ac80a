"""Images of bytes as a network's input: one multiply-add per channel, on the way to floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import memory
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import from_last, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["LAYOUTS", "Image"]

LAYOUTS = ("NHWC", "NCHW")


@register
class Image(Op):
    """``x * scale + shift`` per channel as floats (N, C, H, W), for uint8 images.

    `layout` says which axis of x the channels are: "NHWC" or "NCHW". Each of the 256 values
    is computed once, in float64, and looked up.
    """

    name = "image"
    differentiable = 0

    @staticmethod
    def shape(x, scale, shift, *, layout="NHWC"):
        """Return (N, C, H, W)."""
        if layout not in LAYOUTS:
            raise ValueError(f"expected layout {' or '.join(LAYOUTS)}, got {layout!r}")
        if len(x) != 4:
            raise ShapeError(f"expected images of shape ({', '.join(layout)}), got {x}")
        out = (x[0], x[3], x[1], x[2]) if layout == "NHWC" else x
        for what, got in (("scale", scale), ("shift", shift)):
            if got != (out[1],):
                raise ShapeError(f"expected {what} of shape ({out[1]},) for images of {out[1]} "
                                 f"channels, got {got}")
        return out

    @staticmethod
    def forward(ctx: Context, x, scale, shift, *, layout="NHWC"):
        """Look up every value; channels-last in memory."""
        from convkit._kernels import augment

        if x.dtype != np.uint8:
            raise DTypeError(f"expected images of uint8, got {x.dtype}")
        Image.shape(x.shape, scale.shape, shift.shape, layout=layout)
        last = np.ascontiguousarray(x) if layout == "NHWC" else to_last(x)
        y = memory.empty(last.shape, scale.dtype)
        table = _table(scale, shift)
        if y.dtype == np.float32:
            augment.look_up(last, y, table, ctx.threads)
        else:
            for c, values in enumerate(table):
                y[..., c] = values[last[..., c]]
        return from_last(y)

    @staticmethod
    def lower(b: Any, x, scale, shift, *, layout="NHWC"):
        """Emit the look-up's step."""
        from convkit._kernels import augment

        if x.dtype != np.uint8 or scale.constant is None or shift.constant is None \
                or scale.dtype != np.float32:
            return None
        x = b.in_order(x, (0, 1, 2, 3)) if layout == "NHWC" else b.last(x)
        y = b.new_last(Image.shape(x.shape, scale.shape, shift.shape, layout=layout), scale.dtype)
        table = _table(scale.constant, shift.constant)
        b.step(augment.look_up_step(math.prod(y.shape[2:]), table), (x, y), y.samples)
        return y


def _table(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return what becomes of each byte, (C, 256)."""
    values = np.arange(256.0) * scale.astype(np.float64)[:, None] + shift[:, None]
    return values.astype(scale.dtype)
