"""Graph: a network as a list of operations over numbered values.

A graph is never changed: passes and `trace` make new ones. Every value has a number and is
made once, by an input, a constant or a node; nodes stand in an order in which they can run.
The operations are those of ``convkit.ops``, with the very attributes their forward takes.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from convkit.infer.dims import Shape, show
from convkit.infer.open_dims import Symbol, symbols_in
from convkit.infer.schema import defaults

__all__ = ["Constant", "Editor", "Graph", "Node", "Port", "StoredConstant", "Value", "type_name"]


@lru_cache(maxsize=64)
def type_name(dtype: np.dtype) -> str:
    """Return NumPy's name of a type, which takes it microseconds to make."""
    return dtype.name


@dataclass(frozen=True)
class Value:
    """What is known of a value before it is computed.

    Attributes
    ----------
    shape : tuple of int, BatchDim or OpenDim
        Logical shape; sizes that follow the batch are ``BatchDim``, those that are open
        within a range, or follow such sizes, ``OpenDim``.
    dtype : str
        NumPy's name of the element type.
    """

    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True)
class Port:
    """A named input or output of a graph."""

    name: str
    value: int


class Constant:
    """A weight, named as in the model's state_dict.

    Attributes
    ----------
    name : str
    array : numpy.ndarray
    """

    def __init__(self, name: str, array: np.ndarray):
        self.name, self.array = name, array

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """The array's element type."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def key(self) -> int:
        """What is the same for constants that are the same array."""
        return id(self.array)

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows from there on), C-contiguous, of multiples of `rows` rows.

        A part is overwritten by the next one.
        """
        yield 0, np.ascontiguousarray(self.array)


class StoredConstant(Constant):
    """A constant that is made an array anew whenever it is asked for.

    So that only what is made of it (packed weights) stays in memory: `array` remembers the last
    array for as long as others hold it.

    Parameters
    ----------
    name : str
    stored : object
        Has `shape`, `dtype`, `array()` and `parts(rows)`.
    """

    def __init__(self, name: str, stored: Any):
        self.name, self._stored, self._last = name, stored, None

    @property
    def array(self) -> np.ndarray:
        """The values; read-only."""
        found = None if self._last is None else self._last()
        if found is None:
            found = self._stored.array()
            self._last = weakref.ref(found)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self._stored.shape

    @property
    def dtype(self) -> np.dtype:
        """The array's element type."""
        return self._stored.dtype

    @property
    def key(self) -> int:
        """What is the same for constants that are the same array."""
        return id(self._stored)

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows from there on), C-contiguous, of multiples of `rows` rows.

        A part is overwritten by the next one.
        """
        return self._stored.parts(rows)

    def __reduce__(self):
        return Constant, (self.name, self.array)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: a name from ``convkit.ops.op.REGISTRY``, and what it reads and makes.

    Attributes
    ----------
    op : str
        The operation's name.
    inputs : tuple of (int or None)
        Value numbers in the operation's order; None for an optional input left out.
    outputs : tuple of int
        Numbers of the values made.
    attrs : dict
        Attributes, JSON values with tuples for lists.
    name : str
        What people call it, usually the layer's path in the model.
    """

    op: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def with_attrs(self, **attrs: Any) -> Node:
        """Return the node with some attributes changed."""
        return dataclasses.replace(self, attrs={**self.attrs, **attrs})

    def input(self, index: int) -> int | None:
        """Return the value number of an input, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: inputs, constants, nodes in running order, outputs.

    Attributes
    ----------
    inputs, outputs : tuple of Port
        Named values that come in and go out.
    constants : dict of int to Constant
        Values known beforehand.
    nodes : tuple of Node
        The operations, each after those it reads from.
    values : dict of int to Value
        Shape and dtype of every value.
    form : {"single", "tuple", "dict"}
        How outputs are handed to the caller.
    """

    inputs: tuple[Port, ...]
    constants: dict[int, Constant]
    nodes: tuple[Node, ...]
    outputs: tuple[Port, ...]
    values: dict[int, Value]
    form: str = "single"

    def uses(self) -> Counter[int]:
        """Return how often each value is read, by nodes and by the graph's outputs."""
        count = Counter(v for node in self.nodes for v in node.inputs if v is not None)
        count.update(port.value for port in self.outputs)
        return count

    def producers(self) -> dict[int, int]:
        """Return, for every value that a node makes, the node's position."""
        return {v: i for i, node in enumerate(self.nodes) for v in node.outputs}

    def shape(self, value: int) -> Shape:
        """Return a value's shape."""
        return self.values[value].shape

    def array(self, value: int | None) -> np.ndarray | None:
        """Return a constant's array, None when the value is no constant."""
        constant = self.constants.get(value) if value is not None else None
        return None if constant is None else constant.array

    def open_sizes(self) -> tuple[Symbol, ...]:
        """Return the sizes of inputs that may be anything within a range."""
        return symbols_in(self.shape(p.value) for p in self.inputs)

    def at_size(self, **sizes: int) -> Graph:
        """Return the graph for values of all open sizes, with only the batch left open.

        Shapes are inferred anew by the operations' rules; constants are shared.

        Raises
        ------
        ShapeError
            When a size is unknown, missing or not in its range, or an operation does not
            take what follows from it.
        """
        from convkit.infer.fixing import fix_sizes

        return fix_sizes(self, sizes)

    def dot(self) -> str:
        """Return the graph as text in the DOT language, for Graphviz and other viewers."""
        from convkit.infer.dot import dot

        return dot(self)

    def parameters(self) -> int:
        """Return the number of elements in all constants."""
        return sum(c.size for c in self.constants.values())

    def __str__(self) -> str:
        """Return a table with a line for every input, node and output.

        Attributes at their default are left out.
        """
        rows = [("value", "op", "inputs", "shape", "attributes", "name")]
        rows += [(f"%{p.value}", "input", "", show(self.shape(p.value)), "", p.name)
                 for p in self.inputs]
        rows += [self._row(node) for node in self.nodes]
        rows += [("", "output", f"%{p.value}", show(self.shape(p.value)), "", p.name)
                 for p in self.outputs]
        return table(rows)

    def _row(self, node: Node) -> tuple[str, ...]:
        usual = defaults(node.op)
        attrs = " ".join(f"{k}={_compact(v)}" for k, v in node.attrs.items()
                         if k not in usual or usual[k] != v)
        return (" ".join(f"%{v}" for v in node.outputs), node.op,
                " ".join(self._operand(v) for v in node.inputs),
                show(self.shape(node.outputs[0])), attrs, node.name)

    def _operand(self, value: int | None) -> str:
        if value is None:
            return "-"
        return self.constants[value].name if value in self.constants else f"%{value}"


def _compact(value: Any) -> str:
    return str(value).replace(" ", "")


def table(rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Lay out rows of text in columns; those listed in `right` are flush right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) if i in right else cell.ljust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in rows]
    return "\n".join(lines)


class Growing:
    """The values and constants of a graph, and those that are added to them.

    Parameters
    ----------
    graph : Graph
        It is left as it is.

    Attributes
    ----------
    values : dict of int to Value
    constants : dict of int to Constant
    """

    def __init__(self, graph: Graph):
        self.values = dict(graph.values)
        self.constants = dict(graph.constants)
        self._names = {c.name for c in graph.constants.values()}
        self._next = max(graph.values, default=-1) + 1

    def add_value(self, info: Value) -> int:
        """Return the number of a new value."""
        value, self._next = self._next, self._next + 1
        self.values[value] = info
        return value

    def add_constant(self, array: np.ndarray, name: str) -> int:
        """Add a constant, by a name that is made unique, and return its value number."""
        unique, k = name, 1
        while unique in self._names:
            unique, k = f"{name}_{k}", k + 1
        self._names.add(unique)
        value = self.add_value(Value(array.shape, type_name(array.dtype)))
        self.constants[value] = Constant(unique, array)
        return value

    def drop_constant(self, value: int) -> None:
        """Remove a constant; its name is free again."""
        self._names.discard(self.constants.pop(value).name)


class Editor(Growing):
    """Collects the changes that a pass makes, then gives the new graph.

    Nodes are addressed by their position in the graph that is edited.

    Parameters
    ----------
    graph : Graph
        The graph to start from; it is left as it is.
    """

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self._graph = graph
        self._nodes: list[Node | None] = list(graph.nodes)
        self._inserted: dict[int, list[Node]] = {}
        self._aliases: dict[int, int] = {}

    @cached_property
    def _uses(self) -> Counter[int]:
        return self._graph.uses()

    @cached_property
    def _producers(self) -> dict[int, int]:
        return self._graph.producers()

    def node(self, position: int) -> Node | None:
        """Return the node that now stands at a position, None when it was dropped."""
        return self._nodes[position]

    def chains(self, *ops: str) -> Iterator[tuple[int, Node, int]]:
        """Yield (position, node, position of the node before), where nodes follow one another.

        That is, where the node alone reads what the one before makes, as its first input; of
        nodes of these operations, or of all. Replacements made meanwhile count.
        """
        for position, node in enumerate(self._graph.nodes):
            first = node.inputs[0] if node.inputs and (not ops or node.op in ops) else None
            if first in self._producers and self._uses[first] == 1:
                yield position, node, self._producers[first]

    def add_constant(self, array: np.ndarray, name: str, instead_of: int | None = None) -> int:
        """Add a constant and return its value number.

        The name is made unique, unless the constant `instead_of` bears it and nobody reads
        that one but the node that is being rewritten: then the new constant takes its name.
        """
        old = self.constants.get(instead_of) if instead_of is not None else None
        if old is not None and old.name == name and self._uses[instead_of] <= 1:
            self.drop_constant(instead_of)
        return super().add_constant(array, name)

    def declare(self, value: int, info: Value) -> None:
        """Change what is known of a value that a rewritten node makes."""
        self.values[value] = info

    def insert(self, position: int, node: Node) -> None:
        """Put a node before the one at a position, after those inserted there earlier."""
        self._inserted.setdefault(position, []).append(node)

    def replace(self, position: int, node: Node) -> None:
        """Put another node in place of the one at a position."""
        self._nodes[position] = node
        self._producers.update(dict.fromkeys(node.outputs, position))

    def drop(self, position: int) -> None:
        """Remove the node at a position."""
        self._nodes[position] = None

    def alias(self, value: int, source: int) -> None:
        """Let all who read `value` read `source` instead."""
        self._aliases[value] = source

    def array(self, value: int | None) -> np.ndarray | None:
        """Return a constant's array, None when the value is no constant."""
        if value is None:
            return None
        constant = self.constants.get(self.resolve(value))
        return None if constant is None else constant.array

    def name(self, value: int) -> str:
        """Return a constant's name."""
        return self.constants[self.resolve(value)].name

    def resolve(self, value: int) -> int:
        """Return the value that readers of `value` read after the changes so far."""
        while value in self._aliases:
            value = self._aliases[value]
        return value

    def finish(self) -> Graph:
        """Return the edited graph, without values and constants that nothing mentions."""
        moved = self._aliases.keys()
        nodes = tuple([
            node if moved.isdisjoint(node.inputs) else dataclasses.replace(node, inputs=tuple(
                [None if v is None else self.resolve(v) for v in node.inputs]))
            for i, at in enumerate(self._nodes)
            for node in (*self._inserted.get(i, ()), at) if node is not None])
        outputs = tuple(Port(p.name, self.resolve(p.value)) for p in self._graph.outputs)
        alive = {v for node in nodes for v in (*node.inputs, *node.outputs)}
        alive.update(p.value for p in (*self._graph.inputs, *outputs))
        return Graph(
            self._graph.inputs, {v: c for v, c in self.constants.items() if v in alive},
            nodes, outputs, {v: info for v, info in self.values.items() if v in alive},
            self._graph.form)
