"""Tensors in ONNX files: declared size against bytes, external data inside the model's folder."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.types import LEVELS, elem_name, held

__all__ = ["read_tensor"]

MAX_RANK = 16
# Bits of one element, and the typed field that may hold it instead of raw_data.
_BITS = {"FLOAT16": 16, "BFLOAT16": 16, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "BOOL": 8}
_FIELDS = {"FLOAT": "float_data", "DOUBLE": "double_data", "INT64": "int64_data",
           "UINT32": "uint64_data", "UINT64": "uint64_data"}
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}


def read_tensor(tensor: Any, folder: Path | None, what: str) -> np.ndarray:
    """Return a TensorProto's values in the type in which they are held, read-only.

    Parameters
    ----------
    tensor : onnx.TensorProto
        The tensor.
    folder : Path or None
        The model's folder, below which external data must lie; None where there is none.
    what : str
        What it is, for the message.

    Raises
    ------
    ModelFormatError
        When the declared size is not that of the data, or external data leads elsewhere.
    UnsupportedOperatorError
        When the element type is none that convkit holds.
    """
    dtype, name = held(tensor.data_type), elem_name(tensor.data_type)
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(n < 0 for n in shape):
        raise ModelFormatError(f"{what}: shape {shape[:MAX_RANK + 1]} has more than {MAX_RANK} "
                               "axes or a negative size")
    if tensor.HasField("segment"):
        raise ModelFormatError(f"{what}: tensors in segments are not allowed")
    count = math.prod(shape)
    bits = _BITS.get(name, np.dtype(dtype).itemsize * 8)
    onnx = require_onnx()
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raw = _external(tensor, folder, -(-count * bits // 8), what)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _from_field(tensor, name, dtype, shape, bits, count, what)
    if len(raw) != -(-count * bits // 8):
        raise ModelFormatError(f"{what}: shape {shape} of {name} needs {-(-count * bits // 8)} "
                               f"bytes, got {len(raw)}")
    return _finish(_decode(raw, name, dtype, bits, count), dtype, shape)


def _finish(values: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.ascontiguousarray(values.astype(dtype, copy=False)).reshape(shape)
    values.flags.writeable = False
    return values


def _decode(raw: Any, name: str, dtype: str, bits: int, count: int) -> np.ndarray:
    """Return the values of little-endian bytes."""
    if name == "FLOAT16":
        return np.frombuffer(raw, "<f2")
    if name == "BFLOAT16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if name == "BOOL":
        return np.frombuffer(raw, np.uint8) != 0
    if name in LEVELS:
        return _unpack(np.frombuffer(raw, np.uint8), name, bits, count)
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))


def _unpack(packed: np.ndarray, name: str, bits: int, count: int) -> np.ndarray:
    """Return integers of a few bits each, the first in the lowest bits of a byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = ((packed[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count].astype(np.int16)
    if LEVELS[name][0] < 0:
        values -= (values >> (bits - 1)) << bits
    return values


def _from_field(tensor: Any, name: str, dtype: str, shape: tuple[int, ...], bits: int, count: int,
                what: str) -> np.ndarray:
    """Return values that are stored in one of the typed lists."""
    numbers = getattr(tensor, _FIELDS.get(name, "int32_data"))
    wanted = -(-count * bits // 8) if name in LEVELS else count
    if len(numbers) != wanted:
        raise ModelFormatError(f"{what}: shape {shape} needs {wanted} values of {name}, "
                               f"got {len(numbers)}")
    if name in ("FLOAT16", "BFLOAT16", *LEVELS):
        width = np.uint8 if name in LEVELS else np.uint16
        raw = (np.asarray(numbers, np.int64) & (0xFF if width is np.uint8 else 0xFFFF))
        return _finish(_decode(raw.astype(width).tobytes(), name, dtype, bits, count), dtype, shape)
    with np.errstate(all="ignore"):
        values = np.asarray(numbers, {"FLOAT": "f4", "DOUBLE": "f8"}.get(name) or (
            "u8" if "uint64_data" in _FIELDS.get(name, "") else "i8"))
        return _finish(values != 0 if name == "BOOL" else values, dtype, shape)


def _external(tensor: Any, folder: Path | None, size: int, what: str) -> memoryview:
    """Return the bytes of a tensor that lie in another file of the model's folder."""
    entries = {e.key: e.value for e in tensor.external_data}
    if len(entries) != len(tensor.external_data) or not entries.keys() <= _EXTERNAL_KEYS:
        raise ModelFormatError(f"{what}: external data has keys {sorted(entries)[:8]!r:.200}, "
                               f"expected each of {sorted(_EXTERNAL_KEYS)} at most once")
    if tensor.HasField("raw_data") or folder is None:
        raise ModelFormatError(f"{what}: external data where there can be none")
    offset, length = (_number(entries.get(key), what) for key in ("offset", "length"))
    if length is not None and length != size:
        raise ModelFormatError(f"{what}: needs {size} bytes, external data declares {length}")
    path = _inside(entries.get("location", ""), folder, what)
    try:
        state = os.stat(path)
        # A pipe would wait for somebody to write, so what the path is comes before opening it.
        if not stat.S_ISREG(state.st_mode) or state.st_size < (offset or 0) + size:
            raise ModelFormatError(f"{what}: external file {path.name!r:.80} is no file of at "
                                   f"least {(offset or 0) + size} bytes")
        with open(path, "rb") as file:
            file.seek(offset or 0)
            return memoryview(file.read(size))
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{what}: external data: {error}") from None


def _number(text: str | None, what: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelFormatError(f"{what}: external data: expected a whole number, got {text!r:.40}")
    return int(text)


def _inside(location: str, folder: Path, what: str) -> Path:
    """Return the path of external data; raise ModelFormatError where it leads out."""
    parts = Path(location).parts
    if (not parts or "\0" in location or "\\" in location or ":" in parts[0]
            or Path(location).is_absolute() or ".." in parts or len(location) > 1024):
        raise ModelFormatError(f"{what}: external data must lie below the model's folder, "
                               f"got {location!r:.200}")
    path, home = folder / location, Path(os.path.realpath(folder))
    if Path(os.path.realpath(path)) != home.joinpath(*parts):
        raise ModelFormatError(f"{what}: external data {location!r:.200} leads through a link")
    return path
