"""ReLU of what no batch norm gave, put off until its reader is known, under precision "medium".

`relu(conv(x))` is followed by a convolution on tiles, which reads bfloat16, or by max pooling,
whose values are the same whether it comes before ReLU or behind it: so pooling reads the
convolution's own values, and ReLU is left to what is pooled, of which there is a fourth. Backward,
pooling hands on its gradient `Unpooled`: what ReLU lets through is known from the pooled values,
before they are spread over their windows, and so is the gradient of the convolution's bias.

Whoever else reads the values gets float32 of the same numbers, which are rounded to bfloat16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import dispatch, memory, norm
from convkit._kernels import pool as kernels
from convkit.ops.deferred import ACTIVATIONS, ENDS, gradient_last, space_for_gradient
from convkit.ops.halves import Halves, Narrow, as_handed_on
from convkit.ops.kept import HALF, Kept, Remade, Rounded, rounds, widened
from convkit.ops.layout import from_last

__all__ = ["Activated", "Pooling", "Unpooled", "gradient", "source_of"]


def source_of(x: np.ndarray | Narrow, precision: str) -> np.ndarray | None:
    """Return the channels-last array of an activation's argument where it is put off, else None.

    It is where the argument came as bfloat16, and where it is large on a CPU with tiles.
    """
    if precision != "medium" or x.__class__ is Halves:
        return x.halves() if precision == "medium" else None
    if not (x.__class__ is np.ndarray and x.ndim == 4 and rounds(x, precision)
            and dispatch.has_bfloat16()):
        return None
    last = x.transpose(0, 2, 3, 1)
    ready = last.flags.c_contiguous and last.flags.aligned
    return last if ready and not isinstance(memory.noted(last), Remade) else None


# Values of an activation, as bfloat16, behind which no gradient passes.
_STOPS = {"relu": (0,), "relu6": (0, 0x40c0)}


class Held:
    """An activation's values as bfloat16, channels-last, from when somebody wants them.

    `earlier` are the same values, which others read before they were computed again.
    """

    __slots__ = ("earlier", "halves", "kernel")

    def __init__(self, kernel: str):
        self.kernel = kernel
        self.earlier: Held | None = None
        self.halves: np.ndarray | None = None

    def known(self) -> list[Held]:
        """Return these values, and those that were computed earlier: gradients may be of any."""
        known, held = [self], self.earlier
        while held is not None:
            known.append(held)
            held = held.earlier
        return known


class Activated(Narrow):
    """An activation of values in memory, still to be computed.

    Parameters
    ----------
    source : numpy.ndarray
        The values, channels-last, float32 or bfloat16 (uint16).
    kernel : str
        The activation's.
    threads : int
        How many threads may be used.
    """

    __slots__ = ("__weakref__", "_pooled", "_source", "held", "shape", "threads")

    dtype = np.dtype(np.float32)

    def __init__(self, source: np.ndarray, kernel: str, threads: int):
        self._source = source
        self._pooled = False
        self.threads = threads
        self.shape = from_last(source).shape
        self.held = Held(kernel)

    def halves(self) -> np.ndarray:
        """Return the values as bfloat16; they are computed once."""
        if self.held.halves is None:
            self._hold(self.activate(self._source, memory.empty(self._source.shape, HALF)))
        return self.held.halves

    def array(self) -> np.ndarray:
        """Return the values as float32."""
        if self.held.halves is None:
            y = memory.empty(self._source.shape)
            halves = memory.empty(y.shape, HALF)
            self._write(self._source, halves, y, halves)
            self._hold(halves)
        else:
            y = widened(self.held.halves, self.threads)
        memory.note(y, self.kept())
        return from_last(y)

    def kept(self) -> Kept:
        """Return what to keep of the values."""
        return Rounded(self.halves())

    def settle(self) -> None:
        """Take the values, as what they are computed from is about to change."""
        self.halves()
        if self._source.dtype is not HALF:
            source, self._source = self._source, memory.empty(self._source.shape)
            np.copyto(self._source, source)

    @property
    def mark(self) -> Held:
        """What the gradient is masked by."""
        return self.held

    def expect_gradient(self, mark: Held | None = None) -> None:
        """Take the values, as a gradient may come that is still to be masked by them.

        Or have it masked by the earlier ones, which whoever needed them has taken.
        """
        if mark is None:
            self.halves()
        elif mark is not self.held:
            self.held.earlier = mark

    def _hold(self, halves: np.ndarray) -> None:
        """Take the values.

        What was float32 stays there for whoever pools it: rounded, other numbers were the largest.
        """
        self.held.halves = halves
        if self._source.dtype is HALF:
            self._source = halves

    def to_pool(self) -> np.ndarray:
        """Return what may be pooled instead, and then be activated."""
        if self._pooled:        # whose gradients are added, and then masked by all the values
            self.halves()
        self._pooled = True
        return self._source

    def activate(self, source: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write the activation of values like the source's to `out`, of bfloat16; return it."""
        self._write(source, source if source.dtype is HALF else out, out, None)
        return out

    def _write(self, source: np.ndarray, halves: np.ndarray, out: np.ndarray,
               rounded: np.ndarray | None) -> None:
        """Write the activation of the source, which is or becomes `halves`, rounded."""
        wide = None if source.dtype is HALF else source
        ones = np.ones(source.shape[-1], np.float32)
        zeros = np.zeros_like(ones)
        norm.affine_kept(wide, source if wide is None else halves, zeros, ones, zeros,
                         ENDS[self.held.kernel], out, self.threads, None, rounded, True)


def _masked(gy: np.ndarray, values: np.ndarray, kernel: str, threads: int, owned: bool
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return a gradient behind an activation of these values, and its sums over pixels."""
    none = np.zeros(gy.shape[-1], np.float32)
    out = space_for_gradient(gy, gy, owned)
    sums, _ = norm.masked_sums(gy, values, ACTIVATIONS[kernel][1], none, none, none, values, out,
                               threads)
    return out, sums


def is_spread_later(gy: Any, held: Held) -> bool:
    """Tell whether a gradient is of these values pooled, which is masked before it is spread."""
    return gy.__class__ is Unpooled and gy.pooling.held in held.known()


def gradient(gy: np.ndarray | Narrow, held: Held, threads: int, owned: bool
             ) -> np.ndarray | Narrow:
    """Return the gradient of the argument of an activation that was put off."""
    if is_spread_later(gy, held):
        return gy.masked()
    gy = gradient_last(gy, True, threads)
    values = next(h.halves for h in held.known() if h.halves is not None)
    gx, sums = _masked(gy, values, held.kernel, threads, owned)
    return as_handed_on(gx, threads, sums)


class Pooling(NamedTuple):
    """What backward of max pooling needs where an activation was pooled before it was computed."""

    shape: tuple[int, ...]
    h: Any                  # windows
    w: Any
    index: np.ndarray
    values: np.ndarray      # behind the activation, bfloat16, channels-last
    held: Held

    def spread(self, gy: np.ndarray, index: np.ndarray, threads: int) -> np.ndarray:
        """Send gradients of the values, channels-last, to the places that the index tells."""
        n, c, *sizes = self.shape
        gx = memory.empty((n, *sizes, c), gy.dtype)
        kernels.max_backward(gy, index, gx, self.h.axis, self.w.axis, self.w.taps, threads)
        return gx

    def places(self, threads: int) -> np.ndarray:
        """Return the index among the activation's own values.

        It is another one where no gradient passes, as all the largest values are then equal.
        """
        if self.held.halves is None:
            return self.index
        index, values = (memory.empty(a.shape, a.dtype) for a in (self.index, self.values))
        kernels.max_forward(self.held.halves, values, index, self.h.axis, self.w.axis, self.w.taps,
                            threads)
        return np.where(np.isin(values, _STOPS[self.held.kernel]), index, self.index)


class Unpooled(Narrow):
    """The gradient of what was pooled, still to be spread over the windows.

    Parameters
    ----------
    gy : numpy.ndarray
        That of the pooled values, channels-last, float32 or bfloat16.
    pooling : Pooling
    threads : int
        How many threads may be used.
    owned : bool
        Whether `gy` may be overwritten.
    """

    __slots__ = ("_behind", "_gy", "_halves", "_owned", "pooling", "shape", "sums", "threads")

    dtype = np.dtype(np.float32)

    def __init__(self, gy: np.ndarray, pooling: Pooling, threads: int, owned: bool):
        self._gy = gy
        self._owned = owned
        self._behind = False
        self._halves: np.ndarray | None = None
        self.pooling = pooling
        self.shape = pooling.shape
        self.threads = threads
        self.sums: np.ndarray | None = None

    def masked(self) -> Unpooled:
        """Return the gradient of the activation's argument."""
        pooling = self.pooling
        gy, sums = _masked(self._gy, pooling.values, pooling.held.kernel, self.threads, self._owned)
        gx = Unpooled(gy, pooling, self.threads, True)
        gx._behind = True
        gx.sums = sums      # each goes to one place
        return gx

    def halves(self) -> np.ndarray:
        """Return the gradient as bfloat16."""
        if self._halves is None:
            gy = self._gy
            if gy.dtype is not HALF:
                gy = memory.empty(gy.shape, HALF)
                norm.narrow(self._gy, gy, self.threads)
            self._halves = self._spread(gy)
        return self._halves

    def array(self) -> np.ndarray:
        """Return the gradient."""
        return from_last(self._spread(widened(self._gy, self.threads)))

    def seen(self, narrow: bool) -> np.ndarray:
        """Return the gradient as it is handed on; the activation passes it on to who reads it."""
        if not narrow:
            return self.array()
        return from_last(widened(self.halves(), self.threads))

    def _spread(self, gy: np.ndarray) -> np.ndarray:
        """Return the gradient, of the type of that of the pooled values."""
        index = self.pooling.index if self._behind else self.pooling.places(self.threads)
        return self.pooling.spread(gy, index, self.threads)
