"""The memory plan: blocks that are never needed at the same time share one arena."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence

from convkit.infer.places import ALIGNMENT, Block
from convkit.infer.segments import Segment

__all__ = ["plan_arena", "plan_segments"]


def plan_arena(blocks: Sequence[Block]) -> tuple[int, int]:
    """Give every block of the arena an offset; return the bytes for each sample, and beside.

    Blocks that grow with the batch and others are planned apart, each by size: the largest
    first, at the lowest place that is free while the block lives (the greedy rule of
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    Sizes are rounded up to 64 bytes, so that addresses are aligned for any batch.
    """
    return (_pack([b for b in blocks if b.scaled], lambda b: b.scaled, _life),
            _pack([b for b in blocks if not b.scaled], lambda b: b.fixed, _life))


def plan_segments(blocks: Sequence[Block], segments: Sequence[Segment]
                  ) -> tuple[tuple[int, int], list[int]]:
    """Give every block a place for calls in which segments take a few samples at a time.

    Blocks that live within one such segment get a place among that segment's `own`, for each
    sample that is taken at a time. All others are planned as in `plan_arena`, but live as long as
    the segments in which they are used: the samples that follow need them there.

    Returns
    -------
    (int, int), list of int
        The arena's bytes for each sample and beside, and those of each segment's own.
    """
    firsts = [s.first for s in segments]

    def whereabouts(step: int) -> int:
        return bisect_right(firsts, step) - 1

    def life(block: Block) -> tuple[int, int]:
        return whereabouts(block.first), whereabouts(block.last)

    own: list[list[Block]] = [[] for _ in segments]
    others = []
    for block in blocks:
        first, last = life(block)
        block.own = bool(first == last >= 0 and segments[first].samples and block.scaled)
        (own[first] if block.own else others).append(block)
    return ((_pack([b for b in others if b.scaled], lambda b: b.scaled, life),
             _pack([b for b in others if not b.scaled], lambda b: b.fixed, life)),
            [_pack(part, lambda b: b.scaled, _life) for part in own])


def _life(block: Block) -> tuple[int, int]:
    """Return the first and the last step that needs a block."""
    return block.first, block.last


def _pack(blocks: list[Block], size_of: Callable[[Block], int],
          life: Callable[[Block], tuple[int, int]]) -> int:
    """Place blocks; return the bytes that they take together."""
    placed: list[tuple[int, int, int, Block]] = []  # numbered, as blocks have no order
    total = 0
    for number, block in enumerate(sorted(blocks, key=size_of, reverse=True)):
        size = -(-size_of(block) // ALIGNMENT) * ALIGNMENT
        block.offset = 0
        own_first, own_last = life(block)
        for begin, end, _, other in placed:
            first, last = life(other)
            if first <= own_last and own_first <= last:
                if begin - block.offset >= size:
                    break
                block.offset = max(block.offset, end)
        insort(placed, (block.offset, block.offset + size, number, block))
        total = max(total, block.offset + size)
    return total
