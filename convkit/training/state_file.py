"""Nested state (dictionaries, lists, numbers, arrays) as one safetensors file.

Arrays become tensors of the file under their path in the nesting; everything else is JSON
in its metadata, with a marked object in place of each array, tuple, dictionary whose keys
are no strings, or number that JSON lacks. Nothing in a file is run, and every field of it
is checked.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from convkit.autograd import Tensor
from convkit.errors import ModelFormatError
from convkit.io.safetensors_read import SafetensorsFile, named, open_file
from convkit.io.safetensors_write import write_file
from convkit.io.storage import TYPES, StoredTensor
from convkit.io.strict_json import parse_json

__all__ = ["read_state", "write_state"]

MARK = "$"
KEY = "state"
CODES = {dtype: code for code, dtype in TYPES.items() if code != "BF16"}


def write_state(path: Any, state: dict[str, Any], kind: str) -> None:
    """Write a state so that the path holds the old file or the new one, whole.

    Parameters
    ----------
    path : path_like
        The file.
    state : dict
        Nested dictionaries, lists and tuples of arrays, tensors, numbers, strings, booleans
        and None.
    kind : str
        What the file is, which `read_state` asks for.

    Raises
    ------
    TypeError
        When the state holds anything else.
    """
    tensors: dict[str, StoredTensor] = {}
    text = json.dumps(_plain(state, "", tensors), allow_nan=False, separators=(",", ":"))
    write_file(path, tensors, {"kind": kind, KEY: text})


def read_state(path: Any, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote; arrays are read-only views of the file.

    Raises
    ------
    OSError
        When the file cannot be opened.
    ModelFormatError
        When it is no file of that kind, or is malformed.
    """
    with named(path):
        return _state(open_file(path), kind)


def _state(file: SafetensorsFile, kind: str) -> dict[str, Any]:
    """Return what an opened file holds."""
    if file.metadata.get("kind") != kind or KEY not in file.metadata:
        raise ModelFormatError(
            f"expected a file of kind {kind!r}, got {file.metadata.get('kind')!r}")
    arrays = {name: np.frombuffer(t.data, TYPES[t.dtype]).reshape(t.shape)
              for name, t in file.tensors(TYPES).items()}
    state = parse_json(file.metadata[KEY].encode(), KEY, file.size)
    restored = _restored(state, arrays)
    if not isinstance(restored, dict):
        raise ModelFormatError(f"{KEY}: expected an object")
    return restored


def _plain(value: Any, path: str, tensors: dict[str, StoredTensor]) -> Any:
    """Return JSON for a value; arrays go to `tensors`."""
    if isinstance(value, Tensor):
        value = value.data
    if isinstance(value, np.ndarray):
        return _enter(value, path, tensors)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {MARK: "float", "value": repr(value)}
    if isinstance(value, (list, tuple)):
        items = [_plain(v, f"{path}.{i}" if path else str(i), tensors)
                 for i, v in enumerate(value)]
        return items if isinstance(value, list) else {MARK: "tuple", "items": items}
    if isinstance(value, dict):
        pairs = [(k, _plain(v, f"{path}.{k}" if path else str(k), tensors))
                 for k, v in value.items()]
        if all(isinstance(k, str) and k != MARK for k in value):
            return dict(pairs)
        return {MARK: "dict", "items": [[_plain(k, path, tensors), v] for k, v in pairs]}
    raise TypeError(f"cannot store {path!r}: expected arrays, numbers, strings, lists and "
                    f"dictionaries, got {type(value).__name__}")


def _enter(array: np.ndarray, path: str, tensors: dict[str, StoredTensor]) -> dict[str, str]:
    """Put an array among the tensors and return the mark in its place."""
    code = CODES.get(array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype)
    if code is None:
        raise TypeError(f"cannot store {path!r}, an array of {array.dtype}")
    name = path
    while name in tensors:  # "a.b" in one dictionary and "b" in a dictionary "a"
        name += "'"
    # Its own memory where that is in order: a state can be several times the network.
    values = np.ascontiguousarray(array, TYPES[code]).reshape(-1)
    tensors[name] = StoredTensor(code, array.shape, values.view(np.uint8).data)
    return {MARK: "tensor", "name": name}


def _restored(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what `_plain` was given."""
    if isinstance(value, list):
        return [_restored(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {k: _restored(v, arrays) for k, v in value.items()}
    try:
        kind = value[MARK]
        if kind == "tensor":
            return arrays[value["name"]]
        if kind == "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value["value"]]
        if kind == "tuple":
            return tuple(_restored(value["items"], arrays))
        if kind == "dict":
            return {_restored(k, arrays): _restored(v, arrays) for k, v in value["items"]}
    except (KeyError, TypeError, ValueError):
        pass
    raise ModelFormatError(f"{KEY}: expected a marked value, got {str(value)[:80]}")
