"""Mutated image files."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from convkit import data
from convkit.errors import DataFormatError
from fuzz.mutations import mutate_bytes

SUFFIX = ".png"
FORMATS = ("png", "jpeg", "bmp", "gif", "tiff", "webp", "ppm")


def seeds() -> list[bytes]:
    """Return a good file of every format."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    found = []
    for form in FORMATS:
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, form)
            found.append(file.getvalue())
    return found


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file."""
    return mutate_bytes(rng, data, 200)


def check(path: Path, rng: random.Random) -> str:
    """Read a file."""
    try:
        image = data.load_image(path, rng.choice((None, (4, 5))), rng.choice((1, 3)))
    except DataFormatError as error:
        assert str(error)
        return "DataFormatError"
    assert image.dtype == np.uint8 and image.ndim == 3
    return "read"
