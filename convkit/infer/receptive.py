"""Receptive fields: how much of the input an element of a value depends on.

Along each spatial axis a field has a size and a jump, both in pixels of the input: the jump is
how far the fields of two neighbours are apart. A window of k taps adds k - 1 jumps to the size
and multiplies the jump by its stride (Dumoulin and Visin, "A guide to convolution arithmetic for
deep learning", 2016; Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
Networks", 2019).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from convkit.infer.dims import at_batch
from convkit.infer.graph import Graph, Node

__all__ = ["Field", "receptive_fields"]


class Field(NamedTuple):
    """A receptive field, one entry per spatial axis.

    Attributes
    ----------
    size : tuple of Fraction
        Extent in pixels of the input, padding included.
    jump : tuple of Fraction
        Distance between the fields of neighbours, in pixels of the input.
    """

    size: tuple[Fraction, ...]
    jump: tuple[Fraction, ...]

    @property
    def pixels(self) -> tuple[int, ...]:
        """The size in whole pixels."""
        return tuple(math.ceil(n) for n in self.size)


# Operations that mix all pixels of a sample, or no longer know of them.
GLOBAL = ("flatten", "matmul", "layer_norm", "group_norm", "instance_norm")
WINDOWS = ("conv", "max_pool", "avg_pool")
REDUCTIONS = ("mean", "sum", "amax", "amin", "prod", "softmax", "log_softmax", "argmax", "argmin")


def receptive_fields(graph: Graph) -> dict[int, Field | None]:
    """Return the field of every value that depends on the first input.

    Parameters
    ----------
    graph : Graph
        Whose first input is (N, C, L) or (N, C, H, W).

    Returns
    -------
    dict of int to (Field or None)
        By value number; None where an element depends on the whole input.
    """
    first = graph.inputs[0].value
    axes = len(graph.shape(first)) - 2
    if axes < 1:
        return {first: None}
    fields: dict[int, Field | None] = {first: Field((Fraction(1),) * axes, (Fraction(1),) * axes)}
    for node in graph.nodes:
        reads = [v for v in node.inputs if v in fields]
        if reads:
            joined = _joined([fields[v] for v in reads])
            after = None if joined is None else _after(graph, node, reads[0], joined)
            fields.update(dict.fromkeys(node.outputs, after))
    return fields


def _joined(fields: list[Field | None]) -> Field | None:
    """Return the field of what depends on several values: along each axis the largest."""
    if any(field is None for field in fields):
        return None
    best = [max(axis) for axis in zip(*(zip(f.size, f.jump, strict=True) for f in fields),
                                      strict=True)]
    return Field(tuple(size for size, _ in best), tuple(jump for _, jump in best))


def _after(graph: Graph, node: Node, read: int, field: Field) -> Field | None:
    """Return the field behind one operation."""
    axes = len(field.size)
    before, result = (at_batch(graph.shape(v), 1) for v in (read, node.outputs[0]))
    if node.op in GLOBAL or len(before) != axes + 2:
        return None
    if node.op in REDUCTIONS:
        dims = node.attrs["dim"]
        dims = (dims,) if isinstance(dims, int) else dims
        over = range(len(before)) if dims is None else [d % len(before) for d in dims]
        return None if any(d > 1 for d in over) or len(result) != len(before) else field
    if node.op in WINDOWS:
        kernel = node.attrs.get("kernel_size") or graph.shape(node.inputs[1])[2:]
        dilation = node.attrs.get("dilation") or (1,) * axes
        return _windowed(field, [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)],
                         [Fraction(s) for s in node.attrs["stride"]])
    if node.op == "conv_transpose":
        reach = [d * (k - 1) + 1 for k, d in zip(graph.shape(node.inputs[1])[2:],
                                                 node.attrs["dilation"], strict=True)]
        stride = node.attrs["stride"]
        return _windowed(field, [-(-k // s) for k, s in zip(reach, stride, strict=True)],
                         [Fraction(1, s) for s in stride])
    if node.op in ("adaptive_max_pool", "adaptive_avg_pool"):
        pairs = list(zip(before[2:], result[2:], strict=True))
        if any(m == 1 for _, m in pairs):
            return None
        return _windowed(field, [_widest(n, m) for n, m in pairs],
                         [Fraction(n, m) for n, m in pairs])
    if node.op in ("upsample", "resize"):
        taps = 1 if node.attrs["mode"] == "nearest" else 4 if node.attrs["mode"] == "cubic" else 2
        pairs = list(zip(before[2:], result[2:], strict=True))
        return _windowed(field, [taps if n != m else 1 for n, m in pairs],
                         [Fraction(n, m) for n, m in pairs])
    if node.op == "slice":
        steps = [abs(s or 1) for s in node.attrs["steps"][2:]]
        return _windowed(field, [1] * axes, [Fraction(s) for s in steps])
    if node.op in ("reshape", "permute", "take", "gather") and result[2:] != before[2:]:
        return None
    return field


def _windowed(field: Field, taps: list[int], strides: list[Fraction]) -> Field:
    """Return the field behind a window of so many taps, moved by strides."""
    return Field(
        tuple(size + (k - 1) * jump for size, jump, k in zip(*field, taps, strict=True)),
        tuple(jump * s for jump, s in zip(field.jump, strides, strict=True)))


def _widest(n: int, m: int) -> int:
    """Return the longest window of an adaptive pool from n to m elements."""
    return max(-((i + 1) * n // -m) - i * n // m for i in range(m))
