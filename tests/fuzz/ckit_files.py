"""Mutated .ckit files, golden ones and one for each operation; sound networks are run."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import all_cases

import convkit as ck
from convkit.autograd import apply
from convkit.infer.graph import Node, Value
from convkit.infer.schema import SCHEMAS
from convkit.infer.verify import infer_node
from convkit.io.ckit import program_to_bytes
from convkit.io.graph_json import _attr_in, _shape_in, _shape_out
from convkit.io.storage import MODEL_TYPES, STORAGE
from convkit.ops.op import REGISTRY
from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.running import exercise

SUFFIX = ".ckit"
META = "__metadata__"
GOLDEN = Path(__file__).parents[1] / "golden"
TYPE_NAMES = {code: dtype.name for code, dtype in MODEL_TYPES.items() if code not in STORAGE}
SMALL = (0, 1, -1, 2, 3, 5, 8, 16, 17, 255, 2**31 - 1)


def seeds() -> list[bytes]:
    """Return good files."""
    found = [path.read_bytes() for path in sorted(GOLDEN.glob("*.ckit"))] * 6
    for case in all_cases(seed=3):
        made = _file(case)
        if made is not None:
            found.append(made)
    return found


def _file(case: Any) -> bytes | None:
    """Return a network of one operation, None where it cannot be part of one."""
    x, *others = [a if a is None or a.dtype.kind != "f" else a.astype(np.float32)
                  for a in case.inputs]
    if case.name not in SCHEMAS or np.ndim(x) < 1 or x.size == 0 or x.dtype.kind != "f":
        return None
    try:
        return program_to_bytes(ck.compile(
            lambda t: apply(REGISTRY[case.name], t, *others, **case.attrs), x.shape, check=False))
    except (ck.ConvkitError, ValueError):
        return None


def header(data: bytes) -> dict:
    """Return a file's header, parsed."""
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])


def rebuild(data: bytes, change: Any) -> bytes:
    """Return a file whose header (parsed) was changed; the tensors' bytes stay."""
    length = struct.unpack("<Q", data[:8])[0]
    found = header(data)
    found = change(found) or found
    text = found if isinstance(found, bytes) else json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length:]


def regraph(data: bytes, change: Any) -> bytes:
    """Return a file whose graph (parsed) was changed."""
    def change_header(found):
        graph = json.loads(found[META]["graph"])
        graph = change(graph) or graph
        found[META]["graph"] = graph if isinstance(graph, str) else json.dumps(graph)
    return rebuild(data, change_header)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file: of its bytes, its header, its graph or its numbers."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    kind = rng.random()
    if kind < 0.2:
        return mutate_bytes(rng, data, start)
    if kind < 0.3:
        return data[:start] + _noise(rng, data[start:])
    try:
        if kind < 0.4:
            return rebuild(data, lambda found: _several(rng, found))
        return regraph(data, lambda graph: (
            _several(rng, graph) if rng.random() < 0.3 else _resize(rng, graph, header(data))))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return data  # the mutation broke the helper's own way to the graph


def _several(rng: random.Random, parsed: Any) -> None:
    for _ in range(rng.choice((1, 1, 2, 4))):
        if parsed:
            mutate_json(rng, parsed)


def _noise(rng: random.Random, tensors: bytes) -> bytes:
    """Return other numbers, indices among them, of the same size."""
    out = bytearray(tensors)
    for _ in range(rng.choice((1, 4, 50))):
        if out:
            out[rng.randrange(len(out))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(out)


def _resize(rng: random.Random, graph: Any, tensors: dict[str, Any]) -> None:
    """Change numbers of attributes and of inputs' shapes, and let the reader work out the rest.

    Shapes that follow are declared as they then are, so that such files are accepted wherever
    the rules allow the numbers.
    """
    nodes = graph["nodes"]
    if rng.random() < 0.4:
        shape = rng.choice(graph["inputs"])["shape"]
        if shape:
            shape[rng.randrange(len(shape))] = rng.choice((1, 2, 3, 4, 7, 16, 33, "N", 0))
    else:
        attrs = rng.choice(nodes)["attrs"]
        numbers = [(c, k) for c, k in _leaves(attrs) if type(c[k]) in (int, float)]
        if numbers:
            container, key = rng.choice(numbers)
            container[key] = rng.choice(SMALL) if rng.random() < 0.7 else \
                container[key] + rng.choice((-1, 1))
    if "sizes" not in graph:
        _declare(graph, tensors)


def _leaves(data: Any) -> list:
    found = []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, (dict, list)):
            found += _leaves(value)
        else:
            found.append((data, key))
    return found


def _declare(graph: Any, tensors: dict[str, Any]) -> None:
    """Write the shapes that follow, as far as the rules of operations give any."""
    values: list[Any] = [Value(_shape_in(port["shape"], {}), port["dtype"])
                         for port in graph["inputs"]]
    for entry in [tensors[name] for name in graph["constants"]]:
        values.append(Value(tuple(entry["shape"]), TYPE_NAMES.get(entry["dtype"], "float32")))
    for node in graph["nodes"]:
        attrs = {key: _attr_in(value, {}) for key, value in node["attrs"].items()}
        try:
            found = infer_node(Node(node["op"], tuple(node["inputs"]), (), attrs),
                               [None if v is None else values[v] for v in node["inputs"]])
        except Exception:
            return  # the reader will say the same
        node["shapes"] = [_shape_out(value.shape) for value in found]
        values += found


def check(path: Path, rng: random.Random) -> str:
    """Load a file and run it where it is sound."""
    try:
        program = ck.load(path)
    except ck.ModelFormatError as error:
        assert str(error)
        return "ModelFormatError"
    return exercise(program.graph, rng)
