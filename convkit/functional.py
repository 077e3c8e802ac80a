"""Operations as functions, with the names, arguments and defaults of PyTorch's functional.

Every function takes tensors or arrays and returns tensors. Images are (N, C, H, W) or
unbatched (C, H, W), sequences (N, C, L) or (C, L), of float32 or float64. A ShapeError or
DTypeError says what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convkit import random
from convkit._precision import checked_precision
from convkit.autograd import Tensor, apply, no_grad
from convkit.errors import DTypeError, ShapeError
from convkit.ops import REGISTRY as OPS
from convkit.ops.layout import axis_order, like

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "concat",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "convolve2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "flatten",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "interpolate",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "prelu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
    "upsample",
]


# -- arguments ------------------------------------------------------------------------------


def per_axis(value: Any, axes: int, what: str) -> tuple[int, ...]:
    """Return one integer per spatial axis from a number or a sequence of them.

    Raises
    ------
    ShapeError
        When the sequence has another length.
    TypeError
        When an entry is no integer.
    """
    values = (value,) * axes if not isinstance(value, Sequence) else tuple(value)
    if len(values) == 1:
        values *= axes
    if len(values) != axes:
        raise ShapeError(f"expected {what} as one integer or {axes}, got {value!r}")
    for v in values:
        if isinstance(v, bool) or not hasattr(v, "__index__"):
            raise TypeError(f"expected {what} as integers, got {value!r}")
    return tuple([v.__index__() for v in values])


def padding_pairs(
    padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each spatial axis of a convolution.

    Parameters
    ----------
    padding : int, str or sequence
        One number, one per axis, one (before, after) pair per axis, ``"valid"`` (none) or
        ``"same"`` (the output has the input's size; where the total is odd, the larger half
        comes after).
    kernel, stride, dilation : sequence of int
        One per axis.

    Raises
    ------
    ValueError
        For another word, or "same" with a stride.
    """
    axes = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * axes
        if padding != "same":
            raise ValueError(f"padding must be a number, 'valid' or 'same', got {padding!r}")
        if any(s != 1 for s in stride):
            raise ValueError("padding='same' is not supported for strided convolutions")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if isinstance(padding, Sequence) and padding and isinstance(padding[0], Sequence):
        if len(padding) != axes:
            raise ShapeError(f"expected {axes} (before, after) pairs of padding, got {padding!r}")
        return tuple(per_axis(pair, 2, "padding") for pair in padding)
    return tuple((p, p) for p in per_axis(padding, axes, "padding"))


def _ndim(x: Any) -> int:
    return x.data.ndim if isinstance(x, Tensor) else np.ndim(x)


def _shape(x: Any) -> tuple[int, ...]:
    return x.data.shape if isinstance(x, Tensor) else np.shape(x)


def _batched(x: Any, axes: int, run: Callable) -> Any:
    """Run a function of (N, C, spatial...) on `x`, which may lack the batch axis."""
    if _ndim(x) != axes + 1:
        return run(x)
    out = run(apply(OPS["reshape"], x, shape=(1, *_shape(x))))
    if isinstance(out, tuple):
        return tuple([apply(OPS["reshape"], y, shape=y.shape[1:]) for y in out])
    return apply(OPS["reshape"], out, shape=out.shape[1:])


# -- convolution ----------------------------------------------------------------------------


def _precision(name: str | None) -> str | None:
    """Check a precision; None leaves the choice to `convkit.set_precision`."""
    return None if name is None else checked_precision(name)


def _conv(axes, x, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
          precision):
    kernel = _shape(weight)[2:]
    if len(kernel) != axes:
        raise ShapeError(f"expected a weight with {axes + 2} axes, got shape {_shape(weight)}")
    stride = per_axis(stride, axes, "stride")
    dilation = per_axis(dilation, axes, "dilation")
    pairs = padding_pairs(padding, kernel, stride, dilation)
    return _batched(x, axes, lambda x: apply(
        OPS["conv"], x, weight, bias, stride=stride, padding=pairs, dilation=dilation,
        groups=groups, padding_mode=padding_mode, algorithm=algorithm,
        precision=_precision(precision)))


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Cross-correlate sequences (N, C, L) with kernels; see `conv2d`."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
                 precision)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Cross-correlate images with kernels.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, H, W) or (C, H, W).
    weight : Tensor or array
        Shape (O, C / groups, kH, kW).
    bias : Tensor or array, optional
        Shape (O,).
    stride, dilation : int or tuple
        One for both axes or one each.
    padding : int, tuple or str
        See `padding_pairs`.
    groups : int
        Channels are cut into this many groups that do not mix.
    padding_mode : str
        What the padding holds: "zeros", "reflect", "replicate" or "circular".
    algorithm : str
        "auto" or the name of one of `convkit.ops.conv_algorithms.CANDIDATES`: "direct",
        "im2col", "depthwise", "winograd", ...
    precision : {"highest", "high", "medium"}, optional
        See `convkit.precision`; by default the setting at the time of the call.

    Returns
    -------
    Tensor
        Shape (N, O, oH, oW), or (O, oH, oW).

    Raises
    ------
    ShapeError, DTypeError
        When sizes or element types do not fit.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
                 precision)


def convolve2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Convolve as mathematics has it: `conv2d` with the kernels turned by 180 degrees."""
    whole = (None,) * 4
    turned = apply(OPS["slice"], weight, starts=whole, stops=whole, steps=(None, None, -1, -1))
    return conv2d(input, turned, bias, stride, padding, dilation, groups,
                  padding_mode=padding_mode, algorithm=algorithm, precision=precision)


def _conv_transpose(axes, x, weight, bias, stride, padding, output_padding, groups, dilation,
                    precision):
    if _ndim(weight) != axes + 2:
        raise ShapeError(f"expected a weight with {axes + 2} axes, got shape {_shape(weight)}")
    attrs = {
        "stride": per_axis(stride, axes, "stride"),
        "padding": tuple((p, p) for p in per_axis(padding, axes, "padding")),
        "output_padding": per_axis(output_padding, axes, "output_padding"),
        "groups": groups,
        "dilation": per_axis(dilation, axes, "dilation"),
        "precision": _precision(precision),
    }
    return _batched(x, axes, lambda x: apply(OPS["conv_transpose"], x, weight, bias, **attrs))


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, precision: str | None = None,
) -> Tensor:
    """Transposed convolution of sequences (N, C, L); see `conv_transpose2d`."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups,
                           dilation, precision)


def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, precision: str | None = None,
) -> Tensor:
    """Transposed convolution: what the gradient of `conv2d` does to its output's gradient.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, H, W) or (C, H, W).
    weight : Tensor or array
        Shape (C, O / groups, kH, kW).
    bias : Tensor or array, optional
        Shape (O,).
    stride, padding, output_padding, dilation : int or tuple
        One for both axes or one each.
    groups : int
        Channels are cut into this many groups that do not mix.
    precision : str, optional
        As in `conv2d`.

    Returns
    -------
    Tensor
        Of height (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups,
                           dilation, precision)


def linear(input: Any, weight: Any, bias: Any = None, *, precision: str | None = None) -> Tensor:
    """Return input weight^T + bias for input (..., I), weight (O, I) and bias (O,).

    `precision` as in `conv2d`.
    """
    return apply(OPS["linear"], input, weight, bias, precision=_precision(precision))


# -- pooling --------------------------------------------------------------------------------


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
    return _batched(x, axes, lambda x: apply(OPS["max_pool"], x, **attrs))


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
    return _batched(x, axes, lambda x: apply(OPS["avg_pool"], x, **attrs))


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
                     for s, n in zip(sizes, _shape(x)[-axes:], strict=True)], axes, "output_size")


def _adaptive(name: str, axes: int, x: Any, output_size: Any, **attrs: Any) -> Any:
    size = _output_size(output_size, axes, x)
    return _batched(x, axes, lambda x: apply(OPS[name], x, output_size=size, **attrs))


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


# -- normalisation --------------------------------------------------------------------------


def batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C), (N, C, L) or (N, C, H, W).
    running_mean, running_var : Tensor, array or None
        Shape (C,): what is used unless `training`; updated in place when `training`, as
        ``(1 - momentum) * running + momentum * batch``, with the unbiased variance.
    weight, bias : Tensor or array, optional
        Shape (C,).
    training : bool
        Normalise by the batch's own mean and biased variance.
    momentum : float
        Weight of the new batch in the running estimates.
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        When there is a single value per channel to take a variance of.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("expected running_mean and running_var unless training")
        return apply(OPS["batch_norm"], input, weight, bias, running_mean, running_var, eps=eps)
    shape = _shape(input)
    count = math.prod(shape) // shape[1] if len(shape) > 1 and shape[1] else 0
    if count == 1:
        raise ShapeError(f"expected more than 1 value per channel when training, got x of "
                         f"shape {shape}")
    y, mean, var = apply(OPS["batch_norm_train"], input, weight, bias, eps=eps)
    _follow(running_mean, mean.data, momentum)
    _follow(running_var, var.data, momentum, count / max(count - 1, 1))
    return y


def _follow(running: Any, batch: np.ndarray, momentum: float, scale: float = 1.0) -> None:
    """Move a running estimate towards the batch's, in place."""
    if running is None:
        return
    with no_grad():
        array = running._change() if isinstance(running, Tensor) else running
    np.multiply(array, 1 - momentum, out=array, casting="same_kind")
    np.add(array, batch * (momentum * scale), out=array, casting="same_kind")


# -- activations ----------------------------------------------------------------------------


def relu(input: Any) -> Tensor:
    """Return max(x, 0)."""
    return apply(OPS["relu"], input)


def relu6(input: Any) -> Tensor:
    """Return min(max(x, 0), 6)."""
    return apply(OPS["relu6"], input)


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Tensor:
    """Return x where it is positive, negative_slope * x elsewhere."""
    return apply(OPS["leaky_relu"], input, negative_slope=negative_slope)


def prelu(input: Any, weight: Any) -> Tensor:
    """Return x where it is positive, weight * x elsewhere; weight is (1,) or (C,)."""
    return apply(OPS["prelu"], input, weight)


def elu(input: Any, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, alpha * (exp(x) - 1) elsewhere."""
    return apply(OPS["elu"], input, alpha=alpha)


def gelu(input: Any, approximate: str = "none") -> Tensor:
    """Return x times the normal distribution function of x ("tanh": its approximation)."""
    return apply(OPS["gelu"], input, approximate=approximate)


def sigmoid(input: Any) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return apply(OPS["sigmoid"], input)


def tanh(input: Any) -> Tensor:
    """Return the hyperbolic tangent."""
    return apply(OPS["tanh"], input)


def silu(input: Any) -> Tensor:
    """Return x * sigmoid(x)."""
    return apply(OPS["silu"], input)


def hardswish(input: Any) -> Tensor:
    """Return x * min(max(x + 3, 0), 6) / 6."""
    return apply(OPS["hardswish"], input)


def hardsigmoid(input: Any) -> Tensor:
    """Return min(max(x + 3, 0), 6) / 6."""
    return apply(OPS["hardsigmoid"], input)


def softmax(input: Any, dim: int) -> Tensor:
    """Return exp(x) over its sum along `dim`."""
    return apply(OPS["softmax"], input, dim=dim)


def log_softmax(input: Any, dim: int) -> Tensor:
    """Return the logarithm of `softmax`."""
    return apply(OPS["log_softmax"], input, dim=dim)


# -- dropout --------------------------------------------------------------------------------


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : Tensor or array
        Of any shape.
    p : float
        From 0 to 1.
    training : bool
        Otherwise the input is returned as it is.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    2014.
    """
    return _drop(input, _shape(input), p, training)


def dropout2d(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Set whole channels of (N, C, H, W) to zero with probability `p`; see `dropout`."""
    shape = _shape(input)
    if len(shape) != 4:
        raise ShapeError(f"expected x with 4 axes, got x of shape {shape}")
    return _drop(input, (*shape[:2], 1, 1), p, training)


def _drop(x: Any, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    """Multiply by random factors of a shape, 0 or 1 / (1 - p)."""
    if not 0 <= p <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {p}")
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    factors = like(x.data) if shape == x.shape else np.empty(shape, x.dtype)
    order = axis_order(factors)
    flat = (factors if order is None else factors.transpose(order)).reshape(-1)  # a view
    random.generator().random(out=flat, dtype=x.dtype)
    keep = flat >= p
    np.multiply(keep, 1 / (1 - p) if p < 1 else 0, out=flat, casting="same_kind")
    return apply(OPS["mul"], x, factors)


# -- shapes ---------------------------------------------------------------------------------


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
    ndim = _ndim(input)
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
    axes = _ndim(input) - 2
    if axes not in (1, 2):
        raise ShapeError(f"expected x with 3 or 4 axes, got shape {_shape(input)}")
    if (size is None) == (scale_factor is None):
        raise ValueError("exactly one of size and scale_factor must be given")
    if mode != "nearest" and mode != ("linear", "bilinear")[axes - 1]:
        raise ValueError(f"mode {mode!r} does not fit x of shape {_shape(input)}")
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
        size = tuple(math.floor(n * s) for n, s in zip(_shape(input)[2:], scales, strict=True))
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


# -- losses ---------------------------------------------------------------------------------

_REDUCTIONS = ("none", "mean", "sum")


def _checked(reduction: str) -> str:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    return reduction


def _class_loss(name: str, x: Any, target: Any, weight: Any, **attrs: Any) -> Tensor:
    """Run a loss over classes, whose input may be unbatched (C,)."""
    if _ndim(x) != 1:
        return apply(OPS[name], x, target, weight, **attrs)
    x = apply(OPS["reshape"], x, shape=(1, *_shape(x)))
    target = apply(OPS["reshape"], target, shape=(1, *_shape(target)))
    loss = apply(OPS[name], x, target, weight, **attrs)
    return apply(OPS["reshape"], loss, shape=())


def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy between softmax(input) and the target classes.

    Parameters
    ----------
    input : Tensor or array
        Unnormalised scores, (N, C), (N, C, d...) or (C,).
    target : Tensor or array
        Class indices (N,), (N, d...) or (), or probabilities of the input's shape.
    weight : Tensor or array, optional
        Weight of each class, (C,).
    ignore_index : int
        Targets of this value count for nothing.
    reduction : str
        "mean" (weighted), "sum" or "none".
    label_smoothing : float
        Share of the target spread evenly over all classes, from 0 to 1.
    """
    return _class_loss("cross_entropy", input, target, weight, ignore_index=ignore_index,
                       label_smoothing=label_smoothing, reduction=_checked(reduction))


def nll_loss(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Return minus the input, which holds log-probabilities, at the target classes."""
    return _class_loss("nll_loss", input, target, weight, ignore_index=ignore_index,
                       reduction=_checked(reduction))


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the squared difference of two tensors of one shape."""
    return apply(OPS["mse_loss"], input, target, reduction=_checked(reduction))


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """Return the cross entropy between sigmoid(input) and targets from 0 to 1.

    Parameters
    ----------
    input, target : Tensor or array
        Of one shape.
    weight : Tensor or array, optional
        Factor of each element's loss, broadcast.
    reduction : str
        "mean", "sum" or "none".
    pos_weight : Tensor or array, optional
        Factor of the positive targets' part, broadcast.
    """
    return apply(OPS["bce_with_logits"], input, target, weight, pos_weight,
                 reduction=_checked(reduction))
