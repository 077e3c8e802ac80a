"""Work put off until the next operation is known: batch norm's output, an activation's gradient.

``relu(bn(x) + residual)`` is three operations on the tape, with three nodes; in memory it need
be one pass forward, and one pass plus one reduction backward. So training batch norm may leave
its output as a `Deferred`: addition takes it up with the other operand, an activation computes
it all at once, and whoever reads the values has them computed then. Backward, such an
activation passes on a `Masked` gradient, which batch norm masks on the way through its own
passes. Both hold what is needed to be turned into a plain array at any time, with the same
bits as if nothing had been put off.
"""

from __future__ import annotations

import numpy as np

from convkit._kernels import elementwise, memory, norm
from convkit._kernels.tape import PutOff, plain
from convkit.ops import kept
from convkit.ops.kept import Kept, Remade, Rounded, restored
from convkit.ops.layout import from_last, to_last

__all__ = ["ACTIVATIONS", "PASSES_ALL", "Deferred", "Masked", "NormInput", "plain",
           "space_for_gradient"]

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
_ENDS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
# The ends between which any gradient passes.
PASSES_ALL = _NAN, _NAN


class NormInput:
    """A training batch norm's input, from which its output and its gradients are computed.

    The output is (x - center) * scale + shift. Where it `rounds`, x - center is rounded to bfloat16
    first; only that is kept once there is an output.

    Parameters
    ----------
    last : numpy.ndarray
        x, channels-last, C-contiguous.
    numbers : tuple of numpy.ndarray
        Center, scale and shift, (C,), of its type.
    rounds : bool
        Only for float32.
    private : bool
        Whether nobody writes to x behind the tape's back.
    """

    __slots__ = ("halves", "last", "numbers", "private", "rounds", "shape")

    def __init__(self, last: np.ndarray, numbers: tuple[np.ndarray, np.ndarray, np.ndarray],
                 rounds: bool, private: bool):
        self.last: np.ndarray | None = last
        self.halves: np.ndarray | None = None
        self.numbers = numbers
        self.rounds = rounds
        self.private = private or rounds
        self.shape = last.shape

    def output(self, kernel: str | None, residual: np.ndarray | None, threads: int,
               rounded: np.ndarray | None = None) -> np.ndarray:
        """Return the output, with a residual added and activated, channels-last.

        `rounded`, only where it `rounds`, becomes that as bfloat16.
        """
        center, scale, shift = self.numbers
        if not self.rounds:
            number, alpha, beta = ACTIVATIONS[kernel][0] if kernel else (0, 0.0, 0.0)
            y = memory.empty(self.shape, self.last.dtype)
            norm.affine(self.last, scale, shift, number, y, threads, alpha, beta, center=center,
                        residual=residual)
            return y
        y = memory.empty(self.shape)
        halves = memory.empty(self.shape, np.uint16) if self.halves is None else self.halves
        norm.affine_kept(self.last, halves, center, scale, shift, _ENDS[kernel], y, threads,
                         residual, rounded)
        self.halves, self.last = halves, None
        return y

    @staticmethod
    def ends(kernel: str | None) -> tuple[float, float]:
        """Return between which ends an activation's values lie."""
        return _ENDS[kernel]

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


class Deferred(PutOff):
    """A training batch norm's output, perhaps with a residual added, still to be computed.

    Parameters
    ----------
    source : NormInput
    threads : int
        How many threads may be used.
    shape : tuple of int
        The logical one.
    dtype : numpy.dtype
    residual : numpy.ndarray, optional
        Channels-last; added.
    """

    __slots__ = ("__weakref__", "_value", "dtype", "residual", "shape", "source", "threads")

    def __init__(self, source: NormInput, threads: int, shape: tuple[int, ...], dtype: np.dtype,
                 residual: np.ndarray | None = None):
        self.source = source
        self.threads = threads
        self.residual = residual
        self.shape = shape
        self.dtype = dtype
        self._value: np.ndarray | None = None

    def plus(self, other: np.ndarray) -> Deferred | None:
        """Return the sum with an array, put off; None where it is to be computed as usual."""
        if (self.residual is not None or self._value is not None or other.shape != self.shape
                or other.dtype != self.dtype or not other.flags.aligned):
            return None
        return Deferred(self.source, self.threads, self.shape, self.dtype,
                        to_last(other, self.threads))

    def activated(self, kernel: str | None) -> np.ndarray:
        """Return the activation of the values, computed in one pass; a note says what to keep."""
        source, rounded = self.source, None
        if source.rounds and self.residual is not None and kernel:
            rounded = memory.empty(source.shape, np.uint16)
        y = source.output(kernel, self.residual, self.threads, rounded)
        if rounded is not None:
            memory.note(y, Rounded(rounded))
        elif self.residual is None and source.private and y.nbytes >= kept.LEAST_BYTES:
            memory.note(y, Remade(source, kernel))
        return from_last(y)

    def array(self) -> np.ndarray:
        """Return the values; they are computed once."""
        if self._value is None:
            self._value = self.activated(None)
        return self._value


class Masked:
    """The gradient of an activation's value, still to be taken to its argument.

    Parameters
    ----------
    gy : numpy.ndarray
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

    def __init__(self, gy: np.ndarray, value: np.ndarray | Kept | Deferred, kernel: str,
                 threads: int, owned: bool = False):
        self.gy = gy
        self.owned = owned
        self.value = value
        self.kernel = kernel
        self.threads = threads
        self.shape = gy.shape
        self.dtype = gy.dtype
        self._value: np.ndarray | None = None

    def _last(self) -> np.ndarray:
        """Return the activation's value, channels-last."""
        value = self.value
        if isinstance(value, Kept):
            return restored(value, to_last(self.gy).shape, self.threads)
        if isinstance(value, Deferred):
            return value.source.output(self.kernel, None, self.threads)
        return to_last(value, self.threads)

    def put(self, last: np.ndarray) -> None:
        """Take the channels-last gradient that somebody worked out."""
        self._value = from_last(last)
        self.gy = self.value = None

    def array(self) -> np.ndarray:
        """Return the gradient; it is worked out once."""
        if self._value is None:
            last = self._last()
            gy = to_last(self.gy, self.threads)
            gx = space_for_gradient(gy, last, self.owned)
            elementwise.unary_grad(self.kernel, gy, last, gx, self.threads)
            self.put(gx)
        return self._value
