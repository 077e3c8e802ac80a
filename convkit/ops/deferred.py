"""Work put off until the next operation is known: batch norm's output, an activation's gradient.

``relu(bn(x) + residual)`` is three operations on the tape, with three nodes; in memory it need
be one pass forward, and one pass plus one reduction backward. So training batch norm may leave
its output as a `Deferred`: addition takes it up with the other operand, an activation computes
it all at once, and whoever reads the values has them computed then. Backward, such an
activation passes on a `Masked` gradient, which batch norm masks on the way through its own
passes. Both hold what is needed to be turned into a plain array at any time, with the same
bits as if nothing had been put off.

Where batch norm rounds (precision "medium"), the activation is put off as well, until it is known
whether its reader wants float32 or bfloat16, and so is batch norm's `InputGradient`. The values are
then rounded to bfloat16, once, whoever reads them and in whatever order.
"""

from __future__ import annotations

import numpy as np

from convkit._kernels import elementwise, memory, norm
from convkit._kernels.tape import plain
from convkit.ops import kept
from convkit.ops.halves import Halves, Narrow, as_handed_on, halves_of
from convkit.ops.kept import HALF, Kept, Remade, Rounded, restored, widened
from convkit.ops.layout import from_last, to_last

__all__ = ["ACTIVATIONS", "ENDS", "PASSES_ALL", "Deferred", "InputGradient", "Masked", "NormInput",
           "gradient_last", "plain", "space_for_gradient"]

_NAN = float("nan")

# Kernel of an activation -> its number and ends in `norm.affine`, and the ends between
# which its gradient passes.
ACTIVATIONS = {
    "relu": ((1, 0.0, 0.0), (0.0, _NAN)),
    "relu6": ((2, 0.0, 6.0), (0.0, 6.0)),
}


def space_for_gradient(gy: np.ndarray, x: np.ndarray, owned: bool) -> np.ndarray:
    """Return where the gradient of `x` may be written: over `gy` where that is `owned`.

    That spares a third of the memory's work. Both are C-contiguous, of one shape.
    """
    if owned and gy.dtype == x.dtype and gy.flags.writeable:
        return gy
    return memory.empty(x.shape, x.dtype)


# Kernel of an activation, or None -> the ends between which its value lies.
ENDS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
# The ends between which any gradient passes.
PASSES_ALL = _NAN, _NAN


class NormInput:
    """A training batch norm's input, from which its output and its gradients are computed.

    The output is (x - center) * scale + shift. Where it `rounds`, x - center is rounded to bfloat16
    first, only that is kept once there is an output, and so is the output rounded.

    Parameters
    ----------
    last : numpy.ndarray
        x, channels-last, C-contiguous; uint16 where it came as bfloat16, with a center of 0.
    numbers : tuple of numpy.ndarray
        Center, scale and shift, (C,), float32 or of its type.
    rounds : bool
        Only for float32 and bfloat16.
    private : bool
        Whether nobody writes to x behind the tape's back.
    """

    __slots__ = ("halves", "last", "numbers", "private", "rounds", "shape")

    def __init__(self, last: np.ndarray, numbers: tuple[np.ndarray, np.ndarray, np.ndarray],
                 rounds: bool, private: bool):
        narrow = last.dtype is HALF
        self.last: np.ndarray | None = None if narrow else last
        self.halves: np.ndarray | None = last if narrow else None
        self.numbers = numbers
        self.rounds = rounds
        self.private = private or rounds
        self.shape = last.shape

    def output(self, kernel: str | None, residual: np.ndarray | None, threads: int) -> np.ndarray:
        """Return the output, with a residual added and activated, channels-last."""
        if self.rounds:
            y = memory.empty(self.shape)
            self.write(y, kernel, residual, threads)
            return y
        center, scale, shift = self.numbers
        number, alpha, beta = ACTIVATIONS[kernel][0] if kernel else (0, 0.0, 0.0)
        y = memory.empty(self.shape, self.last.dtype)
        norm.affine(self.last, scale, shift, number, y, threads, alpha, beta, center=center,
                    residual=residual)
        return y

    def write(self, y: np.ndarray, kernel: str | None, residual: np.ndarray | None, threads: int,
              rounded: np.ndarray | None = None) -> None:
        """Write the output to `y`, float32 or uint16, where it `rounds`; so may the residual be.

        `rounded`, beside a `y` of float32, becomes the same as bfloat16.
        """
        center, scale, shift = self.numbers
        halves = memory.empty(self.shape, np.uint16) if self.halves is None else self.halves
        norm.affine_kept(self.last, halves, center, scale, shift, ENDS[kernel], y, threads,
                         residual, rounded, True)
        self.halves, self.last = halves, None

    @staticmethod
    def ends(kernel: str | None) -> tuple[float, float]:
        """Return between which ends an activation's values lie."""
        return ENDS[kernel]

    def values(self, threads: int) -> np.ndarray:
        """Return what gradients are computed from: x, or what is kept of it."""
        if self.rounds and self.halves is None:
            self.output(None, None, threads)
        return self.last if self.halves is None else self.halves

    def sums(self, gy: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of `norm.grad_sums` of an output's gradient."""
        values = self.values(threads)
        if self.rounds:
            return norm.masked_sums(gy, values, PASSES_ALL, *self.numbers, None, None, threads)
        return norm.grad_sums(gy, values, self.numbers[0], threads)


class Deferred(Narrow):
    """A training batch norm's output, perhaps with a residual added, still to be computed.

    Where the norm rounds, perhaps activated too.

    Parameters
    ----------
    source : NormInput
    threads : int
        How many threads may be used.
    shape : tuple of int
        The logical one.
    dtype : numpy.dtype
    residual : numpy.ndarray, optional
        Channels-last; added. uint16 where it is bfloat16.
    kernel : str, optional
        The activation's.
    before : Deferred, optional
        What this is made of; it is computed when its tensor, or one that it reads, is about to be
        changed in place, and is then read instead.
    """

    __slots__ = ("__weakref__", "_halves", "_value", "adds", "before", "dtype", "kernel",
                 "narrow", "residual", "shape", "source", "threads")

    def __init__(self, source: NormInput, threads: int, shape: tuple[int, ...], dtype: np.dtype,
                 residual: np.ndarray | None = None, kernel: str | None = None,
                 before: Deferred | None = None):
        self.source = source
        self.narrow = source.rounds
        self.threads = threads
        self.residual = residual
        self.adds = residual is not None
        self.kernel = kernel
        self.before = before
        self.shape = shape
        self.dtype = dtype
        self._value: np.ndarray | None = None
        self._halves: np.ndarray | None = None

    def plus(self, other: np.ndarray | Narrow) -> Deferred | None:
        """Return the sum with another value, put off; None where it is to be computed as usual."""
        if (self.adds or self.kernel is not None or self._value is not None
                or other.shape != self.shape or other.dtype != self.dtype):
            return None
        last = halves_of(other) if self.narrow else None
        if last is None:
            other = plain(other)
            if not other.flags.aligned:
                return None
            last = to_last(other, self.threads)
        return Deferred(self.source, self.threads, self.shape, self.dtype, last, before=self)

    def activated(self, kernel: str | None) -> np.ndarray | Deferred:
        """Return the activation of the values; a note says what to keep.

        It is computed in one pass, now or, where it is `narrow`, when its reader is known.
        """
        if self.narrow:
            y = Deferred(self.source, self.threads, self.shape, self.dtype, self.residual, kernel,
                         self)
            y.adds = self.adds      # also where the sum was computed and the residual is let go
            return y
        if self._value is not None:
            return self._of_value(self._value, kernel, False)
        if self.before is not None and self.before._value is not None:
            return self._of_value(self.before._value, kernel, True)
        y = self.source.output(kernel, self.residual, self.threads)
        if not self.adds and self.source.private and y.nbytes >= kept.LEAST_BYTES:
            memory.note(y, Remade(self.source, kernel))
        return from_last(y)

    def array(self) -> np.ndarray:
        """Return the values; they are computed once, unless they are `narrow`."""
        if self.narrow:
            return self._widened()
        if self._value is None:
            self._value = self.activated(None)
        return self._value

    def _of_value(self, value: np.ndarray, kernel: str | None, adds: bool) -> np.ndarray:
        """Return what was computed before a change in place, with the residual and activated."""
        last = to_last(value)
        y = memory.empty(last.shape, last.dtype)
        if adds:
            number, alpha, beta = ACTIVATIONS[kernel][0] if kernel else (0, 0.0, 0.0)
            elementwise.add(last, self.residual, number, y, self.threads, alpha, beta)
        else:
            elementwise.unary(kernel, last, y, self.threads)
        return from_last(y)

    def halves(self) -> np.ndarray:
        """Return the values as bfloat16; they are computed once."""
        if self._halves is None:
            halves = memory.empty(self.source.shape, np.uint16)
            self._write(halves)
            self._settle(halves)
        return self._halves

    def _settle(self, halves: np.ndarray) -> None:
        """Take the values, and let go of what they were computed from but the norm's input."""
        self._halves, self.residual, self.before = halves, None, None

    def _write(self, y: np.ndarray, rounded: np.ndarray | None = None) -> None:
        """Write the rounded values to `y`, and beside it as bfloat16."""
        before = self.before
        if before is None or not before.adds or before._halves is None:
            self.source.write(y, self.kernel, self.residual, self.threads, rounded)
            return
        # What was added may have changed since; the activation of a rounded number is the same as
        # the activation rounded.
        ones = np.ones(y.shape[-1], np.float32)
        norm.affine_kept(None, before._halves, ones, ones, np.zeros_like(ones), ENDS[self.kernel],
                         y, self.threads, None, rounded, True)

    def _widened(self) -> np.ndarray:
        """Return the values that are rounded to bfloat16 as float32."""
        if self._halves is not None:
            y = widened(self._halves, self.threads)
        elif not self.adds:
            y = memory.empty(self.source.shape)
            self._write(y)
        else:
            y = memory.empty(self.source.shape)
            rounded = memory.empty(y.shape, np.uint16)
            self._write(y, rounded)
            self._settle(rounded)
        memory.note(y, self.kept())
        return from_last(y)

    def kept(self) -> Kept:
        """Return what to keep of the values."""
        return Rounded(self.halves()) if self.adds else Remade(self.source, self.kernel)


class Masked(Narrow):
    """The gradient of an activation's value, still to be taken to its argument.

    Parameters
    ----------
    gy : numpy.ndarray or Narrow
        The gradient.
    value : numpy.ndarray, Kept or Deferred
        The value; or what is kept of it, channels-last; or its argument, where that was a batch
        norm's output as it is, which can then tell the mask from its own input.
    kernel : str
        The activation's kernel.
    threads : int
        How many threads may be used.
    owned : bool
        Whether `gy` is nobody else's, so that whoever alone has this may overwrite it.
    """

    __slots__ = ("_value", "dtype", "gy", "kernel", "owned", "shape", "threads", "value")

    def __init__(self, gy: np.ndarray | Narrow, value: np.ndarray | Kept | Deferred, kernel: str,
                 threads: int, owned: bool = False):
        self.gy = gy
        self.owned = owned
        self.value = value
        self.kernel = kernel
        self.threads = threads
        self.shape = gy.shape
        self.dtype = gy.dtype
        self._value: np.ndarray | Halves | None = None

    @property
    def narrow(self) -> bool:
        """Whether it was worked out as bfloat16."""
        return isinstance(self._value, Halves)

    def halves(self) -> np.ndarray:
        """Return the gradient as bfloat16."""
        return self._value.halves()

    def _last(self) -> np.ndarray:
        """Return the activation's value, channels-last."""
        value = self.value
        if isinstance(value, Kept):
            return restored(value, _last_shape(self.shape), self.threads)
        if isinstance(value, Deferred):
            return value.source.output(self.kernel, None, self.threads)
        return to_last(value, self.threads)

    def put(self, last: np.ndarray) -> None:
        """Take the channels-last gradient that somebody worked out."""
        self._value = as_handed_on(last, self.threads)
        self.gy = self.value = None

    def seen(self, narrow: bool) -> np.ndarray:
        """Return the gradient as it is handed on; it is worked out beside it."""
        if self._value is not None:
            return plain(self._value)
        gy = self.gy if self.gy.__class__ is np.ndarray else self.gy.seen(narrow)
        return Masked(gy, self.value, self.kernel, self.threads).array()

    def array(self) -> np.ndarray:
        """Return the gradient; it is worked out once."""
        if self._value is None:
            last = self._last()
            gy, owned = self.gy, self.owned
            if gy.__class__ is not np.ndarray:
                gy, owned = plain(gy), owned or gy.__class__ is Halves
            gy = to_last(gy, self.threads)
            gx = space_for_gradient(gy, last, owned)
            elementwise.unary_grad(self.kernel, gy, last, gx, self.threads)
            self.put(gx)
            return from_last(gx)
        return plain(self._value)


class InputGradient(Narrow):
    """The gradient of the input of a batch norm that rounds: written when its reader is known.

    Parameters
    ----------
    gy : numpy.ndarray
        The output's gradient, channels-last, float32 or bfloat16.
    source : NormInput
    mask : tuple of float
        As for `norm.masked_input`.
    numbers : tuple of numpy.ndarray
        Its factor, slope and offset.
    threads : int
        How many threads may be used.
    owned : bool
        Whether `gy` may be overwritten.
    """

    __slots__ = ("_last", "_work", "shape", "threads")

    dtype = np.dtype(np.float32)

    def __init__(self, gy: np.ndarray, source: NormInput, mask: tuple[float, float],
                 numbers: tuple[np.ndarray, np.ndarray, np.ndarray], threads: int, owned: bool):
        self._work: tuple | None = gy, source, mask, numbers, owned
        self._last: np.ndarray | None = None
        self.threads = threads
        self.shape = from_last(gy).shape

    def halves(self) -> np.ndarray:
        """Return the gradient as bfloat16."""
        if self._last is None:
            gy, *_, owned = self._work
            self._compute(gy, gy if owned and gy.dtype is HALF else memory.empty(gy.shape, HALF))
        elif self._last.dtype is not HALF:
            wide, self._last = self._last, memory.empty(self._last.shape, HALF)
            norm.narrow(wide, self._last, self.threads)
        return self._last

    def array(self) -> np.ndarray:
        """Return the gradient."""
        if self._last is None:
            gy, *_, owned = self._work
            self._compute(gy, gy if owned and gy.dtype is not HALF else memory.empty(gy.shape))
        return from_last(widened(self._last, self.threads))

    def _compute(self, gy: np.ndarray, out: np.ndarray) -> None:
        """Write the gradient to `out`."""
        _, source, mask, (factor, slope, offset), _ = self._work
        norm.masked_input(gy, source.values(self.threads), mask, *source.numbers, factor, slope,
                          offset, out, self.threads)
        self._last, self._work = out, None


def gradient_last(gy: np.ndarray | Narrow, narrow: bool, threads: int) -> np.ndarray:
    """Return a gradient, channels-last; as bfloat16 where it is had so and wanted `narrow`."""
    last = halves_of(gy) if narrow else None
    return to_last(plain(gy), threads) if last is None else last


def _last_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a logical shape with the channels last."""
    return (shape[0], *shape[2:], shape[1])
