"""What is done per channel or element, moved before pooling, upsampling and concat.

There a convolution before can take it up: its weights a batch norm, its epilogue an activation.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.fuse_activation import fused_form, takes_activation
from convkit.infer.passes.weights import WEIGHTED, channel_vectors

__all__ = ["hoist"]


def hoist(graph: Graph) -> Graph:
    """Return the graph with steps moved before what they commute with, where that merges them.

    A batch norm or affine step moves before average pooling (unless it counts zeros that it
    pads), max pooling (scales of at least 0 only), upsampling and concat (each part gets its
    channels' share); an activation before max pooling, nearest upsampling and concat. Only
    where what they then follow is in every case a layer that takes them up and whose result
    nobody else reads.
    """
    editor = Editor(graph)
    producers, uses = graph.producers(), graph.uses()
    for position, node, before in editor.chains():
        mover = editor.node(before)
        if mover is not graph.nodes[before] or not _commutes(editor, mover, node):
            continue
        sources = mover.inputs if mover.op == "concat" else mover.inputs[:1]
        makers = [editor.node(producers[v]) if v in producers and uses[v] == 1 else None
                  for v in sources]
        if not all(_takes_up(graph, maker, node) for maker in makers):
            continue
        moved = _before_each(graph, editor, before, sources, node)
        editor.replace(before, dataclasses.replace(
            mover, inputs=(*moved, *mover.inputs[len(moved):]), outputs=node.outputs))
        editor.drop(position)
    return editor.finish()


def _commutes(editor: Editor, mover: Node, node: Node) -> bool:
    """Tell whether a step may as well be done to what a mover reads."""
    if len(mover.outputs) != 1:
        return False
    form = fused_form(node)
    if form is not None:
        rises = form[0] != "leaky_relu" or form[1][0] >= 0
        return (mover.op == "concat" or (mover.op in ("max_pool", "adaptive_max_pool") and rises)
                or (mover.op == "upsample" and mover.attrs["mode"] == "nearest"))
    vectors = channel_vectors(editor, node)
    if vectors is None:
        return False
    match mover.op:
        case "max_pool" | "adaptive_max_pool":
            return bool(np.all(vectors[0] >= 0))
        case "avg_pool":
            pads = any(mover.attrs["padding"]) and mover.attrs["count_include_pad"]
            return not pads and mover.attrs["divisor_override"] is None
    return mover.op in ("adaptive_avg_pool", "upsample", "concat")


def _takes_up(graph: Graph, maker: Node | None, node: Node) -> bool:
    """Tell whether a layer takes up a step that follows it."""
    if maker is None or maker.attrs.get("activation") is not None:
        return False
    if fused_form(node) is not None:
        return takes_activation(graph, maker)
    whole = maker.op != "linear" or len(graph.shape(maker.outputs[0])) == 2
    return maker.op in WEIGHTED and maker.input(3) is None and whole


def _before_each(graph: Graph, editor: Editor, position: int, sources: tuple[int, ...],
                 node: Node) -> list[int]:
    """Do a step to each of some values that a node reads; return the results' numbers."""
    mover = graph.nodes[position]
    rank = len(graph.shape(sources[0]))
    apart = mover.op == "concat" and mover.attrs["dim"] % rank == 1
    results, start = [], 0
    for source in sources:
        stop = start + graph.shape(source)[1] if apart else None
        constants = node.inputs[1:] if not apart else [
            None if v is None else editor.add_constant(
                np.ascontiguousarray(editor.array(v)[start:stop]), editor.name(v))
            for v in node.inputs[1:]]
        result = editor.add_value(graph.values[source])
        editor.insert(position, Node(node.op, (source, *constants), (result,), node.attrs,
                                     node.name))
        results.append(result)
        start = stop
    return results
