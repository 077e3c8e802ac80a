"""What computes a graph's convolutions: asked before their steps are made."""

from __future__ import annotations

import numpy as np

from convkit.infer.dims import BatchDim
from convkit.infer.graph import Graph, Node
from convkit.ops.conv import planned
from convkit.ops.conv_algorithms import Algorithm

__all__ = ["plan_of"]


def plan_of(graph: Graph, node: Node, precision: str) -> type[Algorithm] | None:
    """Return what computes a node in one step of its own, under a precision.

    None where it is no such convolution: of float32, with constant weights, padded with zeros, of
    sizes that are known.
    """
    if node.op != "conv" or node.attrs.get("padding_mode", "zeros") != "zeros":
        return None
    given = [graph.constants.get(v) for v in node.inputs[1:3] if v is not None]
    shape = graph.shape(node.inputs[0])
    if any(c is None or c.dtype != np.float32 for c in given) or 0 in shape or any(
            isinstance(d, BatchDim) for d in shape[1:]):
        return None
    return planned(shape, given[0].shape, given[0].dtype, precision, **node.attrs)[1]
