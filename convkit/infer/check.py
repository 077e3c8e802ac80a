"""How far a compiled graph is from the model it was made from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convkit.errors import ConvkitError

__all__ = ["BOUNDS", "MaxError", "compare", "refuse_absurd"]

# Folding multiplies rounding errors by a few; a normwise difference beyond these means that
# a pass (or the model: a variance near zero under a large weight) is wrong, not imprecise.
BOUNDS = {"float32": 1e-3, "float64": 1e-10}
# bfloat16 products err by 3e-3 in one layer, and layers add up: ResNet-50 with random weights ends
# 0.11 away from float32 (PyTorch's bfloat16 autocast of it 0.13).
MEDIUM_BOUND = 0.3
# What one step more or less becomes through the layers after it.
INT8_BOUND = 0.5
# Differences of no more than this are no error however small the outputs are: where a network gives
# zeros (what is left of a constant without its mean), they are rounding on both sides.
NOTHING = {"float32": 1e-6, "float64": 1e-14}


class MaxError(NamedTuple):
    """Largest difference of a Program's outputs from the model's.

    Attributes
    ----------
    absolute : float
        Largest |a - b| over all elements of all outputs.
    relative : float
        Largest, over the outputs, of max |a - b| / max |a|, where a is the model's.
    """

    absolute: float
    relative: float


def compare(before: list[np.ndarray], after: list[np.ndarray]) -> MaxError:
    """Return the largest differences; infinite where only one side has NaN or infinity."""
    absolute = relative = 0.0
    for a, b in zip(before, after, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(np.where(finite, 0.0, a), np.where(np.isfinite(b), 0.0, b),
                              equal_nan=True):
            return MaxError(np.inf, np.inf)
        difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
        size = float(np.abs(a[finite]).max(initial=0.0))
        absolute = max(absolute, difference)
        if difference:
            relative = max(relative, difference / size if size else np.inf)
    return MaxError(absolute, relative)


def refuse_absurd(error: MaxError, dtype: str, precision: str) -> None:
    """Raise ConvkitError when the difference cannot be rounding."""
    bound = BOUNDS[dtype]
    if dtype == "float32":
        bound = {"medium": MEDIUM_BOUND, "int8": INT8_BOUND}.get(precision, bound)
    if not (error.relative <= bound or error.absolute <= NOTHING[dtype]):
        raise ConvkitError(
            f"the compiled graph differs from the model by {error.relative:.3g} of its largest "
            f"output (absolute: {error.absolute:.3g}), expected at most {bound:g}; "
            "compile with check=False to get the Program all the same")
