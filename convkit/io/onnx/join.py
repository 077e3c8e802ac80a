"""Graphs of one model, built for several batches and sizes, made into one where those are open."""

from __future__ import annotations

from collections.abc import Sequence

from convkit.errors import ShapeError, UnsupportedOperatorError
from convkit.infer.dims import BatchDim, Shape, join, terms_of
from convkit.infer.graph import Graph, Node, Value
from convkit.infer.open_dims import Point, Term
from convkit.infer.tracing import join_attr

__all__ = ["join_graphs"]


def join_graphs(graphs: Sequence[Graph], points: Sequence[Point], shapes: Sequence[Shape]
                ) -> Graph:
    """Return the graph that `graphs` are at `points`, for inputs of open `shapes`.

    Raises
    ------
    UnsupportedOperatorError
        When the model is not the same for every batch and size, with the place where it shows.
    """
    try:
        return _join(graphs, points, shapes)
    except ShapeError as error:
        raise UnsupportedOperatorError(
            f"the model does not take any batch (and size): {error}; give input_shapes with a "
            "batch (and sizes) that are fixed") from None


def _join(graphs: Sequence[Graph], points: Sequence[Point], shapes: Sequence[Shape]) -> Graph:
    a = graphs[0]
    for b in graphs[1:]:
        _check_alike(a, b)
    known: dict[Term, None] = dict.fromkeys(terms_of(shapes))
    given = dict(zip((p.value for p in a.inputs), shapes, strict=True))
    values: dict[int, Value] = {}
    for v, info in a.values.items():
        shape = given[v] if v in given else _shape(graphs, points, v, known)
        known.update(dict.fromkeys(terms_of(shape)))
        values[v] = Value(shape, info.dtype)
    nodes = []
    for i, calls in enumerate(zip(*(g.nodes for g in graphs), strict=True)):
        x = calls[0]
        attrs = {key: _attr(i, calls, key, values, points, known) for key in x.attrs}
        nodes.append(Node(x.op, x.inputs, x.outputs, attrs, x.name))
    return Graph(a.inputs, a.constants, tuple(nodes), a.outputs, values, a.form)


def _check_alike(a: Graph, b: Graph) -> None:
    """Raise ShapeError unless two graphs do the same operations on the same constants."""
    if len(a.nodes) != len(b.nodes) or a.values.keys() != b.values.keys():
        raise ShapeError(f"it has {len(a.nodes)} operations for one batch and {len(b.nodes)} for "
                         "another")
    for v, constant in a.constants.items():
        other = b.constants.get(v)
        x, y = constant.array, None if other is None else other.array
        if y is None or (x is not y and (x.shape != y.shape or x.tobytes() != y.tobytes())):
            raise ShapeError(f"constant {constant.name!r} depends on the batch")
    for i, (x, y) in enumerate(zip(a.nodes, b.nodes, strict=True)):
        if (x.op, x.inputs, x.outputs) != (y.op, y.inputs, y.outputs):
            raise ShapeError(f"operation {i} is {x.op} for one batch and {y.op} for another")


def _shape(graphs: Sequence[Graph], points: Sequence[Point], number: int, known) -> Shape:
    try:
        return join([g.shape(number) for g in graphs], points, known)
    except ShapeError as error:
        node = next((n for n in graphs[0].nodes if number in n.outputs), None)
        raise ShapeError(f"at {node.name or node.op if node else 'a constant'}: {error}") from None


def _attr(position: int, calls: Sequence[Node], key: str, values: dict[int, Value],
          points: Sequence[Point], known):
    """Return an attribute that holds for every batch and size."""
    x = calls[0]
    if x.op == "expand" and key == "shape":
        before = values[x.inputs[0]].shape
        extra = len(x.attrs[key]) - len(before)
        columns = list(zip(*(c.attrs[key] for c in calls), strict=True))
        same = [len(set(column)) == 1 for column in columns]
        if all(one or (i >= extra and isinstance(before[i - extra], BatchDim))
               for i, one in enumerate(same)):
            return tuple([column[0] if one else -1
                          for column, one in zip(columns, same, strict=True)])
    return join_attr(position, calls, key, values, points, known)
