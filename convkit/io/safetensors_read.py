"""Strict reading of a safetensors file: every field is checked before a tensor is made.

Layout (https://github.com/huggingface/safetensors): 8 bytes with the header's length as a
little-endian unsigned integer, the header (a JSON object of name -> dtype, shape,
data_offsets; "__metadata__" -> strings), then the tensors' bytes without gaps.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from mmap import ACCESS_READ, mmap
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.storage import STORAGE, StoredTensor
from convkit.io.strict_json import parse_json

__all__ = ["MAX_HEADER", "MAX_TENSORS", "SafetensorsFile", "named", "open_bytes",
           "open_file"]

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 65_536
MAX_NAME = 512
MAX_RANK = 8


class SafetensorsFile:
    """A mapped file whose header is parsed; `tensors` checks and gives the rest.

    Attributes
    ----------
    metadata : dict of str to str
        What the file says under "__metadata__".
    size : int
        Bytes in the whole file.
    """

    def __init__(self, metadata: dict[str, str], size: int, fields: dict[str, Any],
                 data: memoryview):
        self.metadata, self.size, self._fields, self._data = metadata, size, fields, data

    def tensors(self, types: Mapping[str, np.dtype] = STORAGE) -> dict[str, StoredTensor]:
        """Return the tensors by name, their bytes as views of the map.

        Parameters
        ----------
        types : mapping of str to numpy.dtype
            The number formats that are accepted, by their codes.

        Raises
        ------
        ModelFormatError
            When a tensor's entry is out of order, or they do not cover the data exactly.
        """
        spans = _check_tensors(self._fields, len(self._data), types)
        return {name: StoredTensor(dtype, shape, self._data[begin:end])
                for name, (dtype, shape, begin, end) in spans.items()}


@contextlib.contextmanager
def named(path: Any) -> Iterator[None]:
    """Put a file's path in front of what is wrong with it, within a ``with`` block."""
    try:
        yield
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error


def open_file(path: Any) -> SafetensorsFile:
    """Map a safetensors file and parse its header.

    Parameters
    ----------
    path : path_like
        The file.

    Raises
    ------
    OSError
        When the file cannot be opened.
    ModelFormatError
        When it is no regular file, the header's length does not fit, or the header is not
        the JSON of an honest file.
    """
    if not os.path.isdir(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ModelFormatError("not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        data = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))[8 + len(header):]
    return _parsed(header, size, data)


def open_bytes(content: bytes) -> SafetensorsFile:
    """Parse the header of a safetensors file that lies in memory, as `open_file` does."""
    header = _read_header(BytesIO(content), len(content))
    return _parsed(header, len(content), memoryview(content)[8 + len(header):])


def _parsed(header: bytes, size: int, data: memoryview) -> SafetensorsFile:
    """Parse the header of a file of `size` bytes."""
    fields = parse_json(header, "header", size)
    if not isinstance(fields, dict):
        raise ModelFormatError(f"header: expected an object, got {type(fields).__name__}")
    metadata = _check_metadata(fields.pop("__metadata__", {}))
    return SafetensorsFile(metadata, size, fields, data)


def _read_header(file: Any, size: int) -> bytes:
    """Return the header's bytes after checking its length against the file's."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ModelFormatError(f"a file of {size} bytes is too short for a safetensors file")
    length = struct.unpack("<Q", prefix)[0]
    if length > MAX_HEADER:
        raise ModelFormatError(f"header of {length} bytes, at most {MAX_HEADER} are allowed")
    if 8 + length > size:
        raise ModelFormatError(
            f"header of {length} bytes does not fit in a file of {size} bytes (cut short?)")
    header = file.read(length)
    if len(header) != length or not header.startswith(b"{"):
        raise ModelFormatError("header: expected a JSON object")
    return header


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise ModelFormatError("__metadata__: expected an object of strings")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ModelFormatError(f"__metadata__ {key[:80]!r}: expected a string")
    return metadata


def _check_tensors(
    fields: dict[str, Any], data_size: int, types: Mapping[str, np.dtype]
) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Return (dtype, shape, begin, end) by name; the spans cover the data without gaps."""
    if len(fields) > MAX_TENSORS:
        raise ModelFormatError(f"{len(fields)} tensors, at most {MAX_TENSORS} are allowed")
    spans = {name: _check_tensor(name, entry, data_size, types) for name, entry in fields.items()}
    end = 0
    for name, (_, _, first, last) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise ModelFormatError(f"tensor {name!r} begins at byte {first} of the data, expected "
                                   f"{end}: tensors must follow each other without gap or overlap")
        end = last
    if end != data_size:
        raise ModelFormatError(f"tensors take {end} bytes, but {data_size} follow the header")
    return spans


def _check_tensor(
    name: str, entry: Any, data_size: int, types: Mapping[str, np.dtype]
) -> tuple[str, tuple[int, ...], int, int]:
    """Check one tensor's entry by itself."""
    if not 0 < len(name) <= MAX_NAME:
        raise ModelFormatError(f"a tensor's name has {len(name)} characters, expected 1 to "
                               f"{MAX_NAME}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFormatError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in types:
        raise ModelFormatError(f"tensor {name!r}: unknown dtype {dtype!r:.40}, expected one of "
                               f"{', '.join(types)}")
    for what, value, most in (("shape", shape, MAX_RANK), ("data_offsets", offsets, 2)):
        if (not isinstance(value, list) or len(value) > most
                or any(type(n) is not int or not 0 <= n < 2**63 for n in value)):
            raise ModelFormatError(f"tensor {name!r}: {what} must be at most {most} "
                                   "non-negative 63-bit integers")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_size:
        raise ModelFormatError(f"tensor {name!r}: data_offsets {offsets} do not lie within "
                               f"{data_size} bytes of data")
    if types[dtype].itemsize * math.prod(shape) != offsets[1] - offsets[0]:
        raise ModelFormatError(f"tensor {name!r}: shape {shape} of {dtype} does not take the "
                               f"{offsets[1] - offsets[0]} bytes it is given")
    return dtype, tuple(shape), offsets[0], offsets[1]
