"""Batch normalisation (Ioffe and Szegedy, "Batch Normalization", 2015).

Per-channel numbers are worked out in float64; only the passes over whole arrays run in the
arrays' own type. The input of the training form is centred before it is scaled, so a mean
that is large beside the deviation costs no accuracy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import memory, norm
from convkit.errors import DTypeError, ShapeError
from convkit.ops.affine import lower_affine
from convkit.ops.deferred import (
    ACTIVATIONS,
    PASSES_ALL,
    Deferred,
    InputGradient,
    Masked,
    NormInput,
    gradient_last,
    plain,
    space_for_gradient,
)
from convkit.ops.halves import Halves
from convkit.ops.kept import HALF, Rounded, rounds, widened
from convkit.ops.layout import FLOATS, from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["BatchNorm", "BatchNormTrain"]

Array = np.ndarray


def _check(x: tuple[int, ...], **parameters: tuple[int, ...] | None) -> int:
    """Return the number of channels; raise ShapeError when a shape does not fit."""
    if not 2 <= len(x) <= 4:
        raise ShapeError(f"expected x of shape (N, C), (N, C, L) or (N, C, H, W), got {x}")
    expected = x[1:2]
    for name, shape in parameters.items():
        if shape is not None and shape != expected:
            raise ShapeError(
                f"expected {name} of shape ({x[1]},) for x of shape {x}, got {shape}")
    return x[1]


def _shape_of(a: Array | None) -> tuple[int, ...] | None:
    return None if a is None else a.shape


def _wide(a: Array | None, channels: int, default: float, what: str) -> Array:
    """Return a per-channel parameter in float64."""
    return np.full(channels, default) if a is None else _checked(a, what).astype(np.float64)


def _checked(a: Array | None, what: str) -> Array | None:
    """Return a per-channel parameter; raise DTypeError where it is of no floating type."""
    if a is not None and a.dtype.kind != "f":
        raise DTypeError(f"expected {what} of float32 or float64, got {a.dtype}")
    return a


def _narrow(a: Array, dtype: np.dtype) -> Array:
    """Return float64 per-channel results in the arrays' type."""
    with np.errstate(over="ignore", invalid="ignore"):
        return a.astype(dtype)


@register
class BatchNorm(Op):
    """Normalisation by running statistics: one scale and one shift for each channel."""

    name = "batch_norm"
    onnx = "BatchNormalization"
    reads = (0,)

    @staticmethod
    def shape(x, weight, bias, running_mean, running_var, *, eps: float = 1e-5):
        """Return the input's shape."""
        _check(x, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
        return x

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array | None, bias: Array | None,
                running_mean: Array, running_var: Array, *, eps: float = 1e-5) -> Array:
        """Compute (x - running_mean) / sqrt(running_var + eps) * weight + bias."""
        channels = _check(x.shape, weight=_shape_of(weight), bias=_shape_of(bias),
                          running_mean=running_mean.shape, running_var=running_var.shape)
        last = to_last(native(x), ctx.threads)
        mean, inverse, scale, shift = BatchNorm._numbers(
            channels, weight, bias, running_mean, running_var, eps)
        y = memory.empty(last.shape, last.dtype)
        norm.affine(last, _narrow(scale, last.dtype), _narrow(shift, last.dtype), 0, y,
                    ctx.threads)
        if any(ctx.needs):
            reads_input = ctx.needs[1]
            ctx.saved = (last if reads_input else None, mean, inverse, scale)
        return from_last(y)

    @staticmethod
    def _numbers(channels: int, weight: Array | None, bias: Array | None, running_mean: Array,
                 running_var: Array, eps: float) -> tuple[Array, Array, Array, Array]:
        """Return each channel's mean, 1 / deviation, scale and shift, in float64."""
        mean = _wide(running_mean, channels, 0.0, "running_mean")
        with np.errstate(invalid="ignore", divide="ignore"):
            inverse = 1.0 / np.sqrt(_wide(running_var, channels, 1.0, "running_var") + eps)
        scale = _wide(weight, channels, 1.0, "weight") * inverse
        return mean, inverse, scale, _wide(bias, channels, 0.0, "bias") - mean * scale

    @staticmethod
    def lower(b, x, *parameters, eps: float = 1e-5):
        """Emit one multiply-add per channel, where all parameters are constants."""
        arrays = [None if p is None else p.constant for p in parameters]
        if x.dtype not in FLOATS or any((a is None) != (p is None) for a, p
                                        in zip(arrays, parameters, strict=True)):
            return None
        _, _, scale, shift = BatchNorm._numbers(x.shape[1], *arrays, eps)
        return lower_affine(b, x, _narrow(scale, x.dtype), _narrow(shift, x.dtype))

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias; the statistics are constants."""
        last, mean, inverse, scale = ctx.saved
        gy = to_last(gy, ctx.threads)
        gx = g_weight = g_bias = None
        if ctx.needs[0]:
            gx = memory.empty(gy.shape, gy.dtype)
            zeros = np.zeros(scale.shape, gy.dtype)
            norm.affine(gy, _narrow(scale, gy.dtype), zeros, 0, gx, ctx.threads)
            gx = from_last(gx)
        if ctx.needs[1] or ctx.needs[2]:
            center = _narrow(mean, gy.dtype)
            sums, products = norm.grad_sums(gy, gy if last is None else last, center, ctx.threads)
            products += (center - mean) * sums
            g_weight = _narrow(products * inverse, gy.dtype) if ctx.needs[1] else None
            g_bias = _narrow(sums, gy.dtype) if ctx.needs[2] else None
        return gx, g_weight, g_bias, None, None


@register
class BatchNormTrain(Op):
    """Normalisation by the batch's own mean and biased variance, which it also returns."""

    name = "batch_norm_train"
    onnx = "BatchNormalization"
    reads = (0,)
    defers = 1
    takes_deferred = True
    takes_masked = True
    takes_moments = True

    @staticmethod
    def shape(x, weight, bias, *, eps: float = 1e-5):
        """Return the input's shape."""
        if math.prod(x) <= _check(x, weight=weight, bias=bias):
            raise ShapeError(
                f"expected more than 1 value per channel when training, got x of shape {x}")
        return x

    @classmethod
    def moments(cls, last: Array, ctx: Context) -> tuple[Array, Array, int]:
        """Return mean, biased variance (float64) and number of values of each channel."""
        return ctx.moments or (*norm.moments(widened(last, ctx.threads), ctx.threads),
                               last.size // last.shape[-1])

    @classmethod
    def totals(cls, sums: Array, products: Array) -> tuple[Array, Array]:
        """Return the sums over the samples that `moments` is over."""
        return sums, products

    @classmethod
    def forward(cls, ctx: Context, x: Array, weight: Array | None, bias: Array | None, *,
                eps: float = 1e-5) -> tuple[Array, Array, Array]:
        """Compute (x - mean) / sqrt(var + eps) * weight + bias, the mean and the variance."""
        return cls.counted(ctx, x, weight, bias, eps)[:3]

    @classmethod
    def counted(cls, ctx: Context, x: Array, weight: Array | None, bias: Array | None,
                eps: float) -> tuple[Array, Array, Array, int]:
        """Return the results of `forward`, and of how many values a channel's mean is."""
        shape = x.shape
        expected = shape[1:2]
        if not (x.__class__ is Array and x.ndim == 4 and x.size > expected[0]
                and weight is not None and bias is not None
                and weight.shape == expected == bias.shape):
            cls.shape(shape, _shape_of(weight), _shape_of(bias))
        if x.__class__ is Halves:
            last = x.halves()
        else:
            last = to_last(native(x if x.__class__ is Array else plain(x)), ctx.threads)
        mean, var, count = cls.moments(last, ctx)
        inverse, scale, *numbers, narrow_var = norm.train_numbers(
            mean, var, _checked(weight, "weight"), _checked(bias, "bias"), eps,
            last.itemsize == 8)
        narrow_mean = numbers[0]
        if last.dtype is HALF:
            numbers = _about_zero(mean, *numbers)
        source = NormInput(last, tuple(numbers),
                           last.dtype is HALF or rounds(last, ctx.precision), ctx.defer)
        y = Deferred(source, ctx.threads, shape, numbers[1].dtype)
        if True in ctx.needs:
            ctx.saved = (source, mean, inverse, scale, count)
        return y if ctx.defer else y.array(), narrow_mean, narrow_var, count

    @classmethod
    def reads_halves(cls, ctx: Context, gy: Any) -> bool:
        """Tell whether the norm rounds."""
        return ctx.saved[0].rounds

    @classmethod
    def backward(cls, ctx: Context, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias, through mean and variance.

        With n values per channel, z the normalised input, s = weight / sqrt(var + eps):
        gx = s * (gy - mean(gy) - z * mean(gy * z)).
        """
        source, mean, inverse, scale, count = ctx.saved
        center, factor, _ = source.numbers
        mask, owned = PASSES_ALL, ctx.owned
        if isinstance(gy, Masked):
            owned = owned and gy.owned
            gy, mask, sums, products = _masked_sums(gy, source, ctx.threads)
        else:
            gy = to_last(gy, ctx.threads) if gy.__class__ is Array else gradient_last(
                gy, source.rounds, ctx.threads)
            sums, products = source.sums(gy, ctx.threads)
        g_weight, g_bias = norm.parameter_gradients(sums, products, mean, center, inverse)
        gx = None
        if ctx.needs[0]:
            slope, shift = norm.input_numbers(*cls.totals(sums, products), mean, center, inverse,
                                              scale, count)
            gx = _input_gradient(gy, source, mask, (factor, slope, shift), ctx.threads, owned)
        return gx, g_weight if ctx.needs[1] else None, g_bias if ctx.needs[2] else None


def _about_zero(mean: Array, center: Array, factor: Array, shift: Array
                ) -> tuple[Array, Array, Array]:
    """Return center, factor and shift of the same output where no center is taken off before."""
    return np.zeros_like(center), factor, _narrow(shift - mean * factor, shift.dtype)


def _input_gradient(gy: Array, source: NormInput, mask: tuple[float, float],
                    numbers: tuple[Array, Array, Array], threads: int, owned: bool
                    ) -> Array | InputGradient:
    """Return gy * factor + (x - center) * slope + offset of `numbers`, gy being behind the mask."""
    if source.rounds:
        return InputGradient(gy, source, mask, numbers, threads, owned)
    gx, values = space_for_gradient(gy, gy, owned), source.values(threads)
    factor, slope, offset = numbers
    if mask is PASSES_ALL:
        norm.grad_input(gy, values, source.numbers[0], factor, slope, offset, gx, threads)
    else:
        norm.masked_input(gy, values, mask, *source.numbers, factor, slope, offset, gx, threads)
    return from_last(gx)


def _masked_sums(gradient: Masked, source: NormInput, threads: int,
                 ) -> tuple[Array, tuple[float, float], Array, Array]:
    """Return a gradient, the mask it is still to pass, and the sums of `norm.grad_sums`.

    Where the mask can be told from the norm's input, the gradient stays as it came; else the pass
    that takes the sums also masks it, for whoever else has a part in it.
    """
    value, values = gradient.value, source.values(threads)
    made_again = value.__class__ is Deferred
    if value is None or (not made_again and isinstance(value, Rounded) != source.rounds):
        gy = gradient_last(gradient, source.rounds, threads)    # masked before, or here
        return gy, PASSES_ALL, *source.sums(gy, threads)
    gy = gradient.gy
    gy = to_last(gy, threads) if gy.__class__ is Array else gradient_last(gy, source.rounds,
                                                                          threads)
    mask = ACTIVATIONS[gradient.kernel][1]
    if made_again:
        return gy, mask, *norm.masked_sums(gy, values, mask, *source.numbers, None, None, threads)
    value = value.halves if source.rounds else to_last(value, threads)
    out = space_for_gradient(gy, gy, gradient.owned)
    sums, products = norm.masked_sums(gy, values, mask, *source.numbers, value, out, threads)
    gradient.put(out)
    return out, PASSES_ALL, sums, products
