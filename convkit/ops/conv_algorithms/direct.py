"""Direct convolution: loops around the GEMM over the input itself, in the input's own format."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import direct, gemm, gradweight
from convkit.ops.conv_algorithms.base import (
    Algorithm,
    Task,
    kept_source,
    known_call,
    made_of_floats,
)
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Direct"]


class Direct(Algorithm):
    """Loops around the GEMM over the input itself; gradients likewise."""

    name = "direct"
    gathers = True

    @classmethod
    def call(cls, problem, task):
        """Return the engine, prepared; for the gradient of the input one for each phase."""
        if task == "grad_weight":
            return super().call(problem, task)
        x, y = sides(problem, task)
        if task == "forward":
            return direct.Convolution(x, y, _packing(problem, *_forward_taps(problem)),
                                      problem.rows, problem.cols, problem.stride)
        phases = [direct.Convolution(x, y, _packing(problem, *_phase_taps(problem, phase)),
                                     phase.rows, phase.cols, (1, 1), phase.grid, problem.stride,
                                     phase.start)
                  for phase in all_phases(problem)]
        if len(phases) == 1 and not lonely(problem):
            return phases[0]
        return functools.partial(_run_phases, phases, lonely(problem))

    @classmethod
    def forward(cls, problem, *arrays, **epilogue):
        """Sum over kernel rows and columns at each output pixel."""
        known_call(cls, problem, "forward")(*arrays, **epilogue)

    @classmethod
    def reads_parts(cls, problem):
        """Read parts where no pixel is copied with its padding."""
        return problem.pointwise

    @classmethod
    def writes_parts(cls, problem):
        """Write parts always."""
        return True

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              **epilogue):
        """Return the engine's step, or for the gradient of the input one for each phase."""
        x, y = sides(problem, task)
        size = problem.dtype.itemsize
        if task == "forward":
            packed = _pack(problem, weight, cache, threads, *_forward_taps(problem))
            return [direct.step(x, packed, y, size, problem.rows, problem.cols, problem.stride,
                                x_pixel=x_pixel, y_pixel=y_pixel, **epilogue)]
        return None if lonely(problem) else [
            direct.step(x, _pack(problem, weight, cache, threads, *_phase_taps(problem, phase)), y,
                        size, phase.rows, phase.cols, (1, 1), grid=phase.grid, step=problem.stride,
                        start=phase.start, y_pixel=y_pixel, **epilogue)
            for phase in all_phases(problem)]

    @classmethod
    def grad_input(cls, problem, *arrays, **epilogue):
        """Convolve the output's gradient with the kernel turned by 180 degrees.

        With a stride, input pixels fall into stride x stride phases; those of one phase
        see the same taps, and each phase is a convolution with stride 1 of its own.
        """
        known_call(cls, problem, "grad_input")(*arrays, **epilogue)

    @classmethod
    def adds_gradient(cls, problem):
        """Add where products reach every pixel."""
        return not lonely(problem)

    @classmethod
    def reads_kept(cls, problem, kept):
        """Take what float32 is made of, for 1x1 kernels; but where parts would make it anew."""
        return (problem.pointwise and made_of_floats(problem, kept)
                and gradweight.reads_once(math.prod(problem.y_last[:3]),
                                          problem.in_channels * problem.out_group))

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap."""
        x, maker = kept_source(problem, x, threads)
        gradweight.run(x, gy, gw, problem.rows, problem.cols, problem.stride, problem.groups,
                       threads, maker=maker)


class Phase(NamedTuple):
    """The input pixels at one place within the stride: a convolution with stride 1 of its own.

    Attributes
    ----------
    start : (int, int)
        The first of the pixels.
    grid : (int, int)
        How many there are.
    rows, cols : list of int
        Where their taps lie in the output's gradient.
    taps : list of int
        Which taps of the kernel those are.
    """

    start: tuple[int, int]
    grid: tuple[int, int]
    rows: list[int]
    cols: list[int]
    taps: list[int]

    def key(self, problem: ConvProblem) -> tuple:
        """Return what its packed weights depend on."""
        return ("grad_input", problem.stride, problem.padding, problem.dilation, *self.start)


def all_phases(problem: ConvProblem) -> list[Phase]:
    """Return the phases that have pixels and taps."""
    return _phases_once(problem)[0]


def lonely(problem: ConvProblem) -> bool:
    """Tell whether there are input pixels that no tap reaches."""
    return _phases_once(problem)[1]


def _phases_once(problem: ConvProblem) -> tuple[list[Phase], bool]:
    """Return `all_phases` and `lonely`, worked out once."""
    kept = problem.plans.get("phases")
    if kept is None:
        rows, cols = phases(problem, 0), phases(problem, 1)
        kept = problem.plans["phases"] = (_all_phases(problem, rows, cols),
                                          not all(rows + cols))
    return kept


def _all_phases(problem: ConvProblem, rows: list, cols: list) -> list[Phase]:
    found = []
    for top, row_taps in enumerate(rows):
        for left, col_taps in enumerate(cols):
            grid = (-(-(problem.in_size[0] - top) // problem.stride[0]),
                    -(-(problem.in_size[1] - left) // problem.stride[1]))
            if row_taps and col_taps and min(grid) > 0:
                found.append(Phase(
                    (top, left), grid, [r for r, _ in row_taps], [c for c, _ in col_taps],
                    [i * problem.kernel[1] + j for _, i in row_taps for _, j in col_taps]))
    return found


def sides(problem: ConvProblem, task: Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes (H, W, C) of what a task reads and of what it writes."""
    x = (*problem.in_size, problem.in_channels)
    y = (*problem.out_size, problem.out_channels)
    return (x, y) if task == "forward" else (y, x)


def phases(problem: ConvProblem, axis: int) -> list[list[tuple[int, int]]]:
    """For each phase along an axis, the (offset in gy, kernel index) of its taps, ascending."""
    stride, dilation = problem.stride[axis], problem.dilation[axis]
    before = problem.padding[axis][0]
    return [
        sorted(((phase + before - k * dilation) // stride, k)
               for k in range(problem.kernel[axis])
               if (phase + before - k * dilation) % stride == 0)
        for phase in range(min(stride, problem.in_size[axis]))
    ]


def fill(gx: np.ndarray, bias: np.ndarray | None) -> None:
    """Set what no tap reaches: zero, or the bias of a transposed convolution."""
    gx[...] = 0 if bias is None else bias


def _run_phases(phases: list[direct.Convolution], lonely: bool, gy: np.ndarray,
                weight: np.ndarray, gx: np.ndarray, *more: Any, **epilogue: Any) -> None:
    """Run the phases of a gradient of the input, after filling pixels that are in none."""
    if lonely:
        fill(gx, epilogue.get("bias"))
    for phase in phases:
        phase(gy, weight, gx, *more, **epilogue)


def _forward_taps(problem: ConvProblem) -> tuple[tuple, int, list[int], bool]:
    """Return what tells packed weights of the forward pass from others: see `_form`."""
    return (("forward",), row_width(problem, problem.out_size[1]),
            list(range(problem.kernel[0] * problem.kernel[1])), False)


def _phase_taps(problem: ConvProblem, phase: Phase) -> tuple[tuple, int, list[int], bool]:
    """Return the same for the pixels of one phase of the gradient of the input."""
    return phase.key(problem), row_width(problem, phase.grid[1]), phase.taps, True


def _form(problem: ConvProblem, key: tuple, row_width: int, taps: list[int], backward: bool
          ) -> tuple[tuple, tuple]:
    """Return the arguments of `gemm.pack` between weights and threads, and the form's key."""
    kernel_size = problem.kernel[0] * problem.kernel[1]
    o_step, c_step = problem.in_group * kernel_size, kernel_size
    columns, depth = problem.out_group, problem.in_group
    column_step, depth_step = o_step, c_step
    if backward:
        columns, depth, column_step, depth_step = depth, columns, c_step, o_step
    key = (*key, gemm.tile_width(problem.dtype.itemsize, row_width, columns))
    return (problem.groups, columns, depth, taps, problem.out_group * o_step, column_step,
            depth_step, row_width), key


def _packing(problem: ConvProblem, *form: Any) -> gemm.Packing:
    """Return how weights are packed in a form."""
    arguments, key = _form(problem, *form)
    return gemm.Packing(problem.dtype, *arguments, key)


def _pack(problem: ConvProblem, weight: Any, cache: dict | None, threads: int, *form: Any
          ) -> gemm.Packed:
    """Pack (or find packed) weights of a Program in a form."""
    arguments, key = _form(problem, *form)
    packed = None if cache is None else cache.get(key)
    if packed is None:
        packed = gemm.pack(weight, *arguments, threads)
        if cache is not None:
            cache[key] = packed
    return packed


def row_width(problem: ConvProblem, natural: int) -> int:
    """Pixels in a row of tiles: pointwise problems run over all pixels as one row."""
    return 1 << 20 if problem.pointwise else natural
