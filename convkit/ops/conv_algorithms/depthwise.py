"""Depthwise convolution: vectors run over channels, nothing is reduced over them."""

from __future__ import annotations

import numpy as np

from convkit._kernels import depthwise, memory
from convkit.ops.conv_algorithms.base import Algorithm, kept_source, made_of_floats
from convkit.ops.conv_algorithms.direct import sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Depthwise", "DepthwiseBfloat16"]


class Depthwise(Algorithm):
    """One filter for each channel: vectors run over channels, nothing is reduced."""

    name = "depthwise"
    gathers = True
    gradient_adds_bias = False

    @classmethod
    def refuses(cls, problem, task):
        """Refuse unless every group has one input and one output channel."""
        if problem.groups == 1:
            return "one group"
        if problem.in_group != 1 or problem.out_group != 1:
            return (f"groups have {problem.in_group} input and {problem.out_group} output "
                    f"channels")
        return None

    @staticmethod
    def _geometry(problem: ConvProblem) -> tuple:
        (top, _), (left, _) = problem.padding
        return problem.stride, (top, left), problem.dilation

    @staticmethod
    def _taps_first(problem: ConvProblem, weight: np.ndarray, cache: dict | None) -> np.ndarray:
        """Return the weight as (kH, kW, C)."""
        key = ("depthwise",)
        if cache is not None and key in cache:
            return cache[key]
        packed = np.ascontiguousarray(np.asarray(weight)[:, 0].transpose(1, 2, 0))
        if cache is not None:
            cache[key] = packed
        return packed

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, *, bias=None, residual=None,
                activation=0, alpha=0.0, beta=0.0, gathered=None):
        """Sum over taps, channels side by side."""
        depthwise.forward(x, Depthwise._taps_first(problem, weight, cache), bias, residual, y,
                          *Depthwise._geometry(problem), activation, alpha, beta, threads,
                          gathered)

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              activation=0, alpha=0.0, beta=0.0, narrow=(False, False, False)):
        """Return the step, into pixels of its own."""
        if task == "grad_input":
            return [depthwise.grad_input_step(*sides(problem, task), cls._taps_first(
                problem, weight, cache), *cls._geometry(problem))]
        return [depthwise.step(*sides(problem, task), cls._taps_first(problem, weight, cache),
                               residual, *cls._geometry(problem), activation, alpha, beta, narrow)]

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, *, bias=None):
        """Gather from the outputs that saw each input pixel."""
        depthwise.grad_input(gy, Depthwise._taps_first(problem, weight, cache), gx,
                             *Depthwise._geometry(problem), threads)
        if bias is not None:
            gx += bias

    @classmethod
    def reads_kept(cls, problem, kept):
        """Take what float32 is made of, row by row."""
        return made_of_floats(problem, kept)

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap and channel."""
        x, maker = kept_source(problem, x, threads)
        taps_first = memory.empty((*problem.kernel, problem.in_channels), gw.dtype)
        depthwise.grad_weight(x, gy, taps_first, *Depthwise._geometry(problem), threads, maker)
        gw[:, 0] = taps_first.transpose(2, 0, 1)


class DepthwiseBfloat16(Depthwise):
    """The same where neighbours may hand on bfloat16: precision "medium".

    Weights are float32 and so are sums: what is handed on is rounded, and nothing else.
    """

    name = "depthwise_bf16"
    narrows = True

    @classmethod
    def refuses(cls, problem, task):
        """Refuse also other types than float32, and windows without kernels for bfloat16."""
        if problem.dtype != np.float32:
            return f"bfloat16 stands for float32, not {problem.dtype}"
        return super().refuses(problem, task) or depthwise.half_refusal(
            problem.in_channels, problem.kernel, problem.stride, problem.dilation)

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions."""
        return None if problem.precision == "medium" else f"precision is {problem.precision}"

    @classmethod
    def reads_kept(cls, problem, kept):
        """Take also bfloat16, and what that is made of."""
        return kept.channels in (None, problem.in_channels)
