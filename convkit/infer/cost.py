"""Floating-point operations of one node, by the usual count of two for a multiply-add."""

from __future__ import annotations

import math

from convkit.infer.dims import at_batch
from convkit.infer.graph import Graph, Node

__all__ = ["flops"]

# Operations for each element of the output; those not listed here or below count one.
PER_ELEMENT = {
    "reshape": 0, "flatten": 0, "permute": 0, "concat": 0, "slice": 0, "pad": 0,
    "affine": 2, "batch_norm": 2, "batch_norm_train": 2, "elu": 2, "gelu": 8, "silu": 4,
    "sigmoid": 4, "tanh": 4, "hardswish": 4, "hardsigmoid": 3, "softmax": 5, "log_softmax": 5,
    "clamp": 2, "hardtanh": 2, "selu": 3, "celu": 3, "softplus": 6, "logsigmoid": 5, "softsign": 3,
    "mish": 6, "layer_norm": 8, "group_norm": 7, "instance_norm": 7,
}
BILINEAR = 8
POWER = 6


def flops(graph: Graph, node: Node) -> int:
    """Return the floating-point operations that a node does for one sample.

    Products count by multiply and add (2 each), pooling and reductions by the elements
    read, other steps by the elements made.
    """
    result = math.prod(at_batch(graph.shape(node.outputs[0]), 1))
    read = [at_batch(graph.shape(v), 1) for v in node.inputs if v is not None]
    extra = result if node.attrs.get("activation") else 0
    if node.op in ("quant_conv", "quant_linear"):
        return 2 * result * math.prod(read[1][1:]) + 2 * result + extra
    if node.op in ("conv", "linear"):
        extra += result * sum(node.input(i) is not None for i in (2, 3))
        return 2 * result * math.prod(read[1][1:]) + extra
    if node.op == "conv_transpose":
        bias = result if node.input(2) is not None else 0
        return 2 * math.prod(read[0]) * math.prod(read[1][1:]) + bias
    if node.op == "matmul":
        return 2 * result * read[0][-1]
    if node.op in ("max_pool", "avg_pool", "quant_avg_pool"):
        return result * math.prod(node.attrs["kernel_size"])
    if node.op in ("adaptive_max_pool", "adaptive_avg_pool", "sum", "mean"):
        return math.prod(read[0])
    if node.op == "local_response_norm":
        return result * (2 * node.attrs["size"] + POWER)
    if node.op == "upsample":
        return 0 if node.attrs["mode"] == "nearest" else BILINEAR * result
    return PER_ELEMENT.get(node.op, 1) * result + extra
