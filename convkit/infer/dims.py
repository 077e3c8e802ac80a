"""Shapes whose sizes may be a multiple of the batch or open, and how they are inferred.

A size is an int, ``BatchDim(k)``: k times the number of samples, or an `OpenDim`. No algebra
is needed to infer shapes over these: an operation's shape rule is asked at several points
(with two batches where nothing else is open), and the answers are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convkit.errors import ShapeError
from convkit.infer.open_dims import OpenDim, Point, Symbol, Term, fit_open, make_points, symbols_in

__all__ = ["PROBES", "BatchDim", "Dim", "Shape", "at_batch", "at_sizes", "attrs_at", "infer",
           "is_open", "join", "join_size", "points_of", "show", "terms_of"]

# Two batches tell k * N from a constant. 1 is avoided, because it broadcasts, and batches of
# which halves or thirds round to the same.
PROBES = (2, 5)


@dataclass(frozen=True)
class BatchDim:
    """A size of `factor` times the batch."""

    factor: int = 1

    def __str__(self) -> str:
        return "N" if self.factor == 1 else f"{self.factor}N"

    __repr__ = __str__


Dim = int | BatchDim | OpenDim
Shape = tuple[Dim, ...]


def at_batch(shape: Shape, batch: int) -> tuple[int, ...]:
    """Return the plain shape for a batch of `batch` samples, open sizes at their largest."""
    return tuple([d if isinstance(d, int) else d.factor * batch if isinstance(d, BatchDim)
                  else d.largest(batch) for d in shape])


def at_sizes(shape: Shape, sizes: Mapping[str, int]) -> Shape:
    """Return a shape for values of the open sizes; the batch stays open."""
    return tuple([d if not isinstance(d, OpenDim) else BatchDim(d.at(1, sizes)) if d.batch
                  else d.at(1, sizes) for d in shape])


def attrs_at(value: Any, sizes: Mapping[str, int]) -> Any:
    """Return attributes (or one) for values of the open sizes."""
    if isinstance(value, OpenDim):
        return value.at(1, sizes)
    if isinstance(value, dict):
        return {k: attrs_at(v, sizes) for k, v in value.items()}
    return tuple([attrs_at(v, sizes) for v in value]) if isinstance(value, tuple) else value


def is_open(value: Any) -> bool:
    """Tell whether attributes, one of them, or a shape depend on open sizes."""
    if isinstance(value, dict):
        return any(map(is_open, value.values()))
    return any(map(is_open, value)) if isinstance(value, tuple) else isinstance(value, OpenDim)


def terms_of(value: Any) -> list[Term]:
    """Return the terms of open sizes in shapes or attributes."""
    if isinstance(value, OpenDim):
        return list(value.terms)
    inner = value.values() if isinstance(value, dict) else value
    return [t for v in inner for t in terms_of(v)] if isinstance(value, (dict, tuple, list)) else []


def points_of(shapes: Iterable[Shape]) -> tuple[Point, ...]:
    """Return the points at which to ask rules, for inputs of these shapes."""
    return make_points(symbols_in(shapes), PROBES)


def join(answers: Sequence[Sequence[int]], points: Sequence[Point],
         known: Collection[Term] = ()) -> Shape:
    """Return the shape that has the sizes of `answers` at `points`.

    Parameters
    ----------
    answers : sequence of tuple of int
        One shape per point.
    points : sequence of Point
        Where they were found.
    known : collection of Term
        Terms of which products may consist.

    Raises
    ------
    ShapeError
        When the ranks differ or a size follows no rule that is known.
    """
    first = tuple(answers[0])
    if any([len(a) != len(first) for a in answers]):
        other = next(i for i, a in enumerate(answers) if len(a) != len(first))
        raise ShapeError(f"the number of axes depends on the {_what(points)}: {first} for "
                         f"{_where(points[0])}, {tuple(answers[other])} for "
                         f"{_where(points[other])}")
    joined = []
    for axis, values in enumerate(zip(*answers, strict=True)):
        size = join_size(values, points, known)
        if size is None:
            other = next(i for i, a in enumerate(answers) if a[axis] != first[axis])
            raise ShapeError(
                f"a size is neither constant nor {_rule(points)}: {first} for "
                f"{_where(points[0])}, {tuple(answers[other])} for {_where(points[other])}")
        joined.append(size)
    return tuple(joined)


def join_size(values: Sequence[int], points: Sequence[Point], known: Collection[Term] = ()
              ) -> Dim | None:
    """Return the size that is `values` at `points`; None where it follows no known rule."""
    first = values[0]
    if values.count(first) == len(values):
        return first
    factor, rest = divmod(first, points[0].batch)
    if rest == 0 and all(v == factor * p.batch for v, p in zip(values, points, strict=True)):
        return BatchDim(factor)
    symbols = _symbols(points, known)
    return fit_open(values, points, symbols, known) if symbols else None


def _symbols(points: Sequence[Point], known: Collection[Term]) -> tuple[Symbol, ...]:
    """Return the open sizes of points: known by the terms that there are of them."""
    return tuple(dict.fromkeys(t.symbol for t in known)) if points[0].sizes else ()


def _what(points: Sequence[Point]) -> str:
    return "batch or the sizes" if points[0].sizes else "batch"


def _rule(points: Sequence[Point]) -> str:
    return "follows the open sizes by a known rule" if points[0].sizes \
        else "a multiple of the batch"


def _where(point: Point) -> str:
    sizes = "".join(f", {name} = {n}" for name, n in point.sizes.items())
    return f"{point.batch} samples{sizes}"


def infer(rule: Callable[..., tuple[int, ...]], shapes: Sequence[Shape | None],
          attrs: Sequence[dict[str, Any]], points: Sequence[Point], known: Collection[Term] = ()
          ) -> Shape:
    """Return what an operation's shape rule gives for shapes that depend on batch and sizes.

    `attrs` holds the attributes at each of the points, `known` terms of open sizes in them.
    """
    answers = [rule(*[None if s is None else _at_point(s, point) for s in shapes], **given)
               for point, given in zip(points, attrs, strict=True)]
    return join(answers, points, [*terms_of(shapes), *known] if points[0].sizes else ())


def _at_point(shape: Shape, point: Point) -> tuple[int, ...]:
    if BatchDim not in map(type, shape) and not point.sizes:
        return shape
    return at_batch(at_sizes(shape, point.sizes) if point.sizes else shape, point.batch)


def show(shape: Shape) -> str:
    """Write a shape as users read it: ``(N, 3, 32, 32)``."""
    inner = ", ".join(str(d) for d in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
