"""Computing beforehand what depends on constants alone."""

from __future__ import annotations

from convkit import runtime
from convkit.infer.graph import Editor, Graph, Node
from convkit.ops.op import REGISTRY, Context

__all__ = ["fold_constants", "fold_dequantized"]


def fold_constants(graph: Graph) -> Graph:
    """Return the graph with every node whose inputs are all constants computed.

    Results take the constant's name where there is only one (a reshaped weight stays
    ``conv.weight``), else the node's. Quantised constants are left to those who multiply them
    as they are; see `fold_dequantized`.
    """
    return _fold(graph, keep=("dequantize_linear",))


def fold_dequantized(graph: Graph) -> Graph:
    """Return the graph with quantised constants made floats, where floats are read."""
    return _fold(graph, keep=())


def _fold(graph: Graph, keep: tuple[str, ...]) -> Graph:
    editor = Editor(graph)
    known = set(graph.constants)
    for position, node in enumerate(graph.nodes):
        reads = [v for v in node.inputs if v is not None]
        if node.op in keep or not reads or not known.issuperset(reads):
            continue
        results = _compute(node, [editor.array(v) for v in node.inputs])
        name = graph.constants[reads[0]].name if len(reads) == 1 and reads[0] in graph.constants \
            else node.name
        for value, array in zip(node.outputs, results, strict=True):
            editor.alias(value, editor.add_constant(array, name, instead_of=reads[0]))
        known.update(node.outputs)
        editor.drop(position)
    return editor.finish()


def _compute(node: Node, arrays: list) -> tuple:
    """Run one node."""
    ctx = Context((False,) * len(arrays), runtime.get_num_threads(), (None,) * len(arrays))
    result = REGISTRY[node.op].forward(ctx, *arrays, **node.attrs)
    return result if isinstance(result, tuple) else (result,)
