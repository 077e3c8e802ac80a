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
from convkit.ops.layout import from_last, to_last

__all__ = ["ACTIVATIONS", "Deferred", "Masked", "plain", "space_for_gradient"]

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


class Deferred(PutOff):
    """A training batch norm's output, perhaps with a residual added, still to be computed.

    Parameters
    ----------
    last : numpy.ndarray
        The input, channels-last.
    center, scale, shift : numpy.ndarray
        (C,), of its type: the output is (last - center) * scale + shift.
    threads : int
        How many threads may be used.
    shape : tuple of int
        The logical one.
    residual : numpy.ndarray, optional
        Channels-last; added.
    """

    __slots__ = ("__weakref__", "_numbers", "_value", "dtype", "last", "residual", "shape",
                 "threads")

    def __init__(self, last: np.ndarray, center: np.ndarray, scale: np.ndarray,
                 shift: np.ndarray, threads: int, shape: tuple[int, ...],
                 residual: np.ndarray | None = None):
        self.last = last
        self._numbers = center, scale, shift
        self.threads = threads
        self.residual = residual
        self.shape = shape
        self.dtype = last.dtype
        self._value: np.ndarray | None = None

    def plus(self, other: np.ndarray) -> Deferred | None:
        """Return the sum with an array, put off; None where it is to be computed as usual."""
        if (self.residual is not None or self._value is not None or other.shape != self.shape
                or other.dtype != self.dtype or not other.flags.aligned):
            return None
        return Deferred(self.last, *self._numbers, self.threads, self.shape,
                        to_last(other, self.threads))

    def activated(self, kernel: str) -> np.ndarray:
        """Return the activation of the values, computed in one pass."""
        number, alpha, beta = ACTIVATIONS[kernel][0]
        return self._compute(number, alpha, beta)

    def array(self) -> np.ndarray:
        """Return the values; they are computed once."""
        if self._value is None:
            self._value = self._compute(0, 0.0, 0.0)
        return self._value

    def _compute(self, activation: int, alpha: float, beta: float) -> np.ndarray:
        center, scale, shift = self._numbers
        y = memory.empty(self.last.shape, self.dtype)
        norm.affine(self.last, scale, shift, activation, y, self.threads, alpha, beta,
                    center=center, residual=self.residual)
        return from_last(y)


class Masked:
    """The gradient of an activation's value, still to be taken to its argument.

    Parameters
    ----------
    gy : numpy.ndarray
        The gradient.
    value : numpy.ndarray or Deferred
        The value; or its argument, where that was a batch norm's output as it is, which can
        then tell the mask from its own input.
    kernel : str
        The activation's kernel.
    threads : int
        How many threads may be used.
    owned : bool
        Whether `gy` is nobody else's, so that whoever alone has this may overwrite it.
    """

    __slots__ = ("_value", "dtype", "gy", "kernel", "owned", "shape", "threads", "value")

    def __init__(self, gy: np.ndarray, value: np.ndarray | Deferred, kernel: str, threads: int,
                 owned: bool = False):
        self.gy = gy
        self.owned = owned
        self.value = value
        self.kernel = kernel
        self.threads = threads
        self.shape = value.shape
        self.dtype = value.dtype
        self._value: np.ndarray | None = None

    def put(self, last: np.ndarray) -> None:
        """Take the channels-last gradient that somebody worked out."""
        self._value = from_last(last)
        self.gy = self.value = None

    def array(self) -> np.ndarray:
        """Return the gradient; it is worked out once."""
        if self._value is None:
            value = self.value
            last = to_last(value.activated(self.kernel) if isinstance(value, Deferred) else value,
                           self.threads)
            gy = to_last(self.gy, self.threads)
            gx = space_for_gradient(gy, last, self.owned)
            elementwise.unary_grad(self.kernel, gy, last, gx, self.threads)
            self.put(gx)
        return self._value
