"""A graph whose sizes are open, for one choice of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from convkit.errors import ShapeError
from convkit.infer.dims import Shape, at_sizes, attrs_at, is_open, show
from convkit.infer.graph import Graph, Node, Value
from convkit.infer.open_dims import OpenDim
from convkit.infer.verify import infer_node

__all__ = ["fix_sizes", "sizes_from"]


def fix_sizes(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """Return a graph for values of its open sizes; see `Graph.at_size`."""
    symbols = {s.name: s for s in graph.open_sizes()}
    if sizes.keys() != symbols.keys():
        raise ShapeError(f"expected a value for each of {', '.join(symbols) or 'no sizes'}, "
                         f"got {', '.join(sizes) or 'none'}")
    for name, symbol in symbols.items():
        if not symbol.holds(sizes[name]):
            raise ShapeError(f"expected {symbol}, got {sizes[name]}")
    values = {p.value: _fixed(graph.values[p.value], sizes) for p in graph.inputs}
    values.update((v, graph.values[v]) for v in graph.constants)
    nodes = []
    for node in graph.nodes:
        fixed = dataclasses.replace(node, attrs=attrs_at(node.attrs, sizes)) \
            if is_open(node.attrs) else node
        values.update(zip(node.outputs, _results(fixed, values), strict=True))
        nodes.append(fixed)
    return dataclasses.replace(graph, nodes=tuple(nodes), values=values)


def _fixed(info: Value, sizes: Mapping[str, int]) -> Value:
    return Value(at_sizes(info.shape, sizes), info.dtype)


def _results(node: Node, values: dict[int, Value]) -> list[Value]:
    """Infer what a node makes; errors name it."""
    try:
        return infer_node(node, [None if v is None else values[v] for v in node.inputs])
    except ShapeError as error:
        raise ShapeError(f"{node.name or node.op}: {error}") from None


def sizes_from(expected: Mapping[str, Shape], given: Mapping[str, Sequence[int]]
               ) -> dict[str, int]:
    """Return the values of open sizes that arrays of the `given` shapes have.

    Parameters
    ----------
    expected, given : dict of str to tuple
        Shapes of the inputs by name.

    Raises
    ------
    ShapeError
        When a size is not within its range, or has two values at once.
    """
    sizes: dict[str, int] = {}
    for name, shape in expected.items():
        for axis, d in enumerate(shape):
            if not isinstance(d, OpenDim) or len(given[name]) != len(shape):
                continue
            symbol, size = d.symbol, given[name][axis]
            if not symbol.holds(size) or sizes.setdefault(symbol.name, size) != size:
                raise ShapeError(f"input {name!r}: expected shape {show(shape)} with {symbol}, "
                                 f"got {tuple(given[name])}")
    return sizes
