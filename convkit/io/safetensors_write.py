"""Writing a safetensors file: the path holds the old file or the new one, whole."""

from __future__ import annotations

import json
import struct
from typing import Any

from convkit.io.atomic import write_atomically
from convkit.io.safetensors_read import MAX_HEADER, MAX_TENSORS
from convkit.io.storage import TYPES, StoredTensor

__all__ = ["file_parts", "write_file"]

DATA_ALIGNMENT = 64


def write_file(path: Any, tensors: dict[str, StoredTensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that the path holds the old file or the new one, whole.

    The bytes go to a temporary file in the same folder, which is forced to the disk and
    renamed. A failure leaves what was there before, and no temporary file.
    """
    write_atomically(path, file_parts(tensors, metadata))


def file_parts(tensors: dict[str, StoredTensor], metadata: dict[str, str]) -> list[Any]:
    """Return a safetensors file as pieces of bytes that follow each other."""
    # Wider elements first keep every tensor aligned to its element.
    order = sorted(tensors, key=lambda n: (-TYPES[tensors[n].dtype].itemsize, n))
    fields: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + len(tensor.data)
        fields[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                        "data_offsets": [begin, end]}
    header = json.dumps(fields, separators=(",", ":")).encode("ascii")
    header += b" " * (-(8 + len(header)) % DATA_ALIGNMENT)
    if len(header) > MAX_HEADER or len(tensors) > MAX_TENSORS:
        raise ValueError(f"a header of {len(header)} bytes for {len(tensors)} tensors is more than "
                         "the format allows")
    return [struct.pack("<Q", len(header)), header, *(tensors[name].data for name in order)]
