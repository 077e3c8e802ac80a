"""Weights by name in safetensors files, as PyTorch's tools write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError
from convkit.io.safetensors_read import named, open_file
from convkit.io.safetensors_write import write_file
from convkit.io.storage import STORAGE, TYPES, StoredTensor, decode, encode

__all__ = ["load_state_dict", "load_weights", "save_state_dict"]

# What wrappers for several processors put before every name.
WRAPPER = "module."
# How files begin that pickle made: torch.save's archives, its older files, plain pickles.
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CONVERT = ("running a pickle can run anything, so convkit does not; convert it once where it is "
           "trusted: python -c \"import torch, safetensors.torch as s; "
           "s.save_file(torch.load('{name}', weights_only=True), '{stem}.safetensors')\"")


def load_state_dict(path: Any) -> dict[str, np.ndarray]:
    """Read the tensors of a safetensors file.

    Parameters
    ----------
    path : path_like
        The file. It is mapped: float32 and integer arrays are read-only views of it.

    Returns
    -------
    dict of str to numpy.ndarray
        float16 and bfloat16 become float32; float64, integers and booleans stay. Names lose the
        "module." of PyTorch's DataParallel where all begin with it.

    Raises
    ------
    OSError
        When the file cannot be opened.
    ModelFormatError
        When it is malformed, or a pickle (.pth, .pt); the text then says how to convert it.
    """
    path = Path(path)
    _refuse_pickles(path)
    with named(path):
        tensors = open_file(path).tensors(TYPES | STORAGE)
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    if arrays and all(name.startswith(WRAPPER) for name in arrays):
        arrays = {name.removeprefix(WRAPPER): array for name, array in arrays.items()}
    return arrays


def save_state_dict(state_dict: Mapping[str, Any], path: Any, weights: str = "float32") -> None:
    """Write tensors or arrays by name to a safetensors file, which other libraries can read.

    Parameters
    ----------
    state_dict : mapping of str to Tensor or array_like
        For example ``model.state_dict()``.
    path : path_like
        Holds the old file or the new one, whole.
    weights : {"float32", "float16", "bfloat16"}
        How floating-point numbers are stored; integers are stored as they are.
    """
    arrays = {name: np.asarray(getattr(value, "data", value))
              for name, value in state_dict.items()}
    write_file(path, {name: encode(array, weights, name) for name, array in arrays.items()},
               {"format": "pt"})


def load_weights(model: Any, weights: Any, strict: bool = True) -> Any:
    """Give a model weights by name.

    Parameters
    ----------
    model : Module
    weights : path_like or mapping of str to array_like
        A safetensors file, or a state_dict (PyTorch's, too).
    strict : bool
        Whether the names must agree exactly.

    Returns
    -------
    IncompatibleKeys
        Names missing from, and unexpected in, the weights.

    Raises
    ------
    OSError, ModelFormatError
        As `load_state_dict`.
    RuntimeError
        When names (and `strict`) or shapes do not agree; all are listed, and the model is as it
        was.
    """
    state = weights if isinstance(weights, Mapping) else load_state_dict(weights)
    return model.load_state_dict(state, strict=strict)


def _array(tensor: StoredTensor) -> np.ndarray:
    """Return a tensor as an array of a type that NumPy has."""
    if tensor.dtype in STORAGE:
        return decode(tensor)
    array = np.frombuffer(tensor.data, TYPES[tensor.dtype]).reshape(tensor.shape)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _refuse_pickles(path: Path) -> None:
    with open(path, "rb") as file:
        begin = file.read(4)
    if begin.startswith(PICKLES):
        raise ModelFormatError(f"{path}: a pickle, not a safetensors file; "
                               + CONVERT.format(name=path.name, stem=path.stem))
