"""Inputs for networks: read from files, or random numbers."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from convkit.cli.options import UsageError, at_least
from convkit.errors import DataFormatError

__all__ = ["add_inputs", "random_inputs", "read_arrays", "read_inputs"]


def add_inputs(parser: argparse.ArgumentParser, batch: int) -> None:
    """Add ``--input`` and ``--batch``: what a model is run on."""
    parser.add_argument("--input", metavar="FILE",
                        help="an .npy file with the only input, or an .npz file with inputs by "
                             "name (default: random numbers)")
    parser.add_argument("--batch", type=at_least(1), default=batch, metavar="N",
                        help="samples of random numbers (default: %(default)s)")


def random_inputs(program: Any, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Return an array for every input: normal floats, coin flips, or zeros for integers.

    Integers may be indices, so they are zeros, which every index may be.
    """
    from convkit.infer.dims import at_batch

    rng = np.random.default_rng(seed)
    return [_random(rng, at_batch(shape, batch), program.graph.values[port.value].dtype)
            for shape, port in zip(program.input_shapes.values(), program.graph.inputs,
                                   strict=True)]


def read_inputs(program: Any, path: str) -> list[np.ndarray]:
    """Return the inputs that a file holds: .npy for the only one, .npz for inputs by name.

    Raises
    ------
    DataFormatError
        When the file is no such file, or damaged.
    UsageError
        When it does not have what the network takes.
    """
    names = list(program.input_shapes)
    found = read_arrays(path)
    if isinstance(found, np.ndarray):
        if len(names) != 1:
            raise UsageError(f"{path}: one array for inputs {', '.join(names)}; expected an "
                             ".npz file")
        return [found]
    missing = [n for n in names if n not in found]
    if missing:
        raise UsageError(f"{path}: no array {missing[0]!r}; it has {', '.join(found)}")
    return [found[n] for n in names]


def read_arrays(path: Any) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array of an .npy file, or those of an .npz file by name.

    Raises
    ------
    OSError
        When the file cannot be opened.
    DataFormatError
        When it is no such file, or damaged.
    """
    with open(path, "rb") as file:
        try:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {n: found[n] for n in found.files}
        except Exception as error:  # a dozen kinds come out of damaged headers and archives
            raise DataFormatError(f"{path}: cannot be read as an array ({error})") from None


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind in "iu":
        return np.zeros(shape, dtype)
    numbers = rng.standard_normal(shape)
    return numbers > 0 if kind == "b" else numbers.astype(dtype)
