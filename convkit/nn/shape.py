"""Layers that move, repeat or pad elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convkit import functional as F
from convkit import tensors as T
from convkit.autograd import Tensor
from convkit.nn.module import Module

__all__ = [
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "Flatten",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Unflatten",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
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


class Unflatten(Module):
    """Cuts one axis into several, of which one size may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]):
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Any) -> Tensor:
        """Cut the axis."""
        return T.unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Unfold(Module):
    """Makes columns of the windows of images; see `functional.unfold`."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1):
        super().__init__()
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, input: Any) -> Tensor:
        """Return the columns."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
                f"padding={self.padding}, stride={self.stride}")


class Upsample(Module):
    """Resizes (N, C, L) or (N, C, H, W); see `functional.interpolate`."""

    def __init__(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None, recompute_scale_factor: bool | None = None):
        super().__init__()
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Any) -> Tensor:
        """Resize."""
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners,
                             self.recompute_scale_factor)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        what = f"size={self.size}" if self.size is not None else \
            f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resizes images by the nearest pixel."""

    def __init__(self, size: Any = None, scale_factor: Any = None):
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Resizes images linearly, corners' centres in their place."""

    def __init__(self, size: Any = None, scale_factor: Any = None):
        super().__init__(size, scale_factor, "bilinear", True)


class _Pad2d(Module):
    """Base of the padding layers.

    Parameters
    ----------
    padding : int or tuple
        One number, or (left, right, top, bottom).
    """

    mode = "constant"
    value = 0.0
    axes = 2

    def __init__(self, padding: Any):
        super().__init__()
        self.padding = F.per_axis(padding, 2 * self.axes, "padding")

    def forward(self, input: Any) -> Tensor:
        """Pad the last axes."""
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


class ZeroPad1d(ZeroPad2d):
    """Pads sequences as `ZeroPad2d` pads images, given one number or (left, right)."""

    axes = 1


class ConstantPad1d(ConstantPad2d):
    """Pads sequences as `ConstantPad2d` pads images, given one number or (left, right)."""

    axes = 1


class ReflectionPad1d(ReflectionPad2d):
    """Pads sequences as `ReflectionPad2d` pads images, given one number or (left, right)."""

    axes = 1


class ReplicationPad1d(ReplicationPad2d):
    """Pads sequences as `ReplicationPad2d` pads images, given one number or (left, right)."""

    axes = 1


class CircularPad1d(CircularPad2d):
    """Pads sequences as `CircularPad2d` pads images, given one number or (left, right)."""

    axes = 1


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
