"""Einstein sums: products of two arrays at a time, as matrix products where axes are summed."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from convkit.errors import ModelFormatError
from convkit.io.onnx.builder import Builder, handles
from convkit.io.onnx.node import Operator, Val

__all__: list[str] = []

Labels = tuple[str, ...]  # one for each axis: a letter, or for axes of an ellipsis "...0", ...
TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


class Term(NamedTuple):
    """An array whose axes have labels, each once."""

    x: Val
    labels: Labels

    def size(self, *labels: str) -> tuple[int, ...]:
        """Return the sizes of some of its axes."""
        return tuple(self.x.shape[self.labels.index(n)] for n in labels)


@handles("Einsum")
def einsum(b: Builder, node: Operator) -> Val:
    """Return the sum of products that an equation names."""
    if any(x is None for x in node.inputs):
        raise ModelFormatError("an input is missing")
    inputs, wanted = _read(node.attrs["equation"], [x.rank for x in node.inputs])
    kind = node.input(0).dtype
    wide = kind if node.input(0).is_float else "float64"
    terms = [_diagonal(b, b.cast(x, wide), labels)
             for x, labels in zip(node.inputs, inputs, strict=True)]
    _check_sizes(terms)
    total, *rest = terms
    for i, term in enumerate(rest):
        later = {n for t in rest[i + 1:] for n in t.labels}
        total = _product(b, total, term, later.union(wanted))
    total = _without(b, total, [n for n in total.labels if n not in wanted])
    return b.cast(_ordered(b, total, wanted), kind)


# -- the equation -----------------------------------------------------------------------------


def _read(text: str, ranks: list[int]) -> tuple[list[Labels], Labels]:
    """Return the labels of every input's axes, and those of the output."""
    left, arrow, right = text.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks) or not all(TERM.fullmatch(p) for p in (*parts, right)):
        raise ModelFormatError(f"equation {text[:80]!r} does not fit {len(ranks)} inputs")
    inputs = [_labels(part, rank, text) for part, rank in zip(parts, ranks, strict=True)]
    dots = max(([n for n in labels if n[0] == "."] for labels in inputs), key=len)
    output = _explicit(right, dots) if arrow else _implicit(left, dots)
    known = {n for labels in inputs for n in labels}
    if len(set(output)) != len(output) or not known.issuperset(output):
        raise ModelFormatError(f"equation {text[:80]!r}: expected each of the output's letters "
                               "once, and among the inputs'")
    if not set(dots).issubset(output):
        raise ModelFormatError(f"equation {text[:80]!r} leaves the ellipsis out of the output")
    return inputs, output


def _explicit(right: str, dots: list[str]) -> Labels:
    """Return the output's labels as they are written."""
    before, ellipsis, after = right.partition("...")
    return (*before, *(dots if ellipsis else ()), *after)


def _implicit(left: str, dots: list[str]) -> Labels:
    """Return the output's labels where none are written: letters that come once, in order."""
    return (*dots, *sorted(n for n in set(left) - set(",.") if left.count(n) == 1))


def _labels(part: str, rank: int, equation: str) -> Labels:
    """Return an input's labels; axes of an ellipsis are counted from its end."""
    before, ellipsis, after = part.partition("...")
    extra = rank - len(before) - len(after)
    if extra < 0 or (extra and not ellipsis):
        raise ModelFormatError(f"equation {equation[:80]!r}: {part[:40]!r} does not fit {rank} "
                               "axes")
    return (*before, *(f"...{i}" for i in reversed(range(extra))), *after)


def _check_sizes(terms: list[Term]) -> None:
    """Raise ModelFormatError unless axes of one letter are of one size."""
    sizes: dict[str, int] = {}
    for term in terms:
        for name, size in zip(term.labels, term.x.shape, strict=True):
            if size != sizes.setdefault(name, size) and not (
                    name.startswith(".") and 1 in (size, sizes[name])):
                raise ModelFormatError(f"axes {name!r} of an equation are of sizes {sizes[name]} "
                                       f"and {size}")
            sizes[name] = max(size, sizes[name])


# -- sums and products --------------------------------------------------------------------------


def _ordered(b: Builder, term: Term, labels: Labels) -> Val:
    """Return the array with its axes in the order of `labels`."""
    order = tuple(term.labels.index(n) for n in labels)
    return term.x if order == tuple(range(len(order))) else b.op("permute", term.x, dims=order)


def _without(b: Builder, term: Term, labels: list[str]) -> Term:
    """Return a term summed over some of its axes."""
    if not labels:
        return term
    axes = tuple(term.labels.index(n) for n in labels)
    return Term(b.op("sum", term.x, dim=axes),
                tuple(n for n in term.labels if n not in labels))


def _diagonal(b: Builder, x: Val, labels: Labels) -> Term:
    """Return the part of an array where axes of the same letter have the same place."""
    for name in dict.fromkeys(n for n in labels if labels.count(n) > 1):
        axes = [i for i, n in enumerate(labels) if n == name]
        others = [i for i, n in enumerate(labels) if n != name]
        sizes = {x.shape[i] for i in axes}
        if len(sizes) > 1:
            raise ModelFormatError(f"axes {name!r} of an equation are of sizes {sorted(sizes)}")
        x = b.op("permute", x, dims=(*others, *axes))
        x = _every(b, x, len(axes), sizes.pop())
        labels = (*(labels[i] for i in others), name)
    return Term(x, labels)


def _every(b: Builder, x: Val, axes: int, size: int) -> Val:
    """Return the diagonal of the last axes, which are all of one size."""
    x = b.reshape(x, (*x.shape[:-axes], size**axes))
    none = (None,) * (x.rank - 1)
    return b.op("slice", x, starts=(*none, None), stops=(*none, None),
                steps=(*none, sum(size**i for i in range(axes))))


def _product(b: Builder, left: Term, right: Term, wanted: set[str]) -> Term:
    """Return the product of two terms, summed over what nobody wants afterwards."""
    left = _without(b, left, [n for n in left.labels if n not in wanted.union(right.labels)])
    right = _without(b, right, [n for n in right.labels if n not in wanted.union(left.labels)])
    both = [n for n in left.labels if n in right.labels]
    shared = tuple(n for n in both if n in wanted)
    summed = tuple(n for n in both if n not in wanted)
    rows = tuple(n for n in left.labels if n not in both)
    columns = tuple(n for n in right.labels if n not in both)
    x = _ordered(b, left, (*shared, *rows, *summed))
    w = _ordered(b, right, (*shared, *summed, *columns))
    m, n = left.size(*rows), right.size(*columns)
    if summed:
        y = _matrices(b, x, w, len(shared), len(summed))
    else:
        y = b.op("mul", b.reshape(x, (*x.shape, *(1,) * len(n))),
                 b.reshape(w, (*right.size(*shared), *(1,) * len(m), *n)))
    return Term(b.reshape(y, (*y.shape[:len(shared)], *m, *n)), (*shared, *rows, *columns))


def _matrices(b: Builder, x: Val, w: Val, shared: int, summed: int) -> Val:
    """Return products of x (shared, rows, summed axes) and w (shared, summed, columns' axes).

    Where nothing is shared, the axes of the rows stay apart: a first one may be the batch.
    """
    rows = x.shape[shared:x.rank - summed]
    depth = math.prod(w.shape[shared:shared + summed])
    columns = math.prod(w.shape[shared + summed:])
    w = b.reshape(w, (*w.shape[:shared], depth, columns))
    if shared:
        return b.op("matmul", b.reshape(x, (*x.shape[:shared], math.prod(rows), depth)), w)
    x = b.reshape(x, (*rows, depth))
    if w.array is not None and 0 not in w.shape:
        return b.op("linear", x, b.op("permute", w, dims=(1, 0)))
    return b.op("matmul", x, w)
