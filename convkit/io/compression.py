"""Lossless compression of stored tensors: bytes apart by their place, each plane by zlib.

The bytes of an element that hold its exponent repeat, those of its mantissa do not. So the
elements' first bytes are put together, then their second ones, and so on; a plane that zlib
makes no smaller stays as it is, which also spares the time of unpacking it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.safetensors_read import MAX_RANK
from convkit.io.storage import MODEL_TYPES, StoredTensor

__all__ = ["compress_all", "decompress_all"]

FIELDS = {"dtype", "shape", "planes"}
# What tensors may take in memory: so many times the file, or this for small files.
MAX_RATIO = 4
MEMORY_FLOOR = 16 * 2**20
LEVEL = 6
PROBE = 1 << 16
WORTH_IT = 0.97
ENTRY = 128  # bytes that an entry takes in the header
PIECE = 1 << 16


# -- writing --------------------------------------------------------------------------------


def compress_all(
    tensors: Mapping[str, StoredTensor],
) -> tuple[dict[str, StoredTensor], dict[str, dict[str, Any]]]:
    """Compress the tensors that gain by it.

    Returns
    -------
    stored : dict of str to StoredTensor
        All of them, the compressed ones as "U8" of one axis.
    entries : dict of str to dict
        The type, the shape and the planes' sizes of each compressed tensor.
    """
    stored, entries = dict(tensors), {}
    for name, tensor in tensors.items():
        pieces = _compress(tensor)
        size = sum(map(len, pieces))
        if size + ENTRY < len(tensor.data) and size < WORTH_IT * len(tensor.data):
            data = b"".join(pieces)
            stored[name] = StoredTensor("U8", (len(data),), data)
            entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                             "planes": [len(p) for p in pieces]}
    _keep_in_proportion(tensors, stored, entries)
    return stored, entries


def _keep_in_proportion(tensors: Mapping[str, StoredTensor], stored: dict[str, StoredTensor],
                        entries: dict[str, dict[str, Any]]) -> None:
    """Undo the largest gains until readers' bound on memory holds."""
    whole = sum(len(t.data) for t in tensors.values())
    size = sum(len(t.data) for t in stored.values())
    gains = sorted(entries, key=lambda name: len(tensors[name].data) - len(stored[name].data))
    while whole > max(MAX_RATIO * size, MEMORY_FLOOR) and gains:
        name = gains.pop()
        size += len(tensors[name].data) - len(stored[name].data)
        stored[name] = tensors[name]
        del entries[name]


def _compress(tensor: StoredTensor) -> list[bytes]:
    """Return the planes of a tensor's bytes, each compressed or as it is."""
    width = MODEL_TYPES[tensor.dtype].itemsize
    rows = np.frombuffer(tensor.data, np.uint8).reshape(-1, width)
    return [_deflate(np.ascontiguousarray(rows[:, i]).tobytes()) for i in range(width)]


def _deflate(plane: bytes) -> bytes:
    """Return a plane compressed, or as it is where that would gain next to nothing."""
    import zlib

    middle = max(0, (len(plane) - PROBE) // 2)
    probe = plane[middle:middle + PROBE]
    if len(zlib.compress(probe, 1)) >= WORTH_IT * len(probe):
        return plane
    packed = zlib.compress(plane, LEVEL)
    return packed if len(packed) < len(plane) else plane


# -- reading --------------------------------------------------------------------------------


def decompress_all(tensors: Mapping[str, StoredTensor], entries: Any,
                   file_size: int) -> dict[str, StoredTensor]:
    """Return a file's tensors as they were before compression.

    All sizes are checked before anything is unpacked.

    Raises
    ------
    ModelFormatError
        When an entry does not fit its tensor, the tensors would take more than four times
        the file (16 MiB for small files), or a plane does not unpack to its exact size.
    """
    if not isinstance(entries, dict):
        raise ModelFormatError("compression: expected an object")
    total = sum(len(t.data) for t in tensors.values())
    for name, entry in entries.items():
        if name not in tensors:
            raise ModelFormatError(f"compression: {name!r:.80} is not one of the tensors")
        total += _check(name, entry, tensors[name]) - len(tensors[name].data)
    if total > max(MAX_RATIO * file_size, MEMORY_FLOOR):
        raise ModelFormatError(f"compression: tensors of {total} bytes are out of proportion to a "
                               f"file of {file_size} bytes")
    whole = dict(tensors)
    for name, entry in entries.items():
        whole[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]),
                                   _unpack(name, tensors[name].data, entry))
    return whole


def _check(name: str, entry: Any, tensor: StoredTensor) -> int:
    """Return how many bytes an entry says its tensor takes, after checking its fields."""
    what = f"compression of {name!r}"
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        raise ModelFormatError(f"{what}: expected {', '.join(sorted(FIELDS))}")
    dtype, shape, planes = entry["dtype"], entry["shape"], entry["planes"]
    if not isinstance(dtype, str) or dtype not in MODEL_TYPES:
        raise ModelFormatError(f"{what}: unknown dtype {dtype!r:.40}")
    if not _sizes(shape, MAX_RANK):
        raise ModelFormatError(f"{what}: shape must be at most {MAX_RANK} sizes")
    width, count = MODEL_TYPES[dtype].itemsize, math.prod(shape)
    if not _sizes(planes, width) or len(planes) != width or max(planes) > count:
        raise ModelFormatError(f"{what}: planes must be {width} sizes of at most {count}")
    if tensor.dtype != "U8" or tensor.shape != (sum(planes),):
        raise ModelFormatError(f"{what}: planes of {sum(planes)} bytes, but the tensor is "
                               f"{tensor.dtype} of shape {list(tensor.shape)}")
    return width * count


def _sizes(value: Any, most: int) -> bool:
    """Tell whether a field is a list of sizes."""
    return (isinstance(value, list) and len(value) <= most
            and all(type(n) is int and 0 <= n < 2**63 for n in value))


def _unpack(name: str, data: memoryview, entry: dict[str, Any]) -> np.ndarray:
    """Return a tensor's bytes in their order."""
    count = math.prod(entry["shape"])
    rows = np.empty((count, len(entry["planes"])), np.uint8)
    begin = 0
    for i, size in enumerate(entry["planes"]):
        plane = data[begin:begin + size]
        begin += size
        if size == count:
            rows[:, i] = np.frombuffer(plane, np.uint8)
        else:
            _inflate(name, plane, rows[:, i])
    return rows.reshape(-1)


def _inflate(name: str, packed: memoryview, plane: np.ndarray) -> None:
    """Unpack a zlib stream into a plane of exactly its size, a piece of the stream at a time."""
    import zlib

    stream, done, count = zlib.decompressobj(), 0, len(plane)
    try:
        for begin in range(0, len(packed), PIECE):
            # One byte more than is left: a stream that is too long shows itself.
            piece = stream.decompress(packed[begin:begin + PIECE], count - done + 1)
            if len(piece) > count - done:
                raise ModelFormatError(f"compression of {name!r}: a plane unpacks to more than "
                                       f"{count} bytes")
            plane[done:done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
            if stream.eof and begin + PIECE < len(packed):
                break
    except zlib.error as error:
        raise ModelFormatError(f"compression of {name!r}: {error}") from None
    if done != count or not stream.eof or stream.unused_data or begin + PIECE < len(packed):
        raise ModelFormatError(f"compression of {name!r}: expected a zlib stream of {count} bytes "
                               f"and nothing after it, got {done} bytes")
