"""An addition after a convolution or linear layer, done while its result is stored."""

from __future__ import annotations

import dataclasses

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["fuse_residual"]


def fuse_residual(graph: Graph) -> Graph:
    """Return the graph with additions made the ``residual`` input of a conv or linear node.

    Only where the addition alone reads the layer's result and both operands have its shape.
    The fused node stands where the addition stood, after both operands. Of two layers that
    are added, the later takes the other's result.
    """
    editor = Editor(graph)
    producers, uses = graph.producers(), graph.uses()
    for position, node in enumerate(graph.nodes):
        if node.op != "add":
            continue
        shapes = {graph.shape(v) for v in (*node.inputs, *node.outputs)}
        candidates = [producers[v] for v in node.inputs if v in producers and uses[v] == 1
                      and _takes_residual(editor.node(producers[v]))]
        if len(shapes) > 1 or not candidates:
            continue
        before = max(candidates)
        layer = editor.node(before)
        other = next(v for v in node.inputs if v != layer.outputs[0])
        inputs = (*layer.inputs, None, None)[:3]
        editor.drop(before)
        editor.replace(position, dataclasses.replace(
            layer, inputs=(*inputs, other), outputs=node.outputs))
        producers[node.outputs[0]] = position
    return editor.finish()


def _takes_residual(node: Node | None) -> bool:
    return (node is not None and node.op in ("conv", "linear")
            and node.input(3) is None and node.attrs["activation"] is None)
