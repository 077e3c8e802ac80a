"""Pooling over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import batched, per_axis, shape_of
from convkit.ops import REGISTRY as OPS

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "max_pool1d",
    "max_pool2d",
]


def _max_pool(axes, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    kernel = per_axis(kernel_size, axes, "kernel_size")
    attrs = {
        "kernel_size": kernel,
        "stride": per_axis(stride, axes, "stride") if _given(stride) else kernel,
        "padding": per_axis(padding, axes, "padding"),
        "dilation": per_axis(dilation, axes, "dilation"),
        "ceil_mode": bool(ceil_mode),
        "return_indices": bool(return_indices),
    }
    return batched(x, axes, lambda x: apply(OPS["max_pool"], x, **attrs))


def _given(stride: Any) -> bool:
    """Tell whether a pool's stride was given; None and () mean the kernel's size."""
    return stride is not None and not (isinstance(stride, Sequence) and len(stride) == 0)


def max_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:
    """Take maxima over windows of sequences (N, C, L); see `max_pool2d`."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:
    """Take maxima over windows.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding, dilation : int or tuple
        One for both axes or one each; the stride is the kernel's size unless given.
        The padding counts as minus infinity and is at most half the kernel.
    ceil_mode : bool
        Keep the last, incomplete window.
    return_indices : bool
        Return also the place of each maximum, as y * W + x.

    Returns
    -------
    Tensor or tuple of Tensor
        The maxima, or (maxima, indices).
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(axes, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    kernel = per_axis(kernel_size, axes, "kernel_size")
    attrs = {
        "kernel_size": kernel,
        "stride": per_axis(stride, axes, "stride") if _given(stride) else kernel,
        "padding": per_axis(padding, axes, "padding"),
        "ceil_mode": bool(ceil_mode),
        "count_include_pad": bool(count_include_pad),
        "divisor_override": divisor,
    }
    return batched(x, axes, lambda x: apply(OPS["avg_pool"], x, **attrs))


def avg_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Average over windows of sequences (N, C, L); see `avg_pool2d`."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:
    """Average over windows.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding : int or tuple
        One for both axes or one each; the stride is the kernel's size unless given.
    ceil_mode : bool
        Keep the last, incomplete window.
    count_include_pad : bool
        Count the padding's zeros in the average.
    divisor_override : int, optional
        Divide the sums by this instead.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad,
                     divisor_override)


def _output_size(output_size: Any, axes: int, x: Any) -> tuple[int, ...]:
    """Return an adaptive pool's output size; None keeps the input's."""
    sizes = (output_size,) * axes if not isinstance(output_size, Sequence) else output_size
    if len(sizes) != axes:
        raise ShapeError(f"expected {axes} output sizes, got {output_size!r}")
    return per_axis([n if s is None else s
                     for s, n in zip(sizes, shape_of(x)[-axes:], strict=True)], axes, "output_size")


def _adaptive(name: str, axes: int, x: Any, output_size: Any, **attrs: Any) -> Any:
    size = _output_size(output_size, axes, x)
    return batched(x, axes, lambda x: apply(OPS[name], x, output_size=size, **attrs))


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Tensor:
    """Average (N, C, L) over `output_size` windows of nearly equal length."""
    return _adaptive("adaptive_avg_pool", 1, input, output_size)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Tensor:
    """Average (N, C, H, W) over windows of nearly equal size; None keeps an axis's size."""
    return _adaptive("adaptive_avg_pool", 2, input, output_size)


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Take maxima of (N, C, L) over `output_size` windows of nearly equal length."""
    return _adaptive("adaptive_max_pool", 1, input, output_size,
                     return_indices=bool(return_indices))


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Take maxima of (N, C, H, W) over windows of nearly equal size."""
    return _adaptive("adaptive_max_pool", 2, input, output_size,
                     return_indices=bool(return_indices))
