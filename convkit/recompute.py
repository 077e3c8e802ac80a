"""Recomputation: backward runs a part of the network once more instead of keeping its values.

The part leaves one node on the tape, which holds what went in. When backward comes to it, the
part is run again, recorded this time, and the gradients go on into the new nodes. These are
the newest there are, so they are visited next: gradients are summed in the very order, and are
to the bit, what they are without recomputation.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from convkit import autograd, random
from convkit._kernels.tape import handed_on
from convkit._precision import get_precision, precision
from convkit.autograd import Node, Tensor, enable_grad
from convkit.ops.op import Op

__all__ = ["checkpoint", "checkpoint_sequential"]


class _Part(Op):
    """What the node of a part says about it."""

    name = "checkpoint"
    passes_gradient = True
    takes_masked = True


class _PartNode(Node):
    """A part of the network that backward runs again; `marks` are its results' (`PutOff`)."""

    __slots__ = ("marks",)

    def run(self, grads: list) -> tuple:
        """Run the part, and send the gradients of its results into what that recorded."""
        self.check()
        outputs = _outputs(self.ctx(), "checkpoint")
        if len(outputs) != len(grads):
            raise RuntimeError(f"the function of a checkpoint returned {len(grads)} tensors, "
                               f"and {len(outputs)} when it was run again")
        self.edges = [y._edge or y if y.requires_grad else None for y in outputs]
        for y, grad in zip(outputs, grads, strict=True):
            if grad is not None and grad.shape != y.shape:
                raise RuntimeError(f"the function of a checkpoint returned shape {grad.shape}, "
                                   f"and {y.shape} when it was run again")
        for y, mark in zip(outputs, self.marks, strict=True):
            if y._deferred is not None:
                y._deferred.expect_gradient(mark)
        return tuple(self.hooked(grads))


def checkpoint(function: Callable, *args: Any, preserve_rng_state: bool = True,
               **kwargs: Any) -> Any:
    """Run a part of a network without keeping its values: backward computes them again.

    Parameters
    ----------
    function : callable
        Of Tensors and anything else; it must do the same when it is called again. Calls within
        it may be checkpoints too.
    *args, **kwargs
        For `function`. They are kept, as are the tensors that it returns.
    preserve_rng_state : bool
        Give the function the same random numbers (dropout) when it is run again.

    Returns
    -------
    Tensor or sequence of Tensor
        What `function` returned, with gradients to the bit those of calling it directly.

    Raises
    ------
    TypeError
        When it returned anything but Tensors.
    RuntimeError
        In backward, when a tensor that it read was changed in place since, or it returned
        other shapes when it was run again.

    Notes
    -----
    Batch norm counts a batch once: running estimates are left alone when the part is run
    again (PyTorch moves them twice).

    Examples
    --------
    >>> y = convkit.checkpoint(block, x)
    """
    if not autograd.is_grad_enabled() or autograd.is_tracing():
        return function(*args, **kwargs)
    state = random.get_state() if preserve_rng_state else None
    settings = get_precision()
    reads: dict[int, Tensor] = {id(a): a for a in (*args, *kwargs.values())
                                if isinstance(a, Tensor) and a.requires_grad}
    versions = [v for t in reads.values() for v in (t._cell, t._cell[0])]

    def note(inputs: tuple) -> None:
        for x in inputs:
            if not isinstance(x, Tensor) or not x.requires_grad or id(x) in reads:
                continue
            if x._edge is None or x._edge[0].ctx is not None:  # not a result of the rehearsal's own
                reads[id(x)] = x
                versions.extend((x._cell, x._cell[0]))

    with autograd.rehearsing(note):
        result = function(*args, **kwargs)
    outputs = _outputs(result, "checkpoint")
    if not reads:
        return result

    def again() -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(enable_grad())
            stack.enter_context(precision(settings))
            stack.enter_context(autograd.recomputing())
            if state is not None:
                stack.enter_context(random.fork_rng())
                random.set_state(state)
            return function(*args, **kwargs)

    node = _PartNode(_Part, again, (), versions, len(outputs))
    node.leaves = tuple(t for t in reads.values() if t.is_leaf)
    node.marks = [None if y._deferred is None else y._deferred.mark for y in outputs]
    marked = []
    for i, y in enumerate(outputs):
        out = handed_on(y)
        if y.dtype.kind == "f":
            out._edge, out.requires_grad = (node, i), True
        marked.append(out)
    if isinstance(result, Tensor):
        return marked[0]
    return type(result)(marked) if type(result) in (tuple, list) else tuple(marked)


def checkpoint_sequential(functions: Sequence[Callable], segments: int, input: Any,
                          **options: Any) -> Any:
    """Run functions one after the other, all but the last segment of them as checkpoints.

    Parameters
    ----------
    functions : sequence of callable, or Sequential
        Each gets what the one before returned.
    segments : int
        Into how many parts of about one length they are cut.
    input : Tensor
        For the first.
    **options
        See `checkpoint`.

    Raises
    ------
    ValueError
        When there are fewer functions than segments, or no segments.
    """
    functions = list(functions)
    if not 1 <= segments <= len(functions):
        raise ValueError(f"expected 1 to {len(functions)} segments, got {segments}")
    length = len(functions) // segments

    def run(part: list[Callable]) -> Callable:
        def through(x: Any) -> Any:
            for function in part:
                x = function(x)
            return x
        return through

    last = length * (segments - 1)
    for start in range(0, last, length):
        input = checkpoint(run(functions[start:start + length]), input, **options)
    return run(functions[last:])(input)


def _outputs(result: Any, what: str) -> tuple[Tensor, ...]:
    """Return a function's results as a tuple of Tensors."""
    outputs = (result,) if isinstance(result, Tensor) else result
    if not isinstance(outputs, (tuple, list)) or \
            not all(isinstance(y, Tensor) for y in outputs):
        raise TypeError(f"expected the function of a {what} to return Tensors, "
                        f"got {type(result).__name__}")
    return tuple(outputs)
