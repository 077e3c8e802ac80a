"""Mutated files of MNIST (IDX, packed or not) and CIFAR-10 (binary)."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import numpy as np

from convkit.data.cifar import _read_records
from convkit.data.mnist import read_idx
from convkit.errors import DataFormatError
from fuzz.mutations import mutate_bytes

SUFFIX = ".bin"


def seeds() -> list[bytes]:
    """Return good files."""
    pixels = np.random.default_rng(0).integers(0, 255, 3 * 28 * 28, np.uint8).tobytes()
    images = struct.pack(">IIII", 0x803, 3, 28, 28) + pixels
    labels = struct.pack(">II", 0x801, 5) + bytes(range(5))
    records = b"".join(bytes([i]) + pixels[:3072 - 2352] + pixels for i in range(2))
    return [images, gzip.compress(images), labels, gzip.compress(labels), records,
            gzip.compress(records)]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file."""
    return mutate_bytes(rng, data, 40)


def check(path: Path, rng: random.Random) -> str:
    """Read a file as whatever it could be."""
    outcomes = []
    for read in (lambda: read_idx(path, 3), lambda: read_idx(path, 1), lambda: _read_records(path)):
        try:
            read()
            outcomes.append("read")
        except DataFormatError as error:
            assert str(error)
            outcomes.append("refused")
    return " ".join(outcomes)
