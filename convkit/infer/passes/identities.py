"""Removal of steps that change nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.dead import remove_dead

__all__ = ["remove_identities"]

RESHAPES = ("reshape", "flatten")


def remove_identities(graph: Graph) -> Graph:
    """Return the graph without steps whose result is their input.

    These are reshape and flatten to the same shape, permute to the same order, slice of
    everything, pad by nothing, concat of one, nearest upsampling to the same size, pooling of
    single pixels, clamp without ends, cast to the same type, expand to the same shape, adding
    or subtracting 0, multiplying or dividing by 1, and a reshape or flatten of a reshape,
    which needs only the last. (Dropout in evaluation is no operation to begin with.)
    """
    editor = Editor(graph)
    producers = graph.producers()
    for position, node in enumerate(graph.nodes):
        source = _before_reshapes(graph, producers, node)
        if source is not None and graph.shape(source) == graph.shape(node.outputs[0]):
            editor.alias(node.outputs[0], source)
            editor.drop(position)
        elif _is_identity(graph, node):
            editor.alias(node.outputs[0], node.inputs[0])
            editor.drop(position)
        elif (kept := _kept_operand(graph, node)) is not None:
            editor.alias(node.outputs[0], kept)
            editor.drop(position)
        elif node.op == "reshape":
            editor.replace(position, dataclasses.replace(node, inputs=(source,)))
    return remove_dead(editor.finish())


def _before_reshapes(graph: Graph, producers: dict[int, int], node: Node) -> int | None:
    """Return what a reshape or flatten reads, seen through those before it; else None."""
    if node.op not in RESHAPES:
        return None
    source = node.inputs[0]
    while source in producers and graph.nodes[producers[source]].op in RESHAPES:
        source = graph.nodes[producers[source]].inputs[0]
    return source


def _is_identity(graph: Graph, node: Node) -> bool:
    """Tell whether a node's first output always equals its first input."""
    if not node.inputs or node.inputs[0] is None:
        return False
    same_shape = graph.shape(node.inputs[0]) == graph.shape(node.outputs[0])
    attrs = node.attrs
    match node.op:
        case "slice":
            return same_shape and all(step in (None, 1) for step in attrs["steps"])
        case "permute":
            rank = len(attrs["dims"])
            return [d % rank for d in attrs["dims"]] == list(range(rank))
        case "pad":
            return all(edge == 0 for pair in attrs["padding"] for edge in pair)
        case "concat":
            return len(node.inputs) == 1
        case "upsample":
            return same_shape and attrs["mode"] == "nearest" and not attrs["scale_factor"]
        case "max_pool":
            return len(node.outputs) == 1 and same_shape and set(attrs["kernel_size"]) == {1}
        case "clamp":
            return attrs["min"] is None and attrs["max"] is None
        case "pow":
            return attrs["exponent"] == 1
        case "cast" | "expand":
            return graph.values[node.inputs[0]] == graph.values[node.outputs[0]]
    return False


def _kept_operand(graph: Graph, node: Node) -> int | None:
    """Return what arithmetic with 0 or 1 leaves as it is; None where it changes something."""
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(node.op)
    if neutral is None or node.attrs.get("activation") or node.attrs.get("rounding_mode"):
        return None
    pairs = [node.inputs] if node.op in ("sub", "div") else [node.inputs, node.inputs[::-1]]
    for x, other in pairs:
        array = graph.array(other)
        if (array is not None and graph.values[x] == graph.values[node.outputs[0]]
                and array.size and bool(np.all(array == neutral))):
            return x
    return None
