"""What quantised operations share: how real numbers lie on integers, and how steps end.

A quantised array stands for ``(q - zero) * scale``, with one scale and zero point for all of
it. Operations hold them in attributes, so that all they depend on can be prepared once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels.int8 import Finish
from convkit.errors import DTypeError, ShapeError

__all__ = ["BYTES", "RESULTS", "Between", "bounds", "checked_bytes", "checked_scale", "finish",
           "prepared"]

BYTES = ("uint8", "int8")
RESULTS = (*BYTES, "float32")


class Between(NamedTuple):
    """Bytes that a step's sums are rounded to before something is added to what they stand for.

    The activation is one without a factor for negative values (see `bounds`).
    """

    dtype: str
    y_scale: float
    y_zero: int
    activation: str | None
    activation_args: tuple
    scale: float   # of what they stand for in the addition


def checked_bytes(x: np.ndarray, what: str = "x") -> str:
    """Return the name of the type of a quantised array; raise DTypeError unless it is bytes."""
    if x.dtype.name not in BYTES:
        raise DTypeError(f"expected {what} of uint8 or int8, got {x.dtype}")
    return x.dtype.name


def checked_scale(scale: float, zero: int, dtype: str, what: str) -> None:
    """Raise ShapeError unless a scale is positive and finite, and the zero point a value of it."""
    if not 0 < scale < math.inf:
        raise ShapeError(f"expected {what}_scale to be positive and finite, got {scale}")
    if dtype in BYTES and not np.iinfo(dtype).min <= zero <= np.iinfo(dtype).max:
        raise ShapeError(f"expected {what}_zero to be a value of {dtype}, got {zero}")


def bounds(activation: str | None, args: tuple = ()) -> tuple[float, float, float]:
    """Return (factor of negative values, least, largest) of an activation."""
    if activation is None:
        return 1.0, -math.inf, math.inf
    if activation in ("relu", "relu6"):
        return 1.0, 0.0, 6.0 if activation == "relu6" else math.inf
    if activation == "clamp":
        low, high = (*args, math.inf)[:2] if args else (-math.inf, math.inf)
        return 1.0, low, high
    if activation == "leaky_relu":
        return float(args[0]) if args else 0.01, -math.inf, math.inf
    raise ValueError(f"expected activation None, 'relu', 'relu6', 'clamp' or 'leaky_relu', "
                     f"got {activation!r}")


def finish(dtype: str, y_scale: float, y_zero: int, activation: str | None = None,
           args: tuple = (), residual: str | None = None, residual_scale: float = 1.0,
           residual_zero: int = 0, between: Between | None = None) -> Finish:
    """Return how a step ends: type, scale and zero point of the result, what is added."""
    checked_scale(y_scale, y_zero, dtype, "y")
    if residual is not None:
        checked_scale(residual_scale, residual_zero, residual, "residual")
    alpha, low, high = bounds(activation, args)
    if residual == "float32":
        residual_scale, residual_zero = 1.0, 0
    before = (None, 0.0) if between is None else (finish(*between[:5]), between.scale / y_scale)
    return Finish(dtype, y_zero, residual, residual_scale / y_scale, residual_zero, alpha,
                  low / y_scale, high / y_scale, *before)


def prepared(cache: dict | None, key: tuple, make: Callable[[], Any]) -> Any:
    """Return what `make` makes, kept in a cache where there is one."""
    if cache is None:
        return make()
    found = cache.get(key)
    if found is None:
        found = cache[key] = make()
    return found
