"""Arithmetic with one constant per channel, as ``affine`` steps, which other passes merge."""

from __future__ import annotations

import numpy as np

from convkit.infer.graph import Editor, Graph, Node

__all__ = ["arithmetic_to_affine"]

# Reciprocals of divisors beyond these lose digits or overflow.
DIVISORS = (1e-30, 1e30)
ARITHMETIC = frozenset(("add", "sub", "mul", "div"))
# What takes up a multiply-add before or after it, or lets it through.
PARTNERS = ARITHMETIC | {"conv", "conv_transpose", "linear", "affine", "batch_norm", "concat",
                         "max_pool", "avg_pool", "adaptive_avg_pool", "upsample"}


def arithmetic_to_affine(graph: Graph) -> Graph:
    """Return the graph with add, sub, mul, div by a constant per channel made ``affine``.

    The constant is one number, or one per channel (axis 1), of a floating-point value
    (N, C), (N, C, L) or (N, C, H, W). For (N, C, L), which may be a sequence with its
    channels last, one number stays what it is: an affine step would move the axes. So does
    arithmetic between steps of which none could take it up: as it stands it rounds once.
    """
    editor = Editor(graph)
    beside = _Beside(graph)
    for position, node in enumerate(graph.nodes):
        found = _vectors(graph, node)
        if found is None or not beside.any_takes(node):
            continue
        x, vectors = found
        dtype = graph.values[x].dtype
        scale, shift = (editor.add_constant(v.astype(dtype), f"{node.name}.{what}")
                        for v, what in zip(vectors, ("scale", "shift"), strict=True))
        attrs = {"activation": None, "activation_args": ()}
        editor.replace(position, Node("affine", (x, scale, shift), node.outputs, attrs, node.name))
    return editor.finish()


class _Beside:
    """Which operations stand before and after each value."""

    def __init__(self, graph: Graph):
        self._makers = {v: node.op for node in graph.nodes for v in node.outputs}
        self._readers: dict[int | None, set[str]] = {}
        for node in graph.nodes:
            for v in node.inputs:
                self._readers.setdefault(v, set()).add(node.op)

    def any_takes(self, node: Node) -> bool:
        """Tell whether the step before or after a node may take up a multiply-add."""
        after = self._readers.get(node.outputs[0], set())
        before = {self._makers.get(v) for v in node.inputs}
        return bool(PARTNERS & (after | before))


def _vectors(graph: Graph, node: Node) -> tuple[int, tuple[np.ndarray, np.ndarray]] | None:
    """Return the value that is not constant, with what it is multiplied by and what is added."""
    if node.op not in ARITHMETIC or node.attrs.get("activation"):
        return None
    places = [i for i, v in enumerate(node.inputs) if v in graph.constants]
    if len(places) != 1:
        return None
    at = places[0]
    x = node.inputs[1 - at]
    if graph.values[x] != graph.values[node.outputs[0]] or not _is_floating(graph, x):
        return None
    constant = _per_channel(graph, x, graph.array(node.inputs[at]))
    return None if constant is None else _scale_and_shift(node, at, x, constant)


def _scale_and_shift(node: Node, at: int, x: int, constant: np.ndarray):
    """Return x, its factor and what is added, for a constant that is operand `at`."""
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    low, high = DIVISORS
    match node.op:
        case "add":
            return x, (one, constant)
        case "sub":
            return x, ((one, -constant) if at == 1 else (-one, constant))
        case "mul":
            return x, (constant, zero)
        case "div" if at == 1 and node.attrs["rounding_mode"] is None and np.all(
                (np.abs(constant) >= low) & (np.abs(constant) <= high)):
            return x, (1 / constant, zero)
    return None


def _is_floating(graph: Graph, value: int) -> bool:
    return graph.values[value].dtype in ("float32", "float64")


def _per_channel(graph: Graph, x: int, constant: np.ndarray) -> np.ndarray | None:
    """Return a constant as one number per channel of x in float64, None where it is not that."""
    shape = graph.shape(x)
    rank = len(shape)
    if not 2 <= rank <= 4 or constant.ndim > rank or not isinstance(shape[1], int):
        return None
    aligned = (1,) * (rank - constant.ndim) + constant.shape
    if any(n != 1 for axis, n in enumerate(aligned) if axis != 1):
        return None
    if rank == 3 and constant.size == 1:
        return None
    return np.array(np.broadcast_to(constant.reshape(-1), shape[1]), np.float64)
