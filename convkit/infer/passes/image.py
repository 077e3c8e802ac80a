"""What is done to images of bytes per channel, on their way to floats or in the first weights."""

from __future__ import annotations

import numpy as np

from convkit.infer.graph import Editor, Graph, Node
from convkit.infer.passes.weights import channel_vectors, layer_at, replace_layer

__all__ = ["fold_image_scale", "merge_into_image"]


def merge_into_image(graph: Graph) -> Graph:
    """Return the graph with a scale and shift done while bytes become floats.

    For ``affine`` steps without activation that alone read an ``image`` step.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains("affine"):
        image = editor.node(before)
        if image.op != "image":
            continue
        inner, outer = _numbers(editor, image), channel_vectors(editor, node)
        if inner is None or outer is None:
            continue
        scale, shift = inner[0] * outer[0], inner[1] * outer[0] + outer[1]
        _put(editor, before, image, scale, shift, node.outputs)
        editor.drop(position)
    return editor.finish()


def fold_image_scale(graph: Graph) -> Graph:
    """Return the graph with the scale of images folded into the first layer's weights.

    What remains is to subtract a mean, in bytes' own units. Zeros that a convolution pads are
    zeros before and after a scale, so this is exact whatever is padded. Only where that layer
    alone reads the images, and no scale is zero.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains("conv", "conv_transpose"):
        image = editor.node(before)
        if image.op != "image":
            continue
        numbers = _numbers(editor, image)
        if numbers is None or not numbers[0].all() or (numbers[0] == 1).all():
            continue
        layer = layer_at(editor, position)
        if layer is None:
            continue
        scale, shift = numbers
        layer.scale_inputs(scale, np.zeros_like(scale))
        replace_layer(graph, editor, position, layer, node.inputs, node.outputs)
        _put(editor, before, image, np.ones_like(scale), shift / scale, image.outputs)
    return editor.finish()


def _numbers(editor: Editor, image: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return an image step's scale and shift in float64, None where they are computed."""
    arrays = [editor.array(v) for v in image.inputs[1:]]
    if any(a is None for a in arrays):
        return None
    scale, shift = (a.astype(np.float64) for a in arrays)
    return scale, shift


def _put(editor: Editor, position: int, image: Node, scale: np.ndarray, shift: np.ndarray,
         outputs: tuple[int, ...]) -> None:
    """Put an image step with other numbers in place."""
    constants = [editor.add_constant(new.astype(editor.array(old).dtype), editor.name(old), old)
                 for new, old in zip((scale, shift), image.inputs[1:], strict=True)]
    editor.replace(position, Node("image", (image.inputs[0], *constants), outputs, image.attrs,
                                  image.name))
