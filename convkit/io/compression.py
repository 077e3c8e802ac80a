"""Lossless compression of stored tensors: bytes apart by their place, each plane by zlib.

The bytes of an element that hold its exponent repeat, those of its mantissa do not. So the
elements' first bytes are put together, then their second ones, and so on; a plane that zlib
makes no smaller stays as it is, which also spares the time of unpacking it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.safetensors_read import MAX_RANK
from convkit.io.storage import MODEL_TYPES, RUN, StoredTensor, give_pages_back

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
                   file_size: int) -> dict[str, StoredTensor | CompressedTensor]:
    """Return a file's tensors, those that are compressed as what unpacks them.

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
    whole: dict[str, Any] = dict(tensors)
    for name, entry in entries.items():
        whole[name] = CompressedTensor(name, tensors[name].data, entry)
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


class CompressedTensor:
    """A compressed tensor of a file, with what `StoredTensor` offers.

    It is unpacked at once, so that damage shows when a file is read; what was unpacked is handed
    out once, run by run, and then unpacked anew whenever it is asked for.
    """

    def __init__(self, name: str, data: memoryview, entry: dict[str, Any]):
        self.dtype, self.shape = entry["dtype"], tuple(entry["shape"])
        self._name, self._data, self._sizes = name, data, entry["planes"]
        self._fresh: deque[np.ndarray] | None = deque(
            [_moved(run) for run in self._unpack(math.prod(self.shape), RUN)])
        give_pages_back(data, np.frombuffer(data, np.uint8))

    def whole(self) -> np.ndarray:
        """Return the elements as they are stored, one after the other."""
        found = np.empty(math.prod(self.shape), MODEL_TYPES[self.dtype])
        for i, run in enumerate(self.runs(RUN)):
            found[i * RUN:i * RUN + len(run)] = run
        return found

    def runs(self, count: int) -> Iterator[np.ndarray]:
        """Yield the elements as they are stored, `count` at a time."""
        fresh, self._fresh = self._fresh, None
        total = math.prod(self.shape)
        if fresh is None:
            yield from self._unpack(total, count)
            return
        done = 0
        while done < total:
            run = np.empty(min(count, total - done), MODEL_TYPES[self.dtype])
            _fill(run, fresh)
            done += len(run)
            yield run

    def _unpack(self, total: int, count: int) -> Iterator[np.ndarray]:
        """Yield all elements from the compressed planes, `count` at a time."""
        planes, begin = [], 0
        for size in self._sizes:
            planes.append(_Plane(self._name, self._data[begin:begin + size], total))
            begin += size
        for first in range(0, total, count):
            rows = np.empty((min(count, total - first), len(planes)), np.uint8)
            for i, plane in enumerate(planes):
                plane.read(rows[:, i])
            yield rows.reshape(-1).view(MODEL_TYPES[self.dtype])
        for plane in planes:
            plane.finish()


def _moved(run: np.ndarray) -> np.ndarray:
    """Return a run in memory that goes back to the system when the run does."""
    room = np.frombuffer(mmap(-1, run.nbytes), run.dtype)
    room[:] = run
    return room


def _fill(run: np.ndarray, fresh: deque[np.ndarray]) -> None:
    """Move elements from the front of what is unpacked."""
    done = 0
    while done < len(run):
        piece = fresh.popleft()
        taken = min(len(piece), len(run) - done)
        run[done:done + taken] = piece[:taken]
        done += taken
        if taken < len(piece):
            fresh.appendleft(piece[taken:])


class _Plane:
    """A plane of bytes, packed or not, that is read from its begin to its end."""

    def __init__(self, name: str, data: memoryview, count: int):
        self._name, self._data, self._count = name, data, count
        self._packed = len(data) != count
        self._at = self._done = 0
        self._left = b""
        if self._packed:
            import zlib

            self._stream: Any = zlib.decompressobj()

    def read(self, out: np.ndarray) -> None:
        """Fill an array with the bytes that follow."""
        if not self._packed:
            out[:] = np.frombuffer(self._data[self._done:self._done + len(out)], np.uint8)
            self._done += len(out)
            return
        done = 0
        while done < len(out):
            piece = self._inflate(len(out) - done)
            if not piece and self._at == len(self._data) and not self._left:
                self._refuse()
            out[done:done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
            self._done += len(piece)

    def finish(self) -> None:
        """Raise ModelFormatError unless this was all."""
        if not self._packed:
            return
        more = True
        while more and not self._stream.eof:
            more = bool(self._left) or self._at < len(self._data)
            if self._inflate(1):
                raise ModelFormatError(f"compression of {self._name!r}: a plane unpacks to more "
                                       f"than {self._count} bytes")
        if not self._stream.eof or self._stream.unused_data or self._at < len(self._data):
            self._refuse()

    def _inflate(self, most: int) -> bytes:
        """Return at most so many of the bytes that follow, from one piece of the stream."""
        import zlib

        given = self._left
        if not given:
            given = self._data[self._at:self._at + PIECE]
            self._at += len(given)
        if self._stream.eof:
            self._refuse()
        try:
            piece = self._stream.decompress(given, most)
        except zlib.error as error:
            raise ModelFormatError(f"compression of {self._name!r}: {error}") from None
        self._left = self._stream.unconsumed_tail
        return piece

    def _refuse(self) -> None:
        raise ModelFormatError(f"compression of {self._name!r}: expected a zlib stream of "
                               f"{self._count} bytes and nothing after it, got {self._done} bytes")
