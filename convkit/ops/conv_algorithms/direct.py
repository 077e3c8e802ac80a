"""Direct convolution: loops around the GEMM over the input itself, in the input's own format."""

from __future__ import annotations

import numpy as np

from convkit._kernels import direct, gemm, gradweight
from convkit.ops.conv_algorithms.base import Algorithm
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Direct"]


class Direct(Algorithm):
    """Loops around the GEMM over the input itself; gradients likewise."""

    name = "direct"

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Sum over kernel rows and columns at each output pixel."""
        packed = pack_taps(problem, weight, cache, ("forward",),
                       row_width=row_width(problem, problem.out_size[1]),
                       taps=list(range(problem.kernel[0] * problem.kernel[1])),
                       backward=False, threads=threads)
        direct.run(x, packed, y, problem.rows, problem.cols, problem.stride,
                   threads=threads, **epilogue)

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, **epilogue):
        """Convolve the output's gradient with the kernel turned by 180 degrees.

        With a stride, input pixels fall into stride x stride phases; those of one phase
        see the same taps, and each phase is a convolution with stride 1 of its own.
        """
        row_phases = phases(problem, 0)
        col_phases = phases(problem, 1)
        if any(not taps for taps in row_phases + col_phases):
            fill(gx, epilogue.get("bias"))
        for top, row_taps in enumerate(row_phases):
            for left, col_taps in enumerate(col_phases):
                grid = (-(-(problem.in_size[0] - top) // problem.stride[0]),
                        -(-(problem.in_size[1] - left) // problem.stride[1]))
                if not row_taps or not col_taps or min(grid) < 1:
                    continue
                packed = pack_taps(
                    problem, weight, cache,
                    ("grad_input", problem.stride, problem.padding, problem.dilation, top, left),
                    row_width=row_width(problem, grid[1]),
                    taps=[i * problem.kernel[1] + j for _, i in row_taps for _, j in col_taps],
                    backward=True, threads=threads)
                direct.run(gy, packed, gx, [r for r, _ in row_taps], [c for c, _ in col_taps],
                           (1, 1), grid=grid, step=problem.stride, start=(top, left),
                           threads=threads, **epilogue)

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap."""
        gradweight.run(x, gy, gw, problem.rows, problem.cols, problem.stride, problem.groups,
                       threads)


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
