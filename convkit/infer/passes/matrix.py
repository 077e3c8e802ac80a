"""Products with a constant matrix as linear layers, and sums along the last axis as their bias."""

from __future__ import annotations

import dataclasses

import numpy as np

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.schema import complete

__all__ = ["matmul_to_linear"]


def matmul_to_linear(graph: Graph) -> Graph:
    """Return the graph with products by a constant matrix made ``linear``, with their bias.

    An addition of a constant (O,) after a linear layer without bias, whose result nobody else
    reads, becomes the bias.
    """
    editor = Editor(graph)
    producers, uses = graph.producers(), graph.uses()
    for position, node in enumerate(graph.nodes):
        if node.op == "matmul":
            weight = graph.array(node.inputs[1])
            if weight is None or weight.ndim != 2 or len(graph.shape(node.inputs[0])) < 2 \
                    or 0 in weight.shape:
                continue
            transposed = editor.add_constant(np.ascontiguousarray(weight.T),
                                             editor.name(node.inputs[1]), node.inputs[1])
            editor.replace(position, Node("linear", (node.inputs[0], transposed), node.outputs,
                                          complete("linear", {}), node.name))
        elif node.op == "add":
            _take_bias(graph, editor, producers, uses, position, node)
    return editor.finish()


def _take_bias(graph: Graph, editor: Editor, producers, uses, position: int, node: Node) -> None:
    """Make an addition the bias of the linear layer before it, where it is one."""
    for x, bias in (node.inputs, node.inputs[::-1]):
        array, before = graph.array(bias), producers.get(x)
        layer = None if before is None else editor.node(before)
        if (array is None or layer is None or layer.op != "linear" or uses[x] != 1
                or layer.input(2) is not None or layer.input(3) is not None
                or layer.attrs["activation"] is not None or node.attrs.get("activation")
                or graph.values[x] != graph.values[node.outputs[0]]):
            continue
        features = graph.shape(x)[-1]
        if array.size != features or array.shape[-1:] != (features,):
            continue
        number = editor.add_constant(array.reshape(-1), editor.name(bias), instead_of=bias)
        editor.replace(before, dataclasses.replace(
            layer, inputs=(*layer.inputs[:2], number), outputs=node.outputs))
        producers[node.outputs[0]] = before
        editor.drop(position)
        return
