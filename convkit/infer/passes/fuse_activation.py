"""An activation applied while the step before it stores its result."""

from __future__ import annotations

import dataclasses
import math

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["fuse_activation", "fused_form", "takes_activation"]

# Steps that have the attributes `activation` and `activation_args`.
FUSING = ("conv", "linear", "affine", "add")


def fuse_activation(graph: Graph) -> Graph:
    """Return the graph with activations made attributes of the steps before.

    These are relu, relu6, leaky_relu (``activation_args`` is its slope), and clamp and
    hardtanh ("clamp", with the lower and the upper end). Only where the activation alone
    reads that step's result; an addition takes one where both operands are whole.
    """
    editor = Editor(graph)
    for position, node, before in editor.chains():
        form, step = fused_form(node), editor.node(before)
        if form is None or step is None or not takes_activation(graph, step):
            continue
        fused = step.with_attrs(activation=form[0], activation_args=form[1])
        editor.replace(before, dataclasses.replace(fused, outputs=node.outputs))
        editor.drop(position)
    return editor.finish()


def fused_form(node: Node) -> tuple[str, tuple[float, ...]] | None:
    """Return name and arguments of an activation as other steps apply it; None where none does."""
    match node.op:
        case "relu" | "relu6":
            return node.op, ()
        case "leaky_relu":
            return node.op, (node.attrs["negative_slope"],)
        case "hardtanh":
            return "clamp", (node.attrs["min_val"], node.attrs["max_val"])
        case "clamp":
            low, high = node.attrs["min"], node.attrs["max"]
            return "clamp", (-math.inf if low is None else low, math.inf if high is None else high)
    return None


def takes_activation(graph: Graph, step: Node) -> bool:
    """Tell whether a step can apply an activation to its result."""
    if step.op not in FUSING or step.attrs.get("activation") is not None:
        return False
    infos = {graph.values[v] for v in (*step.inputs, *step.outputs) if v is not None}
    return step.op != "add" or (len(infos) == 1 and infos.pop().dtype in ("float32", "float64"))
