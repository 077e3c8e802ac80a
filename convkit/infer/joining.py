"""Concatenations without copies: values that are made where they are to be joined.

The largest concatenation of channels gets a block; its inputs have their parts of it. A
convolution writes its result there, anything else is copied once. A smaller concatenation
of values that follow each other in the block (as in dense blocks, where each layer takes what
all layers before it made) is that stretch of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from convkit.infer.dims import BatchDim, Shape, at_batch
from convkit.infer.graph import Graph
from convkit.infer.places import Operand

__all__ = ["Part", "Whole", "follow", "reserve"]

# Readers for which a part of wider pixels is as good as pixels of its own.
READ_PARTS = frozenset(("concat", "affine", "batch_norm"))


@dataclass(eq=False)
class Whole:
    """The block of a concatenation, made when first asked for."""

    shape: Shape
    dtype: np.dtype
    _place: Operand | None = field(default=None)

    def place(self, b: Any) -> Operand:
        """Return the place of all of it."""
        if self._place is None:
            self._place = b.new_last(self.shape, self.dtype)
        return self._place


@dataclass(frozen=True, eq=False)
class Part:
    """Channels start to stop of a block, where a value belongs."""

    whole: Whole
    start: int
    stop: int

    def place(self, b: Any) -> Operand:
        """Return the part's place."""
        return self.whole.place(b).part(1, self.start, self.stop)


def reserve(graph: Graph) -> tuple[dict[int, Part], dict[int, Whole]]:
    """Return the parts that values should be made in, and the blocks by what they hold."""
    found: dict[int, Part] = {}
    wholes: dict[int, Whole] = {}
    if not any(node.op == "concat" for node in graph.nodes):
        return found, wholes
    made = {node.outputs[0]: node for node in graph.nodes}
    readers: dict[int, set[str]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value, set()).add(_reader(graph, node))
    for port in graph.outputs:
        readers.setdefault(port.value, set()).add("output")
    joins = {node.outputs[0]: node for node in graph.nodes
             if node.op == "concat" and _takes(graph, node)}

    def assign(value: int, whole: Whole, start: int) -> int:
        """Give a value its part, and its inputs theirs if it is a concatenation."""
        stop = start + graph.shape(value)[1]
        if value in made and value not in found and readers[value] <= READ_PARTS:
            if value in joins:
                assign_all(joins[value], whole, start)
            found[value] = Part(whole, start, stop)
        return stop

    def assign_all(node: Any, whole: Whole, start: int) -> None:
        for value in node.inputs:
            start = assign(value, whole, start)

    for node in sorted(joins.values(), key=lambda n: -graph.shape(n.outputs[0])[1]):
        if node.outputs[0] not in found:
            info = graph.values[node.outputs[0]]
            whole = wholes[node.outputs[0]] = Whole(info.shape, np.dtype(info.dtype))
            assign_all(node, whole, 0)
    return found, wholes


def _reader(graph: Graph, node: Any) -> str:
    """Return what a node is to those it reads: its operation, "affine" for like ones."""
    if node.op == "conv" and node.input(3) is None:
        sizes = graph.shape(node.inputs[1])[2:]
        unit = all(s == 1 for s in node.attrs["stride"]) and node.attrs["groups"] == 1
        if set(sizes) == {1} and unit and not any(map(any, node.attrs["padding"])):
            return "affine"
    return node.op


def _takes(graph: Graph, node: Any) -> bool:
    """Tell whether a concatenation is of channels of images in floating-point numbers."""
    shapes = [graph.shape(v) for v in node.inputs]
    return (len(shapes[0]) in (3, 4) and node.attrs["dim"] in (1, 1 - len(shapes[0]))
            and len(set(node.inputs)) == len(node.inputs)
            and all(graph.values[v].dtype in ("float32", "float64") for v in node.inputs)
            and len({graph.values[v].dtype for v in node.inputs}) == 1
            and all(not any(isinstance(d, BatchDim) for d in s[1:]) and math.prod(at_batch(s, 1))
                    for s in shapes))


def follow(parts: list[Part | None]) -> bool:
    """Tell whether parts follow each other in one block."""
    if None in parts:
        return False
    return all(a.whole is b.whole and a.stop == b.start
               for a, b in pairwise(parts))
