"""Convolution and transposed convolution: 1-D and 2-D, any stride, dilation and groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import elementwise, gather, memory, norm
from convkit._kernels.tape import PutOff
from convkit.errors import ShapeError
from convkit.ops import planner
from convkit.ops.conv_algorithms import Algorithm
from convkit.ops.conv_problem import (
    ConvProblem,
    check_dtypes,
    forward_problem,
    output_shape,
    transposed_problem,
)
from convkit.ops.deferred import PASSES_ALL, gradient_last, plain
from convkit.ops.halves import Halves, Narrow, halves_of
from convkit.ops.kept import HALF, LEAST_BYTES, keep_input, restored, widened
from convkit.ops.layout import BFLOAT16, FLOATS, from_last, native, to_last
from convkit.ops.op import Context, Op, register

__all__ = ["Conv", "ConvTranspose", "activation_arguments", "constants", "contiguous", "planned"]

# Activations that run in the convolution's own pass: enum ck_activation of c/gemm.h.
_ACTIVATIONS = {None: (0, 0.0, 0.0), "relu": (1, 0.0, 0.0), "relu6": (2, 0.0, 6.0)}


def activation_arguments(activation: str | None, args: tuple = ()) -> dict[str, Any]:
    """Return the kernels' arguments for a fused activation.

    Raises
    ------
    ValueError
        When `activation` is none of None, "relu", "relu6", "clamp" (`args` are its ends; by
        default there is none), "leaky_relu", and the functions of `elementwise.fused`.
    """
    if activation == "leaky_relu":
        code, alpha, beta = 3, float(args[0]) if args else 0.01, 0.0
    elif activation == "clamp":
        code, (alpha, beta) = 2, (*args, math.inf)[:2] if args else (-math.inf, math.inf)
    elif activation in _ACTIVATIONS:
        code, alpha, beta = _ACTIVATIONS[activation]
    elif elementwise.maps(activation):
        code, (alpha, beta) = elementwise.fused(activation), (*args, 0.0, 0.0)[:2]
    else:
        raise ValueError(f"expected activation None, 'relu', 'relu6', 'clamp' or "
                         f"'leaky_relu', got {activation!r}")
    return {"activation": code, "alpha": alpha, "beta": beta}


def _four(x: np.ndarray, threads: int) -> np.ndarray:
    """Return a channels-last array as (N, H, W, C); a 1-D signal gets height 1."""
    last = to_last(x, threads)
    return last if last.ndim == 4 else last[:, None]


def _logical(y: np.ndarray, rank: int) -> np.ndarray:
    """Return the logical view of an (N, H, W, C) array with `rank` axes in all."""
    return from_last(y if rank == 4 else y[:, 0])


def _taps(weight: np.ndarray) -> np.ndarray:
    """Return the weight with two spatial axes."""
    return weight if weight.ndim == 4 else weight[:, :, None]


def _checked_bias(bias: np.ndarray, channels: int) -> np.ndarray:
    if bias.shape != (channels,):
        raise ShapeError(f"expected bias of shape ({channels},), got {bias.shape}")
    return bias if memory.alike((bias,)) else np.ascontiguousarray(bias)


def _prepare(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None):
    """Bring inputs to native order and check that their types agree."""
    if memory.of_one_kind(x, weight, bias):
        return x, weight, bias
    x, weight = native(x), native(weight, "weight")
    if weight.dtype is not x.dtype or bias is not None:
        bias = None if bias is None else native(bias, "bias")
        check_dtypes(x, weight=weight, bias=bias)
    return x, np.ascontiguousarray(weight), bias


def _pad_attrs(padding: Any, mode: str) -> dict[str, Any]:
    return {"padding": tuple(tuple(p) for p in padding), "mode": mode, "value": 0.0}


def _zero_padding(padding: Any) -> tuple[tuple[int, int], ...]:
    return tuple((0, 0) for _ in padding)


@register
class Conv(Op):
    """Cross-correlation of x (N, C, spatial...) with weight (O, C / groups, k...).

    ``y[n, o, i, j] = bias[o] + sum over c, r, s of
    weight[o, c, r, s] * x[n, c, i * stride + r * dilation - padding, ...]``
    (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016).

    `residual` (like y) is added and `activation` applied last; both are forms that compiled
    programs use and have no backward. `moments`: leave the moments of y in the context, for
    the batch norm that follows; they are gathered while y is in cache.
    """

    name = "conv"
    onnx = "Conv"
    packs = True
    reads = (0, 1)
    takes_deferred = True
    takes_masked = True
    adds_gradient = True
    leaves_moments = True
    eager = ("moments",)

    @staticmethod
    def shape(x, weight, bias=None, residual=None, *, stride, padding, dilation, groups,
              padding_mode="zeros", algorithm="auto", precision=None, activation=None,
              activation_args=()):
        """Return (N, O, spatial...)."""
        out = output_shape(x, weight, stride=stride, padding=padding, dilation=dilation,
                           groups=groups)
        if bias is not None and bias != out[1:2]:
            raise ShapeError(f"expected bias of shape ({out[1]},), got {bias}")
        if algorithm != "auto":
            planner.choose(forward_problem(
                x, weight, np.dtype(np.float32), stride=stride, padding=padding,
                dilation=dilation, groups=groups), "forward", algorithm)
        if residual is not None and residual != out:
            raise ShapeError(f"expected residual of shape {out}, got {residual}")
        return out

    @staticmethod
    def forward(ctx: Context, x, weight, bias=None, residual=None, *, stride, padding, dilation,
                groups, padding_mode="zeros", algorithm="auto", precision=None, activation=None,
                activation_args=(), moments=False):
        """Compute y, channels-last in memory."""
        narrow = x.__class__ is not np.ndarray and _comes_narrow(x, weight, padding_mode)
        if not narrow:
            x, weight, bias = _prepare(x if x.__class__ is np.ndarray else plain(x), weight, bias)
        rank = 4 if narrow else x.ndim
        pad_ctx = None
        if padding_mode != "zeros":
            x, pad_ctx = _pad(ctx, x, padding, padding_mode)
            padding = _zero_padding(padding)
        problem = forward_problem(x.shape, weight.shape, weight.dtype, stride=stride,
                                  padding=padding, dilation=dilation, groups=groups,
                                  precision=precision or ctx.precision)
        if bias is not None:
            bias = _checked_bias(bias, problem.out_channels)
        taps = weight if rank == 4 else weight[:, :, None]
        hands_on = (ctx.defer and rank == 4 and problem.precision == "medium"
                    and _is_large(problem)
                    and planner.prepared("forward", problem, algorithm)[0].narrows)
        x_last = _narrow_last(x, problem, algorithm) if narrow else _four(x, ctx.threads)
        y = memory.empty(problem.y_last, HALF if hands_on else weight.dtype,
                         x_last if groups > 1 else None)
        if residual is not None:
            check_dtypes(x, residual=residual)
            expected = _logical(y, rank).shape
            if residual.shape != expected:
                raise ShapeError(f"expected residual of shape {expected}, got {residual.shape}")
            residual = _four(residual, ctx.threads)
        cache = ctx.cache[1] if ctx.cache else None
        epilogue = {} if activation is None else activation_arguments(activation, activation_args)
        chosen, call = planner.prepared("forward", problem, algorithm)
        if moments and chosen.gathers:
            epilogue["gathered"] = gather.Gathered()
        call(x_last, taps, y, cache, ctx.threads, bias=bias, residual=residual, **epilogue)
        if "gathered" in epilogue:
            ctx.moments = epilogue["gathered"].moments(ctx.threads)
        if True in ctx.needs:
            if activation is not None or residual is not None:
                raise ValueError("fused activation and residual have no backward: "
                                 "they are for compiled programs")
            kept = keep_input(ctx, x_last, problem.precision) if not narrow else \
                x.kept() if ctx.needs[1] else None
            ctx.saved = (problem, algorithm, kept, taps, cache, rank, pad_ctx, narrow)
        if hands_on:
            return Halves(y, ctx.threads)
        return from_last(y) if rank == 4 else _logical(y, rank)

    @staticmethod
    def lower(b, x, weight, bias=None, residual=None, *, stride, padding, dilation, groups,
              padding_mode="zeros", algorithm="auto", precision=None, activation=None,
              activation_args=()):
        """Emit the steps of the algorithm chosen, where weight and bias are constants."""
        if not constants(x, weight, bias):
            return None
        padded, more = (1, *x.shape[1:]), None
        if padding_mode != "zeros":
            more = _pad_attrs(((0, 0), (0, 0), *padding), padding_mode)
            padded, padding = _pad_op().shape(padded, **more), _zero_padding(padding)
        problem, chosen = planned(padded, weight.shape, weight.dtype, b.precision, stride=stride,
                                  padding=padding, dilation=dilation, groups=groups,
                                  algorithm=algorithm, precision=precision)
        x_pixel = x.pixel if more is None and chosen.reads_parts(problem) else None
        y = b.reserved() if residual is None and chosen.writes_parts(problem) else None
        dtype = b.result_dtype(weight.dtype)
        epilogue = activation_arguments(activation, activation_args)
        if chosen.narrows:
            epilogue["narrow"] = (x.dtype == BFLOAT16, residual is not None
                                  and residual.dtype == BFLOAT16, dtype == BFLOAT16)
        steps = planner.steps(b, "forward", problem, chosen, weight, residual=residual is not None,
                              x_pixel=x_pixel, y_pixel=None if y is None else y.pixel, **epilogue)
        if steps is None:
            return None
        if more is not None:
            x = _pad_op().lower(b, x, **more)
        x = chosen.prepared(b, problem, b.last(x) if x_pixel is None else x)
        if y is None and all(s.adds_in_place for s in steps) and b.spent(residual, dtype):
            y = residual
        elif y is None:
            y = b.new_last((x.shape[0], problem.out_channels,
                            *problem.out_size[4 - len(x.shape):]), dtype)
        return _emit(b, steps, x, bias, residual, y)

    @staticmethod
    def reads_halves(ctx: Context, gy: Any) -> bool:
        """Tell whether its products do."""
        problem, algorithm, *_ = ctx.saved
        return _reads_halves(ctx, problem, algorithm)

    @staticmethod
    def backward(ctx: Context, gy):
        """Gradients of x, weight and bias."""
        problem, algorithm, x, weight, _, rank, *_ = ctx.saved
        sums = None if gy.__class__ is np.ndarray else gy.sums
        if gy.__class__ is np.ndarray:
            gy = to_last(gy, ctx.threads)
        else:
            gy = gradient_last(gy, _reads_halves(ctx, problem, algorithm), ctx.threads)
        gy = gy if rank == 4 else gy[:, None]
        gx = gw = gb = None
        inputs = len(ctx.needs)
        if ctx.needs[1]:        # first: what is restored for it is let go
            gw = memory.empty(weight.shape, weight.dtype)
            planner.sum_weights(problem, algorithm, x, gy, gw, ctx.threads)
            gw = gw if rank == 4 else gw[:, :, 0]
        if ctx.needs[0]:
            gx = _input_gradient(ctx, gy)
        if inputs > 2 and ctx.needs[2]:
            gb = _bias_gradient(gy, sums, ctx.threads)
        return (gx, gw, gb, None)[:inputs]


def _comes_narrow(x: PutOff, weight: np.ndarray, padding_mode: str) -> bool:
    """Tell whether an x that was put off is left so, to be had as bfloat16."""
    return (isinstance(x, Narrow) and x.narrow and len(x.shape) == 4 and padding_mode == "zeros"
            and memory.of_one_kind(weight, weight, None) and weight.dtype == x.dtype)


def _narrow_last(x: Narrow, problem: ConvProblem, algorithm: str) -> np.ndarray:
    """Return such an x as the algorithm reads it, channels-last."""
    narrows = planner.prepared("forward", problem, algorithm)[0].narrows
    return x.halves() if narrows else to_last(x.array())


def _is_large(problem: ConvProblem) -> bool:
    """Tell whether a result is worth being handed on as bfloat16."""
    return 4 * math.prod(problem.y_last) >= LEAST_BYTES


def _reads_halves(ctx: Context, problem: ConvProblem, algorithm: str) -> bool:
    """Tell whether backward's products read the output's gradient as bfloat16."""
    return planner.prepared("grad_input" if ctx.needs[0] else "grad_weight", problem,
                            algorithm)[0].narrows


def _input_gradient(ctx: Context, gy: np.ndarray) -> np.ndarray | Halves:
    """Return the gradient of x; as bfloat16 where x came so."""
    problem, algorithm, _, weight, cache, rank, pad_ctx, narrow = ctx.saved
    chosen, call = planner.prepared("grad_input", problem, algorithm)
    narrow = narrow and chosen.narrows
    gx = memory.empty(problem.x_last, HALF if narrow else weight.dtype,
                      gy if problem.groups > 1 else None)
    more = _added(ctx, chosen, problem, narrow) if pad_ctx is None else {}
    if gy.dtype is HALF and not chosen.narrows:
        gy = widened(gy, ctx.threads)
    call(gy, weight, gx, cache, ctx.threads, **more)
    if narrow:
        return Halves(gx, ctx.threads)
    gx = from_last(gx) if rank == 4 else _logical(gx, rank)
    return gx if pad_ctx is None else _pad_op().backward(pad_ctx, gx)[0]


def _bias_gradient(gy: np.ndarray, sums: np.ndarray | None, threads: int) -> np.ndarray:
    """Return the sums of a gradient over all pixels, of which somebody may have taken them."""
    if sums is None:
        if gy.dtype is not HALF:
            return norm.sum_pixels(gy, threads)
        none = np.zeros(gy.shape[-1], np.float32)
        sums, _ = norm.masked_sums(gy, gy, PASSES_ALL, none, none, none, None, None, threads)
    return sums.astype(np.float32)


def _added(ctx: Context, chosen: type[Algorithm], problem: ConvProblem, narrow: bool
           ) -> dict[str, np.ndarray]:
    """Return what a gradient of the input is added to on the way, where there is such a thing.

    Sums of gradients have the same bits so as with a pass of their own; `narrow` ones are rounded
    once.
    """
    if ctx.before is None or not chosen.adds_gradient(problem):
        return {}
    before = ctx.before
    last = halves_of(before) if narrow else None
    if last is None:
        before = plain(before)
        last = before.transpose(0, 2, 3, 1) if before.ndim == 4 else before
    if last.shape != problem.x_last or not last.flags.c_contiguous or last.dtype not in (
            HALF, problem.dtype):
        return {}
    ctx.before = None
    return {"residual": last}


def planned(x: tuple[int, ...], weight: tuple[int, ...], dtype: np.dtype, default: str, *,
            stride, padding, dilation, groups, algorithm="auto", precision=None, **_
            ) -> tuple[ConvProblem, type[Algorithm]]:
    """Return the problem of a compiled convolution, of one sample, and what is to compute it.

    `x` and `weight` are shapes, `default` is the precision where the node has none of its own.
    """
    problem = forward_problem((1, *x[1:]), weight, dtype, stride=stride, padding=padding,
                              dilation=dilation, groups=groups, precision=precision or default)
    return problem, planner.choose(problem, "forward", algorithm)


def constants(x: Any, weight: Any, bias: Any) -> bool:
    """Tell whether weight and bias are constants of x's floating type, as compiled steps want."""
    dtype = np.float32 if x.dtype == BFLOAT16 else x.dtype
    return (dtype in FLOATS and weight.is_constant and weight.dtype == dtype
            and (bias is None or (bias.is_constant and bias.dtype == dtype)))


def contiguous(b: Any, bias: Any) -> Any:
    """Return the place of a constant bias (or None) whose numbers lie side by side."""
    if bias is None or bias.strides == (bias.dtype.itemsize,):
        return bias
    return b.constant(np.ascontiguousarray(bias.constant))


def _emit(b: Any, steps: list, x: Any, bias: Any, residual: Any, y: Any) -> Any:
    """Emit steps that write `y`, and return it."""
    bias = contiguous(b, bias)
    residual = None if residual is None else b.last(residual)
    for step in steps:
        b.step(step, (x, bias, residual, y), x.samples)
    return y


def _pad_op() -> type[Op]:
    from convkit.ops.pad import Pad

    return Pad


def _pad(ctx: Context, x: np.ndarray, padding: Any, mode: str):
    """Pad x by reflection, replication or wrapping; return it and the pad's context."""
    pad_ctx = Context((ctx.needs[0],), ctx.threads, ())
    attrs = _pad_attrs(((0, 0), (0, 0), *padding), mode)
    return _pad_op().forward(pad_ctx, x, **attrs), pad_ctx


@register
class ConvTranspose(Op):
    """Transposed convolution: the gradient of a convolution with respect to its input.

    x (N, C, spatial...), weight (C, O / groups, k...); each input pixel adds its value times
    the kernel to the output (Dumoulin and Visin 2016, chapter 4).
    """

    name = "conv_transpose"
    onnx = "ConvTranspose"
    packs = True
    reads = (0, 1)

    @staticmethod
    def shape(x, weight, bias=None, *, stride, padding, output_padding, groups, dilation,
              precision=None):
        """Return (N, O, spatial...)."""
        p = transposed_problem(x, weight, np.dtype(np.float32), stride=stride, padding=padding,
                               output_padding=output_padding, dilation=dilation, groups=groups)
        if bias is not None and bias != (p.in_channels,):
            raise ShapeError(f"expected bias of shape ({p.in_channels},), got {bias}")
        return (p.batch, p.in_channels, *p.in_size[4 - len(x):])

    @staticmethod
    def forward(ctx: Context, x, weight, bias=None, *, stride, padding, output_padding, groups,
                dilation, precision=None):
        """Compute y, channels-last in memory."""
        x, weight, bias = _prepare(x, weight, bias)
        problem = transposed_problem(
            x.shape, weight.shape, x.dtype, stride=stride, padding=padding,
            output_padding=output_padding, dilation=dilation, groups=groups,
            precision=precision or ctx.precision)
        if bias is not None:
            bias = _checked_bias(bias, problem.in_channels)
        x_last, taps = _four(x, ctx.threads), _taps(weight)
        y = memory.empty(problem.x_last, x.dtype)
        cache = ctx.cache[1] if len(ctx.cache) > 1 else None
        planner.run("grad_input", problem, "auto", x_last, taps, y, cache, ctx.threads, bias=bias)
        if any(ctx.needs):
            ctx.saved = (problem, keep_input(ctx, x_last, problem.precision), taps, cache, x.ndim)
        return _logical(y, x.ndim)

    @staticmethod
    def lower(b, x, weight, bias=None, *, stride, padding, output_padding, groups, dilation,
              precision=None):
        """Emit the steps of the algorithm chosen, where weight and bias are constants."""
        if not constants(x, weight, bias):
            return None
        problem = transposed_problem(
            (1, *x.shape[1:]), weight.shape, x.dtype, stride=stride, padding=padding,
            output_padding=output_padding, dilation=dilation, groups=groups,
            precision=precision or b.precision)
        chosen = planner.choose(problem, "grad_input")
        steps = planner.steps(b, "grad_input", problem, chosen, weight, residual=False,
                              activation=0, alpha=0.0, beta=0.0)
        if steps is None:
            return None
        shape = (x.shape[0], problem.in_channels, *problem.in_size[4 - len(x.shape):])
        apart = bias is not None and not chosen.gradient_adds_bias
        y = _emit(b, steps, b.last(x), None if apart else bias, None, b.new_last(shape, x.dtype))
        if not apart:
            return y
        from convkit.ops.affine import lower_affine

        return lower_affine(b, y, np.ones_like(bias.constant), bias.constant)

    @staticmethod
    def backward(ctx: Context, gy):
        """Gradients of x, weight and bias: the convolution itself and its weight gradient."""
        problem, x, weight, cache, rank = ctx.saved
        gy = _four(gy, ctx.threads)
        gx = gw = gb = None
        shape = problem.y_last
        if ctx.needs[1]:
            gw = memory.empty(weight.shape, weight.dtype)
            planner.run("grad_weight", problem, "auto", gy, restored(x, shape, ctx.threads), gw,
                        ctx.threads)
            gw = gw if rank == 4 else gw[:, :, 0]
        if ctx.needs[0]:
            gx = memory.empty(shape, gy.dtype)
            planner.run("forward", problem, "auto", gy, weight, gx, cache, ctx.threads)
            gx = _logical(gx, rank)
        if len(ctx.needs) > 2 and ctx.needs[2]:
            gb = norm.sum_pixels(gy, ctx.threads)
        return (gx, gw, gb)[:len(ctx.needs)]
