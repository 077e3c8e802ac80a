"""What a graph may hold: per operation, its inputs, its attributes and its outputs.

This is the one table that says which operations an inference graph is made of and what
values each attribute may take. Files are checked against it, and traced attributes are
completed from it, so that a node always has every attribute.

Every attribute has a `Check`, which also says in words what it accepts: the table of
operations in docs/ckit-format.md is made from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from reprlib import repr
from typing import Any, NamedTuple

import numpy as np

from convkit._precision import PRECISIONS
from convkit.errors import ShapeError, UnsupportedOperatorError
from convkit.infer.dims import Shape
from convkit.infer.open_dims import OpenDim
from convkit.ops.cast import DTYPES
from convkit.ops.image import LAYOUTS
from convkit.ops.resize import COORDINATES, MODES, NEAREST

__all__ = ["REQUIRED", "SCHEMAS", "Attr", "Check", "OpSchema", "check_attrs", "complete",
           "defaults", "schema_of"]

MAX_SIZE = 2**31 - 1
MAX_ENTRIES = 64


KINDS = {"f": "floating-point", "i": "integer", "u": "unsigned", "b": "boolean"}


class REQUIRED:
    """Marks an attribute without a default."""


class Check(NamedTuple):
    """What an attribute may be.

    Attributes
    ----------
    text : str
        What is accepted, in words.
    run : callable
        Takes (value, rank of the first input) and returns the value in its canonical form
        (tuples for lists), or raises ValueError with the reason.
    """

    text: str
    run: Callable[[Any, int], Any]


# Plain classes: making data classes takes a tenth of the time in which this package loads.


class Attr:
    """One attribute: how it is checked, and its default where it has one.

    The default also stands in for an attribute that a file does not have, so an attribute
    added later never makes an older file unreadable.
    """

    __slots__ = ("check", "default")

    def __init__(self, check: Check, default: Any = REQUIRED):
        self.check, self.default = check, default


class OpSchema:
    """The fixed form of an operation in a graph.

    Attributes
    ----------
    inputs : str
        Names of the inputs; one with a question mark may be None, and left out at the end;
        one with dots may come any number of times.
    attrs : dict of str to Attr
        Attributes by name.
    ranks : tuple of int
        Ranks allowed for the first input; empty for any.
    extra : tuple of (str, str, str)
        For each output after the first: "same" or "channels" (its shape, by the first
        output's), its dtype ("" for the input's), and the attribute that must be true for
        it to be there ("" for always).
    kinds : str
        For each input, the element types allowed: letters of NumPy's kinds (f: float32 and
        float64, i and u: integers, b: booleans); the last stands for all that follow.
    gives : str
        The first output's element type: "" for the widest of the inputs', "0", "1", ... for
        that input's, "sum" for int64 where integers come in, the name of a type, or
        "dtype" for what the attribute of that name says; "where" for that of the inputs after
        the first.
    """

    __slots__ = ("attrs", "extra", "gives", "inputs", "kinds", "ranks")

    def __init__(self, inputs: str, attrs: dict[str, Attr] | None = None,
                 ranks: tuple[int, ...] = (), extra: tuple[tuple[str, str, str], ...] = (),
                 kinds: str = "f", gives: str = ""):
        self.inputs, self.attrs, self.ranks = inputs, {} if attrs is None else attrs, ranks
        self.extra, self.kinds, self.gives = extra, kinds, gives

    def check_inputs(self, given: Sequence[Any]) -> None:
        """Raise ShapeError unless there are as many inputs, and Nones, as there may be."""
        names = self.inputs.split()
        if names[-1].endswith("..."):
            names = [names[-1]] * max(len(given), 1)
        required = max(i + 1 for i, name in enumerate(names) if not name.endswith("?"))
        if not required <= len(given) <= len(names):
            raise ShapeError(f"expected {required} to {len(names)} inputs ({self.inputs}), "
                             f"got {len(given)}")
        for name, value in zip(names, given, strict=False):
            if value is None and not name.endswith("?"):
                raise ShapeError(f"input {name!r} is missing")

    def takes_floats(self, index: int) -> bool:
        """Tell whether an input may hold floating-point numbers."""
        kinds = self.kinds.split()
        return "f" in kinds[min(index, len(kinds) - 1)]

    def check_kinds(self, dtypes: Sequence[str | None]) -> None:
        """Raise ShapeError where an input's element type is none that the operation takes."""
        kinds = self.kinds.split()
        for i, dtype in enumerate(dtypes):
            allowed = kinds[min(i, len(kinds) - 1)]
            if dtype is not None and _kind(dtype) not in allowed:
                names = [word for letter, word in KINDS.items() if letter in allowed]
                raise ShapeError(f"expected {' or '.join(names)} inputs, got {dtype}")

    def result(self, dtypes: Sequence[str | None], attrs: dict[str, Any]) -> str:
        """Return the first output's element type."""
        if self.gives == "dtype":
            return attrs["dtype"]
        if self.gives.isdecimal():
            return dtypes[int(self.gives)]
        if self.gives == "where":
            dtypes = dtypes[1:]
        elif self.gives not in ("", "sum"):
            return self.gives
        if len(set(dtypes) - {None}) == 1:
            only = next(d for d in dtypes if d is not None)
            return "int64" if self.gives == "sum" and _kind(only) != "f" else only
        widest = self.widest([d for d in dtypes if d is not None])
        return "int64" if self.gives == "sum" and _kind(widest) != "f" else widest

    @staticmethod
    def widest(dtypes: Sequence[str]) -> str:
        """Return the type to which operands are brought: a float wins over integers."""
        given = [np.dtype(d) for d in dtypes]
        floats = [d for d in given if d.kind == "f"]
        return (max(floats, key=lambda d: d.itemsize) if floats else np.result_type(*given)).name

    def extras(self, first: Shape, dtype: str, attrs: dict[str, Any]) -> list[tuple[Shape, str]]:
        """Return shape and dtype of the outputs after the first."""
        return [(first if kind == "same" else (first[1],), own or dtype)
                for kind, own, when in self.extra if not when or attrs[when]]


@lru_cache(maxsize=64)
def _kind(dtype: str) -> str:
    """Return the letter of an element type's kind."""
    return np.dtype(dtype).kind


# -- checks of one value --------------------------------------------------------------------


def integer(low: int, high: int = MAX_SIZE) -> Check:
    """Accept an int from `low` to `high`."""
    def run(value: Any, rank: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected an integer from {low} to {high}, got {repr(value)}")
        return value
    return Check("int" if low < -1 else f"int >= {low}", run)


def real(low: float = -math.inf, high: float = math.inf) -> Check:
    """Accept a number from `low` to `high` (NaN only where there are no limits)."""
    limited = (low, high) != (-math.inf, math.inf)

    def run(value: Any, rank: int) -> float:
        if type(value) is int and abs(value) <= 2**53:
            value = float(value)
        if type(value) is not float:
            raise ValueError(f"expected a number, got {repr(value)}")
        if limited and not low <= value <= high:
            raise ValueError(f"expected a number from {low} to {high}, got {value}")
        return value
    return Check(f"{low:g} to {high:g}" if limited else "number", run)


def _divisor(value: Any, rank: int) -> float:
    value = real().run(value, rank)
    if value == 0:
        raise ValueError("expected a number other than 0")
    return value


def _flag(value: Any, rank: int) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, got {repr(value)}")
    return value


def choice(*words: str) -> Check:
    """Accept one of some words."""
    def run(value: Any, rank: int) -> str:
        if type(value) is not str or value not in words:
            raise ValueError(f"expected one of {', '.join(words)}, got {repr(value)}")
        return value
    return Check(" or ".join(f'"{word}"' for word in words), run)


def optional(check: Check) -> Check:
    """Accept None besides what another check accepts."""
    return Check(f"{check.text} or null",
                 lambda value, rank: None if value is None else check.run(value, rank))


def listed(check: Check, length: Callable[[int], int | None], text: str) -> Check:
    """Accept a list of entries, as many as `length` says for a rank (None: any number)."""
    def run(value: Any, rank: int) -> tuple:
        wanted = length(rank)
        if type(value) not in (tuple, list):
            raise ValueError(f"expected a list, got {repr(value)}")
        if len(value) > MAX_ENTRIES or (wanted is not None and len(value) != wanted):
            raise ValueError(f"expected {MAX_ENTRIES if wanted is None else wanted} entries, "
                             f"got {len(value)}")
        return tuple([check.run(v, rank) for v in value])
    inner = f"({check.text})" if " or " in check.text else check.text
    return Check(f"[{text}: {inner}]", run)


def per_spatial(check: Check) -> Check:
    """Accept one entry per spatial axis (all but the first two)."""
    return listed(check, lambda rank: max(rank - 2, 0), "k")


def per_axis(check: Check) -> Check:
    """Accept one entry per axis."""
    return listed(check, lambda rank: rank, "r")


def pair(check: Check) -> Check:
    """Accept two entries: before and after."""
    return listed(check, lambda rank: 2, "2")


def any_number(check: Check) -> Check:
    """Accept a list of any length."""
    return listed(check, lambda rank: None, "any")


def _axis(value: Any, rank: int) -> int:
    return integer(-max(rank, 1), max(rank, 1) - 1).run(value, rank)


def _axes(value: Any, rank: int) -> tuple[int, ...]:
    found = any_number(axis).run((value,) if type(value) is int else value, rank)
    if len({a % max(rank, 1) for a in found}) != len(found):
        raise ValueError(f"an axis is named twice in {list(found)}")
    return found


def _permutation(value: Any, rank: int) -> tuple[int, ...]:
    found = _axes(value, rank)
    if len(found) != rank:
        raise ValueError(f"expected each of {rank} axes once, got {list(found)}")
    return found


flag = Check("bool", _flag)
axis = Check("axis", _axis)  # counted from the front or (negative) from the back
axes = Check("[any: axis, each once]", _axes)
permutation = Check("[r: every axis once]", _permutation)


# -- the table ------------------------------------------------------------------------------

_count = integer(1)
_size = integer(0)
_batched = (2, 3, 4)
_spatial = (3, 4)
_edges = Attr(per_spatial(pair(_size)))
_steps = Attr(per_spatial(_count))
_ACTIVATION = {
    "activation": Attr(optional(choice("relu", "relu6", "clamp", "leaky_relu")), None),
    "activation_args": Attr(any_number(real()), ()),
}
_PRECISION = {"precision": Attr(optional(choice(*PRECISIONS)), None)}
_POOL = {"kernel_size": _steps, "stride": _steps, "padding": Attr(per_spatial(_size))}
_INDICES = (("same", "int64", "return_indices"),)
_unary = OpSchema("x")
_binary = OpSchema("a b", kinds="fiub")
_test = OpSchema("a b", kinds="fiub", gives="bool")
_logic = OpSchema("a b", kinds="b", gives="bool")
_over_axes = {"dim": Attr(optional(axes), None), "keepdim": Attr(flag, False)}
_over_axis = {"dim": Attr(optional(axis), None), "keepdim": Attr(flag, False)}
_LEVELS = {"dim": Attr(axis, 1), "block_size": Attr(_size, 0)}



def _real(name: str) -> dict[str, Attr]:
    """Return the attributes that say what real numbers a quantised array stands for."""
    return {f"{name}_scale": Attr(real(1e-38, 1e38)), f"{name}_zero": Attr(integer(-128, 255))}


_RESULT = {"dtype": Attr(choice("uint8", "int8", "float32")),
           "y_scale": Attr(real(1e-38, 1e38), 1.0), "y_zero": Attr(integer(-128, 255), 0)}
_QUANTISED_LAYER = {
    **_real("x"), **_RESULT, "dtype": Attr(choice("uint8", "int8", "float32", "int32")),
    "residual_scale": Attr(real(1e-38, 1e38), 1.0), "residual_zero": Attr(integer(-128, 255), 0),
    **_ACTIVATION}

SCHEMAS: dict[str, OpSchema] = {
    "conv": OpSchema("x weight bias? residual?", {
        "stride": _steps, "padding": _edges, "dilation": _steps, "groups": Attr(_count, 1),
        **_PRECISION,
        "padding_mode": Attr(choice("zeros", "reflect", "replicate", "circular"), "zeros"),
        "algorithm": Attr(choice("auto", "direct", "im2col", "winograd"), "auto"), **_ACTIVATION,
    }, ranks=_spatial),
    "conv_transpose": OpSchema("x weight bias?", {
        "stride": _steps, "padding": _edges, "output_padding": Attr(per_spatial(_size)),
        "groups": Attr(_count, 1), "dilation": _steps, **_PRECISION}, ranks=_spatial),
    "linear": OpSchema("x weight bias? residual?", {**_PRECISION, **_ACTIVATION}),
    "max_pool": OpSchema("x", {
        **_POOL, "dilation": _steps, "ceil_mode": Attr(flag, False),
        "return_indices": Attr(flag, False)}, ranks=_spatial, extra=_INDICES, kinds="fiu"),
    "max_unpool": OpSchema("x indices", {"output_size": _steps}, ranks=_spatial, kinds="f iu",
                           gives="0"),
    "avg_pool": OpSchema("x", {
        **_POOL, "ceil_mode": Attr(flag, False), "count_include_pad": Attr(flag, True),
        "divisor_override": Attr(optional(_count), None)}, ranks=_spatial),
    "adaptive_max_pool": OpSchema("x", {
        "output_size": Attr(per_spatial(_count)), "return_indices": Attr(flag, False)},
        ranks=_spatial, extra=_INDICES),
    "adaptive_avg_pool": OpSchema(
        "x", {"output_size": Attr(per_spatial(_count))}, ranks=_spatial),
    "batch_norm": OpSchema("x weight? bias? running_mean running_var",
                           {"eps": Attr(real(0.0, 1e30), 1e-5)}, ranks=_batched),
    "batch_norm_train": OpSchema(
        "x weight? bias?", {"eps": Attr(real(0.0, 1e30), 1e-5)}, ranks=_batched,
        extra=(("channels", "", ""), ("channels", "", ""))),
    "layer_norm": OpSchema("x weight? bias?", {
        "normalized_shape": Attr(any_number(_count)), "eps": Attr(real(0.0, 1e30), 1e-5)}),
    "group_norm": OpSchema("x weight? bias?", {
        "num_groups": Attr(_count), "eps": Attr(real(0.0, 1e30), 1e-5)}, ranks=_batched),
    "instance_norm": OpSchema("x weight? bias?", {"eps": Attr(real(0.0, 1e30), 1e-5)},
                              ranks=_batched),
    "local_response_norm": OpSchema("x", {
        "size": Attr(_count), "alpha": Attr(real(), 1e-4), "beta": Attr(real(), 0.75),
        "k": Attr(real(), 1.0)}, ranks=_batched),
    "image": OpSchema("x scale shift", {"layout": Attr(choice(*LAYOUTS), "NHWC")}, ranks=(4,),
                      kinds="u f", gives="1"),
    "affine": OpSchema("x scale shift", dict(_ACTIVATION), ranks=_batched),
    **dict.fromkeys(("relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid",
                     "selu", "logsigmoid", "softsign", "mish", "exp", "log", "sqrt", "floor",
                     "ceil", "round", "sign", "reciprocal", "sin", "cos", "tan", "asin", "acos",
                     "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf"), _unary),
    **dict.fromkeys(("neg", "abs"), OpSchema("x", kinds="fiu")),
    "softplus": OpSchema("x", {"beta": Attr(real(), 1.0), "threshold": Attr(real(), 20.0)}),
    "leaky_relu": OpSchema("x", {"negative_slope": Attr(real(), 0.01)}),
    "prelu": OpSchema("x weight"),
    "elu": OpSchema("x", {"alpha": Attr(real(), 1.0)}),
    "celu": OpSchema("x", {"alpha": Attr(Check("number but 0", _divisor), 1.0)}),
    "hardtanh": OpSchema("x", {"min_val": Attr(real(), -1.0), "max_val": Attr(real(), 1.0)}),
    "gelu": OpSchema("x", {"approximate": Attr(choice("none", "tanh"), "none")}),
    "softmax": OpSchema("x", {"dim": Attr(axis)}),
    "log_softmax": OpSchema("x", {"dim": Attr(axis)}),
    "add": OpSchema("a b", dict(_ACTIVATION), kinds="fiub"),
    **dict.fromkeys(("sub", "mul", "maximum", "minimum", "power", "remainder", "fmod"),
                    _binary),
    "div": OpSchema("a b", {"rounding_mode": Attr(optional(choice("trunc", "floor")), None)},
                    kinds="fiub"),
    "clamp": OpSchema("x", {name: Attr(optional(real()), None) for name in ("min", "max")},
                      kinds="fiu"),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _test),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor"), _logic),
    "logical_not": OpSchema("x", kinds="b", gives="bool"),
    "isnan": OpSchema("x", gives="bool"), "isinf": OpSchema("x", gives="bool"),
    "where": OpSchema("condition a b", kinds="b fiub", gives="where"),
    "cast": OpSchema("x", {"dtype": Attr(choice(*DTYPES))}, kinds="fiub", gives="dtype"),
    "quantize_linear": OpSchema("x scale zero_point?", {
        "dtype": Attr(choice("int8", "uint8", "int16", "uint16", "int32"), "uint8"),
        **{name: Attr(optional(integer(-MAX_SIZE)), None) for name in ("quant_min", "quant_max")},
        **_LEVELS}, kinds="f f iu", gives="dtype"),
    "dequantize_linear": OpSchema("x scale zero_point?", dict(_LEVELS), kinds="iu f iu",
                                  gives="1"),
    "quant_conv": OpSchema("x weight scale bias? residual?", {
        "stride": _steps, "padding": _edges, "dilation": _steps, "groups": Attr(_count, 1),
        **_QUANTISED_LAYER}, ranks=_spatial, kinds="iu i f i fiu", gives="dtype"),
    "quant_linear": OpSchema("x weight scale bias? residual?", dict(_QUANTISED_LAYER),
                             kinds="iu i f i fiu", gives="dtype"),
    "quant_add": OpSchema("a b", {**_real("a"), **_real("b"), **_RESULT, **_ACTIVATION},
                          kinds="iu", gives="dtype"),
    "quant_avg_pool": OpSchema("x", {
        **_POOL, "ceil_mode": Attr(flag, False), "count_include_pad": Attr(flag, True),
        **_real("x"), **_RESULT}, ranks=_spatial, kinds="iu", gives="dtype"),
    "lookup": OpSchema("x table", kinds="iu", gives="1"),
    "matmul": OpSchema("a b"),
    "pow": OpSchema("x", {"exponent": Attr(real())}),
    "mean": OpSchema("x", _over_axes),
    **dict.fromkeys(("sum", "prod"), OpSchema("x", _over_axes, kinds="fiub", gives="sum")),
    **dict.fromkeys(("amax", "amin"), OpSchema("x", _over_axes, kinds="fiub")),
    **dict.fromkeys(("argmax", "argmin"), OpSchema("x", _over_axis, kinds="fiub", gives="int64")),
    "topk": OpSchema("x", {"k": Attr(_size), "dim": Attr(axis, -1), "largest": Attr(flag, True)},
                     extra=(("same", "int64", ""),), kinds="fiu"),
    "cumsum": OpSchema("x", {"dim": Attr(axis)}, kinds="fiub", gives="sum"),
    **dict.fromkeys(("take", "gather"), OpSchema(
        "x indices", {"dim": Attr(axis, 0)}, kinds="fiub iu", gives="0")),
    "expand": OpSchema("x", {"shape": Attr(any_number(integer(-1)))}, kinds="fiub"),
    "reshape": OpSchema("x", {"shape": Attr(any_number(integer(-1)))}, kinds="fiub"),
    "flatten": OpSchema("x", {"start_dim": Attr(axis, 0), "end_dim": Attr(axis, -1)},
                        kinds="fiub"),
    "permute": OpSchema("x", {"dims": Attr(permutation)}, kinds="fiub"),
    "concat": OpSchema("x...", {"dim": Attr(axis, 0)}, kinds="fiub"),
    "slice": OpSchema("x", {
        name: Attr(per_axis(optional(integer(-MAX_SIZE)))) for name in ("starts", "stops", "steps")
    }, kinds="fiub"),
    "pad": OpSchema("x", {
        "padding": Attr(per_axis(pair(integer(-MAX_SIZE)))),
        "mode": Attr(choice("constant", "reflect", "replicate", "circular"), "constant"),
        "value": Attr(real(), 0.0)}, kinds="fiub"),
    "resize": OpSchema("x", {
        "size": Attr(per_axis(optional(_size))),
        "scale": Attr(optional(per_axis(real(1e-9, 1e9))), None),
        "mode": Attr(choice(*MODES), "nearest"),
        "coordinates": Attr(choice(*COORDINATES), "half_pixel"),
        "nearest_mode": Attr(choice(*NEAREST), "round_prefer_floor"),
        "cubic_coeff_a": Attr(real(-1e6, 1e6), -0.75),
        "exclude_outside": Attr(flag, False), "antialias": Attr(flag, False),
        "roi": Attr(optional(per_axis(pair(real(-1e6, 1e6)))), None),
        "extrapolation_value": Attr(real(), 0.0)}),
    "upsample": OpSchema("x", {
        "size": Attr(per_spatial(_count)),
        "mode": Attr(choice("nearest", "linear", "bilinear"), "nearest"),
        "align_corners": Attr(flag, False),
        "scale_factor": Attr(optional(per_spatial(real(1e-9, 1e9))), None)}, ranks=_spatial),
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
    """Return an attribute as a JSON value with tuples, or open sizes; else raise TypeError."""
    if value is None or isinstance(value, (bool, int, float, str, OpenDim)):
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
            if attr.default is not REQUIRED}


def complete(op: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """Return canonical attributes in the schema's order, with defaults filled in."""
    given = {**defaults(op), **{name: canonical(value) for name, value in attrs.items()}}
    known = {name: given.pop(name) for name in schema_of(op).attrs if name in given}
    return {**known, **given}


# Types of which equal values are the same value; most attributes are their defaults.
_PLAIN = frozenset((type(None), bool, int, str))


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
            if attr.default is REQUIRED:
                raise ShapeError(f"{op}: attribute {name!r} is missing")
            checked[name] = attr.default
            continue
        value, default = attrs[name], attr.default
        if type(value) is type(default) and value == default and type(value) in _PLAIN:
            checked[name] = default
            continue
        try:
            checked[name] = attr.check.run(value, rank)
        except ValueError as error:
            raise ShapeError(f"{op}: attribute {name!r}: {error}") from None
    return checked
