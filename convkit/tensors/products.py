"""Products of vectors and matrices, with PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit._kernels.tape import apply
from convkit.errors import ShapeError
from convkit.ops import REGISTRY as OPS

__all__ = ["bmm", "dot", "matmul", "mm", "outer"]


def matmul(input: Any, other: Any) -> Any:
    """Return the matrix product; axes before the last two are broadcast."""
    return apply(OPS["matmul"], input, other)


def bmm(input: Any, mat2: Any) -> Any:
    """Return the products of two batches of matrices."""
    return _product(input, mat2, 3)


def dot(input: Any, tensor: Any) -> Any:
    """Return the inner product of two vectors."""
    return _product(input, tensor, 1)


def mm(input: Any, mat2: Any) -> Any:
    """Return the product of two matrices."""
    return _product(input, mat2, 2)


def outer(input: Any, vec2: Any) -> Any:
    """Return the products of each element of one vector with each of another."""
    _check(input, vec2, 1)
    return apply(OPS["mul"], input[:, None], vec2[None])


def _product(a: Any, b: Any, ndim: int) -> Any:
    _check(a, b, ndim)
    return matmul(a, b)


def _check(a: Any, b: Any, ndim: int) -> None:
    """Raise ShapeError unless both have so many axes."""
    shapes = [tuple(getattr(v, "shape", None) or np.shape(v)) for v in (a, b)]
    if not len(shapes[0]) == len(shapes[1]) == ndim:
        raise ShapeError(f"expected two tensors with {ndim} axes, got shapes {shapes[0]} and "
                         f"{shapes[1]}")
