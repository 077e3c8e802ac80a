"""Number formats of stored tensors: to and from float32."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import memory

__all__ = ["CODES", "MODEL_TYPES", "RUN", "STORAGE", "TYPES", "Decoded", "StoredTensor", "convert",
           "decode", "encode", "give_pages_back"]

# Code in the header -> the type that the bytes are read as (bfloat16 as its bits).
STORAGE = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# All types of the format that NumPy has: what files other than models may hold.
TYPES = STORAGE | {code: np.dtype(name) for code, name in (
    ("F64", "<f8"), ("I64", "<i8"), ("I32", "<i4"), ("I16", "<i2"), ("I8", "i1"), ("U64", "<u8"),
    ("U32", "<u4"), ("U16", "<u2"), ("U8", "u1"), ("BOOL", "?"))}
# What a model may hold: floats, computed with as float32, and integers and booleans as they are.
MODEL_TYPES = {code: dtype for code, dtype in TYPES.items() if code != "F64"}
_WHOLE = {dtype.name: code for code, dtype in TYPES.items() if dtype.kind in "iub"}
# Elements that are decoded at a time: what is made of them finds them in the second-level cache.
RUN = 1 << 18
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class StoredTensor(NamedTuple):
    """One tensor in a file: the code of its number format, its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: Any

    def whole(self) -> np.ndarray:
        """Return the elements as they are stored, one after the other, where they lie."""
        return np.frombuffer(self.data, MODEL_TYPES[self.dtype])

    def runs(self, count: int) -> Iterator[np.ndarray]:
        """Yield the elements as they are stored, `count` at a time.

        The pages of a mapped file that were read are given back, so that a tensor that is read to
        make something of it takes no memory afterwards; the system brings them back when asked.
        """
        stored = self.whole()
        for begin in range(0, len(stored), count):
            run = stored[begin:begin + count]
            yield run
            give_pages_back(self.data, run)


def give_pages_back(data: Any, run: np.ndarray) -> None:
    """Tell the system that pages of a mapped file are not needed now."""
    mapped = getattr(data, "obj", None)
    if run.nbytes < 2 * mmap.PAGESIZE:
        return
    if sys.platform != "linux" or not isinstance(mapped, mmap.mmap):
        return
    start = memory.address_of(run) - memory.address_of(np.frombuffer(mapped, np.uint8))
    begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (start + run.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if size > 0:
        mapped.madvise(mmap.MADV_DONTNEED, begin, size)


class Decoded:
    """A file's tensor as what networks compute with: float32, integers or booleans.

    It is decoded whenever it is asked for.

    Parameters
    ----------
    tensor : StoredTensor or CompressedTensor
    """

    def __init__(self, tensor: Any):
        self._tensor, self.shape = tensor, tensor.shape
        self.dtype = _decoded_type(tensor.dtype)

    def array(self) -> np.ndarray:
        """Return the values, read-only, where they lie if that can be."""
        return _shaped(convert(self._tensor.whole(), self._tensor.dtype), self.shape)

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows from there on) of multiples of `rows` rows.

        A part is overwritten by the next one.
        """
        inner = self.shape[1:]
        width = math.prod(inner)
        step = max(1, RUN // max(1, width * rows)) * rows
        room = None
        for i, run in enumerate(self._tensor.runs(step * width)) if width else ():
            if room is None and self.dtype == np.float32 and self._tensor.dtype != "F32":
                room = np.empty(len(run), np.float32)
            part = convert(run, self._tensor.dtype, None if room is None else room[:len(run)])
            yield i * step, part.reshape(-1, *inner)


def _decoded_type(code: str) -> np.dtype:
    return np.dtype(np.float32) if code in STORAGE else MODEL_TYPES[code].newbyteorder("=")


def convert(stored: np.ndarray, code: str, out: np.ndarray | None = None) -> np.ndarray:
    """Return stored elements as they are computed with; in `out` where float32 is to be made."""
    if code == "BOOL":
        return stored.view(np.uint8) != 0
    if code not in ("BF16", "F16"):
        return stored.astype(_decoded_type(code), copy=False)
    out = np.empty(len(stored), np.float32) if out is None else out
    if code == "F16":
        np.copyto(out, stored)
    else:
        bits = out.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    return out


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = values.reshape(shape)
    values.flags.writeable = False
    return values


def decode(tensor: StoredTensor) -> np.ndarray:
    """Return a tensor as float32, or of integers; data is used where it lies, read-only."""
    return Decoded(tensor).array()


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
