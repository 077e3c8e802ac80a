"""How open sizes are written: ``(1, 3, (32, 512), (32, 512))``.

A size after the first two may be a range ``(low, high)``, or ``(low, high, step)``: low, low +
step, ... up to high. Ranges have names, H and W for the last two axes of images, L for the
axis of signals. The same axis of several inputs has the same size where the ranges are the
same, and its own (H1, H2, ...) where they differ. A range may be named by whoever wants
something else: ``("S", 32, 512)`` for two axes makes both the same size.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from convkit.errors import ShapeError
from convkit.infer.dims import Dim, Shape
from convkit.infer.open_dims import OpenDim, Symbol, Term

__all__ = ["is_shape", "read_dim", "read_shapes"]

MAX_SIZE = 2**31 - 1
AXES = {3: "..L", 4: "..HW"}


def is_shape(value: Any) -> bool:
    """Tell whether something is one shape, not several."""
    if not isinstance(value, (tuple, list)):
        return False
    sizes = [hasattr(n, "__index__") for n in value]
    return not value or (any(sizes) and all(
        size or _is_range(n) for size, n in zip(sizes, value, strict=True)))


def _is_range(value: Any) -> bool:
    if not isinstance(value, (tuple, list)):
        return False
    numbers = value[1:] if value and isinstance(value[0], str) else value
    return len(numbers) in (2, 3) and all(hasattr(n, "__index__") for n in numbers)


def read_shapes(given: Sequence[Any]) -> list[Shape]:
    """Return shapes with ranges as `OpenDim`.

    Raises
    ------
    ShapeError
        When something is not a full shape, or a range holds no size.
    """
    symbols: dict[str, Symbol] = {}
    return [_read_shape(shape, symbols) for shape in given]


def _read_shape(shape: Any, symbols: dict[str, Symbol]) -> Shape:
    if not is_shape(shape) or len(shape) < 1 or any(
            not _is_range(d) and d.__index__() < 1 for d in shape):
        raise ShapeError(f"expected input_shape to be a full shape with the batch first, "
                         f"such as (1, 3, 32, 32), got {reprlib.repr(shape)}")
    return tuple([read_dim(d, axis, len(shape), symbols) for axis, d in enumerate(shape)])


def read_dim(d: Any, axis: int, rank: int, symbols: dict[str, Symbol]) -> Dim:
    """Return a size, or the open size of a range; `symbols` has those met before, by name."""
    if not _is_range(d):
        return d.__index__()
    if axis < 2:
        raise ShapeError(f"expected ranges for sizes after the first two, got {d!r} at {axis}")
    named = isinstance(d[0], str)
    low, high, step = (*(n.__index__() for n in d[named:]), 1)[:3]
    if not (1 <= low <= high <= MAX_SIZE and step >= 1):
        raise ShapeError(f"expected a range (low, high) or (low, high, step) of sizes, got {d!r}")
    high -= (high - low) % step
    if low == high:
        return low
    name = d[0] if named else AXES.get(rank, "").ljust(rank, "D")[axis]
    if not name.isidentifier() or not name.isascii() or len(name) > 16 or name == "N":
        raise ShapeError(f"expected a range named by a short word other than N, got {d!r}")
    wanted, count = Symbol(name, low, high, step), 0
    while symbols.setdefault(wanted.name, wanted) != wanted:
        if named:
            raise ShapeError(f"expected one range for {name!r}, got {symbols[name]} and {wanted}")
        count += 1
        wanted = Symbol(f"{name}{count}", low, high, step)
    return OpenDim((Term(wanted),))
