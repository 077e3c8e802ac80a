"""Convolution in groups of a few channels: several groups side by side in a vector."""

from __future__ import annotations

import numpy as np

from convkit._kernels import depthwise, memory
from convkit.ops.conv_algorithms.base import Algorithm
from convkit.ops.conv_algorithms.direct import Direct, sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Grouped"]

# The kernels' one activation that is neither a pair of limits nor a pass of its own.
LEAKY = 3


class Grouped(Algorithm):
    """Walk along rows as the depthwise kernels do, each input of a group in its turn."""

    name = "grouped"
    gathers = True

    @classmethod
    def refuses(cls, problem, task):
        """Refuse groups that do not fill vectors evenly, and windows without kernels."""
        if problem.groups == 1:
            return "one group"
        if problem.in_group != problem.out_group:
            return (f"groups have {problem.in_group} input and {problem.out_group} output "
                    f"channels")
        return depthwise.grouped_refusal(problem.in_group, problem.in_channels, problem.kernel,
                                         problem.stride, problem.dilation, problem.dtype)

    @staticmethod
    def _geometry(problem: ConvProblem) -> tuple:
        (top, _), (left, _) = problem.padding
        return problem.stride, (top, left), problem.dilation

    @staticmethod
    def _packed(problem: ConvProblem, weight: np.ndarray, cache: dict | None,
                backward: bool) -> np.ndarray:
        """Return the weight in the order in which the kernels read it."""
        turned = backward and problem.stride == (1, 1)
        key = ("grouped", backward, turned)
        if cache is not None and key in cache:
            return cache[key]
        packed = depthwise.pack_groups(np.asarray(weight), backward, turned)
        if cache is not None:
            cache[key] = packed
        return packed

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Sum over taps and a group's inputs, channels side by side."""
        residual, activation = epilogue.get("residual"), epilogue.get("activation", 0)
        if residual is not None or activation == LEAKY:
            Direct.forward(problem, x, weight, y, cache, threads, **epilogue)
            return
        depthwise.forward(x, Grouped._packed(problem, weight, cache, False),
                          epilogue.get("bias"), None, y, *Grouped._geometry(problem), activation,
                          epilogue.get("alpha", 0.0), epilogue.get("beta", 0.0), threads,
                          epilogue.get("gathered"))

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              activation=0, alpha=0.0, beta=0.0):
        """Return the forward pass's step, into pixels of its own."""
        epilogue = {"activation": activation, "alpha": alpha, "beta": beta}
        if task != "forward":
            return None
        if residual or activation == LEAKY:
            return Direct.steps(problem, task, weight, cache, threads, residual=residual,
                                **epilogue)
        return [depthwise.step(*sides(problem, task), cls._packed(problem, weight, cache, False),
                               residual, *cls._geometry(problem), **epilogue)]

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, *, bias=None):
        """Gather from the outputs that saw each input pixel."""
        depthwise.grad_input(gy, Grouped._packed(problem, weight, cache, True), gx,
                             *Grouped._geometry(problem), threads)
        if bias is not None:
            gx += bias

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap and each input of a group."""
        sums = memory.empty((problem.in_group, *problem.kernel, problem.out_channels), x.dtype)
        depthwise.grad_weight(x, gy, sums, *Grouped._geometry(problem), threads)
        gw[...] = sums.transpose(3, 0, 1, 2)
