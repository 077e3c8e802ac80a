"""Tensor and tape: what runs an operation, records it, and goes back through the record.

`apply` is the only way an operation is run on tensors. It hands arrays to the operation's
forward, and, where a gradient is wanted, leaves a `Node` on the output that remembers the
call. `Tensor.backward` visits nodes in the reverse order of their creation, so the order in
which gradients are summed is fixed.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from convkit import indexing
from convkit._kernels import tape
from convkit._kernels.tape import Forms, Holder, Node, Sweep, TensorBase, apply, here, wrap
from convkit.errors import DTypeError
from convkit.ops import REGISTRY as OPS
from convkit.ops.layout import FLOATS, axis_order, like
from convkit.tensors.arranging import axis_of, sizes_of
from convkit.tensors.elements import as_operand
from convkit.tensors.methods import Methods

__all__ = ["Node", "Tensor", "apply", "enable_grad", "forms_made", "is_grad_enabled", "no_grad",
           "tracing", "watching"]

_any_post_hook = False  # whether there ever was one, so that others pay nothing for them


def is_grad_enabled() -> bool:
    """Tell whether operations are recorded for backward in this thread."""
    return here().grad


def is_tracing() -> bool:
    """Tell whether operations of this thread are reported to a tracer."""
    return here().tracer is not None


def is_recomputing() -> bool:
    """Tell whether a part of the network runs once more, for backward (`checkpoint`)."""
    return here().recomputing


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Mark what runs within the block as a repetition, which counts no batches."""
    before, here().recomputing = here().recomputing, True
    try:
        yield
    finally:
        here().recomputing = before


@contextlib.contextmanager
def rehearsing(note: Callable[[tuple], None]) -> Iterator[None]:
    """Compute what would be recorded to the bit, but keep nothing of it for backward.

    ``note(inputs)`` is called after every operation. Nodes on results are without effect.
    """
    before, here().rehearsal = here().rehearsal, note
    try:
        with no_grad():
            yield
    finally:
        here().rehearsal = before


def after_backward(callback: Callable[[], None]) -> None:
    """Call a function once, at the end of the backward that runs in this thread."""
    here().after = (*here().after, callback)


class _GradMode(contextlib.ContextDecorator):
    """Context manager and decorator that sets gradient recording and restores it."""

    def __init__(self, enabled: bool):
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self):
        self._before.append(here().grad)
        here().grad = self._enabled
        return self

    def __exit__(self, *exc):
        here().grad = self._before.pop()
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
    ``tracer.run(op, arrays, attrs)``, where there is one, makes the outputs instead of the
    operation's forward. ``tracer.decide(tensor)``, where there is one, is told of tensors of
    which Python gets the number, by ``item`` or as a truth value.
    """
    before, here().tracer = here().tracer, tracer
    try:
        yield
    finally:
        here().tracer = before


@contextlib.contextmanager
def watching(watcher: Callable) -> Iterator[None]:
    """Call ``watcher(op, inputs, attrs, outputs)`` after every operation run in this thread.

    Unlike tracing, this leaves everything else as it is: values change in place where they
    would, and outputs have their nodes already.
    """
    before, here().watchers = here().watchers, (*here().watchers, watcher)
    try:
        yield
    finally:
        here().watchers = before


def _plain_index(index: Any) -> Any:
    """Return an index with arrays for tensors."""
    if isinstance(index, tuple):
        return tuple([i.data if isinstance(i, Tensor) else i for i in index])
    return index.data if isinstance(index, Tensor) else index


class Tensor(TensorBase, Methods):
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

    __slots__ = ()
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        array = np.asarray(data)
        if not isinstance(data, (np.ndarray, np.generic)) and array.dtype.kind in "fiub" \
                and array.dtype != np.float32 and not hasattr(data, "__array__"):
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"expected an array of numbers, got dtype {array.dtype}")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if requires_grad and array.dtype.kind != "f":
            raise DTypeError(f"only floating-point tensors can require grad, got {array.dtype}")
        self.data = array
        self.requires_grad = requires_grad
        self._cell = [0]

    # -- what it is ---------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """Return the values without a copy; raise RuntimeError when a gradient is recorded."""
        if self.requires_grad:
            raise RuntimeError("this tensor requires grad; use t.detach().numpy()")
        return self.data

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options):
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    def size(self, dim: int | None = None):
        """Return the shape, or one size of it."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Return the number of elements."""
        return self.data.size

    def item(self) -> float | int | bool:
        """Return the only element as a Python number; raise ValueError when there are more."""
        return self._number()

    def _number(self) -> float | int | bool:
        """Return the only element, after telling who traces."""
        if self.data.size != 1:
            raise ValueError(f"item() of a tensor with {self.data.size} elements, expected 1")
        told = getattr(here().tracer, "decide", None)
        if told is not None:
            told(self)
        return self.data.item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return self.data.tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError("the truth of a tensor with several elements is ambiguous")
        return bool(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else self, spec) if self.ndim == 0 \
            else object.__format__(self, spec)

    def __repr__(self) -> str:
        text = np.array2string(self.data, separator=", ", prefix="tensor(")
        if self.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.dtype}"
        if self._edge is not None:
            text += f", grad_fn=<{self._edge[0].op.__name__}>"
        elif self.requires_grad:
            text += ", requires_grad=True"
        return f"tensor({text})"

    def __reduce_ex__(self, protocol):
        if self._edge is not None:
            raise RuntimeError("only leaf tensors can be copied or pickled; use t.detach()")
        return _rebuild, (type(self), self._writable(), self.requires_grad, self.grad)

    def detach(self) -> Tensor:
        """Return a tensor over the same memory that is cut off from the tape."""
        out = wrap(self.data)
        out._cell, out._moments = self._cell, self._moments
        return out

    def clone(self) -> Tensor:
        """Return a copy through which gradients flow."""
        if here().tracer is None and not self._counts():
            copy = like(self.data)
            np.copyto(copy, self.data)
            return wrap(copy)
        return self * 1

    def astype(self, dtype: Any) -> Tensor:
        """Return the tensor in another element type: itself if it has it, else a copy.

        Gradients flow from one floating-point type to the other, and stop at integers.
        """
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        if here().tracer is not None or (self.requires_grad and dtype in FLOATS):
            return apply(OPS["cast"], self, dtype=dtype.name)
        return wrap(self.data.astype(dtype))

    to = astype

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
            grad = np.require(gradient.data if isinstance(gradient, Tensor) else gradient,
                              self.dtype, "A")
            if grad.shape != self.shape:
                raise RuntimeError(f"gradient has shape {grad.shape}, expected {self.shape}")
        if self._deferred is not None:
            self._deferred.expect_gradient()
        sweep = Sweep(_count_ways(self if self._edge is None else self._edge[0])
                      if _any_post_hook else {})
        sweep.send(self._edge or self, grad, False)
        try:
            sweep.run(retain_graph)
        finally:
            after, here().after = here().after, ()
        for callback in after:
            callback()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set whether backward fills `grad` of this leaf, and return it.

        Raises
        ------
        RuntimeError
            When an operation made the tensor.
        DTypeError
            When its elements are no floating-point numbers.
        """
        if self._edge is not None:
            raise RuntimeError("requires_grad can be changed on leaf tensors only; use t.detach()")
        if requires_grad and self.dtype.kind != "f":
            raise DTypeError(
                f"only floating-point tensors can require gradients, got {self.dtype}")
        self.requires_grad = bool(requires_grad)
        return self

    def retain_grad(self) -> None:
        """Have backward fill `grad` of this tensor too, though it is no leaf."""
        if self._edge is None:
            return
        here = weakref.ref(self)

        def keep(grad: Tensor) -> None:
            tensor = here()
            if tensor is not None:
                tensor._accumulate(grad.data, owned=False)

        self.register_hook(keep)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook(grad)`` whenever backward has this tensor's gradient.

        Parameters
        ----------
        hook : callable
            Gets the gradient (not to be changed in place); what it returns, unless None or that
            gradient, takes the gradient's place. A hook that only looks changes no bit.

        Returns
        -------
        callable
            Removes the hook.
        """
        if not self.requires_grad:
            raise RuntimeError("a hook on a tensor that does not require grad would never run")
        if self._edge is None:
            entry: Any = hook
            hooks = self._hooks = self._hooks or []
        else:
            node, output = self._edge
            if self._deferred is not None:
                self._deferred.expect_gradient()
            entry = (output, hook)
            hooks = node.hooks = node.hooks or []
        hooks.append(entry)
        return lambda: hooks.remove(entry) if entry in hooks else None

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]
                                           ) -> Callable[[], None]:
        """Call ``hook(tensor)`` when backward has added all of its gradient to this leaf's.

        Backward may be going on elsewhere then.

        Parameters
        ----------
        hook : callable
            Gets this tensor, whose `grad` is final for this backward.

        Returns
        -------
        callable
            Removes the hook.

        Raises
        ------
        RuntimeError
            When the tensor is no leaf that requires grad.
        """
        if not self.requires_grad or self._edge is not None:
            raise RuntimeError("expected a leaf tensor that requires grad")
        hooks = self._post_hooks = self._post_hooks or []
        hooks.append(hook)
        global _any_post_hook
        _any_post_hook = True
        return lambda: hooks.remove(hook) if hook in hooks else None

    # -- changes in place ---------------------------------------------------------------

    def zero_(self) -> Tensor:
        """Set every element to zero, in place."""
        self._change().fill(0)
        return self

    def fill_(self, value: float) -> Tensor:
        """Set every element to `value`, in place."""
        self._change().fill(value)
        return self

    def copy_(self, source: Any) -> Tensor:
        """Copy the values of `source` (broadcast, converted) into this tensor, in place.

        Integers take the whole part of broken numbers.
        """
        source = source.data if isinstance(source, Tensor) else np.asarray(source)
        np.copyto(self._change(), source, casting="unsafe")
        return self

    def add_(self, other: Any, *, alpha: float = 1) -> Tensor:
        """Add ``alpha * other``, in place."""
        other = self._operand(other)
        return self._update(np.add, other if alpha == 1 else other * self.dtype.type(alpha))

    def sub_(self, other: Any, *, alpha: float = 1) -> Tensor:
        """Subtract ``alpha * other``, in place."""
        return self.add_(other, alpha=-alpha)

    def mul_(self, other: Any) -> Tensor:
        """Multiply by `other`, in place."""
        return self._update(np.multiply, self._operand(other))

    def div_(self, other: Any) -> Tensor:
        """Divide by `other`, in place."""
        return self._update(np.divide, self._operand(other))

    def _operand(self, other: Any) -> np.ndarray:
        """Return the array of what is combined with this tensor in place."""
        if isinstance(other, Tensor):
            if here().grad and other.requires_grad:
                raise RuntimeError("a change in place by a tensor that requires grad is not "
                                   "recorded; do so within convkit.no_grad()")
            return other.data
        return np.asarray(other, dtype=self.dtype)

    def _update(self, ufunc: np.ufunc, other: np.ndarray) -> Tensor:
        array = self._change()
        ufunc(array, other, out=array, casting="same_kind")
        return self

    def _inplace(self, other: Any, change: Callable, combine: Callable) -> Tensor:
        """Run ``t += other``: in place, or out of place where a record of it is wanted.

        Or where it is to be computed as if it were.
        """
        now = here()
        if (now.tracer is not None
                or (self._counts() and (self._edge is not None or not self.requires_grad))
                or ((now.grad or now.rehearsal) and getattr(other, "requires_grad", False))):
            return combine(other)
        return change(other)

    def __iadd__(self, other):
        return self._inplace(other, self.add_, self.__add__)

    def __isub__(self, other):
        return self._inplace(other, self.sub_, self.__sub__)

    def __imul__(self, other):
        return self._inplace(other, self.mul_, self.__mul__)

    def __itruediv__(self, other):
        return self._inplace(other, self.div_, self.__truediv__)

    # -- operators ----------------------------------------------------------------------

    def _binary(self, name: str, other: Any, reflected: bool = False, **attrs: Any):
        if not isinstance(other, (Tensor, np.ndarray)):
            if not isinstance(other, (numbers.Real, np.generic)):
                return NotImplemented
            other = as_operand(other, self)
        pair = (other, self) if reflected else (self, other)
        return apply(OPS[name], *pair, **attrs)

    def __add__(self, other):
        return self._binary("add", other)

    def __radd__(self, other):
        return self._binary("add", other, True)

    def __sub__(self, other):
        return self._binary("sub", other)

    def __rsub__(self, other):
        return self._binary("sub", other, True)

    def __mul__(self, other):
        return self._binary("mul", other)

    def __rmul__(self, other):
        return self._binary("mul", other, True)

    def __truediv__(self, other):
        return self._binary("div", other)

    def __rtruediv__(self, other):
        return self._binary("div", other, True)

    def __matmul__(self, other):
        return self.matmul(other)

    def __rmatmul__(self, other):
        return apply(OPS["matmul"], other, self)

    def __floordiv__(self, other):
        return self._binary("div", other, rounding_mode="floor")

    def __rfloordiv__(self, other):
        return self._binary("div", other, True, rounding_mode="floor")

    def __mod__(self, other):
        return self._binary("remainder", other)

    def __rmod__(self, other):
        return self._binary("remainder", other, True)

    def __neg__(self):
        return apply(OPS["neg"], self)

    def __pos__(self):
        return self

    def __pow__(self, exponent):
        if not isinstance(exponent, numbers.Real):
            return self._binary("power", exponent)
        return apply(OPS["pow"], self, exponent=exponent)

    def __rpow__(self, base):
        return self._binary("power", base, True)

    def _logical(self, name: str, symbol: str, other: Any):
        """Combine two of truth values; convkit has no operations on the bits of integers."""
        if not isinstance(other, (Tensor, np.ndarray, bool, np.bool_)):
            return NotImplemented
        kinds = self.dtype, other.dtype if hasattr(other, "dtype") else np.dtype(bool)
        if kinds != (np.bool_, np.bool_):
            raise DTypeError(f"expected truth values on both sides of {symbol}, got {kinds[0]} "
                             f"and {kinds[1]}")
        return apply(OPS[name], self, as_operand(other, self))

    def __and__(self, other):
        return self._logical("logical_and", "&", other)

    __rand__ = __and__

    def __or__(self, other):
        return self._logical("logical_or", "|", other)

    __ror__ = __or__

    def __xor__(self, other):
        return self._logical("logical_xor", "^", other)

    __rxor__ = __xor__

    def __invert__(self):
        if self.dtype != np.bool_:
            raise DTypeError(f"expected truth values for ~, got {self.dtype}")
        return apply(OPS["logical_not"], self)

    def _compare(self, name: str, ufunc: np.ufunc, other: Any):
        if not isinstance(other, (Tensor, np.ndarray, numbers.Real, np.generic)):
            return NotImplemented
        if here().tracer is not None:
            return apply(OPS[name], self, as_operand(other, self))
        other = other.data if isinstance(other, Tensor) else other
        return wrap(np.asarray(ufunc(self.data, other)))

    def __eq__(self, other):
        return self._compare("eq", np.equal, other)

    def __ne__(self, other):
        return self._compare("ne", np.not_equal, other)

    def __lt__(self, other):
        return self._compare("lt", np.less, other)

    def __le__(self, other):
        return self._compare("le", np.less_equal, other)

    def __gt__(self, other):
        return self._compare("gt", np.greater, other)

    def __ge__(self, other):
        return self._compare("ge", np.greater_equal, other)

    def __getitem__(self, index):
        if indexing.is_basic(index):
            cut, shape = indexing.resolve(self.shape, index)
            out = self if cut is None else apply(OPS["slice"], self, **cut)
            return out if shape is None else apply(OPS["reshape"], out, shape=shape)
        if here().tracer is not None and isinstance(index, Tensor) and index.dtype.kind in "iu":
            return apply(OPS["take"], self, index, dim=0)
        index = _plain_index(index)
        if indexing.is_basic(index):    # tensors of no axes are numbers
            return self[index]
        pick = indexing.pick(self.shape, index)
        if here().tracer is None and not self._counts():
            return wrap(self.data[pick.basic][pick.index()])
        return self._picked(pick)

    def _picked(self, pick: indexing.Pick) -> Tensor:
        """Return picked elements: slices of the picked axes, laid in one, which come first."""
        whole = self[pick.basic]
        at = pick.flat(whole.shape)
        if len(pick.axes) == 1 and not pick.front:
            return apply(OPS["take"], whole, at, dim=pick.axes[0])
        rest = [i for i in range(whole.ndim) if i not in pick.axes]
        sizes = tuple([whole.shape[i] for i in rest])
        rows = whole.permute(*pick.axes, *rest).reshape(
            math.prod([whole.shape[i] for i in pick.axes]), *sizes)
        y = apply(OPS["take"], rows, at, dim=0)
        before = 0 if pick.front else pick.axes[0]
        kept = [at.ndim + i for i in range(len(rest))]
        return y.permute(*kept[:before], *range(at.ndim), *kept[before:])

    def __setitem__(self, index, value):
        value, index = self._operand(value), _plain_index(index)
        if indexing.is_basic(index):
            self._change()[index] = value
            return
        pick = indexing.pick(self.shape, index)
        self._change()[pick.basic][pick.index()] = value

    # -- operations as methods ----------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        """Return the elements under another shape, in which one size may be -1."""
        return apply(OPS["reshape"], self, shape=sizes_of(shape))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with axes `start_dim` to `end_dim` merged into one."""
        return apply(OPS["flatten"], self, start_dim=start_dim, end_dim=end_dim)

    def permute(self, *dims: Any) -> Tensor:
        """Return a view with the axes in the given order."""
        return apply(OPS["permute"], self, dims=sizes_of(dims))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Return a view with two axes exchanged."""
        dims = list(range(self.ndim))
        first, second = axis_of(dim0, self), axis_of(dim1, self)
        dims[first], dims[second] = second, first
        return apply(OPS["permute"], self, dims=tuple(dims))

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the tensor with an axis of size 1 put in at `dim`."""
        ndim = self.ndim + 1
        if not -ndim <= dim < ndim:
            raise IndexError(f"dim {dim} is out of range for {ndim} axes")
        shape = self.shape
        return self.reshape(*shape[:dim % ndim], 1, *shape[dim % ndim:])

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Return the tensor without axes of size 1 (or without `dim`, if its size is 1)."""
        shape = self.shape
        drop = range(len(shape)) if dim is None else (axis_of(dim, self),)
        return self.reshape(tuple(n for i, n in enumerate(shape) if n != 1 or i not in drop))

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix."""
        return self.permute(tuple(range(self.ndim))[::-1])

    def relu(self) -> Tensor:
        """Return max(x, 0) of each element."""
        return apply(OPS["relu"], self)

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + exp(-x)) of each element."""
        return apply(OPS["sigmoid"], self)

    def tanh(self) -> Tensor:
        """Return the hyperbolic tangent of each element."""
        return apply(OPS["tanh"], self)

    def softmax(self, dim: int) -> Tensor:
        """Return the softmax along `dim`."""
        return apply(OPS["softmax"], self, dim=dim)

    def log_softmax(self, dim: int) -> Tensor:
        """Return the logarithm of the softmax along `dim`."""
        return apply(OPS["log_softmax"], self, dim=dim)


def _rebuild(cls: type[Tensor], data: np.ndarray, requires_grad: bool, grad: Tensor | None):
    """Make the copy of a leaf tensor for copy.deepcopy and pickle."""
    out = cls(data, requires_grad=requires_grad)
    out.grad = grad
    return out


def _count_ways(root: Node | Tensor) -> dict[Tensor, int | None]:
    """Return along how many ways gradients come to each leaf with post hooks; None: not known."""
    ways: dict[Tensor, int | None] = {}
    nodes, stack = {root}, [root]
    while stack:
        node = stack.pop()
        if isinstance(node, Tensor):
            continue
        for edge in node.edges:
            if isinstance(edge, Tensor):
                if edge._post_hooks:
                    known = ways.get(edge, 0)
                    ways[edge] = known if known is None else known + 1
            elif edge is not None and edge[0] not in nodes:
                nodes.add(edge[0])
                stack.append(edge[0])
        for leaf in node.leaves:
            if leaf._post_hooks:
                ways[leaf] = None
    return ways


tape.bind(Tensor, OPS["add"])


def forms_made() -> int:
    """Return how many forms of parameters (packed or transformed weights) were made so far.

    A training step makes each form that its passes read once; prediction makes none after
    the first.
    """
    return Forms.made


class _Cached(Holder, Tensor):
    """A leaf whose derived forms (packed weights) are kept while its values stay.

    `data` is a read-only view: values change only by assigning `data` or by the methods
    that change a tensor in place, which count their changes; so a derived form can never
    be stale.
    """

    __slots__ = ()

    def _keep(self, array: Any) -> None:
        """Take other values; what is seen of them is not writable."""
        array = np.asarray(array)
        order = axis_order(array)
        dense = array if order is None else array.transpose(order)
        if not dense.flags.c_contiguous or not array.flags.writeable:
            array = array.copy(order="C")
        view = array.view()
        view.flags.writeable = False
        self._store = array
        super()._keep(view)

    def detach(self) -> Tensor:
        """Return a tensor over the same memory that is cut off from the tape."""
        out = _Cached.__new__(_Cached)
        Tensor.__init__(out, self._store)  # its own memory: a read-only view would be copied
        out._cell = self._cell
        return out
