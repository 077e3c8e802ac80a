"""Winograd convolution multiplied on bfloat16 tiles (AMX), each float as two of them."""

from __future__ import annotations

from convkit._kernels import dispatch
from convkit.ops.conv_algorithms.bfloat16 import split_cost
from convkit.ops.conv_algorithms.winograd import Form, Winograd, forms_of, winograd_cost
from convkit.ops.conv_problem import ConvProblem

__all__ = ["WinogradSplit"]

# How many split multiply-adds are made in the time of one in float32: 5 while the processor runs
# its tiles at full speed, 2.7 while it throttles them (docs/performance/tiles.md).
SPLIT_GAIN = 2.7
# What a transformed weight costs, in multiply-adds: many are read once for all tiles of the image.
WEIGHT_COST = 4.0


class WinogradSplit(Winograd):
    """F(2x2, 3x3) on split bfloat16: 4 products of a tile where direct convolution has 9."""

    name = "winograd_split_bf16"
    form = "split_bf16"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without tiles, and all that has no transforms of this form."""
        if not dispatch.has_tiles():
            return "this CPU has no AMX"
        if task == "grad_weight":
            return "sums over tiles of the image are no faster so"
        if problem.stride != (1, 1):
            return "stride must be 1"
        if problem.kernel != (3, 3):
            return "kernel of {}x{}, transforms on tiles are for 3x3".format(*problem.kernel)
        return super().refuses(problem, task)

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions, and where fewer or other products cost less."""
        if problem.precision != "high":
            return f"precision is {problem.precision}"
        own = winograd_cost(problem, task, cls._form(problem, task), SPLIT_GAIN,
                            weight_cost=WEIGHT_COST)
        if winograd_cost(problem, task) <= own:
            return "float32 products cost less"
        if split_cost(problem, task) <= own:
            return "direct convolution costs less"
        return super().declines(problem, task)

    @classmethod
    def _form(cls, problem: ConvProblem, task: str) -> Form:
        """Return the smallest: with tiles of 4 the error of split products grows to 2e-5."""
        return forms_of(problem, task)[0]
