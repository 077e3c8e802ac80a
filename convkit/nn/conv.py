"""Convolution layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.nn import init
from convkit.nn.linear import positive
from convkit.nn.module import Module, weight_and_bias
from convkit.nn.parameter import Parameter

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What convolutions of all kinds have in common."""

    axes: int
    transposed = False

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, output_padding,
                 dilation, groups, bias, padding_mode, dtype):
        super().__init__()
        self.in_channels = positive(in_channels, "in_channels")
        self.out_channels = positive(out_channels, "out_channels")
        self.groups = positive(groups, "groups")
        for channels, what in ((in_channels, "in_channels"), (out_channels, "out_channels")):
            if channels % groups:
                raise ShapeError(f"expected {what} divisible by groups={groups}, got {channels}")
        self.kernel_size = self._sizes(kernel_size, "kernel_size", 1)
        self.stride = self._sizes(stride, "stride", 1)
        self.dilation = self._sizes(dilation, "dilation", 1)
        self.output_padding = self._sizes(output_padding, "output_padding", 0)
        self.padding = padding if isinstance(padding, str) else _tuples(padding, self.axes)
        if not self.transposed:
            F.padding_pairs(self.padding, self.kernel_size, self.stride, self.dilation)
        if padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        outer, inner = self.out_channels, self.in_channels
        if self.transposed:
            outer, inner = inner, outer
        self.weight = Parameter.empty((outer, inner // groups, *self.kernel_size), dtype)
        self.register_parameter(
            "bias", Parameter.empty(self.out_channels, dtype) if bias else None)
        self.reset_parameters()

    def _sizes(self, value: Any, what: str, least: int) -> tuple[int, ...]:
        sizes = F.per_axis(value, self.axes, what)
        if min(sizes) < least:
            raise ShapeError(f"expected {what} of at least {least}, got {value!r}")
        return sizes

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.default_weight_and_bias_(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows, those that are not the default."""
        text = (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
                f"stride={self.stride}")
        if self.padding != (0,) * self.axes:
            text += f", padding={self.padding!r}"
        if self.dilation != (1,) * self.axes:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * self.axes:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text


def _tuples(padding: Any, axes: int) -> tuple:
    """Return padding as a tuple of one number, or one (before, after), per axis."""
    pairs = F.padding_pairs(padding, (1,) * axes, (1,) * axes, (1,) * axes)
    if any(p < 0 for pair in pairs for p in pair):
        raise ShapeError(f"expected padding of at least 0, got {padding!r}")
    even = all(before == after for before, after in pairs)
    return tuple(pair[0] for pair in pairs) if even else pairs


class _Plain(_Conv):
    """Base of Conv1d and Conv2d."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", *, algorithm: str = "auto", dtype: Any = np.float32,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, 0, dilation,
                         groups, bias, padding_mode, dtype)
        self.algorithm = algorithm


class Conv1d(_Plain):
    """Cross-correlation of sequences (N, C, L) or (C, L); see `Conv2d`."""

    axes = 1

    def forward(self, input: Any) -> Tensor:
        """Map (N, in_channels, L) to (N, out_channels, L')."""
        weight, bias = weight_and_bias(self)
        return F.conv1d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups,
                        padding_mode=self.padding_mode, algorithm=self.algorithm,
                        moments=self.training and bias is None)


class Conv2d(_Plain):
    """Cross-correlation of images (N, C, H, W) or (C, H, W) with learned kernels.

    Parameters
    ----------
    in_channels, out_channels : int
        Both divisible by `groups`.
    kernel_size, stride, dilation : int or tuple
        One for both axes or one each.
    padding : int, tuple or str
        One number, one per axis, one (before, after) pair per axis, "valid" or "same".
    groups : int
        Channels are cut into this many groups that do not mix; with `in_channels` groups
        every channel has kernels of its own (depthwise convolution).
    bias : bool
        Whether a learned number per channel is added.
    padding_mode : str
        What the padding holds: "zeros", "reflect", "replicate" or "circular".
    algorithm : str
        "auto", "direct" or "im2col".
    dtype : dtype_like
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        Shape (out_channels, in_channels / groups, kH, kW), drawn evenly from
        +- 1 / sqrt(in_channels / groups * kH * kW).
    bias : Parameter or None
        Shape (out_channels,), drawn likewise.
    """

    axes = 2

    def forward(self, input: Any) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        weight, bias = weight_and_bias(self)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups,
                        padding_mode=self.padding_mode, algorithm=self.algorithm,
                        moments=self.training and bias is None)


class _Transposed(_Conv):
    """Base of ConvTranspose1d and ConvTranspose2d."""

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1,
        padding: Any = 0, output_padding: Any = 0, groups: int = 1, bias: bool = True,
        dilation: Any = 1, padding_mode: str = "zeros", *, dtype: Any = np.float32,
    ):
        if padding_mode != "zeros":
            raise ValueError(f"transposed convolution supports padding_mode='zeros' only, "
                             f"got {padding_mode!r}")
        if isinstance(padding, str):
            raise TypeError(f"expected padding as integers, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, output_padding,
                         dilation, groups, bias, padding_mode, dtype)

    def _output_padding(self, input: Any, output_size: Any) -> tuple[int, ...]:
        """Return the output padding that gives an output of `output_size`."""
        if output_size is None:
            return self.output_padding
        spatial = F.per_axis(tuple(output_size)[-self.axes:], self.axes, "output_size")
        extra = []
        for n, size, k, s, p, d in zip(input.shape[-self.axes:], spatial, self.kernel_size,
                                       self.stride, self.padding, self.dilation, strict=True):
            least = (n - 1) * s - 2 * p + d * (k - 1) + 1
            if not least <= size < least + max(s, d):
                raise ShapeError(f"an output size of {size} is out of reach: expected {least} to "
                                 f"{least + max(s, d) - 1} for an input of {n}")
            extra.append(size - least)
        return tuple(extra)


class ConvTranspose1d(_Transposed):
    """Transposed convolution of sequences (N, C, L); see `ConvTranspose2d`."""

    axes = 1

    def forward(self, input: Any, output_size: Any = None) -> Tensor:
        """Map (N, in_channels, L) to (N, out_channels, L')."""
        return F.conv_transpose1d(input, self.weight, self.bias, self.stride, self.padding,
                                  self._output_padding(input, output_size), self.groups,
                                  self.dilation)


class ConvTranspose2d(_Transposed):
    """Transposed convolution of images: the way back through the shapes of a `Conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Both divisible by `groups`.
    kernel_size, stride, padding, dilation : int or tuple
        Those of the convolution whose gradient this is.
    output_padding : int or tuple
        Rows and columns added after, since several sizes go to one under a stride.
    groups : int
        Channels are cut into this many groups that do not mix.
    bias : bool
        Whether a learned number per channel is added.
    padding_mode : str
        "zeros" only.
    dtype : dtype_like
        float32 or float64.

    Attributes
    ----------
    weight : Parameter
        Shape (in_channels, out_channels / groups, kH, kW).
    bias : Parameter or None
        Shape (out_channels,).
    """

    axes = 2

    def forward(self, input: Any, output_size: Any = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        return F.conv_transpose2d(input, self.weight, self.bias, self.stride, self.padding,
                                  self._output_padding(input, output_size), self.groups,
                                  self.dilation)
