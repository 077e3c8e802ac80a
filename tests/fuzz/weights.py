"""Mutated safetensors files of weights."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np

import convkit as ck
from fuzz.ckit_files import rebuild
from fuzz.mutations import mutate_bytes, mutate_json

SUFFIX = ".safetensors"


def seeds() -> list[bytes]:
    """Return good files."""
    rng = np.random.default_rng(0)
    tensors = {"conv.weight": rng.standard_normal((4, 3, 3, 3), np.float32),
               "conv.bias": np.ones(4, np.float32), "steps": np.int64([7]),
               "empty": np.zeros((0, 3), np.float32), "mask": np.array([True, False])}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("float32", "float16", "bfloat16"):
            path = Path(folder, weights)
            ck.io.save_state_dict(tensors, path, weights=weights)
            found.append(path.read_bytes())
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data, int.from_bytes(data[:8], "little") + 8)
    return rebuild(data, lambda found: mutate_json(rng, found))


def check(path: Path, rng: random.Random) -> str:
    """Read a file and look at every number."""
    try:
        arrays = ck.io.load_state_dict(path)
    except ck.ModelFormatError as error:
        assert str(error)
        return "ModelFormatError"
    for array in arrays.values():
        array.copy()
    return "read"
