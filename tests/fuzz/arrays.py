"""Mutated .npy and .npz files, as the command line takes them for inputs."""

from __future__ import annotations

import io
import random
import types
from pathlib import Path

import numpy as np

import convkit as ck
from convkit.cli.inputs import read_inputs
from convkit.cli.options import UsageError
from convkit.cli.predict import _read_array
from convkit.errors import DataFormatError
from fuzz.mutations import mutate_bytes

SUFFIX = ".npy"
HEAD = 128
_PREPARE = types.SimpleNamespace(channels=3, height=4, width=5)


def seeds() -> list[bytes]:
    """Return good files: single arrays, and several by name."""
    rng = np.random.default_rng(0)
    found = []
    for array in (rng.integers(0, 255, (2, 3, 4, 5), np.uint8), rng.random((3, 4, 5), np.float32),
                  rng.random((4, 5))):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, x=np.ones((2, 3), np.float32), y=np.arange(5))
        found.append(file.getvalue())
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file."""
    return mutate_bytes(rng, data, HEAD if data.startswith(b"\x93") else None)


def check(path: Path, rng: random.Random) -> str:
    """Read a file as inputs and as images."""
    outcomes = []
    for names in (["x"], ["x", "y"]):
        program = types.SimpleNamespace(input_shapes=dict.fromkeys(names))
        try:
            read_inputs(program, str(path))
            outcomes.append("read")
        except (UsageError, DataFormatError) as error:
            outcomes.append(type(error).__name__)
    try:
        _read_array(path, _PREPARE)
        outcomes.append("image")
    except (DataFormatError, ck.ShapeError) as error:
        outcomes.append(type(error).__name__)
    return " ".join(outcomes)
