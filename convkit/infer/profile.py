"""Where the time of a Program's call goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.infer.cost import flops
from convkit.infer.graph import Graph, table
from convkit.infer.lowering import Lowered
from convkit.infer.program_table import algorithm_of

__all__ = ["NodeTime", "Profile", "measure"]


@dataclass(frozen=True)
class NodeTime:
    """What one node took.

    Attributes
    ----------
    name, op : str
        The node. "(inputs)" and "(outputs)" are copies at the edge.
    algorithm : str
        What computed it; "python" where there are no compiled steps.
    seconds : float
        Median over the runs of a call's time in it.
    share : float
        Of the time of all nodes, from 0 to 1.
    gflops : float
        Billions of floating-point operations a second; 0 where there are none.
    """

    name: str
    op: str
    algorithm: str
    seconds: float
    share: float
    gflops: float


@dataclass(frozen=True)
class Profile:
    """The times of a Program's nodes; `print` shows a table.

    Attributes
    ----------
    nodes : tuple of NodeTime
        In running order.
    batch, threads, repeats : int
        What was measured.
    """

    nodes: tuple[NodeTime, ...]
    batch: int
    threads: int
    repeats: int

    @property
    def seconds(self) -> float:
        """Time of all nodes together."""
        return sum([node.seconds for node in self.nodes])

    def __str__(self) -> str:
        rows = [("step", "op", "algorithm", "ms", "share", "GFLOP/s")]
        rows += [(n.name, n.op, n.algorithm, f"{1e3 * n.seconds:.3f}", f"{n.share:.1%}",
                  f"{n.gflops:.1f}" if n.gflops else "") for n in self.nodes]
        rows.append(("total", "", "", f"{1e3 * self.seconds:.3f}", "", ""))
        return (f"batch {self.batch}, threads {self.threads}, median of {self.repeats}\n"
                + table(rows, right=(3, 4, 5)))


def measure(graph: Graph, lowered: Lowered, inputs: tuple[np.ndarray, ...],
            outputs: tuple[np.ndarray, ...], batch: int, threads: int, repeats: int) -> Profile:
    """Run a Program's steps `repeats` times, after once without measuring."""
    lowered.runner.run(inputs, outputs, batch, threads)
    runs = np.zeros((repeats, len(lowered.nodes) + 1))
    for run in runs:
        lowered.runner.run(inputs, outputs, batch, threads, run)
    spent = np.median(runs, axis=0)
    by_node = np.zeros(len(graph.nodes) + 1)  # the last: copies of outputs
    np.add.at(by_node, list(lowered.nodes), spent[:-1])
    total = float(spent.sum()) or 1.0
    times = []
    if spent[-1]:
        times.append(_edge("(inputs)", spent[-1], total))
    work = np.array([float(flops(graph, node)) for node in graph.nodes])
    for part, whole in lowered.parts.items():
        work[whole] += work[part]
    for position, node in enumerate(graph.nodes):
        seconds = float(by_node[position])
        rate = float(work[position]) * batch / seconds / 1e9 if seconds else 0.0
        times.append(NodeTime(node.name, node.op, algorithm_of(lowered, position), seconds,
                              seconds / total, rate))
    if by_node[-1]:
        times.append(_edge("(outputs)", by_node[-1], total))
    return Profile(tuple(times), batch, threads, repeats)


def _edge(name: str, seconds: Any, total: float) -> NodeTime:
    """Return the line for copies at the edge."""
    return NodeTime(name, "copy", "", float(seconds), float(seconds) / total, 0.0)
