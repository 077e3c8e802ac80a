"""Building a graph: what depends on constants alone is computed at once, the rest is recorded.

Sizes are plain numbers here. A model whose batch is open is built for two batches, and the two
graphs are joined (`convkit.io.onnx.join`), so that arithmetic on shapes needs no algebra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.infer.graph import Constant, Node, Value
from convkit.infer.schema import complete
from convkit.infer.verify import infer_node
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.types import elem_of
from convkit.ops.op import REGISTRY, Context

__all__ = ["HANDLERS", "Builder", "NeedsValue", "axes_of", "axis_of", "handles"]

MAX_NODES = 65_536
FOLD_FLOOR = 2**26  # bytes that constants may fold to, however small the file
FOLD_WORK = 2**30  # multiplications that folding one operation may take

HANDLERS: dict[str, Callable[[Builder, Operator], Any]] = {}


def handles(*names: str) -> Callable:
    """Decorate the function that turns operators of these names into graph nodes."""
    def enter(function: Callable) -> Callable:
        for name in names:
            HANDLERS[name] = function
        return function
    return enter


class NeedsValue(UnsupportedOperatorError):
    """Something must be known when a graph is built, but is computed when it runs.

    Attributes
    ----------
    number : int
        The value's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Builder:
    """Collects the nodes, constants and values of a graph.

    Parameters
    ----------
    file_size : int
        Constants may fold to four times as many bytes (or `FOLD_FLOOR`).
    """

    def __init__(self, file_size: int):
        self.nodes: list[Node] = []
        self.constants: dict[int, Constant] = {}
        self.values: dict[int, Value] = {}
        self.label = ""
        self._budget = max(4 * file_size, FOLD_FLOOR)
        self._names: dict[str, int] = {}
        self._makers: dict[int, Node] = {}

    # -- values -------------------------------------------------------------------------

    def add_input(self, shape: tuple[int, ...], dtype: str, elem: int) -> Val:
        """Add a value that comes in when the graph runs."""
        return self._new(Value(shape, dtype), elem)

    def constant(self, array: Any, name: str = "", elem: int | None = None) -> Val:
        """Add a value known beforehand."""
        array = np.asarray(array)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        array.flags.writeable = False
        val = self._new(Value(array.shape, array.dtype.name), elem, array)
        self.constants[val.number] = Constant(self._unique(name or self.label or "constant"), array)
        return val

    def like(self, value: float, x: Val) -> Val:
        """Add a scalar constant of the type of `x`."""
        return self.constant(np.asarray(value, x.dtype))

    def _new(self, value: Value, elem: int | None, array: np.ndarray | None = None) -> Val:
        number = len(self.values)
        self.values[number] = value
        return Val(number, value.shape, value.dtype,
                   elem_of(value.dtype) if elem is None else elem, array)

    def _unique(self, name: str) -> str:
        """Return a name, numbered where it is taken; of a length that files can hold."""
        name = name[:400]
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return self._unique(f"{name}_{count}") if count else name

    # -- operations ---------------------------------------------------------------------

    def op(self, name: str, *inputs: Val | None, **attrs: Any) -> Any:
        """Add an operation of ``convkit.ops``; return its output, or a tuple of them.

        Where all inputs are constants it is computed here and now.
        """
        return self._add(name, inputs, attrs, fold=True)

    def record(self, name: str, *inputs: Val | None, **attrs: Any) -> Any:
        """Add an operation as `op` does, even where all inputs are constants."""
        return self._add(name, inputs, attrs, fold=False)

    def _add(self, name: str, inputs: tuple, attrs: dict[str, Any], fold: bool) -> Any:
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        attrs = complete(name, attrs)
        operands = [None if x is None else Value(x.shape, x.dtype) for x in inputs]
        numbers = tuple([None if x is None else x.number for x in inputs])
        results = infer_node(Node(name, numbers, (), attrs), operands)
        if fold and all(x is None or x.array is not None for x in inputs):
            return self._fold(name, inputs, attrs, results)
        if len(self.nodes) >= MAX_NODES:
            raise ModelFormatError(f"the graph has more than {MAX_NODES} nodes")
        made = tuple([self._new(value, None) for value in results])
        self.nodes.append(Node(name, numbers, tuple([v.number for v in made]), attrs,
                               self.label[:512]))
        self._makers.update((v.number, self.nodes[-1]) for v in made)
        return made[0] if len(made) == 1 else made

    def _fold(self, name: str, inputs: tuple, attrs: dict[str, Any], results: list[Value]) -> Any:
        """Compute an operation on constants."""
        for value in results:
            self.spend(math.prod(value.shape) * np.dtype(value.dtype).itemsize)
        if _work(name, inputs, attrs, results) > FOLD_WORK:
            raise ModelFormatError(f"{name} of constants takes more than {FOLD_WORK} "
                                   "multiplications, too many for constants")
        ctx = Context((False,) * len(inputs), 1, (None,) * len(inputs), "highest")
        with np.errstate(all="ignore"):
            got = REGISTRY[name].forward(
                ctx, *[None if x is None else x.array for x in inputs], **attrs)
        got = got if isinstance(got, tuple) else (got,)
        made = []
        for array, value in zip(got, results, strict=True):
            array = np.asarray(array)
            if array.shape != value.shape or array.dtype.name != value.dtype:
                raise ModelFormatError(f"{name}: computed {array.shape} of {array.dtype}, expected "
                                       f"{value}")
            source = next((x for x in inputs if x is not None), None)
            keep = len(inputs) == 1 and source.number in self.constants
            made.append(self.constant(array, self.constants[source.number].name if keep else ""))
        return made[0] if len(made) == 1 else tuple(made)

    def spend(self, size: int) -> None:
        """Take bytes from what constants may fold to; raise ModelFormatError beyond it."""
        self._budget -= size
        if self._budget < 0:
            raise ModelFormatError(f"constants fold to far more bytes than the file has "
                                   f"({size} more)")

    def maker(self, number: int) -> Node | None:
        """Return the node that makes a value; None for inputs and constants."""
        return self._makers.get(number)

    def scalar(self, number: int) -> float | None:
        """Return the value of a constant of one element; None for anything else."""
        constant = self.constants.get(number)
        return constant.array.item() if constant is not None and constant.array.size == 1 else None

    def val(self, number: int) -> Val:
        """Return the handle of a value that is no constant."""
        info = self.values[number]
        return Val(number, info.shape, info.dtype, elem_of(info.dtype))

    # -- what must be known -------------------------------------------------------------

    def known(self, x: Val, what: str) -> np.ndarray:
        """Return a constant's array; raise NeedsValue where it is none."""
        if x.array is None:
            raise NeedsValue(f"{what} is computed when the model runs, expected a constant",
                             x.number)
        return x.array

    def integers(self, x: Val, what: str) -> tuple[int, ...]:
        """Return a constant's elements as ints."""
        array = self.known(x, what)
        if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 4096:
            raise ModelFormatError(f"{what}: expected a list of integers, got {array.dtype} of "
                                   f"shape {array.shape}")
        return tuple([int(n) for n in array.reshape(-1)])

    def number(self, x: Val, what: str) -> float | int | bool:
        """Return a constant's only element."""
        array = self.known(x, what)
        if array.size != 1:
            raise ModelFormatError(f"{what}: expected one number, got shape {array.shape}")
        return array.reshape(-1)[0].item()

    def sources(self, number: int) -> set[int]:
        """Return the numbers of the inputs that a value is computed from."""
        found, todo, seen = set(), [number], set()
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            node = self._makers.get(value)
            if node is not None:
                todo += [v for v in node.inputs if v is not None]
            elif value not in self.constants:
                found.add(value)
        return found

    # -- small helpers that handlers share -----------------------------------------------

    def cast(self, x: Val, dtype: str) -> Val:
        """Return x in another type; x itself where it has that type."""
        return x if x.dtype == dtype else self.op("cast", x, dtype=dtype)

    def reshape(self, x: Val, shape: tuple[int, ...]) -> Val:
        """Return x under another shape; x itself where it has that shape."""
        return x if x.shape == tuple(shape) else self.op("reshape", x, shape=tuple(shape))

    def in_float(self, x: Val, function: Callable[[Val], Val]) -> Val:
        """Apply a function of floats to x of any type, and return to x's type."""
        if x.is_float:
            return function(x)
        wide = "float32" if np.dtype(x.dtype).itemsize < 4 else "float64"
        return self.cast(function(self.cast(x, wide)), x.dtype)


def _work(name: str, inputs: tuple, attrs: dict[str, Any], results: list[Value]) -> int:
    """Return about how many multiplications an operation takes."""
    size = math.prod(results[0].shape)
    if name in ("conv", "linear"):
        return size * math.prod(inputs[1].shape[1:])
    if name == "conv_transpose":
        return inputs[0].size * math.prod(inputs[1].shape[1:])
    if name == "matmul":
        return size * inputs[0].shape[-1]
    if name == "local_response_norm":
        return size * attrs["size"]
    return size * math.prod(attrs.get("kernel_size", ()))


def axis_of(axis: int, rank: int) -> int:
    """Return a non-negative axis; raise ModelFormatError where there is no such axis."""
    if not -rank <= axis < rank:
        raise ModelFormatError(f"axis {axis} is out of range for {rank} axes")
    return axis % rank


def axes_of(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Return non-negative axes, each once."""
    found = tuple([axis_of(a, rank) for a in axes])
    if len(set(found)) != len(found):
        raise ModelFormatError(f"an axis is named twice in {axes[:16]}")
    return found
