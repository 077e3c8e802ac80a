"""Pooling over windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.autograd import Tensor, apply
from convkit.errors import ShapeError
from convkit.functional.arguments import batched, ndim_of, per_axis, shape_of
from convkit.functional.convolution import conv2d
from convkit.ops import REGISTRY as OPS

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "blur_pool2d",
    "max_pool1d",
    "max_pool2d",
    "max_unpool1d",
    "max_unpool2d",
]


def _max_pool(axes, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    kernel = per_axis(kernel_size, axes, "kernel_size")
    edges = per_axis(padding, axes, "padding")
    # The operation takes more under a dilation, for ONNX files; PyTorch does not.
    if any(2 * p > k >= 1 for p, k in zip(edges, kernel, strict=True)):
        raise ShapeError(f"expected padding of at most half of kernel_size {kernel}, without its "
                         f"dilation, got {edges}")
    attrs = {
        "kernel_size": kernel,
        "stride": per_axis(stride, axes, "stride") if _given(stride) else kernel,
        "padding": edges,
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
        The padding counts as minus infinity and is at most half the kernel's size, whatever
        its dilation.
    ceil_mode : bool
        Keep the last, incomplete window.
    return_indices : bool
        Return also the place of each maximum, as y * W + x.

    Returns
    -------
    Tensor or tuple of Tensor
        The maxima, or (maxima, indices).

    Raises
    ------
    ShapeError
        When the windows or the padding do not fit.
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


def _max_unpool(axes, x, indices, kernel_size, stride, padding, output_size):
    kernel = per_axis(kernel_size, axes, "kernel_size")
    steps = per_axis(stride, axes, "stride") if _given(stride) else kernel
    edges = per_axis(padding, axes, "padding")
    sizes = tuple((n - 1) * s - 2 * p + k for n, s, p, k in zip(
        shape_of(x)[-axes:], steps, edges, kernel, strict=True))
    if output_size is not None:
        wanted = per_axis(tuple(output_size)[-axes:], axes, "output_size")
        if any(abs(n - w) >= s for n, w, s in zip(sizes, wanted, steps, strict=True)):
            raise ShapeError(f"expected an output_size within {steps} of {sizes}, got {wanted}")
        sizes = wanted
    if ndim_of(x) != axes + 1:
        return apply(OPS["max_unpool"], x, indices, output_size=sizes)
    x, indices = (apply(OPS["reshape"], a, shape=(1, *shape_of(a))) for a in (x, indices))
    y = apply(OPS["max_unpool"], x, indices, output_size=sizes)
    return apply(OPS["reshape"], y, shape=y.shape[1:])


def max_unpool1d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Undo `max_pool1d` as far as can be; see `max_unpool2d`."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Undo `max_pool2d` as far as can be: maxima go back to their places among zeros.

    Parameters
    ----------
    input, indices : Tensor or array
        What ``max_pool2d(..., return_indices=True)`` gave, (N, C, H, W) or (C, H, W).
    kernel_size, stride, padding : int or tuple
        Those of the max pool.
    output_size : sequence of int, optional
        Size of the pool's input, where several sizes give the same output; the last two
        numbers count.

    Raises
    ------
    ShapeError
        When the sizes do not fit, or an index lies outside of the output.

    References
    ----------
    Zeiler, Taylor and Fergus, "Adaptive Deconvolutional Networks for Mid and High Level Feature
    Learning", 2011.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def blur_pool2d(
    input: Any, kernel_size: int = 3, stride: Any = 2, padding_mode: str = "reflect",
) -> Tensor:
    """Smooth each channel with a binomial filter, then keep every `stride`-th pixel.

    Taking pixels without smoothing folds what is finer than the new grid into coarse patterns
    that were not there (aliasing).

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, H, W) or (C, H, W).
    kernel_size : int
        Size of the filter, whose weights are the binomial coefficients over their sum.
    stride : int or tuple
        One for both axes or one each.
    padding_mode : str
        What is beyond the edges: "reflect", "replicate", "circular" or "zeros".

    References
    ----------
    Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """
    if kernel_size < 1:
        raise ValueError(f"expected kernel_size of at least 1, got {kernel_size}")
    x = input if isinstance(input, Tensor) else Tensor(input)
    channels = x.shape[-3] if x.ndim > 2 else 0
    row = np.array([math.comb(kernel_size - 1, i) for i in range(kernel_size)], np.float64)
    weight = np.outer(row, row) / row.sum() ** 2
    weights = np.broadcast_to(weight.astype(x.dtype), (channels, 1, kernel_size, kernel_size))
    edge = ((kernel_size - 1) // 2, kernel_size // 2)
    return conv2d(x, np.array(weights), None, stride, (edge, edge), 1, channels,
                  padding_mode=padding_mode)
