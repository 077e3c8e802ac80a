"""The graph of a model, drawn with matplotlib alone."""

from __future__ import annotations

from typing import Any

from convkit.infer.dims import show
from convkit.infer.graph import Graph
from convkit.infer.tracing import trace
from convkit.plot.canvas import axes

__all__ = ["model_graph"]

COLOURS = {"conv": "#cfe2f3", "conv_transpose": "#cfe2f3", "linear": "#d9ead3",
           "batch_norm": "#fff2cc", "add": "#f4cccc", "concat": "#f4cccc",
           "max_pool": "#d9d2e9", "avg_pool": "#d9d2e9", "adaptive_avg_pool": "#d9d2e9"}


def _layers(graph: Graph) -> tuple[dict[int, int], dict[int, float]]:
    """Return each node's row (one below its latest input) and its column within the row."""
    made = {value: i for i, node in enumerate(graph.nodes) for value in node.outputs}
    row: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        above = [row[made[v]] for v in node.inputs if v in made]
        row[i] = max(above, default=0) + 1
    column: dict[int, float] = {}
    for depth in sorted(set(row.values())):
        nodes = [i for i in row if row[i] == depth]
        wish = {i: min((column[made[v]] for v in graph.nodes[i].inputs if v in made), default=0.0)
                for i in nodes}
        free = 0.0
        for i in sorted(nodes, key=lambda n: (wish[n], n)):
            column[i] = max(wish[i], free)
            free = column[i] + 1
    return row, column


def model_graph(model: Any, input_shape: tuple[int, ...] | None = None, ax: Any = None) -> Any:
    """Draw the operations of a model from top to bottom, with what flows between them.

    Parameters
    ----------
    model : Module, Graph or Program
    input_shape : tuple of int, optional
        With the batch first; needed for a Module.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    graph = getattr(model, "graph", model)
    if not isinstance(graph, Graph):
        graph = trace(model, input_shape)
    row, column = _layers(graph)
    row_of = {p.value: (0, float(i)) for i, p in enumerate(graph.inputs)}
    place = {**row_of, **{v: (row[i], column[i]) for i, node in enumerate(graph.nodes)
                          for v in node.outputs}}
    depth, wide = max(row.values(), default=0), max(column.values(), default=0.0) + 1
    ax = axes(ax, 2.6 * wide, 0.46 * (depth + 1))
    last = {p.value for p in graph.outputs}
    for i, node in enumerate(graph.nodes):
        for v in node.inputs:
            if v in place and v not in graph.constants:
                _arrow(ax, place[v], (row[i], column[i]))
        _box(ax, row[i], column[i], f"{node.op}   {show(graph.shape(node.outputs[0]))}",
             COLOURS.get(node.op, "white"), bool(last & set(node.outputs)))
    for port in graph.inputs:
        _box(ax, *row_of[port.value], f"{port.name}   {show(graph.shape(port.value))}", "#eeeeee")
    ax.set(xlim=(-0.55, wide - 0.45), ylim=(depth + 0.6, -0.6))
    ax.set_axis_off()
    return ax


def _box(ax: Any, row: int, column: float, text: str, colour: str, heavy: bool = False) -> None:
    ax.text(column, row, text, ha="center", va="center", fontsize=7, zorder=3,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#555555",
                  "linewidth": 1.6 if heavy else 0.7})


def _arrow(ax: Any, start: tuple[int, float], end: tuple[int, float]) -> None:
    # A line to a later row than the next goes round the boxes between.
    rows = end[0] - start[0]
    bend = f"arc3,rad={0 if rows == 1 else -min(1.2, 4.4 / rows)}"
    ax.annotate("", (end[1], end[0] - 0.28), (start[1], start[0] + 0.28), zorder=1,
                arrowprops={"arrowstyle": "-|>", "color": "#777777", "linewidth": 0.9,
                            "connectionstyle": bend, "shrinkA": 0, "shrinkB": 0})
