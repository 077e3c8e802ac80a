"""Activations that networks write out as products: SiLU, hard swish, GELU."""

from __future__ import annotations

import math

from convkit.io.onnx.builder import Builder
from convkit.io.onnx.node import Val

__all__ = ["gated"]

GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def gated(b: Builder, x: Val, y: Val) -> Val | None:
    """Return the activation that the product of two values is; None where it is none.

    These are ``x * sigmoid(x)``, ``x * hardsigmoid(x)``, and ``0.5 * x * (1 + erf(x /
    sqrt(2)))`` with its factors in any order.
    """
    for one, other in ((x, y), (y, x)):
        node = b.maker(other.number)
        if node is not None and node.op in GATES and node.inputs == (one.number,):
            return b.op(GATES[node.op], one)
    return _gelu(b, x, y)


def _gelu(b: Builder, x: Val, y: Val) -> Val | None:
    """Return gelu(u) where the product is that, else None."""
    factors = [f for v in (x.number, y.number) for f in _factors(b, v)]
    numbers = [b.scalar(f) for f in factors]
    others = [f for f, n in zip(factors, numbers, strict=True) if n is None]
    if math.prod(n for n in numbers if n is not None) != 0.5 or len(others) != 2:
        return None
    for u, gate in (others, others[::-1]):
        if _erf_of(b, gate) == u and b.values[u] == b.values[gate]:
            return b.op("gelu", b.val(u))
    return None


def _factors(b: Builder, number: int) -> tuple[int | None, ...]:
    """Return the factors of a product, or the value itself."""
    node = b.maker(number)
    return node.inputs if node is not None and node.op == "mul" else (number,)


def _erf_of(b: Builder, number: int) -> int | None:
    """Return u where a value is 1 + erf(u / sqrt(2)), else None."""
    total = b.maker(number)
    if total is None or total.op != "add":
        return None
    for one, part in (total.inputs, total.inputs[::-1]):
        erf = b.maker(part)
        if b.scalar(one) != 1 or erf is None or erf.op != "erf":
            continue
        inner = b.maker(erf.inputs[0])
        if inner is None or inner.op not in ("div", "mul"):
            continue
        u, by = inner.inputs if b.scalar(inner.inputs[1]) is not None else inner.inputs[::-1]
        wanted = math.sqrt(2) if inner.op == "div" else math.sqrt(0.5)
        if abs((b.scalar(by) or 0) - wanted) < 1e-6 and (inner.op == "mul" or u == inner.inputs[0]):
            return u
    return None
