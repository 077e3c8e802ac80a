"""A reader of .ckit files written after docs/ckit-format.md alone: json, zlib and NumPy.

It shares no code with convkit, and runs golden files to the outputs that are kept with them.
"""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I16": "<i2", "I32": "<i4",
         "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"}


# -- the container --------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, np.ndarray], dict, dict]:
    """Return a file's tensors, its graph and its metadata."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    fields = header.pop("__metadata__")
    assert fields["format"] == "ckit" and int(fields["format_version"]) <= 2
    entries = json.loads(fields.get("compression", "{}"))
    tensors, spans = {}, []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        spans.append((begin, end))
        piece, entry = data[8 + length + begin:8 + length + end], entries.get(name, entry)
        if "planes" in entry:
            piece = unpack(piece, entry)
        tensors[name] = number(piece, entry["dtype"]).reshape(entry["shape"])
    spans.sort()
    assert spans[0][0] == 0 and spans[-1][1] == len(data) - 8 - length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    return tensors, json.loads(fields["graph"]), json.loads(fields["metadata"])


def unpack(data: bytes, entry: dict) -> bytes:
    count, planes = int(np.prod(entry["shape"])), []
    for size in entry["planes"]:
        piece, data = data[:size], data[size:]
        planes.append(piece if size == count else zlib.decompress(piece))
    return np.stack([np.frombuffer(p, np.uint8) for p in planes], axis=1).tobytes()


def number(data: bytes, dtype: str) -> np.ndarray:
    values = np.frombuffer(data, TYPES[dtype])
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if dtype == "F16" else values


# -- the operations of some golden files ----------------------------------------------------


def activate(y: np.ndarray, attrs: dict) -> np.ndarray:
    kind = attrs["activation"]
    if kind == "leaky_relu":
        return np.where(y < 0, attrs["activation_args"][0] * y, y)
    return {None: lambda: y, "relu": lambda: y.clip(0), "relu6": lambda: y.clip(0, 6)}[kind]()


def conv(x, weight, bias=None, residual=None, **attrs):
    assert attrs["padding_mode"] == "zeros"
    x = np.pad(x.astype(float), [(0, 0), (0, 0), *attrs["padding"]])
    (sy, sx), (dy, dx), groups = attrs["stride"], attrs["dilation"], attrs["groups"]
    out, width, ky, kx = weight.shape
    h = (x.shape[2] - dy * (ky - 1) - 1) // sy + 1
    w = (x.shape[3] - dx * (kx - 1) - 1) // sx + 1
    y = np.zeros((len(x), out, h, w))
    for o in range(out):
        first = o // (out // groups) * width
        for i in range(ky):
            for j in range(kx):
                part = x[:, first:first + width, i * dy:, j * dx:][:, :, ::sy, ::sx][:, :, :h, :w]
                y[:, o] += np.einsum("nchw,c->nhw", part, weight[o, :, i, j].astype(float))
    y += 0 if bias is None else bias[:, None, None]
    return activate(y + (0 if residual is None else residual), attrs)


def linear(x, weight, bias=None, residual=None, **attrs):
    y = x @ weight.T.astype(float) + (0 if bias is None else bias)
    return activate(y + (0 if residual is None else residual), attrs)


OPERATIONS = {
    "conv": conv,
    "linear": linear,
    "mean": lambda x, dim, keepdim: x.mean(tuple(dim), keepdims=keepdim),
    "where": lambda condition, a, b: np.where(condition, a, b),
    "take": lambda x, indices, dim: np.take(x, indices, dim),
}


def run(tensors: dict, graph: dict, inputs: list[np.ndarray]) -> list[np.ndarray]:
    values = [*inputs, *(tensors[name] for name in graph["constants"])]
    for node in graph["nodes"]:
        operands = [None if i is None else values[i] for i in node["inputs"]]
        result = OPERATIONS[node["op"]](*operands, **node["attrs"])
        sizes = [len(inputs[0]) * int(n[:-1] or 1) if isinstance(n, str) else n
                 for n in node["shapes"][0]]
        assert list(result.shape) == sizes, node
        values.append(result)
    return [values[port["value"]] for port in graph["outputs"]]


@pytest.mark.parametrize("name", ["v1-classifier-float32", "v1-classifier-float16", "v1-integers",
                                  "v2-wide-float32", "v2-wide-float16", "v2-wide-bfloat16"])
def test_a_reader_made_from_the_document_gives_the_stored_outputs(name):
    tensors, graph, metadata = read(GOLDEN / f"{name}.ckit")
    arrays = np.load(GOLDEN / f"{name}.npz")
    got = run(tensors, graph, [arrays["in0"]])
    want = [arrays[k] for k in arrays.files if k.startswith("out")]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    assert metadata["licence"] == "BSD-3-Clause"
