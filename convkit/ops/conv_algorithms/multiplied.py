"""Depthwise convolution with several outputs for each input channel.

Each channel of the input is repeated as often as it has outputs; then the convolution is depthwise.
"""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import depthwise, memory, runner
from convkit.ops.conv_algorithms.depthwise import Depthwise
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Multiplied"]

# With more outputs a channel, a matrix product has its vectors full.
MOST = 8


class Multiplied(Depthwise):
    """Repeat the input's channels, then one filter for each."""

    name = "multiplied"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse unless every group has one input channel and several outputs."""
        if problem.groups == 1:
            return "one group"
        if problem.in_group != 1 or problem.out_group == 1:
            return f"groups have {problem.in_group} input and {problem.out_group} output channels"
        return None

    @classmethod
    def declines(cls, problem, task):
        """Decline where the copies would be many."""
        if problem.out_group > MOST:
            return f"{problem.out_group} outputs a channel fill the vectors of a matrix product"
        return None

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Repeat the channels, then sum over taps."""
        Depthwise.forward(problem, _repeated(problem, x, threads), weight, y, cache, threads,
                          **epilogue)

    @classmethod
    def prepared(cls, b, problem, x):
        """Emit the step that repeats the channels."""
        wide = b.new_last((x.shape[0], problem.out_channels, *x.shape[2:]), x.dtype)
        b.step(_repeat_step(problem), (x, wide), wide.samples)
        return wide

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              activation=0, alpha=0.0, beta=0.0):
        """Return the step of the forward pass, for an input that is `prepared`."""
        if task != "forward":
            return None
        return [depthwise.step((*problem.in_size, problem.out_channels),
                               (*problem.out_size, problem.out_channels),
                               cls._taps_first(problem, weight, cache), residual,
                               *cls._geometry(problem), activation, alpha, beta)]

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, *, bias=None):
        """Gather each output channel's share, then add those of an input channel."""
        wide = memory.empty((*gx.shape[:3], problem.out_channels), gx.dtype)
        Depthwise.grad_input(problem, gy, weight, wide, cache, threads)
        shares = wide.reshape(*gx.shape, problem.out_group)
        np.add(shares[..., 0], shares[..., 1], out=gx)
        for i in range(2, problem.out_group):
            gx += shares[..., i]
        if bias is not None:
            gx += bias

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum repeated channels times gy over pixels for each tap."""
        taps_first = memory.empty((*problem.kernel, problem.out_channels), x.dtype)
        depthwise.grad_weight(_repeated(problem, x, threads), gy, taps_first,
                              *Depthwise._geometry(problem), threads)
        gw[:, 0] = taps_first.transpose(2, 0, 1)


def _repeat_step(problem: ConvProblem):
    """Return the step that writes every channel of samples once for each of its outputs."""
    values, times = math.prod(problem.in_size) * problem.in_channels, problem.out_group
    size = problem.dtype.itemsize
    return runner.copy_step((values, times), (values * size, size, 0),
                            (values * times * size, times * size, size), size)


def _repeated(problem: ConvProblem, x: np.ndarray, threads: int) -> np.ndarray:
    """Return x (N, H, W, C) with every channel as often as it has outputs."""
    wide = memory.empty((*x.shape[:3], problem.out_channels), x.dtype)
    if x.size:
        runner.run_step(_repeat_step(problem), (memory.address_of(x), memory.address_of(wide)),
                        len(x), threads)
    return wide
