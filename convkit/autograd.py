"""Tensor and tape: what runs an operation, records it, and goes back through the record.

`apply` is the only way an operation is run on tensors. It hands arrays to the operation's
forward, and, where a gradient is wanted, leaves a `Node` on the output that remembers the
call. `Tensor.backward` visits nodes in the reverse order of their creation, so the order in
which gradients are summed is fixed.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import memory
from convkit.errors import DTypeError
from convkit.ops.op import Context, Op

__all__ = ["Tensor", "apply", "enable_grad", "is_grad_enabled", "no_grad", "tracing"]


class _State(threading.local):
    """Per-thread switches."""

    grad = True
    tracer: Any = None


_state = _State()
_sequence = itertools.count()


def is_grad_enabled() -> bool:
    """Tell whether operations are recorded for backward in this thread."""
    return _state.grad


class _GradMode(contextlib.ContextDecorator):
    """Context manager and decorator that sets gradient recording and restores it."""

    def __init__(self, enabled: bool):
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self):
        self._before.append(_state.grad)
        _state.grad = self._enabled
        return self

    def __exit__(self, *exc):
        _state.grad = self._before.pop()
        return False


def no_grad() -> _GradMode:
    """Return a context manager (or decorator) within which nothing is recorded."""
    return _GradMode(False)


def enable_grad() -> _GradMode:
    """Return a context manager (or decorator) within which operations are recorded."""
    return _GradMode(True)


@contextlib.contextmanager
def tracing(tracer: Any) -> Iterator[None]:
    """Report every operation run in this thread to ``tracer.record`` within the block.

    ``tracer.record(op, inputs, attrs, outputs)`` gets the operation's class, its inputs as
    given (Tensor, array or None), its attributes and the tuple of output tensors.
    """
    before, _state.tracer = _state.tracer, tracer
    try:
        yield
    finally:
        _state.tracer = before


class Node:
    """One recorded call: what backward needs, and where its gradients go."""

    __slots__ = ("ctx", "n_outputs", "op", "order", "parents", "versions")

    def __init__(self, op, ctx, parents, versions, n_outputs):
        self.op = op
        self.ctx = ctx
        self.parents = parents  # per input: Tensor that wants a gradient, or None
        self.versions = versions  # (cell, version then) of everything backward reads
        self.n_outputs = n_outputs
        self.order = next(_sequence)

    def run(self, grads: list[np.ndarray | None], retain: bool) -> tuple:
        """Run the operation's backward once."""
        if self.ctx is None:
            raise RuntimeError(
                "backward through this graph a second time: its saved values were freed; "
                "pass retain_graph=True to the first backward")
        for cell, version in self.versions:
            if cell[0] != version:
                raise RuntimeError(
                    f"a tensor that the gradient of {self.op.name!r} needs was changed in place "
                    f"(it is at version {cell[0]}, expected {version})")
        out = self.op.backward(self.ctx, *grads)
        if not retain:
            self.ctx = None
            self.versions = ()
        return out


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    data : array_like
        float32 and float64 arrays are used as they are, without a copy; Python numbers
        become float32.
    requires_grad : bool
        Whether `backward` fills `grad`.

    Attributes
    ----------
    data : numpy.ndarray
        The values, in logical (N, C, ...) order; activations are channels-last in memory.
    grad : Tensor or None
        The accumulated gradient, of the same shape and dtype.
    """

    __slots__ = ("__weakref__", "_cell", "_node", "_output", "data", "grad", "requires_grad")
    __array_priority__ = 1000

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        array = np.asarray(data)
        if not isinstance(data, (np.ndarray, np.generic)) and array.dtype.kind in "fiub" \
                and array.dtype != np.float32 and not hasattr(data, "__array__"):
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"expected an array of numbers, got dtype {array.dtype}")
        if requires_grad and array.dtype.kind != "f":
            raise DTypeError(f"only floating-point tensors can require gradients, got {array.dtype}")
        self.data = array
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self._node: Node | None = None
        self._output = 0
        self._cell = [0]

    # -- what it is ---------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        """Element type."""
        return self.data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made this tensor."""
        return self._node is None

    def numpy(self) -> np.ndarray:
        """Return the values without a copy; raise RuntimeError when a gradient is recorded."""
        if self.requires_grad:
            raise RuntimeError("this tensor requires grad; use t.detach().numpy()")
        return self.data

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data, dtype=dtype, copy=copy)

    def detach(self) -> Tensor:
        """Return a tensor over the same memory that is cut off from the tape."""
        out = Tensor(self.data)
        out._cell = self._cell
        return out

    # -- gradients ----------------------------------------------------------------------

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor to ``grad`` of every leaf that requires it.

        Parameters
        ----------
        gradient : array_like, optional
            Gradient with respect to this tensor; may be left out for a single element.
        retain_graph : bool
            Keep saved values so that backward can be run once more.

        Raises
        ------
        RuntimeError
            When nothing was recorded, the graph was freed, the tensor has several elements
            and `gradient` is missing, or a saved tensor was changed in place.
        """
        if not self.requires_grad:
            raise RuntimeError("backward of a tensor that does not require grad")
        if gradient is None:
            if self.data.size != 1:
                raise RuntimeError(
                    f"backward without a gradient needs a single element, got shape {self.shape}")
            grad = np.ones_like(self.data)
        else:
            grad = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient,
                              dtype=self.dtype)
            if grad.shape != self.shape:
                raise RuntimeError(f"gradient has shape {grad.shape}, expected {self.shape}")
        _run_backward(self, grad, retain_graph)

    def _accumulate(self, grad: np.ndarray, owned: bool) -> None:
        """Add `grad` to a leaf's gradient; `owned` says that nobody else holds the array."""
        if self.grad is None:
            if not owned or grad.dtype != self.data.dtype:
                grad = grad.astype(self.data.dtype, order="K", copy=True)
            self.grad = Tensor(grad)
        else:
            np.add(self.grad.data, grad, out=self.grad.data)
            self.grad._cell[0] += 1


def _run_backward(root: Tensor, grad: np.ndarray, retain: bool) -> None:
    """Visit recorded nodes from the newest to the oldest, summing gradients on the way."""
    if root._node is None:
        root._accumulate(grad, owned=False)
        return
    pending: dict[Node, list[np.ndarray | None]] = {}
    heap: list[tuple[int, Node]] = []

    def send(tensor: Tensor, value: np.ndarray, owned: bool) -> None:
        node = tensor._node
        if node is None:
            tensor._accumulate(value, owned)
            return
        slots = pending.get(node)
        if slots is None:
            slots = pending[node] = [None] * node.n_outputs
            heapq.heappush(heap, (-node.order, node))
        before = slots[tensor._output]
        slots[tensor._output] = value if before is None else _sum(before, value)

    send(root, grad, owned=False)
    while heap:
        _, node = heapq.heappop(heap)
        results = node.run(pending.pop(node), retain)
        owned = not node.op.passes_gradient
        for parent, value in zip(node.parents, results, strict=True):
            if parent is not None and value is not None:
                send(parent, value, owned)


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a + b in pooled memory, laid out in memory as `a` is."""
    order = sorted(range(a.ndim), key=lambda i: -abs(a.strides[i]))
    out = memory.empty([a.shape[i] for i in order], a.dtype)
    out = out.transpose(np.argsort(order)) if a.ndim > 1 else out
    return np.add(a, b, out=out)


def apply(op: type[Op], *inputs: Any, **attrs: Any) -> Any:
    """Run an operation on tensors, arrays or None and record it where needed.

    Parameters
    ----------
    op : type of Op
        The operation.
    *inputs : Tensor, numpy.ndarray or None
        Its array inputs, in the operation's order.
    **attrs
        Its attributes.

    Returns
    -------
    Tensor or tuple of Tensor
        As many as the operation has outputs.
    """
    grad = _state.grad
    arrays = []
    needs = []
    cache = []
    for x in inputs:
        if isinstance(x, Tensor):
            arrays.append(x.data)
            needs.append(grad and x.requires_grad)
            cache.append(x._packed() if isinstance(x, _Cached) else None)
        else:
            arrays.append(x)
            needs.append(False)
            cache.append(None)
    ctx = Context(tuple(needs), runtime.get_num_threads(), tuple(cache))
    result = op.forward(ctx, *arrays, **attrs)
    outputs = result if isinstance(result, tuple) else (result,)
    tensors = tuple([_wrap(y) for y in outputs])
    if any(needs):
        _record(op, ctx, inputs, tensors)
    if _state.tracer is not None:
        _state.tracer.record(op, inputs, attrs, tensors)
    return tensors if isinstance(result, tuple) else tensors[0]


def _wrap(array: np.ndarray) -> Tensor:
    """Make a Tensor of an operation's result without the constructor's checks."""
    t = Tensor.__new__(Tensor)
    t.data = array
    t.requires_grad = False
    t.grad = None
    t._node = None
    t._output = 0
    t._cell = [0]
    return t


def _record(op: type[Op], ctx: Context, inputs: Sequence, outputs: tuple[Tensor, ...]) -> None:
    """Leave a node on the differentiable outputs."""
    parents = tuple([x if need else None for x, need in zip(inputs, ctx.needs, strict=True)])
    cells = [x._cell for i in op.reads if isinstance(x := inputs[i], Tensor)]
    if op.reads_output:
        cells.append(outputs[0]._cell)
    node = Node(op, ctx, parents, [(c, c[0]) for c in cells], op.differentiable)
    for i, y in enumerate(outputs[:op.differentiable]):
        y._node = node
        y._output = i
        y.requires_grad = True


class _Cached(Tensor):
    """A tensor whose derived forms (packed weights) are kept while its values stay."""

    __slots__ = ("_cache", "_cache_version")

    def _packed(self) -> dict:
        """Return the dictionary of derived forms, emptied whenever the values changed."""
        version = (self._cell[0], id(self.data))
        if getattr(self, "_cache_version", None) != version:
            self._cache = {}
            self._cache_version = version
        return self._cache
