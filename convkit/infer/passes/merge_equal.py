"""One step for what several compute alike (common subexpressions)."""

from __future__ import annotations

from typing import Any

from convkit.infer.graph import Editor, Graph
from convkit.infer.schema import SCHEMAS

__all__ = ["merge_equal"]

# Larger constants are the same only where they are the same array: comparing bytes takes time.
SMALL = 4096


def merge_equal(graph: Graph) -> Graph:
    """Return the graph with each operation on the same values done once.

    Constants count as the same where they share memory, or hold the same few bytes.
    """
    editor = Editor(graph)
    first: dict[Any, int] = {}
    for value, constant in graph.constants.items():
        few = constant.size * constant.dtype.itemsize <= SMALL
        content = constant.array.tobytes() if few else constant.key
        kept = first.setdefault((constant.dtype.str, constant.shape, content), value)
        if kept != value:
            editor.alias(value, kept)
    done: dict[Any, tuple[int, ...]] = {}
    for position, node in enumerate(graph.nodes):
        if node.op not in SCHEMAS:
            continue
        reads = tuple([None if v is None else editor.resolve(v) for v in node.inputs])
        # repr tells -0.0 from 0.0 and 1 from True
        kept = done.setdefault((node.op, reads, repr(sorted(node.attrs.items()))), node.outputs)
        if kept is not node.outputs:
            for value, source in zip(node.outputs, kept, strict=True):
                editor.alias(value, source)
            editor.drop(position)
    return editor.finish()
