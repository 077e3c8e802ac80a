"""Copies that put elements of some axes elsewhere: passes over one or two axes at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convkit._kernels.axis import Axis
from convkit.ops.spatial import UNIT

__all__ = ["Pass", "passes"]


class Pass(NamedTuple):
    """One pass over an array in memory order, seen as (outer, height, width, inner)."""

    before: tuple[int, ...]  # shape in memory order before the pass, and after it
    after: tuple[int, ...]
    at: int  # the axis in memory order that is the width; the one before it is the height
    h: Axis
    w: Axis

    def around(self) -> tuple[int, int]:
        """Return how many elements there are outside and inside of height and width."""
        pair = self.h is not UNIT
        return math.prod(self.before[:self.at - pair]), math.prod(self.before[self.at + 1:])

    def view(self, array: np.ndarray) -> np.ndarray:
        """Return the array in the four axes of the kernel."""
        outer, inner = self.around()
        height = array.shape[self.at - 1] if self.h is not UNIT else 1
        return array.reshape(outer, height, array.shape[self.at], inner)


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
        found.append(Pass(shape, tuple(after), at, *[UNIT, *[axes[i] for i in here]][-2:]))
        shape = tuple(after)
    return found
