"""Convolution on bfloat16: tiles (AMX), plain and split, or vectors (AVX512-BF16), plain."""

from __future__ import annotations

import math

from convkit._kernels import dispatch, tilegrad
from convkit.ops.conv_algorithms.base import Task, known_call
from convkit.ops.conv_algorithms.direct import Direct, sides
from convkit.ops.conv_algorithms.tiled import Tiled
from convkit.ops.conv_algorithms.vectors import direct_cost, together, vector_cost
from convkit.ops.conv_algorithms.winograd import Winograd, winograd_cost
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Bfloat16", "SplitBfloat16", "bfloat16_cost", "split_cost"]

# Tiles multiply about five times as many split values a cycle as vectors multiply floats: a
# share of a tile that is used below this is no gain. 3x3 layers of 3 channels use 0.28 of one, and
# take 1.4 to 2 times as long as on vectors.
LEAST_USED = 0.3
# Multiply-adds of a weight's gradient for each value that is converted for it: below this, vectors
# that read the values as they are would be done sooner. Pixels of 64 channels from as many have
# 21.3, and of bfloat16, which vectors would be given widened, take two thirds of vectors' time on
# floats.
LEAST_PRODUCTS = {"split_bf16": 45.0, "bf16": 21.0}
# The same of an input's gradient, for each value that is converted or written.
LEAST_GRADIENT_PRODUCTS = {"split_bf16": 50.0, "bf16": 21.0}
# The same of the forward pass, of split ones: below it, 1x1 layers of 16 to 32 channels take 1.1 to
# 2.7 times as long as on vectors. Plain ones are left on tiles, which hand on bfloat16.
LEAST_FORWARD_PRODUCTS = 30.0
# Multiply-adds of a sample's forward pass, of split ones. A core whose tiles have rested for some
# microseconds takes 2 to 3 more to wake them: layers below this take 1.2 to 3 times as long as on
# vectors with one sample, and 0.8 to 1.5 times with 32.
LEAST_WORK = 250_000
# Winograd's products of a 3x3 weight's gradient cost so little that split ones gain only from more
# channels on: the product of both numbers of channels over their sum. Of a 5x5 weight's they cost
# 1.3 to 1.9 times as much as split ones from 16 channels on.
FEW_CHANNELS = 32
# How many split multiply-adds are made in the time of one in float32: 2.6 while the processor runs
# its tiles at full speed and 1.4 while it throttles them, which it did most of the time where both
# were measured (docs/performance/tiles.md). And about what each value costs that is converted or
# written.
SPLIT_GAIN = 1.6
VALUE_COST = 6.0
# On vectors: what a product costs beside a multiply-add, a value of the input and a result, and
# what Winograd takes of `winograd_cost` beside these, as measured on Zen 4 (a weight's gradient
# transforms both factors, which come as bfloat16 and are widened first). Shorter reductions leave
# the loops mostly overhead; of gradients that Winograd takes those below twice as many are its own.
PRODUCT, READ, WRITTEN = 0.55, 8.0, 5.0
WINOGRAD = {"forward": 0.7, "grad_input": 0.7, "grad_weight": 1.2}
LEAST_TOGETHER = 16


class _Tiles(Tiled):
    """What both forms share: when tiles pay."""

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without tiles, and as all 16-bit numbers do."""
        return super().refuses(problem, task) if dispatch.has_tiles() else "this CPU has no AMX"

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions and problems that leave tiles mostly empty."""
        other = super().declines(problem, task)
        if other is not None:
            return other
        used = _used(problem, task)
        if used < LEAST_USED:
            return f"only {used:.0%} of a tile would be used"
        if task == "grad_weight":
            return cls._declines_weights(problem)
        return cls._declines_inputs(problem) if task == "grad_input" else None

    @classmethod
    def _declines_inputs(cls, problem):
        """Decline gradients of inputs that are mostly padding, or mostly conversions."""
        inside = _inside(problem)
        if inside < LEAST_USED:
            return f"only {inside:.0%} of the products would not be with padding"
        # Each phase of the stride converts the output's gradient anew.
        phases = math.prod(min(k, s) for k, s in zip(problem.kernel, problem.stride, strict=True))
        return _too_few(problem, phases, LEAST_GRADIENT_PRODUCTS[cls.name])

    @classmethod
    def _declines_weights(cls, problem):
        """Decline gradients of weights whose conversions, or Winograd's savings, are worth more."""
        products = _products(problem)
        if products < LEAST_PRODUCTS[cls.name]:
            return f"only {products:.0f} products for each value converted"
        few = problem.in_group * problem.out_group <= FEW_CHANNELS * (problem.in_group
                                                                      + problem.out_group)
        if (cls.name == "split_bf16" and few and problem.kernel == (3, 3)
                and _winograd_would(problem, "grad_weight")):
            return "Winograd's products are fewer"
        return None

    @classmethod
    def call(cls, problem, task):
        """Return the loops of the gradient of the weight, prepared; else the task's method."""
        if task != "grad_weight":
            return super().call(problem, task)
        return tilegrad.Gradient(*sides(problem, "forward"), problem.batch, problem.rows,
                                 problem.cols, problem.stride, problem.groups, cls.name,
                                 Direct.call(problem, task))

    @classmethod
    def reads_kept(cls, problem, kept):
        """Take what tiles can be filled from."""
        return known_call(cls, problem, "grad_weight").reads(kept.dtype, kept.channels)

    @classmethod
    def grad_weight(cls, problem, *arrays):
        """Sum x times gy over pixels for each tap."""
        known_call(cls, problem, "grad_weight")(*arrays)


def _winograd_would(problem: ConvProblem, task: str) -> bool:
    """Tell whether Winograd would take a task that it were asked for first."""
    return (Winograd.refuses(problem, task) is None
            and Winograd.declines(problem, task) is None)


def _inside(problem: ConvProblem) -> float:
    """Return about what share of the gradient of the input's products is with pixels there are."""
    pixels = math.prod(problem.out_size) * math.prod(problem.stride)
    return min(1.0, pixels / math.prod(problem.in_size))


def _too_few(problem: ConvProblem, phases: int, least: float) -> str | None:
    """Return why not, where fewer than `least` products are made for each value.

    Values are those of the input, and of the output for each time that it is converted or written.
    """
    outputs, inputs = math.prod(problem.out_size), math.prod(problem.in_size)
    products = _work(problem) / (problem.in_group * inputs + phases * problem.out_group * outputs)
    return None if products >= least else \
        f"only {products:.0f} products for each value converted or written"


def _work(problem: ConvProblem) -> int:
    """Return the multiply-adds of a sample's forward pass, in each group."""
    return (math.prod(problem.out_size) * problem.out_group * problem.in_group
            * math.prod(problem.kernel))


def _used(problem: ConvProblem, task: str) -> float:
    """Return the share of a tile's columns and depth that real values fill."""
    if task == "grad_weight":
        return _used_by_weights(problem)
    columns, depth = problem.out_group, problem.in_group
    if task == "grad_input":
        columns, depth = depth, columns
    if problem.groups == 1 and (problem.dilation[1] == 1 or problem.kernel[1] == 1):
        depth *= problem.kernel[1] if task == "forward" else -(-problem.kernel[1]
                                                              // problem.stride[1])
    return columns * depth / (-(-columns // 16) * 16 * -(-depth // 32) * 32)


def _used_by_weights(problem: ConvProblem) -> float:
    """Return the same for the gradient of the weight, whose rows are output channels."""
    rows = problem.out_group
    columns = problem.in_group * tilegrad.merged_taps(problem.in_channels, problem.groups,
                                                      problem.cols)
    return rows * columns / (-(-rows // 16) * 16 * -(-columns // 16) * 16)


def _products(problem: ConvProblem) -> float:
    """Return the multiply-adds of the gradient of the weight for each value converted.

    What a tap reads of x is converted once for each phase of the stride, and where a phase has
    several taps once more for pairs that begin at odd pixels; the output's gradient, which is
    turned, costs twice as much.
    """
    merged = tilegrad.merged_taps(problem.in_channels, problem.groups, problem.cols)
    planes = math.prod(min(k, s) for k, s in zip(problem.kernel, problem.stride, strict=True))
    taps, channels = math.prod(problem.kernel), problem.in_group
    if merged > 1:
        taps, channels, planes = problem.kernel[0], channels * merged, min(problem.kernel[0],
                                                                           problem.stride[0])
    forms = planes if taps == planes and merged == 1 else 2 * planes
    return taps * channels * problem.out_group / (forms * channels + 2 * problem.out_group)


class SplitBfloat16(_Tiles):
    """Each float as two bfloat16; three products, float32 sums: precision "high"."""

    name = "split_bf16"
    precision = "high"

    @classmethod
    def declines(cls, problem, task):
        """Decline also where little is multiplied, or Winograd's float32 products cost less."""
        reason = super().declines(problem, task)
        if reason is None and task == "forward":
            reason = (_too_few(problem, 1, LEAST_FORWARD_PRODUCTS)
                      or ("too small to wake tiles for"
                          if problem.groups * _work(problem) < LEAST_WORK else None))
        if (reason is None and task != "grad_weight" and _winograd_would(problem, task)
                and winograd_cost(problem, task) <= split_cost(problem, task)):
            return "winograd costs less"
        return reason


def split_cost(problem: ConvProblem, task: str) -> float:
    """Return about how many float32 multiply-adds a sample's split products are worth."""
    inputs, outputs = ((c * math.prod(size)) for c, size in (
        (problem.in_group, problem.in_size), (problem.out_group, problem.out_size)))
    return _work(problem) / (SPLIT_GAIN * _used(problem, task)) + VALUE_COST * (inputs + outputs)


class Bfloat16(_Tiles):
    """Each float as one bfloat16, float32 sums: precision "medium"."""

    name = "bf16"
    narrows = True
    finite_weights = False
    precision = "medium"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without the instructions, and as all 16-bit numbers do."""
        if dispatch.has_tiles():
            return super().refuses(problem, task)
        return (super(_Tiles, cls).refuses(problem, task) if dispatch.has_bfloat16()
                else "this CPU has neither AMX nor a fast AVX512-BF16")

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions and what something else does sooner."""
        if dispatch.has_tiles():
            return super().declines(problem, task)
        return super(_Tiles, cls).declines(problem, task) or _not_on_vectors(problem, task)


def bfloat16_cost(problem: ConvProblem, task: Task) -> float:
    """Return about how many multiply-adds a sample's products of bfloat16 on vectors are worth.

    Infinity where there are no such products.
    """
    if Bfloat16.refuses(problem, task) is not None:
        return math.inf
    if task == "grad_weight":
        return PRODUCT * _work(problem)
    return vector_cost(problem, task, PRODUCT, READ, WRITTEN)


def _least_together(problem: ConvProblem, task: str) -> float:
    """Return how many neighbouring values are to be reduced at a time, at least."""
    twice = task == "grad_input" and Winograd.refuses(problem, task) is None
    return LEAST_TOGETHER * (1 + twice)


def _not_on_vectors(problem: ConvProblem, task: str) -> str | None:
    """Return why vectors of float32 are done sooner than those of bfloat16, or None."""
    if task == "grad_weight":
        if _products(problem) < LEAST_PRODUCTS["bf16"]:
            return f"only {_products(problem):.0f} products for each value converted"
        cost = bfloat16_cost(problem, task)
    elif together(problem, task) < _least_together(problem, task):
        return f"reductions of only {together(problem, task)}"
    else:
        cost = bfloat16_cost(problem, task)
        if direct_cost(problem, task) <= cost:
            return "conversions cost more than products gain"
    if _winograd_would(problem, task) and WINOGRAD[task] * winograd_cost(problem, task) <= cost:
        return "winograd costs less"
    return None
