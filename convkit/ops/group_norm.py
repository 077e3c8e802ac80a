"""Group and instance normalisation: statistics of each sample, over groups of channels.

The kernels are those of batch norm, run over each sample by itself: moments of every channel,
which are put together by groups here, in float64, and one pass that scales and shifts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import memory, norm
from convkit.errors import ShapeError
from convkit.ops.layout import FLOATS, from_last, native, to_last
from convkit.ops.norm import _narrow, _shape_of, _wide
from convkit.ops.op import Context, Op, register

__all__ = ["GroupNorm", "InstanceNorm", "sample_moments"]

Array = np.ndarray
Shape = tuple[int, ...]


def _check(x: Shape, num_groups: int, weight: Shape | None, bias: Shape | None) -> None:
    """Raise ShapeError when a shape does not fit."""
    if not 2 <= len(x) <= 4:
        raise ShapeError(f"expected x of shape (N, C), (N, C, L) or (N, C, H, W), got {x}")
    if num_groups < 1 or x[1] < 1 or x[1] % num_groups:
        raise ShapeError(
            f"expected num_groups that divides {x[1]} channels, got {num_groups} for x of "
            f"shape {x}")
    for name, shape in (("weight", weight), ("bias", bias)):
        if shape is not None and shape != (x[1],):
            raise ShapeError(
                f"expected {name} of shape ({x[1]},) for x of shape {x}, got {shape}")


def sample_moments(x: Array, threads: int) -> tuple[Array, Array]:
    """Return mean and biased variance of every channel of every sample, (N, C), float64."""
    return norm.moments(to_last(native(x), threads), threads, samples=len(x))


def _by_group(values: Array, groups: int, reduce) -> Array:
    """Reduce (N, C) over the channels of each group; every channel gets its group's number."""
    n, channels = values.shape
    grouped = reduce(values.reshape(n, groups, channels // groups))
    return np.repeat(grouped, channels // groups, axis=1)


class _SampleNorm(Op):
    """Normalisation of each sample by the moments of its groups of channels."""

    reads = (0,)

    @staticmethod
    def _forward(ctx: Context, x: Array, weight: Array | None, bias: Array | None, groups: int,
                 eps: float) -> Array:
        """Compute (x - mean) / sqrt(var + eps) * weight + bias."""
        last = to_last(native(x), ctx.threads)
        dtype, samples, channels = last.dtype, len(last), last.shape[-1]
        mean, var = norm.moments(last, ctx.threads, samples=samples)
        inverse, scale, center, shift = norm.sample_parameters(
            mean, var, groups, _wide(weight, channels, 1.0, "weight"),
            _wide(bias, channels, 0.0, "bias"), eps, dtype == np.float64)
        center = _narrow(center, dtype)
        y = memory.empty(last.shape, dtype)
        norm.affine(last, _narrow(scale, dtype), _narrow(shift, dtype), 0, y, ctx.threads,
                    center=center, samples=samples)
        if any(ctx.needs):
            ctx.saved = (last, mean, inverse, scale, groups)
        return from_last(y)

    @staticmethod
    def _lower(b: Any, x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
        """Emit the kernel's step, where weight and bias are constants."""
        if x.dtype not in FLOATS or any(a is not None and (
                not a.is_constant or a.dtype not in FLOATS) for a in (weight, bias)):
            return None
        x = b.last(x)
        y = b.new_last(x.shape, x.dtype)
        wide = [_wide(None if a is None else a.constant, x.shape[1], default, "weight")
                for a, default in ((weight, 1.0), (bias, 0.0))]
        b.step(norm.sample_norm_step(math.prod(x.shape[2:]), groups, *wide, eps,
                                     x.dtype == np.float64), (x, y), x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, ...]:
        """Return the gradients of x, weight and bias, through mean and variance.

        With m values per group, z the normalised input, s = weight / sqrt(var + eps) and means
        over the group: gx = s * gy - (mean(s * gy) + z * mean(s * gy * z)).
        """
        last, mean, inverse, scale, groups = ctx.saved
        gy = to_last(gy, ctx.threads)
        dtype, samples = last.dtype, len(last)
        center = _narrow(mean, dtype)
        sums, products = norm.grad_sums(gy, last, center, ctx.threads, samples=samples)
        with np.errstate(invalid="ignore", over="ignore"):
            products = (products + (center - mean) * sums) * inverse  # sums of gy * z
            gx = None
            if ctx.needs[0]:
                count = max(last.size // max(samples * groups, 1), 1)
                slope = -_by_group(scale * products, groups, lambda a: a.sum(axis=2)) \
                    * inverse / count
                shift = (center - mean) * slope \
                    - _by_group(scale * sums, groups, lambda a: a.sum(axis=2)) / count
                gx = memory.empty(last.shape, dtype)
                norm.grad_input(gy, last, center, _narrow(scale, dtype), _narrow(slope, dtype),
                                _narrow(shift, dtype), gx, ctx.threads, samples=samples)
                gx = from_last(gx)
            return (gx, _narrow(products.sum(axis=0), dtype) if ctx.needs[1] else None,
                    _narrow(sums.sum(axis=0), dtype) if ctx.needs[2] else None)


@register
class GroupNorm(_SampleNorm):
    """Each sample's groups of channels to mean 0 and variance 1, then scaled and shifted.

    y = (x - mean) / sqrt(var + eps) * weight + bias, with the mean and the biased variance of
    the C / num_groups channels of a group (Wu and He, "Group Normalization", 2018).
    """

    name = "group_norm"
    onnx = "GroupNormalization"

    @staticmethod
    def shape(x, weight=None, bias=None, *, num_groups: int, eps: float = 1e-5):
        """Return the input's shape."""
        _check(x, num_groups, weight, bias)
        return x

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array | None = None, bias: Array | None = None,
                *, num_groups: int, eps: float = 1e-5) -> Array:
        """Normalise by groups."""
        _check(x.shape, num_groups, _shape_of(weight), _shape_of(bias))
        return _SampleNorm._forward(ctx, x, weight, bias, num_groups, eps)

    @staticmethod
    def lower(b, x, weight=None, bias=None, *, num_groups: int, eps: float = 1e-5):
        """Emit the kernel's step."""
        return _SampleNorm._lower(b, x, weight, bias, num_groups, eps)


@register
class InstanceNorm(_SampleNorm):
    """Each channel of each sample to mean 0 and variance 1, then scaled and shifted.

    Ulyanov et al., "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016.
    """

    name = "instance_norm"
    onnx = "InstanceNormalization"

    @staticmethod
    def shape(x, weight=None, bias=None, *, eps: float = 1e-5):
        """Return the input's shape."""
        _check(x, 1, weight, bias)
        return x

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array | None = None, bias: Array | None = None,
                *, eps: float = 1e-5) -> Array:
        """Normalise by channels."""
        _check(x.shape, 1, _shape_of(weight), _shape_of(bias))
        return _SampleNorm._forward(ctx, x, weight, bias, x.shape[1], eps)

    @staticmethod
    def lower(b, x, weight=None, bias=None, *, eps: float = 1e-5):
        """Emit the kernel's step."""
        return _SampleNorm._lower(b, x, weight, bias, x.shape[1], eps)
