"""Functions that make tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import random
from convkit.autograd import Tensor

__all__ = ["arange", "from_numpy", "full", "ones", "ones_like", "rand", "randn", "tensor", "zeros",
           "zeros_like"]


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor over a copy of `data`.

    Parameters
    ----------
    data : array_like
        Arrays keep their type; Python floats become float32, integers int64.
    dtype : dtype_like, optional
        Element type of the result.
    requires_grad : bool
        Whether `Tensor.backward` fills its gradient.

    Raises
    ------
    DTypeError
        When `data` does not hold numbers, or a gradient is wanted of integers.
    """
    if isinstance(data, Tensor):
        data = data.data
    array = np.array(data, dtype=dtype)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        array = array.astype(np.float32)
    return Tensor(array, requires_grad=requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected a numpy.ndarray, got {type(array).__name__}")
    return Tensor(array)


def _shape(sizes: tuple) -> tuple[int, ...]:
    if len(sizes) == 1 and not hasattr(sizes[0], "__index__"):
        return tuple(sizes[0])
    return sizes


def zeros(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return a tensor of zeros; sizes are given one by one or as a tuple."""
    return Tensor(np.zeros(_shape(size), dtype), requires_grad)


def ones(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return a tensor of ones; sizes are given one by one or as a tuple."""
    return Tensor(np.ones(_shape(size), dtype), requires_grad)


def full(
    size: tuple[int, ...], fill_value: float, dtype: Any = np.float32, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of which every element is `fill_value`."""
    return Tensor(np.full(size, fill_value, dtype), requires_grad)


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Return zeros of the shape, and unless told otherwise the type, of `x`."""
    return Tensor(np.zeros_like(x.data if isinstance(x, Tensor) else x, dtype))


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Return ones of the shape, and unless told otherwise the type, of `x`."""
    return Tensor(np.ones_like(x.data if isinstance(x, Tensor) else x, dtype))


def arange(*args: Any, dtype: Any = None) -> Tensor:
    """Return numpy.arange(*args) as a tensor: int64, or float32 when a float is given."""
    array = np.arange(*args, dtype=dtype)
    return Tensor(array.astype(np.float32) if dtype is None and array.dtype.kind == "f" else array)


def rand(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return numbers drawn evenly from [0, 1) by the generator that `manual_seed` restarts."""
    return Tensor(random.generator().random(_shape(size), dtype), requires_grad)


def randn(*size: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return normal numbers (mean 0, variance 1) drawn by the generator of `manual_seed`."""
    return Tensor(random.generator().standard_normal(_shape(size), dtype), requires_grad)
