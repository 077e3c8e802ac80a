"""Winograd on 16-bit numbers: bfloat16 in pairs on tiles (AMX), integers on vectors (VNNI)."""

from __future__ import annotations

from convkit._kernels import dispatch
from convkit.ops.conv_algorithms.bfloat16 import bfloat16_cost, split_cost
from convkit.ops.conv_algorithms.winograd import (
    VECTOR,
    Form,
    Rates,
    Winograd,
    forms_of,
    winograd_cost,
)
from convkit.ops.conv_problem import ConvProblem

__all__ = ["WinogradInt16", "WinogradSplit"]

# 5 split multiply-adds are made in the time of one in float32 while the processor runs its tiles at
# full speed, 2.7 while it throttles them (docs/performance/tiles.md). Many weights are read once
# for all tiles of the image; those of integers have half of a float's bytes.
SPLIT = Rates(gain=2.7, weight=4.0)
# Of integers a transformed value costs more by its scale and its rounding, pairs of vectors at a
# time; of one vector of columns few tiles are multiplied together. As measured on Zen 4.
INTEGERS = {
    Form(4, 4, 6, 6): Rates(gain=2.0, transform=18.5, weight=4.0, narrow=400.0, run=32),
    Form(2, 2, 6, 6): Rates(gain=2.0, transform=18.0, weight=4.0, narrow=400.0, run=32),
    Form(4, 4, 8, 8): Rates(gain=2.0, transform=16.5, weight=4.0, narrow=200.0, run=32),
}


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
        own = winograd_cost(problem, task, cls._form(problem, task), SPLIT)
        if winograd_cost(problem, task) <= own:
            return "float32 products cost less"
        if split_cost(problem, task) <= own:
            return "direct convolution costs less"
        return super().declines(problem, task)

    @classmethod
    def _form(cls, problem: ConvProblem, task: str) -> Form:
        """Return the smallest: with tiles of 4 the error of split products grows to 2e-5."""
        return forms_of(problem, task)[0]


class WinogradInt16(Winograd):
    """F(4x4, 3x3), F(2x2, 5x5) and F(4x4, 5x5) on integers with a scale for each 64 channels.

    The error is 5e-4, with F(4x4, 5x5) 2e-3; that of bfloat16 is 3e-3.

    Candidate under "medium", on CPUs that have AVX-512 VNNI and no tiles. Sums of 64 channels are
    exact, and cannot overflow whatever the values; see _kernels/c/winograd.int16.h.
    """

    name = "winograd_int16"
    form = "int16"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without the instructions, and all that has no transforms of this form."""
        if not dispatch.has_vnni_winograd():
            return "this CPU has no AVX-512 VNNI"
        if problem.stride != (1, 1):
            return "stride must be 1"
        return super().refuses(problem, task)

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions, and where fewer or other products cost less."""
        if problem.precision != "medium":
            return f"precision is {problem.precision}"
        if dispatch.has_tiles():
            return "tiles multiply more"
        own = _integer_cost(problem, task, cls._form(problem, task))
        if winograd_cost(problem, task) <= own:
            return "float32 products cost less"
        if bfloat16_cost(problem, task) <= own:
            return "products of bfloat16 cost less"
        return super().declines(problem, task)

    @classmethod
    def _form(cls, problem: ConvProblem, task: str) -> Form:
        """Return the cheapest of those that there are for integers."""
        forms = [form for form in forms_of(problem, task) if form in INTEGERS]
        return min(forms, key=lambda form: _integer_cost(problem, task, form))


def _integer_cost(problem: ConvProblem, task: str, form: Form) -> float:
    rates = INTEGERS[form]
    if task == "grad_weight":       # whose products and transforms are cut otherwise
        rates = rates._replace(narrow=0.0, run=VECTOR)
    return winograd_cost(problem, task, form, rates)
