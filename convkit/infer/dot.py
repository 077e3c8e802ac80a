"""A graph as text in the DOT language, which Graphviz and many viewers draw."""

from __future__ import annotations

from collections.abc import Mapping

from convkit.infer.dims import show
from convkit.infer.graph import Graph, Node

__all__ = ["dot"]

COLOURS = {"conv": "#cfe2f3", "conv_transpose": "#cfe2f3", "linear": "#d9d2e9",
           "max_pool": "#d9ead3", "avg_pool": "#d9ead3", "adaptive_avg_pool": "#d9ead3",
           "concat": "#fff2cc", "add": "#fff2cc"}
OTHER = "#eeeeee"
# Attributes that say how large a window is and how it moves, where they are not 1 or 0.
WINDOW = ("stride", "dilation", "kernel_size", "output_size", "groups")


def dot(graph: Graph, notes: Mapping[int, str] | None = None) -> str:
    """Return a drawing of a graph: a box for every step, its result's shape on every arrow.

    Parameters
    ----------
    graph : Graph
        What to draw. Constants are left out, but for the shapes of weights.
    notes : dict of int to str, optional
        A line more for nodes, by their position.

    Returns
    -------
    str
        For ``dot -Tsvg``, say.
    """
    lines = ["digraph convkit {", "  rankdir=TB;",
             '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];',
             '  edge [fontname="sans-serif", fontsize=9];']
    sources = {p.value: f"in{i}" for i, p in enumerate(graph.inputs)}
    for i, port in enumerate(graph.inputs):
        lines.append(_box(f"in{i}", [port.name, show(graph.shape(port.value))], "#ffffff"))
    for position, node in enumerate(graph.nodes):
        text = _lines(graph, node)
        if notes and notes.get(position):
            text.append(notes[position])
        lines.append(_box(f"n{position}", text, COLOURS.get(node.op, OTHER)))
        for value in dict.fromkeys(node.inputs):
            if value in sources:
                lines.append(_arrow(sources[value], f"n{position}", show(graph.shape(value))))
        sources.update(dict.fromkeys(node.outputs, f"n{position}"))
    for i, port in enumerate(graph.outputs):
        lines.append(_box(f"out{i}", [port.name], "#ffffff"))
        if port.value in sources:
            lines.append(_arrow(sources[port.value], f"out{i}", show(graph.shape(port.value))))
    return "\n".join([*lines, "}"]) + "\n"


def _lines(graph: Graph, node: Node) -> list[str]:
    """Return what is written into a node's box."""
    title = node.op
    if node.op in ("conv", "linear") and node.input(3) is not None:
        title += " + add"
    if node.attrs.get("activation"):
        title += f" + {node.attrs['activation']}"
    text = [title]
    if node.name and node.name != node.op:
        text.append(node.name)
    weight = node.input(1)
    if node.op in ("conv", "conv_transpose", "linear") and weight in graph.constants:
        text.append("weight " + " x ".join(map(str, graph.shape(weight))))
    window = [f"{name} {_short(node.attrs[name])}" for name in WINDOW
              if name in node.attrs and set(_listed(node.attrs[name])) != {1}]
    return text + ([", ".join(window)] if window else [])


def _listed(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _short(value) -> str:
    values = _listed(value)
    return str(values[0]) if len(set(values)) == 1 else " x ".join(map(str, values))


def _box(name: str, lines: list[str], colour: str) -> str:
    return f'  {name} [label="{_quoted(lines)}", fillcolor="{colour}"];'


def _arrow(source: str, target: str, label: str) -> str:
    return f'  {source} -> {target} [label="{_quoted([label])}"];'


def _quoted(lines: list[str]) -> str:
    """Return lines of text as DOT writes them between quotes."""
    return "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
                      for line in lines)
