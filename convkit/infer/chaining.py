"""Chains: steps whose results only the next step reads, run as one, strip by strip.

See `convkit._kernels.chain` for what that saves. A chain gives the bits of its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from convkit._kernels import chain
from convkit.infer.places import Block, Operand

__all__ = ["Emitted", "join_chains"]

# Where operands of a convolution's step lie.
X, BIAS, RESIDUAL, Y = range(4)


class Emitted(NamedTuple):
    """One step: which node it belongs to and what it works on."""

    node: int
    step: Any
    operands: tuple[Operand | None, ...]
    samples: tuple[int, int]


def join_chains(emitted: Sequence[Emitted], handed_out: set[Block]
                ) -> tuple[list[Emitted], dict[int, int]]:
    """Join convolutions around depthwise ones with these.

    Parameters
    ----------
    emitted : sequence of Emitted
    handed_out : set of Block
        What the Program returns.

    Returns
    -------
    list of Emitted, dict of int to int
        The steps, and which nodes are parts of which other node's step now.
    """
    joined: list[Emitted] = []
    parts: dict[int, int] = {}
    at = 0
    while at < len(emitted):
        made, count = _chain(emitted, at, handed_out) or (emitted[at], 1)
        parts.update({e.node: made.node for e in emitted[at:at + count - 1]})
        joined.append(made)
        at += count
    return joined, parts


def _chain(emitted: Sequence[Emitted], at: int, handed_out: set[Block]
           ) -> tuple[Emitted, int] | None:
    """Return the longest chain that begins with a step, and how many steps it has."""
    count = 1
    while count < 3 and at + count < len(emitted) and _feeds(emitted, at + count - 1, handed_out):
        count += 1
    for length in range(count, 1, -1):
        steps = emitted[at:at + length]
        if any(e.operands[RESIDUAL] is not None for e in steps[:2]):    # only the last adds one
            continue
        step = chain.step(*[e.step for e in steps], *[None] * (3 - length))
        if step is not None:
            first, middle, last = steps[0], steps[1], steps[-1]
            narrow = last.operands if length == 3 else (None, None, None, last.operands[Y])
            return Emitted(last.node, step, (
                first.operands[X], first.operands[BIAS], middle.operands[BIAS], *narrow[BIAS:]),
                last.samples), length
    return None


def _feeds(emitted: Sequence[Emitted], at: int, handed_out: set[Block]) -> bool:
    """Tell whether a step's result is read by the next step, as its x, and by nothing else."""
    one, two = emitted[at], emitted[at + 1]
    if len(one.operands) != 4 or len(two.operands) != 4 or one.samples != two.samples:
        return False
    y = one.operands[Y]
    others = [x.block for x in (*one.operands[:Y], *two.operands[1:]) if x is not None]
    return (two.operands[X] is y and y.block.kind == "arena" and y.block not in handed_out
            and y.block not in others and (y.block.first, y.block.last) == (at, at + 1))
