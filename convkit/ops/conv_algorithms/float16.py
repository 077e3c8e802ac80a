"""Convolution on float16 vectors (AVX512-FP16), for CPUs without tiles."""

from __future__ import annotations

import math
import os

from convkit._kernels import dispatch
from convkit.ops.conv_algorithms.direct import sides
from convkit.ops.conv_algorithms.tiled import Tiled
from convkit.ops.conv_algorithms.vectors import direct_cost, together, vector_cost

__all__ = ["Float16"]

# The model behind the choice, in float32 multiply-adds of one result's pixel, fitted to measured
# layers: how many float16 products are worth one, what a value read costs for its scale and its
# conversion, and what a result costs after its sums.
PRODUCT, READ, WRITTEN = 0.6, 18.0, 18.0
# Direct convolution has to cost so many times as much: in a Program it may be part of a chain
# (`infer.chaining`), which gains as well.
LEAST_GAIN = 1.35
# Shorter reductions, and fewer results to a sample, leave the loops mostly overhead.
LEAST_TOGETHER, LEAST_PIXELS = 32, 12

_off = os.environ.get("CONVKIT_FLOAT16", "1") == "0"


class Float16(Tiled):
    """Each float as one float16 times a power of two, short float16 sums: precision "medium".

    Somewhat more exact than bfloat16 products with float32 sums, at twice the rate of float32
    ones. What is 2^28 times smaller than the largest value near it is lost. The environment
    variable ``CONVKIT_FLOAT16=0`` takes it from the candidates.
    """

    name = "fp16"
    precision = "medium"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without the instructions, and as all 16-bit numbers do."""
        if not dispatch.has_halves():
            return "this CPU has no AVX512-FP16"
        if task == "grad_weight":
            return "float16 computes the forward pass and the gradient of the input"
        return super().refuses(problem, task)

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions, and where conversions cost more than products gain."""
        if _off:
            return "CONVKIT_FLOAT16=0"
        other = super().declines(problem, task)
        if other is not None:
            return other
        pixels = math.prod(sides(problem, task)[1][:2])
        if pixels < LEAST_PIXELS:
            return f"only {pixels} pixels to a sample"
        if together(problem, task) < LEAST_TOGETHER:
            return f"reductions of only {together(problem, task)}"
        gain = (direct_cost(problem, task)
                / vector_cost(problem, task, PRODUCT, READ, WRITTEN))
        if gain < LEAST_GAIN:
            return f"{gain:.2f} times as fast as direct convolution by estimate"
        return None
