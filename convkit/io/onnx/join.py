"""Two graphs of one model, built for two batches, made into one whose batch is open."""

from __future__ import annotations

from convkit.errors import ShapeError, UnsupportedOperatorError
from convkit.infer.dims import BatchDim, join
from convkit.infer.graph import Graph, Node, Value
from convkit.infer.trace import join_attr

__all__ = ["join_graphs"]


def join_graphs(a: Graph, b: Graph) -> Graph:
    """Return the graph that `a` and `b` are at the batches of ``dims.PROBES``.

    Raises
    ------
    UnsupportedOperatorError
        When the model is not the same for every batch, with the place where it shows.
    """
    try:
        return _join(a, b)
    except ShapeError as error:
        raise UnsupportedOperatorError(
            f"the model does not take any batch: {error}; give input_shapes with a batch of "
            "fixed size") from None


def _join(a: Graph, b: Graph) -> Graph:
    if len(a.nodes) != len(b.nodes) or a.values.keys() != b.values.keys():
        raise ShapeError(f"it has {len(a.nodes)} operations for one batch and {len(b.nodes)} for "
                         "another")
    values = {v: _value(a, b, v) for v in a.values}
    for v, constant in a.constants.items():
        other = b.constants.get(v)
        x, y = constant.array, None if other is None else other.array
        if y is None or (x is not y and (x.shape != y.shape or x.tobytes() != y.tobytes())):
            raise ShapeError(f"constant {constant.name!r} depends on the batch")
    nodes = []
    for i, (x, y) in enumerate(zip(a.nodes, b.nodes, strict=True)):
        if (x.op, x.inputs, x.outputs) != (y.op, y.inputs, y.outputs):
            raise ShapeError(f"operation {i} is {x.op} for one batch and {y.op} for another")
        attrs = {key: _attr(i, x, y, key, values) for key in x.attrs}
        nodes.append(Node(x.op, x.inputs, x.outputs, attrs, x.name))
    return Graph(a.inputs, a.constants, tuple(nodes), a.outputs, values, a.form)


def _value(a: Graph, b: Graph, number: int) -> Value:
    x, y = a.values[number], b.values[number]
    try:
        return Value(join(x.shape, y.shape), x.dtype)
    except ShapeError as error:
        node = next((n for n in a.nodes if number in n.outputs), None)
        raise ShapeError(f"at {node.name or node.op if node else 'a constant'}: {error}") from None


def _attr(position: int, x: Node, y: Node, key: str, values: dict[int, Value]):
    """Return an attribute that holds for every batch."""
    if x.op == "expand" and key == "shape":
        before = values[x.inputs[0]].shape
        extra = len(x.attrs[key]) - len(before)
        if all(m == n or (i >= extra and isinstance(before[i - extra], BatchDim))
               for i, (m, n) in enumerate(zip(x.attrs[key], y.attrs[key], strict=True))):
            return tuple(m if m == n else -1
                         for m, n in zip(x.attrs[key], y.attrs[key], strict=True))
    return join_attr(position, x, y, key, values)
