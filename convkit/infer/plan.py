"""When each value of a graph is made and last read, so that memory is handed on early."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convkit.infer.dims import at_batch
from convkit.infer.graph import Graph, Node
from convkit.ops.op import REGISTRY

__all__ = ["Plan", "Step", "make_plan"]


@dataclass(frozen=True)
class Step:
    """One node with its values turned into slots of a list.

    Attributes
    ----------
    node : Node
        The operation.
    reads, writes : tuple of int
        Slots of its inputs (a slot that always holds None for those left out) and outputs.
    drops : tuple of int
        Slots whose values nobody reads after this step.
    """

    node: Node
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    drops: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A graph laid out for running.

    Attributes
    ----------
    steps : tuple of Step
        In running order.
    inputs, outputs : tuple of int
        Slots of the graph's inputs and outputs.
    constants : tuple of (int, int)
        Slot and value number of every constant.
    n_slots : int
        Length of the list of slots; the last always holds None.
    copies : frozenset of int
        Positions of outputs that may share memory with an input, a constant or another
        output, and so must be copied before the caller gets them.
    peak_bytes : int
        Most memory that intermediates and outputs of one sample hold at a time.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[tuple[int, int], ...]
    n_slots: int
    copies: frozenset[int]
    peak_bytes: int


def make_plan(graph: Graph) -> Plan:
    """Return the steps of a graph, with every value dropped right after its last use."""
    slots = {value: slot for slot, value in enumerate(graph.values)}
    none = len(slots)
    kept = {port.value for port in graph.outputs} | set(graph.constants)
    last = {v: i for i, node in enumerate(graph.nodes) for v in (*node.outputs, *node.inputs)
            if v is not None and v not in kept}
    ends: dict[int, list[int]] = {}
    for value, position in last.items():
        ends.setdefault(position, []).append(slots[value])
    steps = tuple(
        Step(node, tuple([none if v is None else slots[v] for v in node.inputs]),
             tuple([slots[v] for v in node.outputs]), tuple(sorted(ends.get(i, ()))))
        for i, node in enumerate(graph.nodes))
    owners = _owners(graph)
    return Plan(
        steps, tuple(slots[p.value] for p in graph.inputs),
        tuple(slots[p.value] for p in graph.outputs),
        tuple((slots[v], v) for v in graph.constants), none + 1,
        _shared_outputs(graph, owners), _peak_bytes(graph, owners))


def _owners(graph: Graph) -> dict[int, int]:
    """Return, for every value, the one whose memory it may share."""
    owner = {v: v for v in graph.values}
    for node in graph.nodes:
        if REGISTRY[node.op].views:
            owner[node.outputs[0]] = owner[node.inputs[0]]
    return owner


def _shared_outputs(graph: Graph, owners: dict[int, int]) -> frozenset[int]:
    """Return which outputs may share memory with an input, a constant or an earlier output."""
    taken = {*graph.constants, *(p.value for p in graph.inputs)}
    shared = set()
    for i, port in enumerate(graph.outputs):
        owner = owners[port.value]
        if owner in taken:
            shared.add(i)
        taken.add(owner)
    return frozenset(shared)


def _peak_bytes(graph: Graph, owners: dict[int, int]) -> int:
    """Return the most bytes that values made by nodes hold at a time, for one sample."""
    made = {owners[v] for node in graph.nodes for v in node.outputs}
    made -= {*graph.constants, *(p.value for p in graph.inputs)}
    last = {owners[v]: i for i, node in enumerate(graph.nodes)
            for v in (*node.outputs, *node.inputs) if v is not None}
    last.update((owners[p.value], len(graph.nodes)) for p in graph.outputs)
    change = [0] * (len(graph.nodes) + 2)
    for i, node in enumerate(graph.nodes):
        for v in node.outputs:
            if v in made:
                size = _bytes(graph, v)
                change[i] += size
                change[last[v] + 1] -= size
    held = peak = 0
    for delta in change:
        held += delta
        peak = max(peak, held)
    return peak


def _bytes(graph: Graph, value: int) -> int:
    """Return the size of one sample's value."""
    info = graph.values[value]
    return math.prod(at_batch(info.shape, 1)) * np.dtype(info.dtype).itemsize
