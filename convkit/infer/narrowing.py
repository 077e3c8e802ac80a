"""Values that steps hold as bfloat16, so that they take half the memory and are converted once.

Where all convolutions that read a value multiply bfloat16, they would round it themselves: whoever
makes it may round it. Depthwise convolutions, which wait for memory, take what is rounded as well.
A largest value is the same before and after rounding, so that max pooling passes such values on.
Only where a value is also added to a result (a residual) does rounding it change anything, as it
does in other libraries' bfloat16: a tile convolution's result is then added to what was rounded
once.
"""

from __future__ import annotations

from collections.abc import Mapping

from convkit._kernels import dispatch
from convkit.infer.conv_nodes import plan_of
from convkit.infer.fusing import Following
from convkit.infer.graph import Graph, Node

__all__ = ["narrow_values"]

X, RESIDUAL = 0, 3      # places of a convolution's operands


def narrow_values(graph: Graph, precision: str, following: Mapping[int, Following]
                  ) -> frozenset[int]:
    """Return the values to hold as bfloat16.

    Parameters
    ----------
    graph : Graph
    precision : str
        Of the Program.
    following : dict of int to Following
        The nodes that other nodes' steps do as well.

    Returns
    -------
    frozenset of int
        Each made by a convolution that `narrows`, or by max pooling of such a value, and read by
        such convolutions, as what they convolve or add, and max pooling alone.
    """
    precisions = {node.attrs.get("precision") or precision
                  for node in graph.nodes if node.op == "conv"}
    if "medium" not in precisions or not dispatch.has_bfloat16():
        return frozenset()
    convs = {i for i, node in enumerate(graph.nodes) if _narrows(graph, node, precision)}
    pools = {i for i, node in enumerate(graph.nodes) if node.op == "max_pool"
             and len(node.outputs) == 1}
    results = {i: graph.nodes[following[i].position if i in following else i].outputs[0]
               for i in convs | pools}
    found = set(results.values()) - {port.value for port in graph.outputs}
    for i, node in enumerate(graph.nodes):
        if i not in pools:
            found.difference_update([v for place, v in enumerate(node.inputs)
                                     if i not in convs or place not in (X, RESIDUAL)])
    # Pooling passes values on as it finds them: either both of its values are narrow, or none.
    while half := [pair for i in pools
                   if len(pair := {graph.nodes[i].inputs[0], results[i]} & found) == 1]:
        found.difference_update(*half)
    return frozenset(found)


def _narrows(graph: Graph, node: Node, precision: str) -> bool:
    """Tell whether a node's step takes and gives bfloat16: on tiles, or depthwise."""
    chosen = plan_of(graph, node, precision)
    return chosen is not None and chosen.narrows
