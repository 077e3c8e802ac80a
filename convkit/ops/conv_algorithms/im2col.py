"""Convolution by im2col: copy the pixels under each kernel position, then one matrix product."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convkit._kernels import direct, gemm, gradweight, im2col, memory, runner
from convkit.ops.conv_algorithms.base import Algorithm
from convkit.ops.conv_algorithms.direct import sides
from convkit.ops.conv_algorithms.winograd import (
    DIRECT_COST,
    Winograd,
    whole_vectors,
    winograd_cost,
)
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Im2col"]

# Output rows of fewer pixels than this leave most of a tile empty; the matrix of all pixels
# has no rows.
NARROW = 5
# Pixels of the matrix that its product for the gradient of the weight takes as a row, at most.
ROW_PIXELS = 384

# The model behind the gradient of the input, in multiply-adds of one sample, fitted to measured
# forms: direct convolution and Winograd fill whole vectors of the input's channels, and direct
# convolution begins anew at every place within the stride; the matrix has no gaps, but every
# value of it goes through the second-level cache and is added to where it came from.
MATRIX_COST = 1.25      # of a product that is stored,
RUN_COST = 310.0        # for each pixel and kernel row, or tap where taps are not side by side,
VALUE_COST = 15.0       # and for each value
PHASE_COST = 1e5
GAIN = 0.9              # of the others' cost: not worth the memory before


def folding_pays(problem: ConvProblem) -> bool:
    """Tell whether a product and its folding give the gradient of the input faster."""
    taps, pixels = math.prod(problem.kernel), math.prod(problem.out_size)
    depth, columns = problem.out_group, problem.in_group
    runs = problem.kernel[0]
    if problem.groups > 1 or problem.dilation[1] > 1:
        runs = taps * problem.groups
    folded = pixels * (MATRIX_COST * problem.groups * depth * whole_vectors(taps * columns)
                       + runs * RUN_COST + taps * problem.in_channels * VALUE_COST)
    phases = math.prod(min(s, k) for s, k in zip(problem.stride, problem.kernel, strict=True))
    seen = math.prod(problem.in_size) / math.prod(problem.stride)
    other = (DIRECT_COST * seen * taps * depth * whole_vectors(columns) * problem.groups
             + phases * PHASE_COST)
    if Winograd.refuses(problem, "grad_input") is None:
        other = min(other, winograd_cost(problem, "grad_input"))
    return folded < GAIN * other


class Im2col(Algorithm):
    """Copy the pixels under each kernel position side by side, then one matrix product."""

    name = "im2col"

    @classmethod
    def declines(cls, problem, task):
        """Decline where the direct loops find long rows of pixels and long sums."""
        if problem.pointwise:
            return "a 1x1 convolution is a matrix product already"
        if problem.out_size[1] < NARROW:
            return None
        if task == "grad_input" and folding_pays(problem):
            return None
        if problem.groups == 1 and problem.dilation[1] == 1:
            return "direct reduces over whole kernel rows without a matrix"
        if problem.in_group >= 4:
            return f"direct reduces over {problem.in_group} channels at a tap"
        return None

    @staticmethod
    def _chunks(problem: ConvProblem, dtype: np.dtype):
        """Yield (first, last, matrix) for runs of samples whose matrix fits the bound."""
        shape = _matrix(problem)
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
        if task == "grad_input":
            return [_folding(problem, weight, cache, threads)]
        x, y = sides(problem, "forward")
        size = problem.dtype.itemsize
        product = direct.step(_matrix(problem), _pack_flat(problem, weight, cache, False, threads),
                              y, size, [0], [0], (1, 1), y_pixel=y_pixel, **epilogue)
        each = math.prod(problem.out_size) * (y_pixel or problem.out_channels) * size
        return [im2col.step(x, problem.out_size, size, problem.rows, problem.cols, problem.stride,
                            problem.groups, product, each)]

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, *, bias=None):
        """Multiply and fold."""
        runner.run_step(_folding(problem, weight, cache, threads), (
            memory.address_of(gy), 0 if bias is None else memory.address_of(bias), 0,
            memory.address_of(gx)), gy.shape[0], threads)

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Multiply the transposed matrix with the output's gradient, chunk after chunk."""
        total = gw
        for first, last, matrix in Im2col._chunks(problem, x.dtype):
            im2col.expand(x[first:last], matrix, problem.rows, problem.cols, problem.stride,
                          problem.groups, threads)
            _sum_outer(problem, matrix, gy[first:last], total, threads)
            if total is not gw:
                np.add(gw, total, out=gw)
            elif last < problem.batch:
                total = memory.empty(gw.shape, gw.dtype)
        if not problem.batch:
            gw.fill(0)


def _matrix(problem: ConvProblem) -> tuple[int, int, int]:
    """Return the shape of a sample's matrix, as an image of the output's size."""
    return (*problem.out_size, problem.in_channels * math.prod(problem.kernel))


def _folding(problem: ConvProblem, weight: np.ndarray, cache: dict | None,
             threads: int) -> Any:
    """Return the gradient of the input as one step."""
    x, y = sides(problem, "forward")
    size = problem.dtype.itemsize
    product = direct.step(y, _pack_flat(problem, weight, cache, True, threads), _matrix(problem),
                          size, [0], [0], (1, 1))
    return im2col.folding_step(x, problem.out_size, size, problem.rows, problem.cols,
                               problem.stride, problem.groups, product)


def _sum_outer(problem: ConvProblem, matrix: np.ndarray, gy: np.ndarray, gw: np.ndarray,
               threads: int) -> None:
    """Write the product of the transposed matrix and the output's gradient, as weights lie."""
    taps = problem.kernel[0] * problem.kernel[1]
    if problem.groups == 1:
        # The matrix is an image whose pixels lie `taps` apart, the taps side by side.
        pixels = math.prod(matrix.shape[:3])
        row = next(n for n in range(min(pixels, ROW_PIXELS), 0, -1) if pixels % n == 0)
        gradweight.run(matrix.reshape(1, pixels // row, row * taps, problem.in_channels),
                       gy.reshape(1, pixels // row, row, problem.out_channels), gw, [0],
                       list(range(taps)), (1, taps), 1, threads)
        return
    part = memory.empty((problem.groups, taps * problem.in_group, problem.out_group), gw.dtype)
    gradweight.run(matrix, gy, part, [0], [0], (1, 1), problem.groups, threads, taps_first=True)
    part = part.reshape(problem.groups, *problem.kernel, problem.in_group, problem.out_group)
    gw[...] = part.transpose(0, 4, 3, 1, 2).reshape(gw.shape)


def _pack_flat(problem: ConvProblem, weight: np.ndarray, cache: dict | None, backward: bool,
               threads: int) -> gemm.Packed:
    """Pack weights for the matrix product over (tap, channel)."""
    taps = problem.kernel[0] * problem.kernel[1]
    key = ("im2col", backward)
    if cache is not None and key in cache:
        return cache[key]
    depth = taps * problem.in_group
    if backward:
        # (group, tap, channel, column)
        flat = np.ascontiguousarray(
            np.asarray(weight).reshape(problem.groups, problem.out_group, problem.in_group, taps)
            .transpose(0, 3, 2, 1))
        packed = gemm.pack(flat, problem.groups, depth, problem.out_group, [0],
                           depth * problem.out_group, problem.out_group, 1, 1 << 20, threads)
    else:
        packed = gemm.pack(weight, problem.groups, problem.out_group, problem.in_group,
                           list(range(taps)), problem.out_group * depth, depth, taps, 1 << 20,
                           threads).as_one_tap()
    if cache is not None:
        cache[key] = packed
    return packed
