"""Layers that move, repeat or pad elements."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = [
    "ChannelShuffle",
    "CircularPad2d",
    "ConstantPad2d",
    "Flatten",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Upsample",
    "ZeroPad2d",
]


class Flatten(Module):
    """Merges axes `start_dim` to `end_dim` into one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Any) -> Tensor:
        """Merge the axes."""
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Upsample(Module):
    """Resizes (N, C, L) or (N, C, H, W); see `functional.interpolate`."""

    def __init__(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None):
        super().__init__()
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, input: Any) -> Tensor:
        """Resize."""
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        what = f"size={self.size}" if self.size is not None else \
            f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


class _Pad2d(Module):
    """Base of the padding layers.

    Parameters
    ----------
    padding : int or tuple
        One number, or (left, right, top, bottom).
    """

    mode = "constant"
    value = 0.0

    def __init__(self, padding: Any):
        super().__init__()
        self.padding = F.per_axis(padding, 4, "padding")

    def forward(self, input: Any) -> Tensor:
        """Pad the last two axes."""
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{self.padding}"


class ZeroPad2d(_Pad2d):
    """Pads images with zeros, given one number or (left, right, top, bottom)."""


class ConstantPad2d(_Pad2d):
    """Pads images with a value, given one number or (left, right, top, bottom)."""

    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"padding={self.padding}, value={self.value}"


class ReflectionPad2d(_Pad2d):
    """Pads images with their mirror image, the border not repeated."""

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """Pads images with their border."""

    mode = "replicate"


class CircularPad2d(_Pad2d):
    """Pads images with their opposite side."""

    mode = "circular"


class PixelShuffle(Module):
    """Turns channels into pixels; see `functional.pixel_shuffle`."""

    def __init__(self, upscale_factor: int):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Any) -> Tensor:
        """Map (N, C r^2, H, W) to (N, C, H r, W r)."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Turns pixels into channels: `PixelShuffle` undone."""

    def __init__(self, downscale_factor: int):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Any) -> Tensor:
        """Map (N, C, H r, W r) to (N, C r^2, H, W)."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Deals the channels of each group out to all; see `functional.channel_shuffle`."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, input: Any) -> Tensor:
        """Reorder the channels of (N, C, ...)."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"groups={self.groups}"
