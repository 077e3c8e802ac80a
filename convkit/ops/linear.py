"""Fully connected layer: a matrix product on the convolution's engine."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from convkit._kernels import memory, norm
from convkit.errors import ShapeError
from convkit.ops import planner
from convkit.ops.conv import activation_arguments, constants, contiguous
from convkit.ops.conv_problem import ConvProblem, check_dtypes
from convkit.ops.kept import keep_input
from convkit.ops.layout import native
from convkit.ops.op import Context, Op, register

__all__ = ["Linear", "linear_problem"]


# Kept as those of convolutions are: what a problem's plans and prepared calls are kept with.
@lru_cache(maxsize=256)
def linear_problem(rows: int, shape: tuple[int, int], dtype: np.dtype, precision: str
                   ) -> ConvProblem:
    """Return the 1x1 convolution of `rows` images of one pixel that a linear layer is.

    `shape` and `dtype` are those of its weight.
    """
    out_features, in_features = shape
    return ConvProblem(rows, in_features, (1, 1), out_features, (1, 1), (1, 1), (1, 1),
                       ((0, 0), (0, 0)), (1, 1), 1, dtype, precision)


def _pixels(x: np.ndarray) -> np.ndarray:
    """Return (..., F) as (rows, 1, 1, F), C-contiguous."""
    return np.ascontiguousarray(x).reshape(-1, 1, 1, x.shape[-1])


@register
class Linear(Op):
    """``y = x @ weight.T + bias`` for x (..., I), weight (O, I), bias (O,).

    `residual` and `activation` are the fused forms of compiled programs, without backward.
    """

    name = "linear"
    onnx = "Gemm"
    packs = True
    reads = (0, 1)

    @staticmethod
    def shape(x, weight, bias=None, residual=None, *, precision=None, activation=None,
              activation_args=()):
        """Return (..., O)."""
        if len(weight) != 2 or 0 in weight:
            raise ShapeError(f"expected a weight of shape (out, in), got {weight}")
        if not x or x[-1] != weight[1]:
            raise ShapeError(f"expected {weight[1]} input features, got x of shape {x}")
        if bias is not None and bias != (weight[0],):
            raise ShapeError(f"expected bias of shape ({weight[0]},), got {bias}")
        out = (*x[:-1], weight[0])
        if residual is not None and residual != out:
            raise ShapeError(f"expected residual of shape {out}, got {residual}")
        return out

    @staticmethod
    def forward(ctx: Context, x, weight, bias=None, residual=None, *, precision=None,
                activation=None, activation_args=()):
        """Compute y."""
        x, weight = native(x), np.ascontiguousarray(native(weight, "weight"))
        bias = None if bias is None else np.ascontiguousarray(native(bias, "bias"))
        residual = None if residual is None else np.ascontiguousarray(residual)
        check_dtypes(x, weight=weight, bias=bias, residual=residual)
        out = Linear.shape(x.shape, weight.shape, None if bias is None else bias.shape,
                           None if residual is None else residual.shape)
        pixels = _pixels(x) if x.size else np.empty((0, 1, 1, weight.shape[1]), x.dtype)
        problem = linear_problem(len(pixels), weight.shape, weight.dtype,
                                 precision or ctx.precision)
        y = memory.empty(out, x.dtype)
        cache = ctx.cache[1] if len(ctx.cache) > 1 else None
        last = y.reshape(len(pixels), 1, 1, weight.shape[0])
        planner.run("forward", problem, "auto", pixels, weight[:, :, None, None], last, cache,
                    ctx.threads, bias=bias,
                    residual=None if residual is None else residual.reshape(last.shape),
                    **activation_arguments(activation, activation_args))
        if any(ctx.needs):
            if activation is not None or residual is not None:
                raise ValueError("fused activation and residual have no backward: "
                                 "they are for compiled programs")
            ctx.saved = (problem, x.shape, keep_input(ctx, pixels, problem.precision), weight,
                         cache)
        return y

    @staticmethod
    def lower(b, x, weight, bias=None, residual=None, *, precision=None, activation=None,
              activation_args=()):
        """Emit the steps of the algorithm chosen, where weight and bias are constants."""
        if len(x.shape) < 2 or not constants(x, weight, bias):
            return None
        problem = linear_problem(1, weight.shape, weight.dtype, precision or b.precision)
        steps = planner.steps(b, "forward", problem, planner.choose(problem, "forward"), weight,
                              residual=residual is not None,
                              **activation_arguments(activation, activation_args))
        if steps is None:
            return None
        shape = (*x.shape[:-1], weight.shape[0])
        x, residual = (None if v is None else b.in_order(v, tuple(range(len(shape))))
                       for v in (x, residual))
        bias = contiguous(b, bias)
        y = b.new(shape, x.dtype)
        rows = math.prod(shape[1:-1])
        for step in steps:
            b.step(step, (x, bias, residual, y), tuple([n * rows for n in x.samples]))
        return y

    @staticmethod
    def backward(ctx: Context, gy):
        """Gradients of x, weight and bias."""
        problem, shape, x, weight, cache = ctx.saved
        gy = np.ascontiguousarray(gy).reshape(problem.batch, 1, 1, weight.shape[0])
        gx = gw = gb = None
        pixels = problem.batch, 1, 1, weight.shape[1]
        if ctx.needs[1]:        # first: what is restored for it is let go
            gw = memory.empty(weight.shape, weight.dtype)
            planner.sum_weights(problem, "auto", x, gy, gw[:, :, None, None], ctx.threads)
        if ctx.needs[0]:
            gx = memory.empty(shape, gy.dtype)
            planner.run("grad_input", problem, "auto", gy, weight[:, :, None, None],
                        gx.reshape(pixels), cache, ctx.threads)
        if len(ctx.needs) > 2 and ctx.needs[2]:
            gb = norm.sum_pixels(gy, ctx.threads)
        return (gx, gw, gb, None)[:len(ctx.needs)]
