"""The table that `Program.summary` returns."""

from __future__ import annotations

import math

import numpy as np

from convkit.infer.dims import at_batch, show
from convkit.infer.graph import Graph, Node, table
from convkit.infer.lowering import Lowered
from convkit.infer.model_summary import steps

__all__ = ["algorithm_of", "program_table"]

HEAD = ("step", "op", "output", "bytes", "parameters", "FLOPs", "fused", "algorithm")


def program_table(graph: Graph, lowered: Lowered) -> str:
    """Return a line for every node, the totals, and what a call needs of memory."""
    rows = [HEAD]
    total = 0
    for position, (node, shape, new, work) in enumerate(steps(graph)):
        total += work
        rows.append((node.name, node.op, show(shape), f"{_bytes(graph, node):,}",
                     f"{sum(graph.constants[v].size for v in new):,}", f"{work:,}",
                     _fused(node), algorithm_of(lowered, position)))
    rows.append(("total", "", "", "", f"{graph.parameters():,}", f"{total:,}", "", ""))
    inputs = [f"input {port.name}: {show(graph.shape(port.value))}" for port in graph.inputs]
    scaled, fixed = lowered.arena
    _, scratch = lowered.runner.bytes(1, 1)
    memory = (f"arena for intermediates: {scaled:,} bytes a sample"
              + (f" and {fixed:,} beside" if fixed else "")
              + f"; scratch for one sample on one thread: {scratch:,} bytes"
              + f"; reorders: {lowered.reorders}")
    return "\n".join([*inputs, table(rows, right=(3, 4, 5)), memory])


def algorithm_of(lowered: Lowered, position: int) -> str:
    """Return what computes a node: an algorithm's name, "python", or nothing to say."""
    if position in lowered.python:
        return "python"
    return lowered.algorithms.get(position, "")


def _fused(node: Node) -> str:
    """Return what is done while a node's result is stored."""
    fused = ["add"] if node.op in ("conv", "linear") and node.input(3) is not None else []
    if node.attrs.get("activation"):
        fused.append(node.attrs["activation"])
    return " + ".join(fused)


def _bytes(graph: Graph, node: Node) -> int:
    """Return the bytes of one sample's results."""
    return sum([math.prod(at_batch(graph.shape(v), 1)) * np.dtype(graph.values[v].dtype).itemsize
                for v in node.outputs])
