"""What an operation is: one class with its shape rule, forward, backward and meaning.

Eager training records operations on the tape, `convkit.compile` records the same ones as
graph nodes, and files name them. There is no second list anywhere.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from convkit._kernels.tape import Context

__all__ = ["REGISTRY", "Context", "Op", "register"]

REGISTRY: dict[str, type[Op]] = {}


class Op:
    """Base of all operations; a subclass is never instantiated.

    Inputs are NumPy arrays (or None where optional), everything else is an attribute of
    JSON type: numbers, strings, booleans, None, and tuples of those.

    Class attributes
    ----------------
    name : str
        The registry's key, used by graphs and files. Lower case, PyTorch's word.
    onnx : str or None
        The ONNX operator it corresponds to.
    reads : tuple of int
        Which inputs' values backward reads. The tape checks that nobody has changed
        them in place since.
    reads_output : bool
        Whether backward reads the (first) output's values.
    passes_gradient : bool
        Whether backward may return the incoming gradient itself, or a view of it, so that
        the tape must copy before it keeps it.
    views : bool
        Whether the output may be a view of the first input, whose version it then shares.
    defers : int
        Whether forward may put its output off (`ops.deferred`): how many inputs, counted from
        the first, must then be results of recorded operations.
    takes_deferred : bool
        Whether the first two inputs may be outputs that were put off (`ops.deferred`) or are held
        as bfloat16 (`ops.halves`).
    takes_masked : bool
        Whether backward's gradient may be such, or still have to go back through an activation.
    adds_gradient : bool
        Whether backward may add ``ctx.before`` to its first input's gradient (`Context`).
    leaves_moments : bool
        Whether forward may set ``ctx.moments``: mean, biased variance and number of values of
        each channel of the (first) output.
    takes_moments : bool
        Whether ``ctx.moments`` are those of the first input, where that was left with them and
        has not been changed since.
    eager : tuple of str
        Attributes that only a call on tensors gives; a graph's nodes do not have them.
    packs : bool
        Whether forward keeps forms of its inputs in ``ctx.cache``.
    differentiable : int
        How many of the outputs, counted from the first, carry gradients.
    """

    name: ClassVar[str] = ""
    onnx: ClassVar[str | None] = None
    reads: ClassVar[tuple[int, ...]] = ()
    reads_output: ClassVar[bool] = False
    passes_gradient: ClassVar[bool] = False
    views: ClassVar[bool] = False
    defers: ClassVar[int] = 0
    takes_deferred: ClassVar[bool] = False
    takes_masked: ClassVar[bool] = False
    adds_gradient: ClassVar[bool] = False
    leaves_moments: ClassVar[bool] = False
    takes_moments: ClassVar[bool] = False
    eager: ClassVar[tuple[str, ...]] = ()
    packs: ClassVar[bool] = False
    differentiable: ClassVar[int] = 1

    @staticmethod
    def shape(*shapes: tuple[int, ...] | None, **attrs: Any) -> tuple[int, ...]:
        """Return the (first) output's shape; raise ShapeError when the inputs do not fit."""
        raise NotImplementedError

    @staticmethod
    def forward(ctx: Context, *arrays: np.ndarray | None, **attrs: Any):
        """Compute the output array (or a tuple of them)."""
        raise NotImplementedError

    @staticmethod
    def reads_halves(ctx: Context, gy: Any) -> bool | None:
        """Tell whether backward has a gradient as bfloat16 where it can be had so.

        Asked where somebody looks at the gradient, of operations that take masked ones. None: as
        those have it that what they hand on goes to.
        """
        return False

    @staticmethod
    def lower(b: Any, *operands: Any, **attrs: Any) -> Any:
        """Emit compiled steps that compute the outputs; return where they lie, or None.

        One place, or a tuple of one for each of several outputs.
        `b` is the `convkit.infer.lowering.Lowering`, operands are its places in memory
        (None for inputs left out). None means that there are no compiled steps for these
        operands and that nothing was emitted: a Program then calls `forward`, with the GIL.
        """
        return None

    @staticmethod
    def backward(ctx: Context, *grads: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
        """Return one gradient per input (None where ``ctx.needs`` is False).

        `grads` has one entry per differentiable output; arrays are never changed in place.
        """
        raise NotImplementedError


def register(cls: type[Op]) -> type[Op]:
    """Class decorator: enter an operation into the registry under its name."""
    if not cls.name or cls.name in REGISTRY:
        raise ValueError(f"operation name {cls.name!r} is empty or taken")
    REGISTRY[cls.name] = cls
    return cls
