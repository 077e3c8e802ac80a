"""The algorithms of convolution, as an ordered list of candidates.

Each candidate says in words why it declines a problem; `choose` takes the first that does
not. The choice depends on the layer, never on the batch size or the number of threads, so
that a sample's result depends on neither.

All take and return channels-last (N, H, W, C) arrays and weights (O, C / groups, kH, kW).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from convkit._kernels import depthwise, direct, gemm, gradweight, im2col, memory
from convkit.ops.conv_problem import ConvProblem

__all__ = ["CANDIDATES", "Algorithm", "choose", "explain"]

# Output rows of fewer pixels than this leave most of a tile empty; the matrix of all pixels
# has no rows.
NARROW = 5
# Bytes of im2col matrix made at a time.
MATRIX_BYTES = 4 << 20


class Algorithm:
    """One way to compute a convolution and its gradients."""

    name: ClassVar[str]

    @staticmethod
    def declines(problem: ConvProblem) -> str | None:
        """Return why this algorithm cannot or should not take the problem, or None."""
        raise NotImplementedError

    @staticmethod
    def forward(problem: ConvProblem, x: np.ndarray, weight: np.ndarray, y: np.ndarray,
                cache: dict | None, threads: int, **epilogue: Any) -> None:
        """Write the convolution into `y` (N, OH, OW, O)."""
        raise NotImplementedError

    @staticmethod
    def grad_input(problem: ConvProblem, gy: np.ndarray, weight: np.ndarray, gx: np.ndarray,
                   cache: dict | None, threads: int, **epilogue: Any) -> None:
        """Write the gradient with respect to x into `gx` (N, H, W, C)."""
        raise NotImplementedError

    @staticmethod
    def grad_weight(problem: ConvProblem, x: np.ndarray, gy: np.ndarray, gw: np.ndarray,
                    threads: int) -> None:
        """Write the gradient with respect to the weight into `gw` (O, C/g, kH, kW)."""
        raise NotImplementedError


def _pack(problem: ConvProblem, weight: np.ndarray, cache: dict | None, key: tuple, *,
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


def _row_width(problem: ConvProblem, natural: int) -> int:
    """Pixels in a row of tiles: pointwise problems run over all pixels as one row."""
    return 1 << 20 if problem.pointwise else natural


class Direct(Algorithm):
    """Loops around the GEMM over the input itself; gradients likewise."""

    name = "direct"

    @staticmethod
    def declines(problem: ConvProblem) -> str | None:
        """Take everything."""
        return None

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, **epilogue):
        """Sum over kernel rows and columns at each output pixel."""
        packed = _pack(problem, weight, cache, ("forward",),
                       row_width=_row_width(problem, problem.out_size[1]),
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
        row_phases = _phases(problem, 0)
        col_phases = _phases(problem, 1)
        if any(not taps for taps in row_phases + col_phases):
            _fill(gx, epilogue.get("bias"))
        for top, row_taps in enumerate(row_phases):
            for left, col_taps in enumerate(col_phases):
                grid = (-(-(problem.in_size[0] - top) // problem.stride[0]),
                        -(-(problem.in_size[1] - left) // problem.stride[1]))
                if not row_taps or not col_taps or min(grid) < 1:
                    continue
                packed = _pack(
                    problem, weight, cache,
                    ("grad_input", problem.stride, problem.padding, problem.dilation, top, left),
                    row_width=_row_width(problem, grid[1]),
                    taps=[i * problem.kernel[1] + j for _, i in row_taps for _, j in col_taps],
                    backward=True, threads=threads)
                direct.run(gy, packed, gx, [r for r, _ in row_taps], [c for c, _ in col_taps],
                           (1, 1), grid=grid, step=problem.stride, start=(top, left),
                           threads=threads, **epilogue)

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap."""
        kernel_size = problem.kernel[0] * problem.kernel[1]
        o_step = problem.in_group * kernel_size
        gradweight.run(x, gy, gw, problem.rows, problem.cols, problem.stride, problem.groups,
                       list(range(kernel_size)), problem.out_group * o_step, o_step, kernel_size,
                       threads)


def _phases(problem: ConvProblem, axis: int) -> list[list[tuple[int, int]]]:
    """For each phase along an axis, the (offset in gy, kernel index) of its taps, ascending."""
    stride, dilation = problem.stride[axis], problem.dilation[axis]
    before = problem.padding[axis][0]
    return [
        sorted(((phase + before - k * dilation) // stride, k)
               for k in range(problem.kernel[axis])
               if (phase + before - k * dilation) % stride == 0)
        for phase in range(min(stride, problem.in_size[axis]))
    ]


def _fill(gx: np.ndarray, bias: np.ndarray | None) -> None:
    """Set what no tap reaches: zero, or the bias of a transposed convolution."""
    gx[...] = 0 if bias is None else bias


class Im2col(Algorithm):
    """Copy the pixels under each kernel position side by side, then one matrix product."""

    name = "im2col"

    @staticmethod
    def declines(problem: ConvProblem) -> str | None:
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
        each = int(np.prod(shape, dtype=object)) * dtype.itemsize
        count = max(1, min(problem.batch, MATRIX_BYTES // max(1, each)))
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
            gradweight.run(matrix, gy[first:last], part, [0], [0], (1, 1), problem.groups, [0],
                           taps * problem.in_group * problem.out_group, 1, problem.out_group,
                           threads)
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


class Depthwise(Algorithm):
    """One filter for each channel: vectors run over channels, nothing is reduced."""

    name = "depthwise"

    @staticmethod
    def declines(problem: ConvProblem) -> str | None:
        """Decline unless every group has one input and one output channel."""
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
        packed = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
        if cache is not None:
            cache[key] = packed
        return packed

    @staticmethod
    def forward(problem, x, weight, y, cache, threads, *, bias=None, residual=None,
                activation=0, alpha=0.0, beta=0.0):
        """Sum over taps, channels side by side."""
        depthwise.forward(x, Depthwise._taps_first(problem, weight, cache), bias, residual, y,
                          *Depthwise._geometry(problem), activation, alpha, beta, threads)

    @staticmethod
    def grad_input(problem, gy, weight, gx, cache, threads, *, bias=None):
        """Gather from the outputs that saw each input pixel."""
        depthwise.grad_input(gy, Depthwise._taps_first(problem, weight, cache), gx,
                             *Depthwise._geometry(problem), threads)
        if bias is not None:
            gx += bias

    @staticmethod
    def grad_weight(problem, x, gy, gw, threads):
        """Sum x times gy over pixels for each tap and channel."""
        taps_first = memory.empty((*problem.kernel, problem.in_channels), x.dtype)
        depthwise.grad_weight(x, gy, taps_first, *Depthwise._geometry(problem), threads)
        gw[:, 0] = taps_first.transpose(2, 0, 1)


CANDIDATES: tuple[type[Algorithm], ...] = (Depthwise, Im2col, Direct)
BY_NAME = {a.name: a for a in CANDIDATES}


def choose(problem: ConvProblem, algorithm: str = "auto") -> type[Algorithm]:
    """Return the algorithm asked for, or the first candidate that does not decline.

    Raises
    ------
    ValueError
        When `algorithm` is not "auto" or the name of a candidate, or names the depthwise
        algorithm for a problem that is none. The others take every problem.
    """
    if algorithm == "auto":
        return next(a for a in CANDIDATES if a.declines(problem) is None)
    if algorithm not in BY_NAME:
        raise ValueError(f"expected algorithm 'auto', {', '.join(map(repr, BY_NAME))}, "
                         f"got {algorithm!r}")
    chosen = BY_NAME[algorithm]
    if chosen is Depthwise and (reason := Depthwise.declines(problem)):
        raise ValueError(f"algorithm 'depthwise' cannot take {problem}: {reason}")
    return chosen


def explain(problem: ConvProblem) -> str:
    """Return the candidates in order, each with the reason why it declines or is taken."""
    lines = [str(problem)]
    for candidate in CANDIDATES:
        reason = candidate.declines(problem)
        lines.append(f"  {candidate.name}: {'taken' if reason is None else reason}")
        if reason is None:
            break
    return "\n".join(lines)
