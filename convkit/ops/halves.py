"""Activations and gradients that operations hand on as bfloat16, under precision "medium".

Products round what they read to bfloat16 in any case. So what only they read need not be float32
in memory: convolutions on tiles, batch norm and the activation behind it take each other's values
and gradients as `Narrow`, at half the bytes. Whoever else asks for the values has them widened, and
sees the same rounded numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit._kernels import memory, norm
from convkit._kernels.tape import PutOff
from convkit.ops.kept import HALF, Kept, Rounded, widened
from convkit.ops.layout import from_last, to_last

__all__ = ["Halves", "Narrow", "as_handed_on", "halves_of"]


class Narrow(PutOff):
    """Base of what can be had as bfloat16, where it is `narrow`.

    ``halves()`` returns the numbers, channels-last (uint16), and ``array()`` the logical float32
    array of the same numbers. Values, as opposed to gradients, have ``kept()``, which returns what
    to keep of them for backward. Gradients may have their `sums` over all pixels (C,), float64.
    """

    __slots__ = ()

    narrow = True
    sums: np.ndarray | None = None

    def seen(self, narrow: bool) -> np.ndarray:
        """Return a gradient as it is handed on, to who only looks; see `PutOff`.

        It is rounded beside it: whoever wants float32 later has the numbers that were not.
        """
        array = self.array()
        if not narrow:
            return array
        last = to_last(array, self.threads)
        halves = memory.empty(last.shape, HALF)
        norm.narrow(last, halves, self.threads)
        return from_last(widened(halves, self.threads))


class Halves(Narrow):
    """Numbers that were computed as bfloat16.

    Parameters
    ----------
    halves : numpy.ndarray
        uint16, channels-last, C-contiguous. Nobody may write to it but who alone holds this.
    threads : int
        How many threads may be used.
    sums : numpy.ndarray, optional
        Those over all pixels, (C,), where they are known.
    """

    __slots__ = ("_halves", "shape", "sums", "threads")

    dtype = np.dtype(np.float32)

    def __init__(self, halves: np.ndarray, threads: int, sums: np.ndarray | None = None):
        self._halves = halves
        self.threads = threads
        self.sums = sums
        self.shape = from_last(halves).shape

    def halves(self) -> np.ndarray:
        """Return the numbers as bfloat16."""
        return self._halves

    def kept(self) -> Kept:
        """Return what to keep of them."""
        return Rounded(self._halves)

    def array(self) -> np.ndarray:
        """Return the numbers as float32."""
        return from_last(widened(self._halves, self.threads))


def as_handed_on(last: np.ndarray, threads: int, sums: np.ndarray | None = None
                 ) -> np.ndarray | Halves:
    """Return a channels-last array in logical order, or as `Halves` where it is bfloat16."""
    return Halves(last, threads, sums) if last.dtype is HALF else from_last(last)


def halves_of(value: Any) -> np.ndarray | None:
    """Return a value's numbers as bfloat16, or None where it does not come so."""
    return value.halves() if isinstance(value, Narrow) and value.narrow else None
