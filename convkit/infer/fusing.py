"""Nodes that the step before them does while it stores its result.

Found when a Program is lowered, so that graphs and files hold them as nodes of their own, which
quantisation and ONNX know how to take: functions of one variable, and sums of quantised values,
which other tools' files round before they are added as well as after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit.infer.graph import Graph, Node
from convkit.infer.passes.fuse_activation import takes_activation
from convkit.ops.levels import BYTES, Between, bounds
from convkit.ops.op import REGISTRY

__all__ = ["Following", "nodes_done_before"]

FUNCTIONS = frozenset((
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "logsigmoid", "mish", "selu", "sigmoid",
    "silu", "softplus", "softsign", "tanh"))
RESIDUAL = 4   # place of what a quantised layer adds among its inputs


class Following(NamedTuple):
    """A node that the step of one before it does."""

    position: int
    inputs: tuple[int | None, ...]     # of the step
    attrs: dict[str, Any]              # of the step, besides or instead of its own node's


def nodes_done_before(graph: Graph) -> dict[int, Following]:
    """Return, by the position of the node whose step does them, nodes that need no step."""
    producers, uses = graph.producers(), graph.uses()
    found: dict[int, Following] = {}
    for position, node in enumerate(graph.nodes):
        candidates = [producers[v] for v in node.inputs if uses[v] == 1 and v in producers]
        if node.op in FUNCTIONS and candidates and _takes(graph, graph.nodes[candidates[0]]):
            name, args = REGISTRY[node.op].call(**node.attrs)
            found[candidates[0]] = Following(position, graph.nodes[candidates[0]].inputs,
                                             {"activation": name, "activation_args": args})
        elif node.op == "quant_add" and candidates:
            layer = max(candidates)    # by then what it adds is there
            following = _sum(graph, position, layer)
            if (following is not None
                    and producers.get(following.inputs[RESIDUAL], -1) < layer):
                found[layer] = following
    return found


def _takes(graph: Graph, node: Node) -> bool:
    """Tell whether a node can apply a function, to floating-point numbers."""
    return (takes_activation(graph, node)
            and graph.values[node.outputs[0]].dtype in ("float32", "float64"))


def _sum(graph: Graph, position: int, layer: int) -> Following | None:
    """Return how the step of a quantised layer adds as well, or None where it does not."""
    node, total = graph.nodes[layer], graph.nodes[position]
    if node.op not in ("quant_conv", "quant_linear") or node.input(RESIDUAL) is not None:
        return None
    own, a = node.attrs, total.attrs
    mine, other = ("a", "b") if total.inputs[0] == node.outputs[0] else ("b", "a")
    alpha, _, _ = bounds(own["activation"], own["activation_args"])
    if (own["dtype"] not in BYTES or own["y_zero"] != a[f"{mine}_zero"] or alpha != 1
            or own.get("groups", 1) != 1):    # depthwise kernels add nothing
        return None
    between = Between(own["dtype"], own["y_scale"], own["y_zero"], own["activation"],
                      own["activation_args"], a[f"{mine}_scale"])
    result = ("dtype", "y_scale", "y_zero", "activation", "activation_args")
    given = [node.input(place) for place in range(RESIDUAL)]
    return Following(position, (*given, total.inputs[other == "b"]), {
        **{name: a[name] for name in result}, "residual_scale": a[f"{other}_scale"],
        "residual_zero": a[f"{other}_zero"], "between": between})
