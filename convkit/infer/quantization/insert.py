"""Conversions put into a float graph, so that it says what is quantised and how."""

from __future__ import annotations

import dataclasses

import numpy as np

from convkit.infer.graph import Graph, Growing, Node, Value
from convkit.infer.quantization.calibrate import Statistics
from convkit.infer.quantization.fuse import LOOKUPS, MOVES, is_average
from convkit.infer.quantization.scales import Range, quantised_weight, scale_of
from convkit.infer.schema import complete

__all__ = ["insert_conversions", "layers_of", "values_to_quantise"]

BETWEEN = ("add", "concat", *LOOKUPS)


def layers_of(graph: Graph) -> dict[str, int]:
    """Return name and position of the layers that can be quantised."""
    found: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        if node.op not in ("conv", "linear") or graph.array(node.input(1)) is None:
            continue
        if node.input(2) is not None and graph.array(node.input(2)) is None:
            continue
        if node.attrs.get("padding_mode", "zeros") == "zeros" \
                and graph.values[node.inputs[0]].dtype == "float32":
            name, k = node.name or node.op, 1
            while name in found:
                name, k = f"{node.name or node.op}_{k}", k + 1
            found[name] = position
    return found


def values_to_quantise(graph: Graph, layers: set[int]) -> list[int]:
    """Return the values that are to be bytes: what layers read, and what that is made of."""
    wanted: set[int] = set()
    for position in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[position]
        if position in layers:
            wanted.update(v for v in (node.inputs[0], node.input(3)) if v is not None)
        elif (node.op in BETWEEN or _moves(node)
                or is_average(node, graph.shape(node.inputs[0]))) and node.outputs[0] in wanted:
            wanted.update(v for v in node.inputs if v is not None)
    # What only moves bytes has its input's scale.
    moved = {node.outputs[0] for node in graph.nodes
             if _moves(node) and node.inputs[0] in wanted}
    made = [p.value for p in graph.inputs] + [v for n in graph.nodes for v in n.outputs]
    return [v for v in made if v in wanted - moved and graph.values[v].dtype == "float32"]


def _moves(node: Node) -> bool:
    """Tell whether a node moves bytes as well as floats."""
    if node.op == "pad" and node.attrs["mode"] == "constant":
        return node.attrs["value"] == 0
    return node.op in MOVES and not node.attrs.get("return_indices")


def insert_conversions(graph: Graph, layers: set[int], ranges: dict[int, Range],
                       statistics: dict[int, Statistics] | None) -> Graph:
    """Return the graph with values rounded to bytes and back, and weights to int8.

    With `statistics`, the mean error that rounded weights make is taken from the bias (Nagel
    and others, "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019).
    """
    return _Inserter(graph, layers, ranges, statistics).run()


class _Inserter(Growing):
    def __init__(self, graph, layers, ranges, statistics):
        super().__init__(graph)
        self.graph, self.layers, self.ranges = graph, layers, ranges
        self.statistics = statistics
        self.nodes: list[Node] = []
        self.instead: dict[int, int] = {}
        self._uses = graph.uses()

    def run(self) -> Graph:
        for port in self.graph.inputs:
            self._convert(port.value, port.name)
        for position, node in enumerate(self.graph.nodes):
            kept = dataclasses.replace(node, inputs=tuple(
                [self.instead.get(v, v) for v in node.inputs]))
            if position in self.layers:
                kept = self._with_weight(node, kept)
            self.nodes.append(kept)
            for value in node.outputs:
                self._convert(value, node.name or node.op)
        return Graph(self.graph.inputs, self.constants, tuple(self.nodes), self.graph.outputs,
                     self.values, self.graph.form)

    def _convert(self, value: int, name: str) -> None:
        """Round a value to bytes and back, for all who read it after this."""
        if value not in self.ranges:
            return
        scale, zero = scale_of(self.ranges[value])
        levels = (self.add_constant(np.array(scale), f"{name}.scale"),
                  self.add_constant(np.array(zero, np.uint8), f"{name}.zero"))
        shape = self.graph.shape(value)
        held, back = self.add_value(Value(shape, "uint8")), self.add_value(Value(shape, "float32"))
        self.nodes.append(Node("quantize_linear", (value, *levels), (held,), complete(
            "quantize_linear", {"dtype": "uint8", "dim": 0}), name))
        self.nodes.append(Node("dequantize_linear", (held, *levels), (back,), complete(
            "dequantize_linear", {"dim": 0}), name))
        self.instead[value] = back

    def _with_weight(self, node: Node, kept: Node) -> Node:
        """Return a layer that reads int8 weights, with its bias corrected."""
        weight, bias = self.graph.array(node.inputs[1]), self.graph.array(node.input(2))
        name = self.graph.constants[node.inputs[1]].name
        x_scale = float(scale_of(self._range(node.inputs[0]))[0])
        steps, scale = quantised_weight(weight, bias, x_scale)
        if self._uses[node.inputs[1]] == 1:
            self.drop_constant(node.inputs[1])
        info = Value(weight.shape, "float32")
        held, back = self.add_constant(steps, name), self.add_value(info)
        levels = (held, self.add_constant(scale, f"{name}.scale"))
        self.nodes.append(Node("dequantize_linear", levels, (back,), complete(
            "dequantize_linear", {"dim": 0}), node.name))
        number = kept.input(2)
        if self.statistics is not None:
            rounded = steps * scale.reshape(-1, *(1,) * (weight.ndim - 1)).astype(np.float64)
            error = _mean_error(rounded - weight, self.statistics[node.inputs[0]].mean,
                                node.attrs.get("groups", 1))
            corrected = (0 if bias is None else bias.astype(np.float64)) - error
            number = self.add_constant(corrected.astype(np.float32), f"{node.name or name}.bias")
        return dataclasses.replace(
            kept, inputs=(kept.inputs[0], back, number, *kept.inputs[3:])
            if number is not None or len(kept.inputs) > 3 else (kept.inputs[0], back))

    def _range(self, value: int) -> Range:
        """Return the range of a layer's input, or of what it was moved from."""
        producers = self.graph.producers()
        while value not in self.ranges:
            value = self.graph.nodes[producers[value]].inputs[0]
        return self.ranges[value]


def _mean_error(error: np.ndarray, mean: np.ndarray, groups: int) -> np.ndarray:
    """Return the mean change of each output channel for a change of weights."""
    taps = error.reshape(groups, len(error) // groups, error.shape[1], -1).sum(axis=3)
    return np.einsum("goi,gi->go", taps, np.reshape(mean, (groups, -1))).reshape(-1)
