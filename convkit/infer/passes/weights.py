"""Scaling the weights of convolutions and linear layers, per channel, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["WEIGHTED", "Layer", "batch_norm_vectors", "channel_vectors", "layer_at",
           "replace_layer"]

WEIGHTED = ("conv", "conv_transpose", "linear")


@dataclass
class Layer:
    """A convolution or linear node with constant weights, in float64.

    Attributes
    ----------
    weight : numpy.ndarray
        As stored: (O, C/g, k...), (C, O/g, k...) for conv_transpose, (O, I) for linear.
    bias : numpy.ndarray
        (O,); zeros where the layer has none.
    """

    node: Node
    weight: np.ndarray
    bias: np.ndarray

    def scale_outputs(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Make the layer compute scale * y + shift instead of y, per output channel."""
        if self.node.op == "conv_transpose":
            groups = self.node.attrs["groups"]
            grouped = self.weight.reshape(groups, -1, *self.weight.shape[1:])
            factor = scale.reshape(groups, 1, -1, *(1,) * (self.weight.ndim - 2))
            self.weight = (grouped * factor).reshape(self.weight.shape)
        else:
            self.weight = self.weight * scale.reshape(-1, *(1,) * (self.weight.ndim - 1))
        self.bias = self.bias * scale + shift

    def scale_inputs(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """Make the layer take x where it took scale * x + shift.

        Where a convolution pads zeros, and for a transposed one, this holds when shift is zero.
        """
        if self.node.op == "conv_transpose":
            self.weight = self.weight * scale.reshape(-1, *(1,) * (self.weight.ndim - 1))
            return
        groups = self.node.attrs.get("groups", 1)
        grouped = self.weight.reshape(groups, -1, *self.weight.shape[1:])
        form = (groups, 1, -1, *(1,) * (self.weight.ndim - 2))
        taps = tuple(range(2, grouped.ndim))
        self.bias = self.bias + (grouped * shift.reshape(form)).sum(axis=taps).reshape(-1)
        self.weight = (grouped * scale.reshape(form)).reshape(self.weight.shape)


def layer_at(editor: Editor, position: int | None) -> Layer | None:
    """Return the layer at a position; None unless weight and bias are constants."""
    node = editor.node(position) if position is not None else None
    if node is None or node.op not in WEIGHTED:
        return None
    weight, bias = editor.array(node.input(1)), editor.array(node.input(2))
    if weight is None or (node.input(2) is not None and bias is None):
        return None
    count = weight.shape[0]
    if node.op == "conv_transpose":
        count = weight.shape[1] * node.attrs["groups"]
    return Layer(node, weight.astype(np.float64),
                 np.zeros(count) if bias is None else bias.astype(np.float64))


def replace_layer(graph: Graph, editor: Editor, position: int, layer: Layer,
                  inputs: tuple[int | None, ...], outputs: tuple[int, ...]) -> None:
    """Put a layer with its new weights in place; its inputs other than weight and bias as given."""
    node = layer.node
    old_weight, old_bias = node.input(1), node.input(2)
    dtype = editor.array(old_weight).dtype
    weight_name = editor.name(old_weight)
    bias_name = editor.name(old_bias) if old_bias is not None else _bias_name(weight_name)
    weight = editor.add_constant(layer.weight.astype(dtype), weight_name, instead_of=old_weight)
    bias = editor.add_constant(layer.bias.astype(dtype), bias_name, instead_of=old_bias)
    editor.replace(position, Node(
        node.op, (inputs[0], weight, bias, *inputs[3:]), outputs, node.attrs, node.name))


def _bias_name(weight_name: str) -> str:
    path, _, last = weight_name.rpartition(".")
    return f"{path}.bias" if last == "weight" and path else f"{weight_name}.bias"


def batch_norm_vectors(editor: Editor, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return scale and shift (C,) in float64 of an inference batch norm with constants only.

    y = (x - mean) / sqrt(var + eps) * weight + bias (Ioffe and Szegedy, 2015).
    """
    arrays = [editor.array(v) for v in node.inputs[1:]]
    if any(a is None and v is not None for a, v in zip(arrays, node.inputs[1:], strict=True)):
        return None
    weight, bias, mean, var = [None if a is None else a.astype(np.float64) for a in arrays]
    scale = 1 / np.sqrt(var + node.attrs["eps"])
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def channel_vectors(editor: Editor, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return scale and shift (C,) in float64 of a step that does nothing else per channel.

    That is a batch norm or an affine step, of constants only, without an activation.
    """
    if node.op == "batch_norm":
        return batch_norm_vectors(editor, node)
    if node.op != "affine" or node.attrs["activation"] is not None:
        return None
    arrays = [editor.array(v) for v in node.inputs[1:]]
    if any(a is None for a in arrays):
        return None
    scale, shift = (a.astype(np.float64) for a in arrays)
    return scale, shift
