"""What a graph may hold: per operation, its inputs, its attributes and its outputs.

This is the one table that says which operations an inference graph is made of and what
values each attribute may take. Files are checked against it, and traced attributes are
completed from it, so that a node always has every attribute.

A check is a function of (value, rank of the first input) that returns the value in its
canonical form (tuples for lists) or raises ValueError with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from convkit.errors import ShapeError, UnsupportedOperatorError
from convkit.infer.dims import Shape

__all__ = ["MAX_SIZE", "SCHEMAS", "Attr", "OpSchema", "check_attrs", "complete", "defaults",
           "schema_of"]

MAX_SIZE = 2**31 - 1
Check = Callable[[Any, int], Any]


class _Required:
    """Marks an attribute without a default."""


@dataclass(frozen=True)
class Attr:
    """One attribute: how it is checked, and its default where it has one.

    The default also stands in for an attribute that a file does not have, so an attribute
    added later never makes an older file unreadable.
    """

    check: Check
    default: Any = _Required


@dataclass(frozen=True)
class OpSchema:
    """The fixed form of an operation in a graph.

    Attributes
    ----------
    required, optional : int
        How many inputs are always listed, and how many more may be.
    nullable : tuple of int
        Which of the required inputs may be None; optional ones always may.
    attrs : dict of str to Attr
        Attributes by name.
    variadic : bool
        Whether any number of inputs from `required` on is allowed.
    ranks : tuple of int
        Ranks allowed for the first input; empty for any.
    extra : tuple of (str, str)
        For each output after the first: "same" or "channels" (its shape, by the first
        output's) and its dtype ("" for the input's).
    moves_any : bool
        Whether the operation only moves elements, so that integers pass too.
    """

    required: int
    optional: int = 0
    attrs: dict[str, Attr] = field(default_factory=dict)
    variadic: bool = False
    nullable: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    moves_any: bool = False

    def extra_shapes(self, first: Shape) -> list[Shape]:
        """Return the shapes of the outputs after the first."""
        return [first if kind == "same" else (first[1],) for kind, _ in self.extra]


# -- checks of one value --------------------------------------------------------------------


def integer(low: int, high: int = MAX_SIZE) -> Check:
    """Accept an int from `low` to `high`."""
    def check(value: Any, rank: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected an integer from {low} to {high}, got {value!r}")
        return value
    return check


def real(low: float = -math.inf, high: float = math.inf) -> Check:
    """Accept a number from `low` to `high` (NaN only where there are no limits)."""
    def check(value: Any, rank: int) -> float:
        if type(value) is int and abs(value) <= 2**53:
            value = float(value)
        if type(value) is not float:
            raise ValueError(f"expected a number, got {value!r}")
        if not low <= value <= high and (low, high) != (-math.inf, math.inf):
            raise ValueError(f"expected a number from {low} to {high}, got {value}")
        return value
    return check


def flag(value: Any, rank: int) -> bool:
    """Accept True or False."""
    if type(value) is not bool:
        raise ValueError(f"expected true or false, got {value!r}")
    return value


def choice(*words: str) -> Check:
    """Accept one of some words."""
    def check(value: Any, rank: int) -> str:
        if type(value) is not str or value not in words:
            raise ValueError(f"expected one of {', '.join(words)}, got {value!r}")
        return value
    return check


def optional(check: Check) -> Check:
    """Accept None besides what another check accepts."""
    return lambda value, rank: None if value is None else check(value, rank)


def _sequence(value: Any, length: int | None, most: int = 64) -> tuple:
    if type(value) not in (tuple, list):
        raise ValueError(f"expected a list, got {value!r}")
    if length is not None and len(value) != length:
        raise ValueError(f"expected {length} entries, got {len(value)}")
    if len(value) > most:
        raise ValueError(f"expected at most {most} entries, got {len(value)}")
    return tuple(value)


def per_spatial(check: Check) -> Check:
    """Accept one entry per spatial axis (all but the first two)."""
    return lambda value, rank: tuple(
        [check(v, rank) for v in _sequence(value, max(rank - 2, 0))])


def per_axis(check: Check) -> Check:
    """Accept one entry per axis."""
    return lambda value, rank: tuple([check(v, rank) for v in _sequence(value, rank)])


def pair(check: Check) -> Check:
    """Accept two entries: before and after."""
    return lambda value, rank: tuple([check(v, rank) for v in _sequence(value, 2)])


def listed(check: Check, length: int | None = None) -> Check:
    """Accept a list of entries, `length` of them if given."""
    return lambda value, rank: tuple([check(v, rank) for v in _sequence(value, length)])


def axis(value: Any, rank: int) -> int:
    """Accept an axis, counted from the front or (negative) from the back."""
    return integer(-max(rank, 1), max(rank, 1) - 1)(value, rank)


def axes(value: Any, rank: int) -> tuple[int, ...]:
    """Accept distinct axes; a single one becomes a list."""
    found = listed(axis)((value,) if type(value) is int else value, rank)
    if len({a % max(rank, 1) for a in found}) != len(found):
        raise ValueError(f"an axis is named twice in {list(found)}")
    return found


def permutation(value: Any, rank: int) -> tuple[int, ...]:
    """Accept every axis once."""
    found = axes(value, rank)
    if len(found) != rank:
        raise ValueError(f"expected each of {rank} axes once, got {list(found)}")
    return found


# -- the table ------------------------------------------------------------------------------

_count = integer(1)
_size = integer(0)
_spatial = (2, 3, 4)
_pooled = (3, 4)
_edges = Attr(per_spatial(pair(_size)))
_steps = Attr(per_spatial(_count))
_ACTIVATION = {
    "activation": Attr(optional(choice("relu", "relu6", "leaky_relu")), None),
    "activation_args": Attr(listed(real(), None), ()),
}
_POOL = {"kernel_size": _steps, "stride": _steps, "padding": Attr(per_spatial(_size))}
_INDICES = (("same", "int64"),)
_plain = OpSchema(1)
_binary = OpSchema(2)

SCHEMAS: dict[str, OpSchema] = {
    "conv": OpSchema(2, 2, {
        "stride": _steps, "padding": _edges, "dilation": _steps, "groups": Attr(_count, 1),
        "padding_mode": Attr(choice("zeros", "reflect", "replicate", "circular"), "zeros"),
        "algorithm": Attr(choice("auto", "direct", "im2col"), "auto"), **_ACTIVATION,
    }, ranks=_pooled),
    "conv_transpose": OpSchema(2, 1, {
        "stride": _steps, "padding": _edges, "output_padding": Attr(per_spatial(_size)),
        "groups": Attr(_count, 1), "dilation": _steps}, ranks=_pooled),
    "linear": OpSchema(2, 2, dict(_ACTIVATION)),
    "max_pool": OpSchema(1, 0, {
        **_POOL, "dilation": _steps, "ceil_mode": Attr(flag, False)},
        ranks=_pooled, extra=_INDICES),
    "avg_pool": OpSchema(1, 0, {
        **_POOL, "ceil_mode": Attr(flag, False), "count_include_pad": Attr(flag, True),
        "divisor_override": Attr(optional(_count), None)}, ranks=_pooled),
    "adaptive_max_pool": OpSchema(
        1, 0, {"output_size": Attr(per_spatial(_count))}, ranks=_pooled, extra=_INDICES),
    "adaptive_avg_pool": OpSchema(
        1, 0, {"output_size": Attr(per_spatial(_count))}, ranks=_pooled),
    "batch_norm": OpSchema(
        5, 0, {"eps": Attr(real(0.0, 1e30))}, nullable=(1, 2), ranks=_spatial),
    "batch_norm_train": OpSchema(
        1, 2, {"eps": Attr(real(0.0, 1e30))}, ranks=_spatial,
        extra=(("channels", ""), ("channels", ""))),
    "affine": OpSchema(3, 0, dict(_ACTIVATION), ranks=_spatial),
    **dict.fromkeys(("relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid",
                     "neg", "exp", "log", "sqrt", "abs"), _plain),
    "leaky_relu": OpSchema(1, 0, {"negative_slope": Attr(real(), 0.01)}),
    "prelu": OpSchema(2),
    "elu": OpSchema(1, 0, {"alpha": Attr(real(), 1.0)}),
    "gelu": OpSchema(1, 0, {"approximate": Attr(choice("none", "tanh"), "none")}),
    "softmax": OpSchema(1, 0, {"dim": Attr(axis)}),
    "log_softmax": OpSchema(1, 0, {"dim": Attr(axis)}),
    **dict.fromkeys(("add", "sub", "mul", "div", "matmul"), _binary),
    "pow": OpSchema(1, 0, {"exponent": Attr(real())}),
    **dict.fromkeys(("sum", "mean"), OpSchema(1, 0, {
        "dim": Attr(optional(axes), None), "keepdim": Attr(flag, False)})),
    "reshape": OpSchema(1, 0, {"shape": Attr(listed(integer(-1)))}, moves_any=True),
    "flatten": OpSchema(1, 0, {"start_dim": Attr(axis, 0), "end_dim": Attr(axis, -1)},
                        moves_any=True),
    "permute": OpSchema(1, 0, {"dims": Attr(permutation)}, moves_any=True),
    "concat": OpSchema(1, 0, {"dim": Attr(axis, 0)}, variadic=True, moves_any=True),
    "slice": OpSchema(1, 0, {
        "starts": Attr(per_axis(optional(integer(-MAX_SIZE)))),
        "stops": Attr(per_axis(optional(integer(-MAX_SIZE)))),
        "steps": Attr(per_axis(optional(integer(-MAX_SIZE))))}, moves_any=True),
    "pad": OpSchema(1, 0, {
        "padding": Attr(per_axis(pair(integer(-MAX_SIZE)))),
        "mode": Attr(choice("constant", "reflect", "replicate", "circular"), "constant"),
        "value": Attr(real(), 0.0)}),
    "upsample": OpSchema(1, 0, {
        "size": Attr(per_spatial(_count)),
        "mode": Attr(choice("nearest", "linear", "bilinear"), "nearest"),
        "align_corners": Attr(optional(flag), None),
        "scale_factor": Attr(optional(per_spatial(optional(real(0.0)))), None)},
        ranks=_pooled),
}


def schema_of(op: str) -> OpSchema:
    """Return an operation's schema; raise UnsupportedOperatorError where there is none."""
    try:
        return SCHEMAS[op]
    except KeyError:
        raise UnsupportedOperatorError(
            f"operation {op!r} has no place in an inference graph; known are "
            f"{', '.join(sorted(SCHEMAS))}") from None


def canonical(value: Any) -> Any:
    """Return an attribute as a JSON value with tuples; raise TypeError when it is none."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple([canonical(v) for v in value])
    if hasattr(value, "__index__"):
        return value.__index__()
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"expected a number, string, boolean, None or a list of them, got {value!r}")


def defaults(op: str) -> dict[str, Any]:
    """Return the defaults of those attributes of an operation that have one."""
    return {name: attr.default for name, attr in schema_of(op).attrs.items()
            if attr.default is not _Required}


def complete(op: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """Return canonical attributes with defaults filled in."""
    return {**defaults(op), **{name: canonical(value) for name, value in attrs.items()}}


def check_attrs(op: str, attrs: dict[str, Any], rank: int) -> dict[str, Any]:
    """Return checked attributes, with defaults filled in.

    Parameters
    ----------
    op : str
        The operation's name.
    attrs : dict
        Attributes as a file gives them.
    rank : int
        Rank of the operation's first input.

    Raises
    ------
    UnsupportedOperatorError
        When the operation is unknown.
    ShapeError
        When an attribute is unknown, missing, or not of the right type or range.
    """
    known = schema_of(op).attrs
    unknown = [name for name in attrs if name not in known]
    if unknown:
        raise ShapeError(f"{op}: unknown attribute {unknown[0]!r}")
    checked = {}
    for name, attr in known.items():
        if name not in attrs:
            if attr.default is _Required:
                raise ShapeError(f"{op}: attribute {name!r} is missing")
            checked[name] = attr.default
            continue
        try:
            checked[name] = attr.check(attrs[name], rank)
        except ValueError as error:
            raise ShapeError(f"{op}: attribute {name!r}: {error}") from None
    return checked
