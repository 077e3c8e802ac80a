"""How far results may lie from the float64 reference: the one table of tolerances.

A value `got` is accepted for `want` where

    |got - want| <= relative * |want| + normwise * max |want|

so `normwise` bounds rounding in sums with cancellation, measured against the largest
element of the result, and `relative` bounds each element against itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["GRADCHECK", "NORMWISE", "TOLERANCES", "Tolerance", "assert_close", "tolerance"]


class Tolerance(NamedTuple):
    """Bounds against the element itself and against the largest element."""

    relative: float
    normwise: float


# kind -> dtype -> bounds.
#   forward, gradient   sums of products: convolution, linear, pooling, batch norm, losses
#   highest, highest_gradient
#                       the same at precision "highest" (plain FMA in the input's own format)
#   elementwise, elementwise_gradient
#                       one output element from few input elements: activations, arithmetic
TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "forward": {"float32": Tolerance(1e-5, 1e-5), "float64": Tolerance(1e-11, 1e-13)},
    "gradient": {"float32": Tolerance(5e-5, 2e-5), "float64": Tolerance(1e-10, 1e-12)},
    "highest": {"float32": Tolerance(2e-6, 2e-6), "float64": Tolerance(1e-11, 1e-13)},
    "highest_gradient": {"float32": Tolerance(1e-5, 5e-6), "float64": Tolerance(1e-10, 1e-12)},
    "elementwise": {"float32": Tolerance(3e-6, 3e-7), "float64": Tolerance(1e-13, 1e-15)},
    "elementwise_gradient": {"float32": Tolerance(6e-6, 1e-6), "float64": Tolerance(1e-12, 1e-14)},
}

# Random networks and calls beside PyTorch (tests/fuzz): |got - want| / |want| over whole arrays is
# at most the first number, or the second times the error of PyTorch's own float32 where that is
# more (badly conditioned cases); at precision "medium" the products are bfloat16. "double" is
# convkit in float64, against PyTorch's.
NORMWISE: dict[str, dict[str, tuple[float, float]]] = {
    "forward": {"float32": (3e-5, 20), "medium": (5e-2, 3e4)},
    "train": {"float32": (5e-5, 30), "medium": (5e-2, 3e4)},
    "gradient": {"float32": (5e-4, 50), "medium": (0.15, 3e4)},
    "gradient of maxima": {"float32": (5e-4, 50), "medium": (0.6, 3e4)},  # places change
    "call": {"float32": (2e-5, 20), "medium": (5e-2, 3e4)},
    "statistics": {"float32": (1e-4, 20), "medium": (2e-2, 3e4)},
    "double": {"float32": (1e-9, 1e-6), "medium": (1e-9, 1e-6)},
    "int8": {"float32": (0.35, 0), "medium": (0.35, 0)},
    "int8 elsewhere": {"float32": (0.05, 0), "medium": (0.05, 0)},
}

# Central differences in float64: step, and the accepted error of a directional derivative
# against the gradient's norm.
GRADCHECK = {"step": 1e-5, "relative": 1e-6, "roundoff": 1e-9}


def tolerance(kind: str, dtype: object) -> Tolerance:
    """Return the bounds of one kind of result in one floating-point format."""
    return TOLERANCES[kind][np.dtype(dtype).name]


def assert_close(got: object, want: object, bounds: Tolerance, what: str = "result") -> None:
    """Assert that `got` has the shape of `want` and lies within `bounds` of it.

    NaN is accepted for NaN only, an infinity for the same infinity only.
    """
    got = np.asarray(got)
    want = np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if want.dtype.kind in "biu" or got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    got = got.astype(np.float64)
    want = want.astype(np.float64)
    finite = np.isfinite(want)
    np.testing.assert_array_equal(
        np.where(np.isfinite(got), 0.0, got), np.where(finite, 0.0, want),
        err_msg=f"{what}: NaN or infinity in other places")
    if not finite.any():
        return
    got = np.where(finite, got, 0.0)
    want = np.where(finite, want, 0.0)
    error = np.abs(got - want)
    limit = bounds.relative * np.abs(want) + bounds.normwise * np.abs(want).max()
    if (error <= limit).all():
        return
    worst = np.unravel_index(np.argmax(error - limit), error.shape)
    place = tuple(int(i) for i in worst)
    raise AssertionError(
        f"{what}: {np.count_nonzero(error > limit)} of {error.size} elements are off; worst at "
        f"{place}: got {got[worst]!r}, expected {want[worst]!r} (error {error[worst]:.3g}, "
        f"allowed {limit[worst]:.3g}; largest element {np.abs(want).max():.3g})")
