"""Convolution by im2col: copy the pixels under each kernel position, then one matrix product."""

from __future__ import annotations

import math

import numpy as np

from convkit._kernels import direct, gemm, gradweight, im2col, memory
from convkit.ops.conv_algorithms.base import Algorithm
from convkit.ops.conv_algorithms.direct import sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Im2col"]

# Output rows of fewer pixels than this leave most of a tile empty; the matrix of all pixels
# has no rows.
NARROW = 5


class Im2col(Algorithm):
    """Copy the pixels under each kernel position side by side, then one matrix product."""

    name = "im2col"

    @classmethod
    def declines(cls, problem, task):
        """Decline where the direct loops find long rows of pixels and long sums."""
        if problem.pointwise:
            return "a 1x1 convolution is a matrix product already"
        if problem.groups == 1 and problem.out_size[1] < NARROW:
            return None
        if problem.groups == 1 and problem.dilation[1] == 1:
            return "direct reduces over whole kernel rows without a matrix"
        if problem.in_group >= 4:
            return f"direct reduces over {problem.in_group} channels at a tap"
        return None

    @staticmethod
    def _chunks(problem: ConvProblem, dtype: np.dtype):
        """Yield (first, last, matrix) for runs of samples whose matrix fits the bound."""
        shape = (*problem.out_size,
                 problem.in_channels * problem.kernel[0] * problem.kernel[1])
        count = im2col.together(math.prod(shape) * dtype.itemsize, problem.batch)
        matrix = memory.empty((count, *shape), dtype)
        for first in range(0, problem.batch, count):
            last = min(first + count, problem.batch)
            yield first, last, matrix[:last - first]

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Expand, then multiply."""
        packed = _pack_flat(problem, weight, cache, False, threads)
        residual = epilogue.pop("residual", None)
        for first, last, matrix in Im2col._chunks(problem, x.dtype):
            im2col.expand(x[first:last], matrix, problem.rows, problem.cols, problem.stride,
                          problem.groups, threads)
            direct.run(matrix, packed, y[first:last], [0], [0], (1, 1), threads=threads,
                       residual=None if residual is None else residual[first:last], **epilogue)

    @classmethod
    def writes_parts(cls, problem):
        """Write parts in the forward pass, the only one that is asked."""
        return True

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              **epilogue):
        """Return the expansion and its product, or the product and its folding, as one step."""
        forward = task == "forward"
        x, y = sides(problem, "forward")
        matrix = (*problem.out_size, problem.in_channels * problem.kernel[0] * problem.kernel[1])
        size = problem.dtype.itemsize
        packed = _pack_flat(problem, weight, cache, not forward, threads)
        more = {"y_pixel": y_pixel, **epilogue} if forward else {}
        product = direct.step(matrix if forward else y, packed, y if forward else matrix, size,
                              [0], [0], (1, 1), **more)
        each = math.prod(problem.out_size) * ((forward and y_pixel) or problem.out_channels) * size
        return [im2col.step(forward, x, problem.out_size, size, problem.rows, problem.cols,
                            problem.stride, problem.groups, product, each)]

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, **epilogue):
        """Multiply, then fold."""
        packed = _pack_flat(problem, weight, cache, True, threads)
        for first, last, matrix in Im2col._chunks(problem, gy.dtype):
            direct.run(gy[first:last], packed, matrix, [0], [0], (1, 1), threads=threads)
            im2col.fold(matrix, gx[first:last], problem.rows, problem.cols, problem.stride,
                        problem.groups, threads)
        if epilogue.get("bias") is not None:
            gx += epilogue["bias"]

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Multiply the transposed matrix with the output's gradient, chunk after chunk."""
        taps = problem.kernel[0] * problem.kernel[1]
        part = memory.empty((problem.groups, taps * problem.in_group, problem.out_group), x.dtype)
        total = None
        for first, last, matrix in Im2col._chunks(problem, x.dtype):
            im2col.expand(x[first:last], matrix, problem.rows, problem.cols, problem.stride,
                          problem.groups, threads)
            gradweight.run(matrix, gy[first:last], part, [0], [0], (1, 1), problem.groups,
                           threads, taps_first=True)
            total = part.copy() if total is None else np.add(total, part, out=total)
        if total is None:
            gw.fill(0)
            return
        total = total.reshape(problem.groups, *problem.kernel, problem.in_group,
                              problem.out_group)
        gw[...] = total.transpose(0, 4, 3, 1, 2).reshape(gw.shape)


def _pack_flat(problem: ConvProblem, weight: np.ndarray, cache: dict | None, backward: bool,
               threads: int) -> gemm.Packed:
    """Pack weights for the matrix product over (tap, channel)."""
    taps = problem.kernel[0] * problem.kernel[1]
    key = ("im2col", backward)
    if cache is not None and key in cache:
        return cache[key]
    depth = taps * problem.in_group
    # (group, tap, channel, column)
    flat = np.ascontiguousarray(
        weight.reshape(problem.groups, problem.out_group, problem.in_group, taps)
        .transpose(0, 3, 2, 1))
    columns, column_step, depth_step = problem.out_group, 1, problem.out_group
    if backward:
        columns, depth, column_step, depth_step = depth, columns, depth_step, column_step
    packed = gemm.pack(flat, problem.groups, columns, depth, [0],
                       taps * problem.in_group * problem.out_group, column_step, depth_step,
                       1 << 20, threads)
    if cache is not None:
        cache[key] = packed
    return packed
