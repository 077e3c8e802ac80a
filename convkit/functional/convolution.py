"""Convolutions, transposed convolutions and linear maps."""

from __future__ import annotations

import functools
from typing import Any

from convkit._kernels.tape import literal, perform
from convkit.autograd import Tensor, apply, is_tracing
from convkit.errors import ShapeError
from convkit.functional.arguments import (
    batched,
    ndim_of,
    padding_pairs,
    per_axis,
    precision_of,
    shape_of,
)
from convkit.ops import REGISTRY as OPS

__all__ = [
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "convolve1d",
    "convolve2d",
    "linear",
]


def _attributes(kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int,
                padding_mode: str, algorithm: str, precision: str | None,
                moments: bool) -> dict[str, Any]:
    """Return a convolution's attributes."""
    axes = len(kernel)
    stride = per_axis(stride, axes, "stride")
    dilation = per_axis(dilation, axes, "dilation")
    attrs = {"stride": stride, "padding": padding_pairs(padding, kernel, stride, dilation),
             "dilation": dilation, "groups": groups, "padding_mode": padding_mode,
             "algorithm": algorithm, "precision": precision_of(precision)}
    return {**attrs, "moments": True} if moments else attrs


_known_attributes = functools.lru_cache(maxsize=4096)(_attributes)


def _conv(axes, x, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
          precision, moments=False):
    kernel = shape_of(weight)[2:]
    if len(kernel) != axes:
        raise ShapeError(f"expected a weight with {axes + 2} axes, got shape {shape_of(weight)}")
    given = (kernel, stride, padding, dilation, groups, padding_mode, algorithm, precision)
    attrs = (_known_attributes if literal(given) else _attributes)(
        *given, moments and not is_tracing())
    if ndim_of(x) != axes + 1:
        return perform(OPS["conv"], (x, weight, bias), attrs)
    return batched(x, axes, lambda x: perform(OPS["conv"], (x, weight, bias), attrs))


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None, moments: bool = False,
) -> Tensor:
    """Cross-correlate sequences (N, C, L) with kernels; see `conv2d`."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
                 precision, moments)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None, moments: bool = False,
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
    moments : bool
        Whether each channel's mean and variance are gathered on the way, for a batch norm in
        training that gets the result next: it need not read all of it for them then.

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
                 precision, moments)


def _convolve(axes, x, weight, bias, stride, padding, dilation, groups, padding_mode, algorithm,
              precision):
    """Turn the kernels, and cross-correlate."""
    if ndim_of(weight) != axes + 2:
        raise ShapeError(f"expected a weight with {axes + 2} axes, got shape {shape_of(weight)}")
    whole = (None,) * (axes + 2)
    turned = apply(OPS["slice"], weight, starts=whole, stops=whole,
                   steps=(None, None) + (-1,) * axes)
    if isinstance(padding, str) and padding in ("full", "same"):
        spans = [d * (k - 1) for k, d in zip(
            shape_of(weight)[2:], per_axis(dilation, axes, "dilation"), strict=True)]
        padding_pairs(padding if padding == "same" else 0, shape_of(weight)[2:],
                      per_axis(stride, axes, "stride"), per_axis(dilation, axes, "dilation"))
        # The kernel is turned, and so is the side that an odd rest goes to.
        padding = tuple((n, n) if padding == "full" else (n - n // 2, n // 2) for n in spans)
    return _conv(axes, x, turned, bias, stride, padding, dilation, groups, padding_mode, algorithm,
                 precision)


def convolve1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Convolve sequences (N, C, L) as mathematics has it; see `convolve2d`."""
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups, padding_mode,
                     algorithm, precision)


def convolve2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", algorithm: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Convolve as mathematics has it: `conv2d` with the kernels turned by 180 degrees.

    y[p] = sum over q of weight[q] * input[p - q], where `conv2d` (cross-correlation) has
    input[p + q]. The two are dual: the gradient of the one's input is the other, over the
    output's gradient, with padding "full".

    Parameters
    ----------
    input, weight, bias, stride, dilation, groups, algorithm, precision
        See `conv2d`.
    padding : int, tuple or str
        As in `conv2d`, where "valid" keeps what no edge touches and "same" the input's size,
        as SciPy and NumPy cut it; or "full", all that any tap meets.
    padding_mode : str
        "zeros", or with padding "same" "circular": the periodic convolution.
    """
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups, padding_mode,
                     algorithm, precision)


def _conv_transpose(axes, x, weight, bias, stride, padding, output_padding, groups, dilation,
                    precision):
    if ndim_of(weight) != axes + 2:
        raise ShapeError(f"expected a weight with {axes + 2} axes, got shape {shape_of(weight)}")
    attrs = {
        "stride": per_axis(stride, axes, "stride"),
        "padding": tuple((p, p) for p in per_axis(padding, axes, "padding")),
        "output_padding": per_axis(output_padding, axes, "output_padding"),
        "groups": groups,
        "dilation": per_axis(dilation, axes, "dilation"),
        "precision": precision_of(precision),
    }
    return batched(x, axes, lambda x: apply(OPS["conv_transpose"], x, weight, bias, **attrs))


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
    return apply(OPS["linear"], input, weight, bias, precision=precision_of(precision))
