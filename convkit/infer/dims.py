"""Shapes whose sizes may be a multiple of the batch, and how they are inferred.

A size is an int, or ``BatchDim(k)``: k times the number of samples. No algebra is needed to
infer shapes over these: an operation's shape rule is asked with two batches, and the two
answers are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convkit.errors import ShapeError

__all__ = ["PROBES", "BatchDim", "Shape", "at_batch", "infer", "join", "show"]

# Two batches tell k * N from a constant. 1 is avoided, because it broadcasts, and batches of
# which halves or thirds round to the same.
PROBES = (2, 5)


@dataclass(frozen=True)
class BatchDim:
    """A size of `factor` times the batch."""

    factor: int = 1

    def __str__(self) -> str:
        return "N" if self.factor == 1 else f"{self.factor}N"

    __repr__ = __str__


Shape = tuple["int | BatchDim", ...]


def at_batch(shape: Shape, batch: int) -> tuple[int, ...]:
    """Return the plain shape for a batch of `batch` samples."""
    return tuple([d.factor * batch if isinstance(d, BatchDim) else d for d in shape])


def join(first: Sequence[int], second: Sequence[int]) -> Shape:
    """Return the shape that is `first` at one of the batches of `PROBES`, `second` at the other.

    Raises
    ------
    ShapeError
        When the ranks differ or a size is neither constant nor a multiple of the batch.
    """
    if len(first) != len(second):
        raise ShapeError(
            f"the number of axes depends on the batch: {tuple(first)} for {PROBES[0]} samples, "
            f"{tuple(second)} for {PROBES[1]}")
    joined: list[int | BatchDim] = []
    for a, b in zip(first, second, strict=True):
        factor, rest = divmod(a, PROBES[0])
        if a == b:
            joined.append(a)
        elif rest == 0 and b == factor * PROBES[1]:
            joined.append(BatchDim(factor))
        else:
            raise ShapeError(
                f"a size is neither constant nor a multiple of the batch: {tuple(first)} for "
                f"{PROBES[0]} samples, {tuple(second)} for {PROBES[1]}")
    return tuple(joined)


def infer(rule: Callable[..., tuple[int, ...]], shapes: Sequence[Shape | None],
          attrs: dict[str, Any]) -> Shape:
    """Return what an operation's shape rule gives for shapes that depend on the batch."""
    answers = [rule(*[None if s is None else at_batch(s, batch) for s in shapes], **attrs)
               for batch in PROBES]
    return join(*answers)


def show(shape: Shape) -> str:
    """Write a shape as users read it: ``(N, 3, 32, 32)``."""
    inner = ", ".join(str(d) for d in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
