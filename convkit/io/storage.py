"""Number formats of stored tensors: to and from float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CODES", "MODEL_TYPES", "STORAGE", "TYPES", "StoredTensor", "decode", "encode"]

# Code in the header -> the type that the bytes are read as (bfloat16 as its bits).
STORAGE = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# All types of the format that NumPy has: what files other than models may hold.
TYPES = STORAGE | {code: np.dtype(name) for code, name in (
    ("F64", "<f8"), ("I64", "<i8"), ("I32", "<i4"), ("I16", "<i2"), ("I8", "i1"), ("U64", "<u8"),
    ("U32", "<u4"), ("U16", "<u2"), ("U8", "u1"), ("BOOL", "?"))}
# What a model may hold: floats, computed with as float32, and integers and booleans as they are.
MODEL_TYPES = {code: dtype for code, dtype in TYPES.items() if code != "F64"}
_WHOLE = {dtype.name: code for code, dtype in TYPES.items() if dtype.kind in "iub"}
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file: the code of its number format, its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: Any


def decode(tensor: StoredTensor) -> np.ndarray:
    """Return a tensor as float32, or of integers; data is used where it lies, read-only."""
    stored = np.frombuffer(tensor.data, MODEL_TYPES[tensor.dtype])
    if tensor.dtype == "BOOL":
        values = stored.view(np.uint8) != 0
    elif tensor.dtype not in STORAGE:
        values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    elif tensor.dtype == "BF16":
        bits = stored.astype(np.uint32)
        values = np.left_shift(bits, 16, out=bits).view(np.float32)
    else:
        values = stored.astype(np.float32, copy=False)
    values = values.reshape(tensor.shape)
    values.flags.writeable = False
    return values


def encode(array: np.ndarray, storage: str, name: str) -> StoredTensor:
    """Return an array in one of the storage types, rounded to nearest even; integers as they are.

    Raises
    ------
    ValueError
        When a finite value is too large for float16.
    """
    if array.dtype.kind in "iub":
        code = _WHOLE[array.dtype.name]
        return StoredTensor(code, array.shape, array.astype(TYPES[code], copy=False).tobytes())
    code = CODES[storage]
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, np.float32)
        if code == "BF16":
            data = _bfloat16(values)
        else:
            data = values.astype(STORAGE[code])
            if np.isinf(data).sum() != np.isinf(array).sum():
                raise ValueError(f"{name!r} holds {np.abs(array).max():.6g}, too large for "
                                 f"{storage}; save with weights='bfloat16' or 'float32'")
    return StoredTensor(code, array.shape, data.astype(STORAGE[code], copy=False).tobytes())


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers, rounded to nearest even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
