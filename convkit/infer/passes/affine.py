"""Batch norms that stand alone, as one multiply-add per channel, and merged into what follows."""

from __future__ import annotations

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.weights import batch_norm_vectors, layer_at, replace_layer

__all__ = ["batch_norm_to_affine", "fold_affine_into_next"]


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


def fold_affine_into_next(graph: Graph) -> Graph:
    """Return the graph with ``affine`` steps merged into the convolution or linear layer after.

    Only where that layer alone reads the result and no zeros are padded in between (padding
    by reflection, replication or wrapping is fine: it pads with scaled values too).
    """
    editor = Editor(graph)
    producers, uses = graph.producers(), graph.uses()
    for position, node in enumerate(graph.nodes):
        before = producers.get(node.inputs[0]) if node.inputs else None
        if before is None or uses[node.inputs[0]] != 1 or not _pads_no_zeros(graph, node):
            continue
        affine = graph.nodes[before]
        if affine.op != "affine" or affine.attrs["activation"] is not None:
            continue
        layer = layer_at(editor, position)
        scale, shift = editor.array(affine.inputs[1]), editor.array(affine.inputs[2])
        if layer is None or scale is None or shift is None:
            continue
        layer.scale_inputs(scale.astype("float64"), shift.astype("float64"))
        replace_layer(graph, editor, position, layer, (affine.inputs[0], *node.inputs[1:]),
                      node.outputs)
        editor.drop(before)
    return editor.finish()


def _pads_no_zeros(graph: Graph, node: Node) -> bool:
    """Tell whether every input element that a layer reads comes through the step before it."""
    if node.op == "linear":
        return len(graph.shape(node.inputs[0])) == 2
    if node.op != "conv":
        return False
    return (node.attrs["padding_mode"] != "zeros"
            or all(edge == 0 for pair in node.attrs["padding"] for edge in pair))
