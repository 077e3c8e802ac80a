"""What products of 16-bit numbers on vectors, rather than on tiles, cost beside float32's."""

from __future__ import annotations

import math

from convkit.ops.conv_algorithms.base import Task
from convkit.ops.conv_algorithms.direct import sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["direct_cost", "together", "vector_cost"]

# Direct convolution reaches a little less of the multiply-add rate than these loops.
DIRECT = 1.1
# Columns of a vector.
VECTOR = 16


def together(problem: ConvProblem, task: Task) -> int:
    """Return how many neighbouring values are reduced at a time."""
    if task == "grad_input":
        return problem.out_group
    merged = problem.groups == 1 and problem.dilation[1] == 1
    return problem.in_group * (problem.kernel[1] if merged else 1)


def direct_cost(problem: ConvProblem, task: Task) -> float:
    """Return about how many multiply-adds direct convolution of a sample is worth."""
    taps, depth, columns, _, pixels = _shape(problem, task)
    # There are ways of their own for the gradients of images of few channels.
    return DIRECT * pixels * taps * depth * (_whole(columns) if columns >= VECTOR else columns)


def vector_cost(problem: ConvProblem, task: Task, product: float, read: float,
                written: float) -> float:
    """Return the same of products of 16-bit numbers.

    Parameters
    ----------
    product : float
        What one costs beside a float32 multiply-add.
    read, written : float
        What a value of the input costs for its conversion, and a result after its sums, in
        multiply-adds.
    """
    taps, depth, columns, inputs, pixels = _shape(problem, task)
    whole = _whole(columns)
    return product * pixels * taps * depth * whole + read * inputs + written * pixels * whole


def _whole(columns: int) -> int:
    """Return the columns of whole vectors."""
    return -(-columns // VECTOR) * VECTOR


def _shape(problem: ConvProblem, task: Task) -> tuple[float, int, int, float, int]:
    """Return taps, channels that are summed, columns, values read and pixels written of a group."""
    x, y = sides(problem, task)
    depth, columns = ((problem.in_group, problem.out_group) if task == "forward"
                      else (problem.out_group, problem.in_group))
    taps: float = math.prod(problem.kernel)
    if task == "grad_input":
        taps /= math.prod(problem.stride)
    return taps, depth, columns, math.prod(x) / problem.groups, math.prod(y[:2])
