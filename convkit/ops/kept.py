"""What an operation keeps of its input or its value for backward, in less memory than the array.

Who makes values says so by a note on them (`_kernels.memory.note`), and who keeps them takes that:

- `Remade`: what a batch norm gave, perhaps behind an activation, is computed again from the norm's
  input, which is kept anyway. The bits are the same.
- `Rounded`: under precision "medium", whose products are of bfloat16 in any case, the values are
  kept as bfloat16, once for all who keep them.

A note is about numbers as they lie in memory, channels-last where they are activations, whatever
shape and order of axes somebody sees them in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit._kernels import memory, norm
from convkit._kernels.memory import noted
from convkit.ops.op import Context

__all__ = ["HALF", "LEAST_BYTES", "Kept", "Remade", "Rounded", "keep", "restored", "rounds",
           "widened"]

# Arrays of fewer bytes are kept as they are: a network of such arrays has no need of memory, and
# a pass over so many takes no longer than the calls around it.
LEAST_BYTES = 64 << 10

_FLOAT = np.dtype(np.float32)
HALF = np.dtype(np.uint16)  # bfloat16's numbers, which NumPy has no type for


def rounds(array: np.ndarray, precision: str) -> bool:
    """Tell whether an array is kept as bfloat16."""
    return precision == "medium" and array.nbytes >= LEAST_BYTES and array.dtype is _FLOAT


class Kept:
    """Base: something that ``array(threads)`` makes the numbers from, in the order of memory.

    ``source(threads)`` gives what is in memory, for kernels that make the numbers while they read:
    an array, of float32 or bfloat16 (uint16), and by what; None where it is the numbers
    themselves. Else (center, scale, shift, (low, high)): the numbers are ``(x - center) * scale +
    shift`` between the ends, with one of each for every channel, x less the center where it is
    bfloat16. `dtype` is the array's; `channels` how many of them there must be, or None.
    """

    __slots__ = ()


class Rounded(Kept):
    """Numbers as bfloat16.

    Parameters
    ----------
    halves : numpy.ndarray
        uint16, C-contiguous.
    """

    __slots__ = ("halves",)

    dtype, channels = HALF, None

    def __init__(self, halves: np.ndarray):
        self.halves = halves

    def source(self, threads: int) -> tuple[np.ndarray, None]:
        """Return what is in memory."""
        return self.halves, None

    @classmethod
    def of(cls, array: np.ndarray, threads: int) -> Rounded:
        """Round a C-contiguous float32 array, and note that."""
        halves = memory.empty(array.shape, np.uint16)
        norm.narrow(array, halves, threads)
        kept = cls(halves)
        memory.note(array, kept)
        return kept

    def array(self, threads: int) -> np.ndarray:
        """Return the numbers in float32."""
        return widened(self.halves, threads)


class Remade(Kept):
    """What a training batch norm's input gives, perhaps behind an activation.

    Parameters
    ----------
    norm_input : NormInput
    kernel : str or None
        The activation's.
    """

    __slots__ = ("kernel", "norm_input")

    def __init__(self, norm_input: Any, kernel: str | None):
        self.norm_input = norm_input
        self.kernel = kernel

    @property
    def dtype(self) -> np.dtype:
        """Type of what is in memory."""
        return HALF if self.norm_input.rounds else self.norm_input.last.dtype

    @property
    def channels(self) -> int:
        """How many channels the norm has."""
        return self.norm_input.shape[-1]

    def array(self, threads: int) -> np.ndarray:
        """Compute the numbers again."""
        return self.norm_input.output(self.kernel, None, threads)

    def source(self, threads: int) -> tuple[np.ndarray, tuple]:
        """Return what is in memory, and what makes the numbers of it."""
        return self.norm_input.values(threads), (*self.norm_input.numbers,
                                                 self.norm_input.ends(self.kernel))


def widened(array: np.ndarray, threads: int) -> np.ndarray:
    """Return the numbers of a C-contiguous array as floats, where they are bfloat16."""
    if array.dtype is not HALF:
        return array
    wide = memory.empty(array.shape)
    norm.widen(array, wide, threads)
    return wide


def keep(array: np.ndarray, precision: str, threads: int) -> np.ndarray | Kept:
    """Return what to save of a C-contiguous result of an operation."""
    if array.nbytes < LEAST_BYTES:
        return array
    kept = noted(array)
    if isinstance(kept, Remade) or (kept is not None and rounds(array, precision)):
        return kept
    return Rounded.of(array, threads) if rounds(array, precision) else array


def keep_input(ctx: Context, x: np.ndarray, precision: str) -> np.ndarray | Kept | None:
    """Return what to save of a first input, C-contiguous, for the gradient of the second.

    An input that has no gradient of its own is data, which somebody else holds: it is saved as it
    is.
    """
    if not ctx.needs[1]:
        return None
    return keep(x, precision, ctx.threads) if ctx.needs[0] else x


def restored(kept: np.ndarray | Kept, shape: tuple[int, ...], threads: int) -> np.ndarray:
    """Return an array that was saved so, in the shape in which it was."""
    return kept.array(threads).reshape(shape) if isinstance(kept, Kept) else kept
