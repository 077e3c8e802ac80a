"""Sizes that are open within a range, and sizes that follow from them.

A size that follows an open one is written as a formula. No operation knows of formulas: shape
rules are asked at many points (a batch and a value of every open size each), and a formula is
found that gives all their answers (`fit`). What is asked for later is inferred anew by the
rules themselves (`Graph.at_size`), so a formula is never more than a name for a size.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = ["OpenDim", "Point", "Symbol", "Term", "fit_open", "make_points", "symbols_in"]

# Smallest values of an open size that are looked at, besides the largest: every remainder of
# a division by 32, the stride of most networks, is among them; and values from all of the range,
# which tell a division by 27 from one by 28.
VALUES = 36
FAR = 10
DIVISORS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32)
FACTORS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Symbol:
    """A size that is open: `low`, `low + step`, ... up to `high`."""

    name: str
    low: int
    high: int
    step: int = 1

    def holds(self, value: int) -> bool:
        """Tell whether the size may be `value`."""
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def __str__(self) -> str:
        every = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{self.name} from {self.low} to {self.high}{every}"


@dataclass(frozen=True)
class Term:
    """``times * ((mul * S + add) // by) + slope * S + plus`` of one open size S."""

    symbol: Symbol
    times: int = 1
    mul: int = 1
    add: int = 0
    by: int = 1
    slope: int = 0
    plus: int = 0

    def at(self, size: int) -> int:
        """Return the value for a size."""
        return (self.times * ((self.mul * size + self.add) // self.by)
                + self.slope * size + self.plus)

    def __str__(self) -> str:
        inner = self.symbol.name if self.mul == 1 else f"{self.mul}*{self.symbol.name}"
        inner += f"+{self.add}" if self.add else ""
        if self.by > 1:
            inner = f"({inner})//{self.by}" if self.add else f"{inner}//{self.by}"
        text = inner if self.times == 1 else f"{self.times}*({inner})" \
            if self.by > 1 or self.add else f"{self.times}*{inner}"
        for count, what in ((self.slope, self.symbol.name), (self.plus, "")):
            if count:
                number = str(abs(count)) if abs(count) != 1 or not what else ""
                text += f"{'-' if count < 0 else '+'}{number}{what}"
        return text


@dataclass(frozen=True)
class OpenDim:
    """A whole number, times the batch or not, times terms of open sizes."""

    terms: tuple[Term, ...]
    factor: int = 1
    batch: bool = False

    def at(self, batch: int, sizes: Mapping[str, int]) -> int:
        """Return the size for a batch and a value of every open size."""
        product = math.prod(t.at(sizes[t.symbol.name]) for t in self.terms)
        return self.factor * product * (batch if self.batch else 1)

    def largest(self, batch: int) -> int:
        """Return the size where all open sizes are at their largest."""
        return self.at(batch, {t.symbol.name: t.symbol.high for t in self.terms})

    @property
    def symbol(self) -> Symbol | None:
        """The open size that this is as it stands, None where it only follows from some."""
        (term, *more) = self.terms
        plain = not more and self.factor == 1 and not self.batch and term == Term(term.symbol)
        return term.symbol if plain else None

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.factor == 1 and not self.batch:
            return str(self.terms[0])
        parts = [str(self.factor)] if self.factor != 1 else []
        parts += ["N"] if self.batch else []
        return "*".join([*parts, *(f"({t})" if t != Term(t.symbol) else t.symbol.name
                                   for t in self.terms)])

    __repr__ = __str__


class Point(NamedTuple):
    """A batch, and a value of every open size by name."""

    batch: int
    sizes: dict[str, int]


def symbols_in(shapes: Iterable[Sequence[Any]]) -> tuple[Symbol, ...]:
    """Return the open sizes of some shapes, each once, in order."""
    return tuple(dict.fromkeys(
        t.symbol for shape in shapes for d in shape if isinstance(d, OpenDim) for t in d.terms))


@lru_cache(maxsize=64)
def make_points(symbols: tuple[Symbol, ...], probes: tuple[int, int]) -> tuple[Point, ...]:
    """Return the points at which shape rules are asked.

    The first has the smallest sizes and the first of the batches `probes`, the second sizes
    near them and the other batch, the last the largest. In between, the sizes vary apart from
    one another, at the end all over their ranges.
    """
    if not symbols:
        return tuple(Point(batch, {}) for batch in probes)
    columns = [_column(s, number) for number, s in enumerate(symbols)]
    batches = [*probes, *(probes[i * i // 3 % 2] for i in range(VALUES + FAR))]
    return tuple(Point(batch, {s.name: v for s, v in zip(symbols, values, strict=True)})
                 for batch, *values in zip(batches, *columns, strict=True))


def _column(s: Symbol, number: int) -> list[int]:
    """Return the values at the points of the open size of a number among others."""
    every, rng = range(s.low, s.high + 1, s.step), random.Random(number)
    values = list(every[:VALUES])
    near = values[min(number + 1, len(values) - 1)]  # small: the model runs there
    mixed = [v for v in values if v not in (s.low, near)]
    rng.shuffle(mixed)
    # Where values come again, they come with others of another open size, the smallest too: else,
    # of few values, one size would seem to follow from the other.
    while len(mixed) < VALUES - 1:
        mixed += rng.sample(values, len(values))
    far = [rng.choice(every) for _ in range(FAR)]
    return [s.low, near, *mixed[:VALUES - 1], *far, s.high]


def fit_open(values: Sequence[int], points: Sequence[Point], symbols: Sequence[Symbol],
             known: Collection[Term] = ()) -> OpenDim | None:
    """Return the formula that gives `values` at `points`; None where there is none.

    A term that is `known` is preferred; products are tried of those and the open sizes.
    """
    batches = [p.batch for p in points]
    for batch in (False, True):
        if batch and any(v % n for v, n in zip(values, batches, strict=True)):
            break
        rest = tuple(v // n for v, n in zip(values, batches, strict=True)) if batch \
            else tuple(values)
        same = next((t for t in known if all(
            t.at(p.sizes[t.symbol.name]) == v for v, p in zip(rest, points, strict=True))), None)
        if same is not None:
            return OpenDim((same,), 1, batch)
        for s in symbols:
            term = _fit_term(rest, tuple(p.sizes[s.name] for p in points), s)
            if term is not None:
                return OpenDim((term,), 1, batch)
        product = _fit_product(rest, points, dict.fromkeys([*map(Term, symbols), *known]))
        if product is not None:
            return OpenDim(product[1], product[0], batch)
    return None


def _fit_product(values: tuple[int, ...], points: Sequence[Point], terms: Iterable[Term]
                 ) -> tuple[int, tuple[Term, ...]] | None:
    """Return a factor and two terms whose product gives the values."""
    for pair in itertools.combinations_with_replacement(terms, 2):
        products = [math.prod(t.at(p.sizes[t.symbol.name]) for t in pair) for p in points]
        if products[0] <= 0 or values[0] <= 0 or values[0] % products[0]:
            continue
        factor = values[0] // products[0]
        if all(v == factor * q for v, q in zip(values, products, strict=True)):
            return factor, pair
    return None


@lru_cache(maxsize=1024)
def _fit_term(values: tuple[int, ...], sizes: tuple[int, ...], symbol: Symbol) -> Term | None:
    """Return the simplest term of one open size that gives the values."""
    first, last = sizes.index(min(sizes)), sizes.index(max(sizes))
    span = sizes[last] - sizes[first]
    if not span:
        return None
    for slope, mul, by in itertools.product((0, -1, 1), FACTORS, DIVISORS):
        rest = [v - slope * s for v, s in zip(values, sizes, strict=True)]
        # Rounding moves each value by less than `times`.
        rise = (rest[last] - rest[first]) * by / (mul * span)
        if math.gcd(mul, by) != 1 or (by == 1 and (mul > 1 or slope)):
            continue
        for times in {max(math.floor(rise + d), 1) for d in (-1, -0.5, 0, 0.5, 1)} | {
                n for n in DIVISORS if abs(n - rise) * mul * span <= n * by}:
            for add in range(by):
                term = Term(symbol, times, mul, add, by, slope)
                plus = rest[0] + slope * sizes[0] - term.at(sizes[0])
                if all(term.at(s) + plus == v for s, v in zip(sizes, values, strict=True)):
                    return Term(symbol, times, mul, add, by, slope, plus)
    return None
