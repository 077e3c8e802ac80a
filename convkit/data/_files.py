"""Reading files from strangers: sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from convkit.errors import DataFormatError

__all__ = ["checked_open", "find", "read_exactly"]

# Deflate's best case: 258 bytes from two bits. No stream can hold more than this many
# bytes for each of its own.
MOST_PER_GZIP_BYTE = 1032


def find(root: str | Path, folders: Iterable[str], names: Iterable[str]) -> Path:
    """Return the first file ``root/folder/name`` that exists.

    Raises
    ------
    FileNotFoundError
        Naming the folder and the files that were looked for.
    """
    names = list(names)
    for folder in folders:
        for name in names:
            path = Path(root, folder, name)
            if path.is_file():
                return path
    raise FileNotFoundError(f"expected {' or '.join(names)} in {Path(root)}")


@contextmanager
def checked_open(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, through gzip where it starts as one; give it and a bound on its bytes.

    Errors in the compressed stream come out as DataFormatError with the file's name.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw, size
            return
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream, size * MOST_PER_GZIP_BYTE
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataFormatError(f"{path}: damaged gzip data ({error})") from error


def read_exactly(stream: BinaryIO, count: int, path: Path) -> np.ndarray:
    """Return the next `count` bytes as uint8; raise DataFormatError when there are fewer."""
    out = np.empty(count, np.uint8)
    view = memoryview(out)
    done = 0
    while done < count:
        got = stream.readinto(view[done:done + (1 << 20)])
        if not got:
            raise DataFormatError(
                f"{path}: ends early, expected {count} bytes of data, got {done}")
        done += got
    return out
