"""The table that `Program.summary` returns."""

from __future__ import annotations

import math

import numpy as np

from convkit.infer.dims import at_batch, show
from convkit.infer.graph import Graph, Node, table
from convkit.infer.lowering import Lowered
from convkit.infer.model_summary import steps

__all__ = ["algorithm_of", "program_table"]

# Of which the memory is told where steps are cut, as it does not grow by sample.
BATCH = 32
HEAD = ("step", "op", "output", "bytes", "parameters", "FLOPs", "fused", "algorithm")


def program_table(graph: Graph, lowered: Lowered) -> str:
    """Return a line for every node, the totals, how batches are cut, and what a call needs."""
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
    cuts = _cuts(graph, lowered)
    return "\n".join([*inputs, table(rows, right=(3, 4, 5)), *cuts, memory])


def _cuts(graph: Graph, lowered: Lowered) -> list[str]:
    """Return a line on how batches go through the steps, where these are cut."""
    if not lowered.segments:
        return []
    parts = []
    for segment in lowered.segments:
        last = lowered.nodes[segment.stop - 1]
        parts.append(f"{segment.samples or 'all'} up to "
                     + (graph.nodes[last].name if last >= 0 else "(outputs)"))
    values, _ = lowered.runner.bytes(BATCH, 1)
    return [f"samples of a batch that a thread takes at a time: {', '.join(parts)}; "
            f"arena of {BATCH} samples on one thread: {values:,} bytes"]


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
