"""Removal of what no output depends on."""

from __future__ import annotations

from convkit.infer.graph import Editor, Graph

__all__ = ["remove_dead"]


def remove_dead(graph: Graph) -> Graph:
    """Return the graph without nodes, and constants, that no output depends on.

    Inputs stay even when unused: they are what callers pass.
    """
    alive = {port.value for port in graph.outputs}
    editor = Editor(graph)
    for position in reversed(range(len(graph.nodes))):
        node = graph.nodes[position]
        if alive.isdisjoint(node.outputs):
            editor.drop(position)
        else:
            alive.update(v for v in node.inputs if v is not None)
    return editor.finish()
