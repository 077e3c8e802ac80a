"""A ``pad`` step done by the convolution or pooling after it."""

from __future__ import annotations

import dataclasses
import math

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["merge_padding"]

# Operations (and fused activations) whose results are never negative.
POSITIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "exp", "abs", "sqrt")

Pairs = tuple[tuple[int, int], ...]


def merge_padding(graph: Graph) -> Graph:
    """Return the graph with constant padding of spatial axes done by the step that reads it.

    Zeros go to a convolution that pads with zeros, and, where both sides get as many, to an
    average pooling that does not pad yet. A max pooling (which pads with -inf) takes as many
    on both sides where they are -inf, or zeros around what is never negative.
    """
    editor = Editor(graph)
    producers = graph.producers()
    for position, node, before in editor.chains():
        pad = editor.node(before)
        pairs = _spatial(pad)
        if pairs is None:
            continue
        attrs = _merged(graph, producers, pad, pairs, node)
        if attrs is not None:
            editor.replace(position, dataclasses.replace(
                node.with_attrs(**attrs), inputs=(pad.inputs[0], *node.inputs[1:])))
            editor.drop(before)
    return editor.finish()


def _spatial(pad: Node | None) -> Pairs | None:
    """Return what a node pads to each spatial axis; None when it does anything else."""
    if pad is None or pad.op != "pad" or pad.attrs["mode"] != "constant":
        return None
    outer, pairs = pad.attrs["padding"][:2], pad.attrs["padding"][2:]
    if any(edge for pair in outer for edge in pair) or any(e < 0 for pair in pairs for e in pair):
        return None
    return pairs


def _merged(graph: Graph, producers: dict[int, int], pad: Node, pairs: Pairs, node: Node
            ) -> dict | None:
    """Return the attributes of a node that also pads; None when it cannot."""
    value = pad.attrs["value"]
    if node.op == "conv" and node.attrs["padding_mode"] == "zeros" and value == 0:
        return {"padding": tuple([(a + c, b + d) for (a, b), (c, d) in zip(
            pairs, node.attrs["padding"], strict=True)])}
    if node.op not in ("max_pool", "avg_pool") or node.attrs["ceil_mode"] \
            or any(node.attrs["padding"]) or any(a != b for a, b in pairs):
        return None
    each = tuple([a for a, _ in pairs])
    spacing = node.attrs.get("dilation", (1,) * len(each))
    if any(2 * p > d * (k - 1) + 1 for p, k, d in zip(
            each, node.attrs["kernel_size"], spacing, strict=True)):
        return None
    if node.op == "avg_pool":
        return {"padding": each, "count_include_pad": True} if value == 0 else None
    fits = value == -math.inf or (value == 0 and _never_negative(graph, producers, pad.inputs[0]))
    return {"padding": each} if fits and len(node.outputs) == 1 else None


def _never_negative(graph: Graph, producers: dict[int, int], value: int) -> bool:
    if value not in producers:
        return False
    node = graph.nodes[producers[value]]
    return node.op in POSITIVE or node.attrs.get("activation") in POSITIVE
