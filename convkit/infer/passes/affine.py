"""Multiply-adds per channel that stand alone: made of batch norms, merged into one another."""

from __future__ import annotations

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.weights import (
    batch_norm_vectors,
    channel_vectors,
    layer_at,
    replace_layer,
)

__all__ = ["batch_norm_to_affine", "fold_affine_into_next", "merge_affines"]


def batch_norm_to_affine(graph: Graph) -> Graph:
    """Return the graph with every inference batch norm turned into an ``affine`` step."""
    editor = Editor(graph)
    for position, node in enumerate(graph.nodes):
        vectors = batch_norm_vectors(editor, node) if node.op == "batch_norm" else None
        if vectors is None:
            continue
        dtype = editor.array(node.inputs[3]).dtype
        scale, shift = (editor.add_constant(v.astype(dtype), f"{node.name}.{what}")
                        for v, what in zip(vectors, ("scale", "shift"), strict=True))
        attrs = {"activation": None, "activation_args": ()}
        editor.replace(position, Node(
            "affine", (node.inputs[0], scale, shift), node.outputs, attrs, node.name))
    return editor.finish()


def merge_affines(graph: Graph) -> Graph:
    """Return the graph with an ``affine`` step merged into the ``affine`` step after it.

    Only where the second alone reads the first's result and nothing is activated in between.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains("affine"):
        first = editor.node(before)
        inner = channel_vectors(editor, first) if first.op == "affine" else None
        outer = channel_vectors(editor, node.with_attrs(activation=None))
        if inner is None or outer is None:
            continue
        dtype = graph.values[node.inputs[1]].dtype
        names = [editor.name(v) for v in node.inputs[1:]]
        merged = inner[0] * outer[0], inner[1] * outer[0] + outer[1]
        constants = [editor.add_constant(v.astype(dtype), name, instead_of=old) for v, name, old
                     in zip(merged, names, node.inputs[1:], strict=True)]
        editor.replace(position, Node("affine", (first.inputs[0], *constants), node.outputs,
                                      node.attrs, node.name))
        editor.drop(before)
    return editor.finish()


def fold_affine_into_next(graph: Graph) -> Graph:
    """Return the graph with ``affine`` steps merged into the convolution or linear layer after.

    Only where that layer alone reads the result. The scale goes into the weights, the shift
    times the weights into the bias. Where the layer pads with zeros, that would be wrong at
    the borders for any shift but zero (the zeros come after the shift), so there only a scale
    without a shift is taken; padding by reflection, replication or wrapping is fine: it pads
    with shifted values.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains():
        affine = graph.nodes[before]
        vectors = channel_vectors(editor, affine) if affine.op == "affine" else None
        layer = None if vectors is None else layer_at(editor, position)
        if layer is None or not _takes(graph, node, vectors[1].any()):
            continue
        layer.scale_inputs(*vectors)
        replace_layer(graph, editor, position, layer, (affine.inputs[0], *node.inputs[1:]),
                      node.outputs)
        editor.drop(before)
    return editor.finish()


def _takes(graph: Graph, node: Node, shifted: bool) -> bool:
    """Tell whether a layer can take up what is done per channel to its input."""
    if node.op == "linear":
        return len(graph.shape(node.inputs[0])) == 2
    if node.op == "conv_transpose":  # the number of taps that reach an output pixel varies
        return not shifted
    pads_zeros = (node.attrs["padding_mode"] == "zeros"
                  and any(edge for pair in node.attrs["padding"] for edge in pair))
    return not (shifted and pads_zeros)
