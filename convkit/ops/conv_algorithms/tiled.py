"""Convolution on 16-bit numbers: the loops of `_kernels.tiles`, for every form there is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convkit._kernels import tiles
from convkit.ops.conv_algorithms.base import Algorithm
from convkit.ops.conv_algorithms.direct import Direct, all_phases, fill, lonely, sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Tiled"]


class Tiled(Algorithm):
    """What all forms share; `name` is the form's."""

    gathers = True
    # Whether infinite weights would come out as something else than in float32.
    finite_weights: ClassVar[bool] = True
    precision: ClassVar[str]

    @classmethod
    def refuses(cls, problem, task):
        """Refuse other types than float32."""
        if problem.dtype != np.float32:
            return f"16-bit numbers stand for float32, not {problem.dtype}"
        return None

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions."""
        return None if problem.precision == cls.precision else f"precision is {problem.precision}"

    @classmethod
    def adds_gradient(cls, problem):
        """Add where products reach every pixel."""
        return not lonely(problem)

    @classmethod
    def writes_parts(cls, problem):
        """Write parts always."""
        return True

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              **epilogue):
        """Return the loops' step, or for the gradient of the input one for each phase."""
        x, y = sides(problem, task)
        forward = task == "forward"
        phases = [] if forward else all_phases(problem)
        packed = [cls._pack_forward(problem, weight, cache, threads)] if forward else [
            cls._pack_phase(problem, weight, cache, phase, threads) for phase in phases]
        if cls.finite_weights and not all(p.finite for p in packed):
            return Direct.steps(problem, task, weight, cache, threads, residual=residual,
                                y_pixel=y_pixel, **epilogue)
        if forward:
            return [tiles.step(x, packed[0], y, problem.rows, problem.cols, problem.stride,
                               y_pixel=y_pixel, **epilogue)]
        return None if lonely(problem) else [
            tiles.step(x, one, y, phase.rows, phase.cols, (1, 1), grid=phase.grid,
                       step=problem.stride, start=phase.start, y_pixel=y_pixel, **epilogue)
            for phase, one in zip(phases, packed, strict=True)]

    @classmethod
    def _pack_forward(cls, problem, weight, cache, threads):
        return cls._pack(problem, weight, cache, ("forward",), problem.cols,
                         list(range(problem.kernel[0] * problem.kernel[1])), False, threads)

    @classmethod
    def _pack_phase(cls, problem, weight, cache, phase, threads):
        return cls._pack(problem, weight, cache, phase.key(problem), phase.cols, phase.taps, True,
                         threads)

    @classmethod
    def forward(cls, problem, x, weight, y, cache, threads, **epilogue):
        """Sum over kernel rows and columns at each output pixel."""
        packed = cls._pack_forward(problem, weight, cache, threads)
        if cls.finite_weights and not packed.finite:
            Direct.forward(problem, x, weight, y, cache, threads, **epilogue)
            return
        tiles.run(x, packed, y, problem.rows, problem.cols, problem.stride, threads=threads,
                  **epilogue)

    @classmethod
    def grad_input(cls, problem, gy, weight, gx, cache, threads, **epilogue):
        """Convolve the output's gradient with the kernel turned, phase by phase of the stride."""
        phases = all_phases(problem)
        packed = [cls._pack_phase(problem, weight, cache, phase, threads) for phase in phases]
        if cls.finite_weights and not all(p.finite for p in packed):
            Direct.grad_input(problem, gy, weight, gx, cache, threads, **epilogue)
            return
        if lonely(problem):
            fill(gx, epilogue.get("bias"))
        for phase, one in zip(phases, packed, strict=True):
            tiles.run(gy, one, gx, phase.rows, phase.cols, (1, 1), grid=phase.grid,
                      step=problem.stride, start=phase.start, threads=threads, **epilogue)

    @classmethod
    def _pack(cls, problem: ConvProblem, weight: np.ndarray, cache: dict | None, key: tuple,
              cols: list[int], taps: list[int], backward: bool, threads: int) -> tiles.Packed:
        """Pack (or find packed) weights; neighbouring taps of a row are one reduction."""
        together = problem.groups == 1 and cols[-1] - cols[0] + 1 == len(cols)
        merged = len(cols) if together else 1
        key = (cls.name, *key, merged)
        if cache is not None and key in cache:
            return cache[key]
        c_step = problem.kernel[0] * problem.kernel[1]
        o_step = problem.in_group * c_step
        columns, depth, column_step, depth_step = (
            problem.out_group, problem.in_group, o_step, c_step)
        if backward:
            columns, depth, column_step, depth_step = depth, columns, c_step, o_step
        like = None if cache is None else next(
            (p for p in list(cache.values()) if isinstance(p, tiles.Packed) and p.name == cls.name),
            None)
        packed = tiles.pack(weight, problem.groups, columns, depth, taps, merged,
                            problem.out_group * o_step, column_step, depth_step, cls.name,
                            threads, like)
        if cache is not None:
            cache[key] = packed
        return packed
