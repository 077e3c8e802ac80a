"""Activations that a network writes out in other operations, by their name."""

from __future__ import annotations

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.schema import complete

__all__ = ["name_activations"]

GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
CLAMPS = {(0.0, 6.0): "relu6", (0.0, None): "relu"}


def name_activations(graph: Graph) -> Graph:
    """Return the graph with activations in the form that other passes know.

    ``x * sigmoid(x)`` is silu, ``x * hardsigmoid(x)`` hardswish, ``clamp(x, 0, 6)`` relu6,
    ``clamp(x, 0)`` and ``maximum(x, 0)`` relu, and a prelu with one constant slope leaky_relu.
    """
    editor = Editor(graph)
    producers = graph.producers()
    for position, node in enumerate(graph.nodes):
        found = _named(graph, producers, node)
        if found is not None and graph.values[node.outputs[0]].dtype in ("float32", "float64"):
            op, x, attrs = found
            editor.replace(position, Node(op, (x,), node.outputs, complete(op, attrs), node.name))
    return editor.finish()


def _named(graph: Graph, producers: dict[int, int], node: Node) -> tuple[str, int, dict] | None:
    """Return operation, input and attributes of the activation that a node is the end of."""
    match node.op:
        case "mul":
            for x, gate in (node.inputs, node.inputs[::-1]):
                made = graph.nodes[producers[gate]] if gate in producers else None
                if made is not None and made.op in GATES and made.inputs == (x,):
                    return GATES[made.op], x, {}
        case "maximum":
            for x, zero in (node.inputs, node.inputs[::-1]):
                array = graph.array(zero)
                if (array is not None and array.size == 1 and array.item() == 0
                        and graph.values[x] == graph.values[node.outputs[0]]):
                    return "relu", x, {}
        case "clamp":
            op = CLAMPS.get((node.attrs["min"], node.attrs["max"]))
            return None if op is None else (op, node.inputs[0], {})
        case "prelu":
            slope = graph.array(node.inputs[1])
            if slope is not None and slope.size == 1:
                return "leaky_relu", node.inputs[0], {"negative_slope": slope.item()}
    return None
