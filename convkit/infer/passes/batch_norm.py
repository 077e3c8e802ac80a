"""What follows a convolution or linear layer per channel, folded into its weights."""

from __future__ import annotations

from convkit.infer.graph import Editor, Graph
from convkit.infer.passes.weights import channel_vectors, layer_at, replace_layer

__all__ = ["fold_batch_norm"]


def fold_batch_norm(graph: Graph) -> Graph:
    """Return the graph with batch norms and affine steps merged into the layers before them.

    Only where the layer's result goes nowhere else, nothing is fused between the two, and
    the layer's output channels are the axis that is normalised. Weights are computed in
    float64 and rounded once.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains("batch_norm", "affine"):
        layer = layer_at(editor, before)
        vectors = channel_vectors(editor, node.with_attrs(activation=None))
        if layer is None or vectors is None or not _foldable(graph, layer.node):
            continue
        if node.attrs.get("activation") is not None:  # of an affine step
            if "activation" not in layer.node.attrs:
                continue
            layer.node = layer.node.with_attrs(**node.attrs)
        layer.scale_outputs(*vectors)
        replace_layer(graph, editor, before, layer, layer.node.inputs, node.outputs)
        editor.drop(position)
    return editor.finish()


def _foldable(graph: Graph, node) -> bool:
    """Tell whether axis 1 of a layer's result is its output channels, with nothing fused."""
    if node.attrs.get("activation") is not None or node.input(3) is not None:
        return False
    return node.op != "linear" or len(graph.shape(node.outputs[0])) == 2
