"""Functions of one variable that the step before them applies while it stores its result.

Found when a Program is lowered, so that graphs and files hold convolution and function as two
nodes, which quantisation and ONNX know how to take.
"""

from __future__ import annotations

from typing import Any

from convkit.infer.graph import Graph, Node
from convkit.infer.passes.fuse_activation import takes_activation
from convkit.ops.op import REGISTRY

__all__ = ["functions_after"]

FUNCTIONS = frozenset((
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "logsigmoid", "mish", "selu", "sigmoid",
    "silu", "softplus", "softsign", "tanh"))


def functions_after(graph: Graph) -> dict[int, tuple[int, dict[str, Any]]]:
    """Return, for nodes whose result only such a function reads, where it is and what it is.

    Returns
    -------
    dict of int to (int, dict)
        The function's position by that of the node before; its attributes there (`activation`
        and `activation_args`).
    """
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    producers, uses = graph.producers(), graph.uses()
    for position, node in enumerate(graph.nodes):
        before = producers.get(node.inputs[0]) if node.op in FUNCTIONS else None
        if before is not None and uses[node.inputs[0]] == 1 and _takes(graph, graph.nodes[before]):
            name, args = REGISTRY[node.op].call(**node.attrs)
            found[before] = position, {"activation": name, "activation_args": args}
    return found


def _takes(graph: Graph, node: Node) -> bool:
    """Tell whether a node can apply a function, to floating-point numbers."""
    return (takes_activation(graph, node)
            and graph.values[node.outputs[0]].dtype in ("float32", "float64"))
