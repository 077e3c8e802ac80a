"""Direct convolution: loops around the GEMM over the input itself, in the input's own format."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convkit._kernels import direct, gemm, gradweight
from convkit.ops.conv_algorithms.base import Algorithm, Task
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Direct"]


class Direct(Algorithm):
    """Loops around the GEMM over the input itself; gradients likewise."""

    name = "direct"
    gathers = True

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Sum over kernel rows and columns at each output pixel."""
        direct.run(x, _pack_forward(problem, weight, cache, threads), y, problem.rows,
                   problem.cols, problem.stride, threads=threads, **epilogue)

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
            return [direct.step(x, _pack_forward(problem, weight, cache, threads), y, size,
                                problem.rows, problem.cols, problem.stride, x_pixel=x_pixel,
                                y_pixel=y_pixel, **epilogue)]
        return None if lonely(problem) else [
            direct.step(x, cls._pack_phase(problem, weight, cache, phase, threads), y, size,
                        phase.rows, phase.cols, (1, 1), grid=phase.grid, step=problem.stride,
                        start=phase.start, y_pixel=y_pixel, **epilogue)
            for phase in all_phases(problem)]

    @staticmethod
    def _pack_phase(problem, weight, cache, phase, threads):
        """Pack the weights that the pixels of one phase see."""
        return pack_taps(problem, weight, cache, phase.key(problem),
                         row_width=row_width(problem, phase.grid[1]), taps=phase.taps,
                         backward=True, threads=threads)

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, **epilogue):
        """Convolve the output's gradient with the kernel turned by 180 degrees.

        With a stride, input pixels fall into stride x stride phases; those of one phase
        see the same taps, and each phase is a convolution with stride 1 of its own.
        """
        if lonely(problem):
            fill(gx, epilogue.get("bias"))
        for phase in all_phases(problem):
            direct.run(gy, Direct._pack_phase(problem, weight, cache, phase, threads), gx,
                       phase.rows, phase.cols, (1, 1), grid=phase.grid, step=problem.stride,
                       start=phase.start, threads=threads, **epilogue)

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap."""
        gradweight.run(x, gy, gw, problem.rows, problem.cols, problem.stride, problem.groups,
                       threads)


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


def _pack_forward(problem: ConvProblem, weight: np.ndarray, cache: dict | None,
                  threads: int) -> gemm.Packed:
    """Pack (or find packed) weights for the forward pass."""
    return pack_taps(problem, weight, cache, ("forward",),
                     row_width=row_width(problem, problem.out_size[1]),
                     taps=list(range(problem.kernel[0] * problem.kernel[1])),
                     backward=False, threads=threads)


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


def pack_taps(problem: ConvProblem, weight: np.ndarray, cache: dict | None, key: tuple, *,
          row_width: int, taps: list[int], backward: bool, threads: int) -> gemm.Packed:
    """Pack (or find packed) weights for the forward pass or the gradient of the input."""
    kernel_size = problem.kernel[0] * problem.kernel[1]
    o_step, c_step = problem.in_group * kernel_size, kernel_size
    columns, depth = problem.out_group, problem.in_group
    column_step, depth_step = o_step, c_step
    if backward:
        columns, depth, column_step, depth_step = depth, columns, c_step, o_step
    key = (*key, gemm.tile_width(weight.itemsize, row_width, columns))
    if cache is not None and key in cache:
        return cache[key]
    packed = gemm.pack(weight, problem.groups, columns, depth, taps,
                       problem.out_group * o_step, column_step, depth_step, row_width, threads)
    if cache is not None:
        cache[key] = packed
    return packed


def row_width(problem: ConvProblem, natural: int) -> int:
    """Pixels in a row of tiles: pointwise problems run over all pixels as one row."""
    return 1 << 20 if problem.pointwise else natural
