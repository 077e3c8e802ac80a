"""Chains: steps whose results only the next step reads, run as one, strip by strip.

See `convkit._kernels.chain` for what that saves. A chain gives the bits of its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from convkit._kernels import chain, dispatch
from convkit.infer.conv_nodes import plan_of
from convkit.infer.graph import Graph
from convkit.infer.places import Block, Operand

__all__ = ["Emitted", "join_chains", "on_vectors"]

# Where operands of a convolution's step lie.
X, BIAS, RESIDUAL, Y = range(4)


class Emitted(NamedTuple):
    """One step: which node it belongs to and what it works on."""

    node: int
    step: Any
    operands: tuple[Operand | None, ...]
    samples: tuple[int, int]


def on_vectors(graph: Graph, precision: str) -> Graph:
    """Return a graph whose narrow layers around depthwise ones keep off tiles under `medium`.

    Those are the layers that `high` gives to vectors. Tiles take less time for each of them alone,
    but only on vectors do they make a chain with the depthwise layer, which takes less than all.
    """
    if not dispatch.has_tiles():
        return graph
    medium = {i for i, node in enumerate(graph.nodes)
              if node.op == "conv" and (node.attrs.get("precision") or precision) == "medium"}
    filters = [i for i in medium if graph.nodes[i].attrs["groups"] > 1
               and _is(graph, i, precision, "depthwise", "depthwise_bf16")]
    narrow = {i for i in _beside(graph, filters) if i in medium and _is(graph, i, "high", "direct")}
    if not narrow:
        return graph
    return dataclasses.replace(graph, nodes=tuple([
        node.with_attrs(precision="high") if i in narrow else node
        for i, node in enumerate(graph.nodes)]))


def _beside(graph: Graph, nodes: Sequence[int]) -> set[int]:
    """Return the nodes that alone read what nodes make, or make what these alone read."""
    if not nodes:
        return set()
    uses, producers = graph.uses(), graph.producers()
    made = {graph.nodes[i].outputs[0] for i in nodes}
    before = {producers[v] for v in [graph.nodes[i].inputs[0] for i in nodes]
              if v in producers and uses[v] == 1}
    return before | {i for i, node in enumerate(graph.nodes)
                     if node.inputs and node.inputs[0] in made and uses[node.inputs[0]] == 1}


def _is(graph: Graph, position: int, precision: str, *names: str) -> bool:
    """Tell whether one of these algorithms would compute a node under a precision."""
    chosen = plan_of(graph, graph.nodes[position], precision)
    return chosen is not None and chosen.name in names


def join_chains(emitted: Sequence[Emitted], handed_out: set[Block]
                ) -> tuple[list[Emitted], dict[int, int]]:
    """Join convolutions around depthwise ones with these.

    Parameters
    ----------
    emitted : sequence of Emitted
    handed_out : set of Block
        What the Program returns.

    Returns
    -------
    list of Emitted, dict of int to int
        The steps, and which nodes are parts of which other node's step now.
    """
    joined: list[Emitted] = []
    parts: dict[int, int] = {}
    at = 0
    while at < len(emitted):
        made, count = _chain(emitted, at, handed_out) or (emitted[at], 1)
        parts.update({e.node: made.node for e in emitted[at:at + count - 1]})
        joined.append(made)
        at += count
    return joined, parts


def _chain(emitted: Sequence[Emitted], at: int, handed_out: set[Block]
           ) -> tuple[Emitted, int] | None:
    """Return the longest chain that begins with a step, and how many steps it has."""
    count = 1
    while count < 3 and at + count < len(emitted) and _feeds(emitted, at + count - 1, handed_out):
        count += 1
    for length in range(count, 1, -1):
        steps = emitted[at:at + length]
        if any(e.operands[RESIDUAL] is not None for e in steps[:2]):    # only the last adds one
            continue
        step = chain.step(*[e.step for e in steps], *[None] * (3 - length))
        if step is not None:
            first, middle, last = steps[0], steps[1], steps[-1]
            narrow = last.operands if length == 3 else (None, None, None, last.operands[Y])
            return Emitted(last.node, step, (
                first.operands[X], first.operands[BIAS], middle.operands[BIAS], *narrow[BIAS:]),
                last.samples), length
    return None


def _feeds(emitted: Sequence[Emitted], at: int, handed_out: set[Block]) -> bool:
    """Tell whether a step's result is read by the next step, as its x, and by nothing else."""
    one, two = emitted[at], emitted[at + 1]
    if len(one.operands) != 4 or len(two.operands) != 4 or one.samples != two.samples:
        return False
    y = one.operands[Y]
    others = [x.block for x in (*one.operands[:Y], *two.operands[1:]) if x is not None]
    return (two.operands[X] is y and y.block.kind == "arena" and y.block not in handed_out
            and y.block not in others and (y.block.first, y.block.last) == (at, at + 1))
