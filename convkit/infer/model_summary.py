"""What a network is made of, in numbers: shapes, parameters, operations, receptive fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from convkit.infer.cost import flops
from convkit.infer.dims import Shape, show
from convkit.infer.graph import Graph, Node, table
from convkit.infer.receptive import Field, receptive_fields
from convkit.infer.tracing import trace

__all__ = ["ModelSummary", "Step", "steps", "summary"]


class Step(NamedTuple):
    """One operation of a graph.

    Attributes
    ----------
    node : Node
        The operation itself.
    shape : tuple
        Of its first output.
    constants : tuple of int
        Value numbers of the constants that are read here for the first time.
    flops : int
        Floating-point operations for one sample, two for a multiply-add.
    """

    node: Node
    shape: Shape
    constants: tuple[int, ...]
    flops: int


def steps(graph: Graph) -> Iterator[Step]:
    """Yield a graph's operations with what they cost; the one source of all such tables."""
    seen: set[int] = set()
    for node in graph.nodes:
        new = tuple(dict.fromkeys(v for v in node.inputs if v in graph.constants
                                  and v not in seen))
        seen.update(new)
        yield Step(node, graph.shape(node.outputs[0]), new, flops(graph, node))


class ModelSummary:
    """A table of a network's operations; `print` shows it.

    Attributes
    ----------
    graph : Graph
        The operations, as the model runs them in evaluation.
    parameters : int
        Numbers that are learned: elements of all parameters, also of those that the run for
        the summary did not meet.
    trainable : int
        Of those, elements of parameters that require a gradient.
    flops : int
        Floating-point operations for one sample, two for a multiply-add.
    receptive_field : tuple of int or None
        Of the first output, per spatial axis, in pixels; None for the whole input.
    """

    def __init__(self, model: Any, graph: Graph):
        self.graph = graph
        named = list(model.named_parameters()) if hasattr(model, "named_parameters") else []
        names = {name for name, _ in named}
        self._learned = {v for v, c in graph.constants.items()
                         if c.name in names or not hasattr(model, "named_parameters")}
        self.parameters = sum(p.numel() for _, p in named) if named else sum(
            graph.constants[v].size for v in self._learned)
        self.trainable = sum(p.numel() for _, p in named if p.requires_grad)
        self.steps = tuple(steps(graph))
        self.flops = sum(step.flops for step in self.steps)
        self._fields = receptive_fields(graph)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """The first output's receptive field."""
        field = self._fields.get(self.graph.outputs[0].value)
        return None if field is None else field.pixels

    def field(self, name: str) -> Field | None:
        """Return the receptive field behind the step of a name, None for the whole input.

        Raises
        ------
        KeyError
            When no step has the name.
        """
        for step in self.steps:
            if step.node.name == name:
                return self._fields.get(step.node.outputs[0])
        raise KeyError(f"no step is called {name!r}; there are "
                       f"{', '.join(step.node.name for step in self.steps)}")

    def __str__(self) -> str:
        rows = [("step", "op", "output", "parameters", "FLOPs", "sees")]
        for step in self.steps:
            own = sum(self.graph.constants[v].size for v in step.constants
                      if v in self._learned)
            out = step.node.outputs[0]
            field = self._fields.get(out)
            sees = "" if out not in self._fields else "all" if field is None \
                else " x ".join(map(str, field.pixels))
            rows.append((step.node.name, step.node.op, show(step.shape), f"{own:,}",
                         f"{step.flops:,}", sees))
        rows.append(("total", "", "", f"{self.parameters:,}", f"{self.flops:,}", ""))
        inputs = [f"input {port.name}: {show(self.graph.shape(port.value))}"
                  for port in self.graph.inputs]
        return "\n".join([*inputs, table(rows, right=(3, 4))])

    __repr__ = __str__


def summary(model: Any, input_shape: Any = None, example: Any = None) -> ModelSummary:
    """Return a network's operations with shapes, parameters, FLOPs and receptive fields.

    Parameters
    ----------
    model : Module or callable
        Run in evaluation mode; all modes are as before afterwards.
    input_shape : tuple of int, list or dict of them, optional
        The full shape, batch first; see `convkit.infer.trace`.
    example : array_like, optional
        A sample input instead.

    Examples
    --------
    >>> from convkit import nn
    >>> print(summary(nn.Conv2d(1, 2, 3), (1, 1, 8, 8)).receptive_field)
    (3, 3)
    """
    return ModelSummary(model, trace(model, input_shape, example))
