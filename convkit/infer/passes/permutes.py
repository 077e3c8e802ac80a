"""Permutations of axes, merged, and cancelled across elementwise steps."""

from __future__ import annotations

import dataclasses

import numpy as np

from convkit.infer.graph import Editor, Graph, Node, Value

__all__ = ["cancel_permutes"]

ELEMENTWISE = frozenset((
    "relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "selu", "logsigmoid",
    "softsign", "mish", "exp", "log", "sqrt", "floor", "ceil", "round", "sign", "reciprocal",
    "sin", "cos", "erf", "neg", "abs", "softplus", "leaky_relu", "elu", "celu", "hardtanh", "gelu",
    "clamp", "pow", "cast", "add", "sub", "mul", "div", "maximum", "minimum"))


def cancel_permutes(graph: Graph) -> Graph:
    """Return the graph with permutes of permutes made one, or none where they cancel.

    A permute also cancels those before elementwise steps, where it undoes all of them and
    nobody else reads what is between: those steps then run on the axes as they were.
    Constants in between are permuted beforehand.
    """
    editor = Editor(graph)
    cancel = _Cancel(graph, editor)
    for position, node in enumerate(graph.nodes):
        if node.op != "permute":
            continue
        dims = cancel.dims(node)
        before = cancel.maker(node.inputs[0])
        if before is not None and before.op == "permute":
            inner = cancel.dims(before)
            dims = tuple([inner[d] for d in dims])
            node = dataclasses.replace(node.with_attrs(dims=dims), inputs=before.inputs)
            editor.replace(position, node)
        if dims == tuple(range(len(dims))):
            editor.alias(node.outputs[0], node.inputs[0])
            editor.drop(position)
        elif before is not None and before.op != "permute" and cancel.can(node.inputs[0], dims):
            editor.alias(node.outputs[0], cancel.rewrite(node.inputs[0], dims))
            editor.drop(position)
    return editor.finish()


class _Cancel:
    """Takes permutes out in front of elementwise steps."""

    def __init__(self, graph: Graph, editor: Editor):
        self._graph, self._editor = graph, editor
        self._producers, self._uses = graph.producers(), graph.uses()
        self._rewritten: set[int] = set()

    def maker(self, value: int) -> Node | None:
        """Return the node that now makes a value."""
        value = self._editor.resolve(value)
        at = self._producers.get(value)
        return None if at is None else self._editor.node(at)

    @staticmethod
    def dims(node: Node) -> tuple[int, ...]:
        """Return a permute's axes, counted from the front."""
        return tuple([d % len(node.attrs["dims"]) for d in node.attrs["dims"]])

    def can(self, value: int, dims: tuple[int, ...]) -> bool:
        """Tell whether a value can be had with its axes permuted, at no cost."""
        constant = self._graph.array(value)
        if constant is not None:
            return constant.ndim <= len(dims)
        node = self.maker(value)
        if node is None or value in self._rewritten:
            return False
        if node.op == "permute":
            inner = self.dims(node)
            return len(inner) == len(dims) and all(inner[d] == i for i, d in enumerate(dims))
        return (node.op in ELEMENTWISE and self._uses[value] == 1
                and len(self._graph.shape(value)) == len(dims)
                and not node.attrs.get("activation")
                and any(v not in self._graph.constants for v in node.inputs)
                and all(self.can(v, dims) for v in node.inputs))

    def rewrite(self, value: int, dims: tuple[int, ...]) -> int:
        """Return the number of the value with its axes permuted."""
        constant = self._graph.array(value)
        if constant is not None:
            if constant.size == 1:
                return value
            whole = constant.reshape((1,) * (len(dims) - constant.ndim) + constant.shape)
            return self._editor.add_constant(
                np.ascontiguousarray(whole.transpose(dims)), self._editor.name(value))
        node = self.maker(value)
        if node.op == "permute":
            return node.inputs[0]
        at = self._producers[self._editor.resolve(value)]
        self._editor.replace(at, dataclasses.replace(
            node, inputs=tuple([self.rewrite(v, dims) for v in node.inputs])))
        info = self._graph.values[value]
        self._editor.declare(value, Value(tuple([info.shape[d] for d in dims]), info.dtype))
        self._rewritten.add(value)
        return value
