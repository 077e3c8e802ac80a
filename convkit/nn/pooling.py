"""Pooling layers."""

from __future__ import annotations

from typing import Any

from convkit import functional as F
from convkit.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BlurPool2d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool1d",
    "MaxUnpool2d",
]


class _MaxPool(Module):
    """Base of the max pools."""

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
                f"dilation={self.dilation}, ceil_mode={self.ceil_mode}")


class MaxPool1d(_MaxPool):
    """Maxima over windows of sequences (N, C, L); see `MaxPool2d`."""

    def forward(self, input: Any) -> Any:
        """Map (N, C, L) to (N, C, L')."""
        return F.max_pool1d(input, self.kernel_size, self.stride, self.padding, self.dilation,
                            self.ceil_mode, self.return_indices)


class MaxPool2d(_MaxPool):
    """Maxima over windows of images (N, C, H, W).

    Parameters
    ----------
    kernel_size, stride, padding, dilation : int or tuple
        The stride is the kernel's size unless given; padding counts as minus infinity and is
        at most half the kernel's size, whatever its dilation.
    return_indices : bool
        Return (maxima, places).
    ceil_mode : bool
        Keep the last, incomplete window.
    """

    def forward(self, input: Any) -> Any:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation,
                            self.ceil_mode, self.return_indices)


class AvgPool1d(Module):
    """Averages over windows of sequences (N, C, L); see `AvgPool2d`."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Any) -> Any:
        """Map (N, C, L) to (N, C, L')."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                            self.count_include_pad)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(AvgPool1d):
    """Averages over windows of images (N, C, H, W).

    Parameters
    ----------
    kernel_size, stride, padding : int or tuple
        The stride is the kernel's size unless given; padding is zeros.
    ceil_mode : bool
        Keep the last, incomplete window.
    count_include_pad : bool
        Count the padding's zeros in the average.
    divisor_override : int, optional
        Divide the sums by this instead.
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 ceil_mode: bool = False, count_include_pad: bool = True,
                 divisor_override: int | None = None):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override

    def forward(self, input: Any) -> Any:
        """Map (N, C, H, W) to (N, C, H', W')."""
        return F.avg_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                            self.count_include_pad, self.divisor_override)


class _Adaptive(Module):
    """Base of the pools that are told the size of their output."""

    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """Averages of (N, C, L) over `output_size` windows of nearly equal length."""

    def forward(self, input: Any) -> Any:
        """Map (N, C, L) to (N, C, output_size)."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """Averages of (N, C, H, W) over windows of nearly equal size.

    Parameters
    ----------
    output_size : int or tuple
        One for both axes or one each; None keeps an axis's size.
    """

    def forward(self, input: Any) -> Any:
        """Map (N, C, H, W) to (N, C, *output_size)."""
        return F.adaptive_avg_pool2d(input, self.output_size)


class _AdaptiveMax(_Adaptive):
    """Base of the adaptive max pools."""

    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMax):
    """Maxima of (N, C, L) over `output_size` windows of nearly equal length."""

    def forward(self, input: Any) -> Any:
        """Map (N, C, L) to (N, C, output_size)."""
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """Maxima of (N, C, H, W) over windows of nearly equal size; see `AdaptiveAvgPool2d`."""

    def forward(self, input: Any) -> Any:
        """Map (N, C, H, W) to (N, C, *output_size)."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class MaxUnpool1d(Module):
    """Puts maxima of sequences back to their places; see `MaxUnpool2d`."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, input: Any, indices: Any, output_size: Any = None) -> Any:
        """Map (N, C, L') to (N, C, L)."""
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding,
                              output_size)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool2d(MaxUnpool1d):
    """Puts maxima of images back to their places among zeros.

    Parameters
    ----------
    kernel_size, stride, padding : int or tuple
        Those of the `MaxPool2d` whose maxima and indices come in.
    """

    def forward(self, input: Any, indices: Any, output_size: Any = None) -> Any:
        """Map (N, C, H', W') to (N, C, H, W)."""
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding,
                              output_size)


class BlurPool2d(Module):
    """Smooths with a binomial filter, then keeps every `stride`-th pixel.

    In place of a stride of 2: after ``MaxPool2d(2, stride=1)``, or after a convolution of
    stride 1 and its activation.

    Parameters
    ----------
    kernel_size : int
        Size of the filter.
    stride : int or tuple
        One for both axes or one each.
    padding_mode : str
        "reflect", "replicate", "circular" or "zeros".

    References
    ----------
    Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """

    def __init__(self, kernel_size: int = 3, stride: Any = 2, padding_mode: str = "reflect"):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding_mode = padding_mode

    def forward(self, input: Any) -> Any:
        """Map (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        return F.blur_pool2d(input, self.kernel_size, self.stride, self.padding_mode)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"
