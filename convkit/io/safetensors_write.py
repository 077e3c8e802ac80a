"""Writing a safetensors file: the path holds the old file or the new one, whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convkit.io.safetensors_read import MAX_HEADER, MAX_TENSORS
from convkit.io.storage import TYPES, StoredTensor

__all__ = ["write_file"]

DATA_ALIGNMENT = 64


def write_file(path: Any, tensors: dict[str, StoredTensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that the path holds the old file or the new one, whole.

    The bytes go to a temporary file in the same folder, which is forced to the disk and
    renamed. A failure leaves what was there before, and no temporary file.
    """
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
    _write_atomically(Path(path), [struct.pack("<Q", len(header)), header,
                                   *(tensors[name].data for name in order)])


def _write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """Write to a temporary file beside the target, force it to the disk, rename it."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
                     0o666)
    try:
        with open(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be synced."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
