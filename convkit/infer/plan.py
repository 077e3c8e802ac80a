"""The memory plan: blocks that are never needed at the same time share one arena."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from convkit.infer.places import ALIGNMENT, Block

__all__ = ["plan_arena"]


def plan_arena(blocks: Sequence[Block]) -> tuple[int, int]:
    """Give every block of the arena an offset; return the bytes for each sample, and beside.

    Blocks that grow with the batch and others are planned apart, each by size: the largest
    first, at the lowest place that is free while the block lives (the greedy rule of
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
    Sizes are rounded up to 64 bytes, so that addresses are aligned for any batch.
    """
    return (_pack([b for b in blocks if b.scaled], lambda b: b.scaled),
            _pack([b for b in blocks if not b.scaled], lambda b: b.fixed))


def _pack(blocks: list[Block], size_of) -> int:
    """Place blocks; return the bytes that they take together."""
    placed: list[tuple[int, int, int, Block]] = []  # numbered, as blocks have no order
    total = 0
    for number, block in enumerate(sorted(blocks, key=size_of, reverse=True)):
        size = -(-size_of(block) // ALIGNMENT) * ALIGNMENT
        block.offset = 0
        for begin, end, _, other in placed:
            if other.first <= block.last and block.first <= other.last:
                if begin - block.offset >= size:
                    break
                block.offset = max(block.offset, end)
        insort(placed, (block.offset, block.offset + size, number, block))
        total = max(total, block.offset + size)
    return total
