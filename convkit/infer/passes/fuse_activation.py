"""An activation applied while the step before it stores its result."""

from __future__ import annotations

import dataclasses

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["fuse_activation"]

FUSING = ("conv", "linear", "affine")


def fuse_activation(graph: Graph) -> Graph:
    """Return the graph with relu, relu6 and leaky_relu made attributes of the step before.

    Only where the activation alone reads that step's result. ``activation_args`` is ``()``,
    or ``(negative_slope,)`` for leaky_relu.
    """
    editor = Editor(graph)
    producers, uses = graph.producers(), graph.uses()
    for position, node in enumerate(graph.nodes):
        args = _arguments(node)
        if args is None or uses[node.inputs[0]] != 1:
            continue
        before = producers.get(node.inputs[0])
        step = None if before is None else editor.node(before)
        if step is None or step.op not in FUSING or step.attrs["activation"] is not None:
            continue
        fused = step.with_attrs(activation=node.op, activation_args=args)
        editor.replace(before, dataclasses.replace(fused, outputs=node.outputs))
        producers[node.outputs[0]] = before
        editor.drop(position)
    return editor.finish()


def _arguments(node: Node) -> tuple[float, ...] | None:
    """Return an activation's arguments; None when it is none that can be fused."""
    if node.op == "leaky_relu":
        return (node.attrs["negative_slope"],)
    return () if node.op in ("relu", "relu6") else None
