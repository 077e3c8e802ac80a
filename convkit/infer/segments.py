"""Where a Program's steps are cut, so that samples go through some of them before others follow.

What a step makes of all samples of a large batch does not fit the caches: it goes to memory, and
comes back for the next step. A few samples that go through several steps find in the cache what
these steps made of them (depth first). But each few samples read the weights again, and values
that cross a cut lie in memory for the whole batch. `cut` weighs that up, in bytes.

Where the cuts are decides on time alone, never on results: every step makes of a sample what it
makes of it in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from convkit.infer.chaining import Emitted
from convkit.infer.dims import BatchDim, at_batch
from convkit.infer.places import Block, Operand

__all__ = ["Load", "Segment", "apart", "crossing", "cut", "moved"]

# How many samples a thread may take at a time; 0: each step takes the batch, by all threads.
SIZES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

# Bytes that a thread finds in a cache of its own, and in its share of the last one. About half of
# either is there for sure, and of half as many again nothing is.
NEAR, FAR = 1.5e6, 6e6
# Nanoseconds for each byte of operands that comes from the last cache, or from memory; for each
# byte of weights; for calling a step.
FAR_BYTE, MEMORY_BYTE, WEIGHT_BYTE = 1 / 15, 1 / 7, 1 / 16
CALL = 1500.0


class Load(NamedTuple):
    """What a step does for one sample.

    Attributes
    ----------
    apart : bool
        Whether it may run on any of the samples without the others.
    moved : int
        Bytes of the sample that it reads and writes.
    weights : float
        Bytes of constants that it reads, however many the samples.
    work : float
        Elementary operations, as threads are weighed against (`_kernels.threads`).
    """

    apart: bool
    moved: int
    weights: float
    work: float


class Segment(NamedTuple):
    """The steps from `first` to before `stop`, of which a thread takes `samples` at a time."""

    first: int
    stop: int
    samples: int


def apart(step: Emitted) -> bool:
    """Tell whether a step may run on any of the samples without the others.

    Compiled steps treat alike each of the samples that they are told of, and on their own; these
    must be the batch's, so many for each, and every operand that grows with the batch must hold
    its samples one behind the other. What goes along the samples has no such step: Python computes
    it, or its result does not grow with the batch.
    """
    each, beside = step.samples
    return (step.step.compiled and each > 0 and beside == 0
            and all(x is None or not x.block.scaled or _by_sample(x) for x in step.operands))


def _by_sample(x: Operand) -> bool:
    """Tell whether each sample's part of an operand lies in the same part of the block."""
    return (x.regular and isinstance(x.shape[0], BatchDim)
            and x.shape[0].factor * x.strides[0] == x.block.scaled)


def moved(step: Emitted) -> int:
    """Return the bytes of a sample that a step reads and writes."""
    return sum([math.prod(at_batch(x.shape, 1)) * x.dtype.itemsize for x in step.operands
                if x is not None and x.block.scaled])


def crossing(blocks: Iterable[Block], steps: int) -> list[int]:
    """Return the bytes of a sample that are needed on both sides of the cut before each step."""
    changes = [0] * (steps + 1)
    for block in blocks:
        changes[block.first + 1] += block.scaled
        changes[block.last + 1] -= block.scaled
    total = 0
    return [total := total + change for change in changes[:steps]]


def cut(loads: Sequence[Load], crossing: Sequence[int]) -> list[Segment]:
    """Return the segments that cost the least time.

    Parameters
    ----------
    loads : sequence of Load
        Of the steps, in order.
    crossing : sequence of int
        Bytes of a sample that would have to be kept for all samples if there were a cut before
        each step.

    Returns
    -------
    list of Segment
        Which cover all steps.
    """
    spent = [0.0] * len(SIZES)      # in the best way to come so far, by size of the last segment
    ways: list[list[int]] = []      # for each step and size, the size of the step before
    for costs, bytes_kept in zip(_costs(loads), crossing, strict=True):
        best = spent.index(min(spent))
        after_cut = spent[best] + 2 * MEMORY_BYTE * bytes_kept
        ways.append([k if have <= after_cut else best for k, have in enumerate(spent)])
        spent = [(have if have < after_cut else after_cut) + cost
                 for have, cost in zip(spent, costs, strict=True)]
    segments: list[Segment] = []
    at = spent.index(min(spent))
    for step in range(len(loads) - 1, -1, -1):
        if segments and segments[0].samples == SIZES[at]:
            segments[0] = segments[0]._replace(first=step)
        else:
            segments.insert(0, Segment(step, step + 1, SIZES[at]))
        at = ways[step][at]
    return segments


def _costs(loads: Sequence[Load]) -> list[list[float]]:
    """Return the nanoseconds a sample that each step takes beyond its arithmetic, by `SIZES`."""
    sizes = np.array(SIZES[1:], dtype=np.float64)
    apart = np.array([load.apart for load in loads], dtype=bool)[:, None]
    moved = np.array([load.moved for load in loads], dtype=np.float64)[:, None]
    weights = np.array([load.weights for load in loads], dtype=np.float64)[:, None]
    reach = sizes * moved + weights
    far, beyond = (np.clip(reach / cache - 0.5, 0.0, 1.0) for cache in (NEAR, FAR))
    few = (moved * (far * FAR_BYTE + beyond * (MEMORY_BYTE - FAR_BYTE))
           + (weights * WEIGHT_BYTE + CALL) / sizes)
    return np.hstack([moved * MEMORY_BYTE, np.where(apart, few, math.inf)]).tolist()
