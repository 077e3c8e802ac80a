"""What export rules write to: nodes, constants and names of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convkit.errors import UnsupportedOperatorError
from convkit.infer.dims import Shape, show
from convkit.infer.graph import Graph, Node
from convkit.infer.schema import SCHEMAS
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.types import elem_of

__all__ = ["RULES", "Step", "Writer", "tensor", "writes"]

RULES: dict[str, Callable[[Writer, Step], Any]] = {}


def writes(*ops: str) -> Callable:
    """Decorate the function that writes operations of these names as ONNX nodes."""
    def enter(function: Callable) -> Callable:
        for op in ops:
            RULES[op] = function
        return function
    return enter


class Step:
    """A node of the graph that is written, with the ONNX names of its inputs.

    Attributes
    ----------
    node : Node
        The operation.
    ins : list of (str or None)
        Names of its inputs, None for those left out.
    shapes : list of (Shape or None)
        Shapes of its inputs.
    out : Shape
        Shape of its first output.
    dtype : str
        Element type of its first input.
    opened : Shape
        Shape of its first output, with open sizes where the file is to leave them open. Rules
        see them at one value, and what they write must be the same at every one.
    """

    def __init__(self, graph: Graph, node: Node, names: dict[int, str], opened: Shape):
        self.opened = opened
        self.node, self.attrs = node, node.attrs
        self.ins = [None if v is None else names[v] for v in node.inputs]
        self.shapes = [None if v is None else graph.shape(v) for v in node.inputs]
        self.dtypes = [None if v is None else graph.values[v].dtype for v in node.inputs]
        self.arrays = [graph.array(v) for v in node.inputs]
        self.out = graph.shape(node.outputs[0])
        self.dtype = self.dtypes[0]

    @property
    def rank(self) -> int:
        """Rank of the first input."""
        return len(self.shapes[0])

    def bring_together(self, w: Writer) -> None:
        """Convert operands of several types to the widest, which ONNX does not do by itself."""
        schema = SCHEMAS[self.node.op]
        if schema.inputs.split()[-2:] != ["a", "b"] or not schema.takes_floats(1):
            return
        if schema.gives == "" and set(self.dtypes) == {"bool"}:
            raise UnsupportedOperatorError(f"{self.node.op} of truth values has no form in ONNX")
        widest = schema.widest(self.dtypes[-2:])
        for i in (-2, -1):
            if self.dtypes[i] != widest:
                self.ins[i] = w.op("Cast", self.ins[i], to=elem_of(widest))
                self.dtypes[i] = widest
        self.dtype = self.dtypes[0]

    def input(self, index: int) -> str | None:
        """Return the name of an input, None where it is left out."""
        return self.ins[index] if index < len(self.ins) else None


class Writer:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self, taken: set[str]):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.label = ""
        self._taken = set(taken)
        self._small: dict[tuple, str] = {}

    def name(self, wish: str) -> str:
        """Return a name that nothing else bears."""
        name, k = wish, 1
        while name in self._taken:
            name, k = f"{wish}_{k}", k + 1
        self._taken.add(name)
        return name

    def op(self, op_type: str, *inputs: str | None, outputs: int = 1, **attrs: Any) -> Any:
        """Add a node; return the name of its output, or the names of several."""
        names = list(inputs)
        while names and names[-1] is None:
            names.pop()
        made = [self.name(f"{self.label or 'value'}/{op_type}") for _ in range(outputs)]
        given = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(require_onnx().helper.make_node(
            op_type, [n or "" for n in names], made, name=made[0], **given))
        return made[0] if outputs == 1 else made

    def makes(self, name: str) -> str | None:
        """Return which operator makes a value; None for inputs and constants."""
        return next((n.op_type for n in reversed(self.nodes) if name in n.output), None)

    def constant(self, array: Any, name: str = "constant") -> str:
        """Add a constant; return its name. Equal small ones are written once."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 else None
        if key in self._small:
            return self._small[key]
        own = self.name(name)
        self.constants.append(tensor(own, array))
        if key is not None:
            self._small[key] = own
        return own

    def scalar(self, value: float, dtype: str) -> str:
        """Add a number of a type."""
        return self.constant(np.asarray(value, dtype), "number")

    def ints(self, *values: int) -> str:
        """Add a list of int64."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), "list")

    def reshape(self, x: str, shape: Shape, keeps_batch: bool = False) -> str:
        """Reshape to a shape in which one size at most is unknown.

        `keeps_batch` tells that the first size is that of `x`, so that it may be unknown as well.
        """
        sizes = [d if isinstance(d, int) else -1 for d in shape]
        keeps_batch = keeps_batch and sizes.count(-1) > 1
        if sizes.count(-1) > 1 + keeps_batch or (keeps_batch and 0 in sizes):
            raise UnsupportedOperatorError(f"a reshape to {show(shape)}, where several sizes "
                                           "follow the batch or open sizes, has no form in ONNX")
        if keeps_batch:
            sizes[0] = 0
        return self.op("Reshape", x, self.ints(*sizes),
                       allowzero=int(0 in sizes and not keeps_batch) or None)


def tensor(name: str, array: np.ndarray) -> Any:
    """Return an array as a TensorProto."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return require_onnx().helper.make_tensor(
        name, elem_of(array.dtype.name), array.shape, little.tobytes(), raw=True)
