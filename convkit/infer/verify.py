"""Whether a graph is sound: references, attributes and shapes checked from the ground up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convkit.errors import ShapeError
from convkit.infer.dims import (
    PROBES,
    BatchDim,
    Dim,
    Shape,
    attrs_at,
    infer,
    is_open,
    points_of,
    show,
    terms_of,
)
from convkit.infer.graph import Graph, Node, Value, type_name
from convkit.infer.open_dims import OpenDim, Point, make_points
from convkit.infer.schema import OpSchema, check_attrs, schema_of
from convkit.ops.op import REGISTRY

__all__ = ["FORMS", "check_input", "check_open_attrs", "infer_node", "verify"]

NOTHING_OPEN = make_points((), PROBES)

FORMS = ("single", "tuple", "dict")
# More elements than this in one sample's value is a mistake or an attack.
MAX_ELEMENTS = 2**40


def verify(graph: Graph) -> None:
    """Check that a graph can run: what any pass must keep, and any file must fulfil.

    Raises
    ------
    ShapeError
        When a value is read before it is made or made twice, an attribute is out of its
        range, or a declared shape or dtype is not the one inferred.
    UnsupportedOperatorError
        When an operation is unknown.
    """
    known: dict[int, Value] = {}

    def define(value: int, info: Value) -> None:
        if value in known:
            raise ShapeError(f"value {value} is made twice")
        if graph.values.get(value) != info:
            raise ShapeError(f"value {value}: inferred {info}, declared {graph.values.get(value)}")
        known[value] = info

    for port in graph.inputs:
        check_input(port.name, graph.values[port.value].shape)
        define(port.value, graph.values[port.value])
    for value, constant in graph.constants.items():
        define(value, Value(constant.shape, type_name(constant.dtype)))
    points = points_of(graph.shape(p.value) for p in graph.inputs)
    for position, node in enumerate(graph.nodes):
        for value in node.inputs:
            if value is not None and value not in known:
                raise ShapeError(f"node {position} ({node.op}) reads value {value} "
                                 "before it is made")
        operands = [None if v is None else known[v] for v in node.inputs]
        results = infer_node(node, operands, points)
        if len(results) != len(node.outputs):
            raise ShapeError(f"node {position} ({node.op}): expected {len(results)} outputs, "
                             f"got {len(node.outputs)}")
        for value, info in zip(node.outputs, results, strict=True):
            define(value, info)
    if graph.form not in FORMS or not graph.outputs:
        raise ShapeError(f"expected outputs in one of the forms {FORMS}, got {graph.form!r} "
                         f"with {len(graph.outputs)} outputs")
    for port in graph.outputs:
        if port.value not in known:
            raise ShapeError(f"output {port.name!r} is value {port.value}, which is never made")


def check_input(name: str, shape: Shape) -> None:
    """Raise ShapeError unless an input's sizes are fixed, but for a batch first and ranges after.

    An axis with a range is an open size itself, not one that follows from it.
    """
    batch = [d for d in shape if isinstance(d, BatchDim)]
    derived = [d for i, d in enumerate(shape) if isinstance(d, OpenDim)
               and (i == 0 or d.symbol is None)]
    if derived or (batch and (batch != [BatchDim()] or shape[0] != BatchDim())):
        raise ShapeError(f"input {name!r}: expected a shape (N, ...) or one of whole numbers, "
                         f"got {show(shape)}")
    _check_elements(shape)


def infer_node(node: Node, operands: list[Value | None], points: Sequence[Point] = NOTHING_OPEN,
               checked: bool = False) -> list[Value]:
    """Return what a node makes of its operands, with every rule of its schema checked.

    `points` are those of the graph's inputs (`dims.points_of`), where rules are asked. Attributes
    that are `checked` already (`check_open_attrs`) are taken as they are.
    """
    schema = schema_of(node.op)
    _check_inputs(node.op, schema, operands)
    shapes = [None if v is None else v.shape for v in operands]
    attrs = node.attrs if checked else check_open_attrs(node.op, node.attrs, len(shapes[0]), points)
    each, terms = [attrs] * len(points), []
    if points[0].sizes and is_open(attrs):
        each, terms = [attrs_at(attrs, p.sizes) for p in points], terms_of(attrs)
    first = infer(REGISTRY[node.op].shape, shapes, each, points, terms)
    _check_elements(first)
    dtype = schema.result([None if v is None else v.dtype for v in operands], attrs)
    return [Value(first, dtype),
            *(Value(*extra) for extra in schema.extras(first, dtype, attrs))]


def check_open_attrs(op: str, attrs: dict[str, Any], rank: int, points: Sequence[Point]
                     ) -> dict[str, Any]:
    """Return checked attributes; those that depend on open sizes are checked at every point."""
    if not points[0].sizes or not is_open(attrs):
        return check_attrs(op, attrs, rank)
    for point in points:
        checked = check_attrs(op, attrs_at(attrs, point.sizes), rank)
    return {name: attrs[name] if is_open(attrs.get(name)) else value
            for name, value in checked.items()}


def _check_inputs(op: str, schema: OpSchema, operands: list[Value | None]) -> None:
    """Check number, presence, rank and kind of a node's operands."""
    try:
        schema.check_inputs(operands)
        schema.check_kinds([None if v is None else v.dtype for v in operands])
    except ShapeError as error:
        raise ShapeError(f"{op}: {error}") from None
    rank = len(operands[0].shape)
    if schema.ranks and rank not in schema.ranks:
        raise ShapeError(f"{op}: expected an input of rank {schema.ranks}, got {rank}")


def _check_elements(shape: Shape) -> None:
    """Raise ShapeError for negative sizes and for more elements than any network has."""
    count = 1
    for d in shape:
        size = _largest(d)
        if size < 0:
            raise ShapeError(f"negative size in shape {show(shape)}")
        count *= size
        if count > MAX_ELEMENTS:
            raise ShapeError(f"shape {show(shape)} has more than {MAX_ELEMENTS} elements a sample")


def _largest(d: Dim) -> int:
    """Return the largest size of one sample."""
    return d if isinstance(d, int) else d.factor if isinstance(d, BatchDim) else d.largest(1)
