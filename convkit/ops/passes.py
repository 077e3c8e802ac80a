"""Copies that put elements of some axes elsewhere: passes over one or two axes at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from convkit._kernels.axis import Axis
from convkit.ops.spatial import UNIT

__all__ = ["Pass", "passes"]


class Pass(NamedTuple):
    """One pass over an array in memory order, seen as (outer, height, width, inner)."""

    before: tuple[int, ...]  # shape in memory order before the pass, and after it
    after: tuple[int, ...]
    source: tuple[int, int, int, int]  # the same in the four axes of the kernel
    target: tuple[int, int, int, int]
    h: Axis
    w: Axis


def passes(shape: tuple[int, ...], axes: Sequence[Axis | None]) -> list[Pass]:
    """Cut a change of several axes into passes.

    Parameters
    ----------
    shape : tuple of int
        Of the array, in memory order.
    axes : sequence of Axis or None
        For each axis, where its elements go; None where they stay.
    """
    todo = [i for i, axis in enumerate(axes) if axis is not None]
    found = []
    while todo:
        at = todo.pop()
        pair = bool(todo) and todo[-1] == at - 1
        here = [at - 1, at] if pair else [at]
        if pair:
            todo.pop()
        after = list(shape)
        for i in here:
            after[i] = axes[i].targets
        outer, inner = math.prod(shape[:here[0]]), math.prod(shape[at + 1:])
        sizes = [(outer, s[at - 1] if pair else 1, s[at], inner) for s in (shape, after)]
        found.append(Pass(shape, tuple(after), *sizes, *[UNIT, *[axes[i] for i in here]][-2:]))
        shape = tuple(after)
    return found
