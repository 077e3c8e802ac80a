"""Channel shuffles as one step, and channels picked beforehand in the weights."""

from __future__ import annotations

import numpy as np

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.weights import layer_at, replace_layer
from convkit.infer.schema import complete

__all__ = ["fold_take", "shuffle_to_take", "slice_of_take"]


def shuffle_to_take(graph: Graph) -> Graph:
    """Return the graph with reshape, permute, reshape that reorder channels made one ``take``.

    That is the shuffle of ShuffleNet (Zhang et al., 2018): channels seen as (g, C / g) and
    transposed. On channels-last memory the three steps copy everything three times.
    """
    editor = Editor(graph)
    producers = graph.producers()
    for position, node in enumerate(graph.nodes):
        found = _shuffle(graph, producers, node)
        if found is not None:
            x, order = found
            places = editor.add_constant(order, f"{node.name}.channels")
            editor.replace(position, Node("take", (x, places), node.outputs, {"dim": 1},
                                          node.name))
    return editor.finish()


def _shuffle(graph: Graph, producers: dict[int, int], last: Node
             ) -> tuple[int, np.ndarray] | None:
    """Return what is shuffled and the order of its channels; None when `last` ends no shuffle."""
    if last.op != "reshape" or last.inputs[0] not in producers:
        return None
    permute = graph.nodes[producers[last.inputs[0]]]
    if permute.op != "permute" or permute.inputs[0] not in producers:
        return None
    first = graph.nodes[producers[permute.inputs[0]]]
    if first.op != "reshape":
        return None
    before, middle = graph.shape(first.inputs[0]), graph.shape(first.outputs[0])
    rank = len(middle)
    swapped = [d % rank for d in permute.attrs["dims"]] == [0, 2, 1, *range(3, rank)]
    if (graph.shape(last.outputs[0]) != before or not swapped or len(before) < 2
            or before[0] != middle[0] or not all(isinstance(n, int) for n in middle[1:3])
            or middle[1] * middle[2] != before[1]):
        return None
    order = np.arange(before[1], dtype=np.int64).reshape(middle[1:3]).T.reshape(-1)
    return first.inputs[0], np.ascontiguousarray(order)


def slice_of_take(graph: Graph) -> Graph:
    """Return the graph with slices of a ``take`` along its axis taking only what they keep.

    So the halves of shuffled channels are made apart, each in memory of its own.
    """
    editor = Editor(graph)
    producers = graph.producers()
    for position, node in enumerate(graph.nodes):
        if node.op != "slice" or node.inputs[0] not in producers:
            continue
        take = graph.nodes[producers[node.inputs[0]]]
        order = graph.array(take.inputs[1]) if take.op == "take" else None
        if order is None or order.ndim != 1:
            continue
        rank = len(node.attrs["starts"])
        axis = take.attrs["dim"] % rank
        if any(node.attrs[what][i] not in usual for what, usual in (
                ("starts", (None, 0)), ("stops", (None,)), ("steps", (None, 1)))
               for i in range(rank) if i != axis):
            continue
        kept = slice(*(node.attrs[what][axis] for what in ("starts", "stops", "steps")))
        places = editor.add_constant(np.ascontiguousarray(order[kept]), f"{node.name}.channels")
        editor.replace(position, Node("take", (take.inputs[0], places), node.outputs,
                                      complete("take", {"dim": axis}), node.name))
    return editor.finish()


def fold_take(graph: Graph) -> Graph:
    """Return the graph with reorderings of channels done to the weights beside them.

    A ``take`` of channels after a convolution whose result nobody else reads picks the rows
    of its weights instead; one that only reorders, before a convolution that alone reads it,
    reorders their columns. Both for layers in one group only.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains("take", "conv", "linear"):
        if node.op == "take":
            order, layer = _picked(graph, node), layer_at(editor, before)
            if order is None or not _plain(graph, layer) or layer.node.input(3) is not None:
                continue
            layer.weight, layer.bias = layer.weight[order], layer.bias[order]
            replace_layer(graph, editor, before, layer, layer.node.inputs, node.outputs)
            editor.drop(position)
        else:
            take = editor.node(before)
            order = _picked(graph, take) if take is not None and take.op == "take" else None
            layer = None if order is None else layer_at(editor, position)
            if order is None or not _plain(graph, layer) \
                    or not np.array_equal(np.sort(order), np.arange(layer.weight.shape[1])) \
                    or len(order) != graph.shape(take.inputs[0])[1]:
                continue
            layer.weight = layer.weight[:, np.argsort(order)]
            replace_layer(graph, editor, position, layer, (take.inputs[0], *node.inputs[1:]),
                          node.outputs)
            editor.drop(before)
    return editor.finish()


def _picked(graph: Graph, take: Node) -> np.ndarray | None:
    """Return the channels that a node takes, None where it takes anything else."""
    order, shape = graph.array(take.inputs[1]), graph.shape(take.inputs[0])
    if order is None or order.ndim != 1 or len(shape) < 2 or take.attrs["dim"] % len(shape) != 1:
        return None
    count = shape[1]
    inside = isinstance(count, int) and bool(((-count <= order) & (order < count)).all())
    return order if inside else None


def _plain(graph: Graph, layer) -> bool:
    """Tell whether channels of a layer's input and result are the first axes of its weight."""
    if layer is None or layer.node.op not in ("conv", "linear"):
        return False
    if layer.node.op == "linear":
        return len(graph.shape(layer.node.outputs[0])) == 2
    return layer.node.attrs["groups"] == 1
