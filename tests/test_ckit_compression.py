"""Compressed tensors in .ckit files: nothing is lost, and strangers' streams are bounded."""

from __future__ import annotations

import json
import random
import re
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from fuzz.ckit_files import META, rebuild
from fuzz.mutations import mutate_bytes, mutate_json
from harness import assert_same_bits
from test_ckit import outcome

import convkit as ck
from convkit.infer.dims import BatchDim
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.io import load, save
from convkit.io.compression import MEMORY_FLOOR, compress_all, decompress_all
from convkit.io.storage import MODEL_TYPES, StoredTensor

FUZZ_FILES = 2000
CODES = sorted(MODEL_TYPES)


def network(weight: np.ndarray) -> Graph:
    """Return a linear layer."""
    n, (out, width) = BatchDim(), weight.shape
    return Graph((Port("x", 0),), {1: Constant("w", weight)},
                 (Node("linear", (0, 1, None, None), (2,), {
                     "precision": None, "activation": None, "activation_args": ()}, "fc"),),
                 (Port("y", 2),), {0: Value((n, width)), 1: Value((out, width)),
                                   2: Value((n, out))}, "single")


@pytest.fixture(scope="module")
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((40, 60), dtype=np.float32) / 8


@pytest.fixture(scope="module")
def good(weight, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("compressed") / "good.ckit"
    save(network(weight), path, compress=True)
    return path.read_bytes()


def entries(data: bytes) -> dict:
    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
    return json.loads(header[META]["compression"])


def repack(data: bytes, change, stream: bytes | None = None) -> bytes:
    """Return a file with changed entries of compression and, where given, other tensor bytes."""
    def change_header(header):
        found = json.loads(header[META]["compression"])
        found = change(found) or found
        header[META]["compression"] = found if isinstance(found, str) else json.dumps(found)
        if stream is not None:
            header["w"] = {"dtype": "U8", "shape": [len(stream)], "data_offsets": [0, len(stream)]}
    out = rebuild(data, change_header)
    return out if stream is None else out[:8 + struct.unpack("<Q", out[:8])[0]] + stream


# -- round trips ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights, most", [("float32", 0.93), ("float16", 0.95),
                                           ("bfloat16", 0.85)])
def test_compressed_files_are_smaller_and_give_the_same_bits(weights, most, weight, tmp_path):
    sizes = {}
    graph = network(np.tile(weight, (4, 4)) + np.random.default_rng(1).standard_normal(
        (160, 240), dtype=np.float32) / 50)
    x = np.ones((2, 240), np.float32)
    results = []
    for compress in (False, True):
        path = tmp_path / f"{compress}.ckit"
        save(graph, path, weights=weights, compress=compress)
        sizes[compress] = path.stat().st_size
        loaded = load(path)
        results.append([loaded(x), *[c.array for c in loaded.graph.constants.values()]])
    assert sizes[True] < most * sizes[False], sizes
    assert_same_bits(*results)


def test_a_file_without_gain_is_written_in_version_1(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**32, (8, 9), dtype=np.uint64)
    save(network(noise.astype(np.uint32).view(np.float32)), tmp_path / "x.ckit", compress=True)
    text = (tmp_path / "x.ckit").read_bytes()
    assert b'"format_version":"1"' in text and b"compression" not in text


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("shape", [(0, 3), (), (1,), (7, 5), (300, 3, 70)], ids=str)
def test_every_type_and_shape_comes_back(code, shape, rng):
    dtype = MODEL_TYPES[code]
    size = int(np.prod(shape))
    values = np.zeros(size, bool) if code == "BOOL" else \
        (rng.standard_normal(size) * 30).astype(np.int64).astype(dtype)
    tensor = StoredTensor(code, shape, values.tobytes())
    stored, found = compress_all({"t": tensor})
    assert ("t" in found) == (size > 100)
    back = decompress_all(stored, found, 10**9)["t"]
    assert (back.dtype, back.shape, back.whole().tobytes()) == (code, shape, tensor.data)


def test_a_file_of_zeros_stays_within_readers_bound(tmp_path):
    """Zeros compress a thousandfold, but readers refuse what takes so much more than the file."""
    save(network(np.zeros((3000, 3000), np.float32)), tmp_path / "x.ckit", compress=True)
    assert (tmp_path / "x.ckit").stat().st_size > 9 * 10**6
    assert not load(tmp_path / "x.ckit")(np.ones((1, 3000), np.float32)).any()


def test_safetensors_opens_compressed_files(good, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="reads our files with safetensors")
    (tmp_path / "x.ckit").write_bytes(good)
    with safetensors.safe_open(tmp_path / "x.ckit", "numpy") as file:
        assert file.get_tensor("w").dtype == np.uint8


# -- damages --------------------------------------------------------------------------------


def field(key, value):
    def change(found):
        found["w"][key] = value
    return change


COUNT = 2400
DAMAGE = {
    "list": (lambda e: [1], "compression: expected an object"),
    "text": (lambda e: "{", "compression: not valid JSON"),
    "twice": (lambda e: '{"w": 1, "w": 2}', "appears twice"),
    "other tensor": (lambda e: {"v": e["w"]}, "'v' is not one of the tensors"),
    "none": (lambda e: "{}", "node 0 (linear)"),
    "entry": (lambda e: {"w": 3}, "expected dtype, planes, shape"),
    "more": (field("more", 1), "expected dtype, planes, shape"),
    "dtype": (field("dtype", "F64"), "unknown dtype 'F64'"),
    "dtype type": (field("dtype", ["F32"]), "unknown dtype"),
    "other dtype": (field("dtype", "F16"), "planes must be 2 sizes"),
    "shape": (field("shape", [40, -60]), "shape must be"),
    "shape type": (field("shape", [40, True]), "shape must be"),
    "rank": (field("shape", [1] * 9), "shape must be"),
    "other shape": (field("shape", [60, 40]), "expected 40 input features"),
    "smaller shape": (field("shape", [4, 6]), "planes must be 4 sizes of at most 24"),
    "bomb": (field("shape", [2**20, 2**20]), "out of proportion"),
    "wrapping": (field("shape", [2**62, 2**62, 2**62]), "out of proportion"),
    "planes": (field("planes", [COUNT] * 4), "planes of 9600 bytes"),
    "plane": (field("planes", [COUNT]), "planes must be 4 sizes"),
    "no planes": (field("planes", []), "planes must be 4 sizes"),
    "negative": (field("planes", [-1, 0, 0, 0]), "planes must be 4 sizes"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_entries_are_refused(good, tmp_path, name):
    change, message = DAMAGE[name]
    (tmp_path / "x.ckit").write_bytes(repack(good, change))
    tracemalloc.start()
    try:
        with pytest.raises(ck.ModelFormatError, match=re.escape(message)):
            load(tmp_path / "x.ckit")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


RAW = b"\1" * (3 * COUNT)
STREAMS = {
    "short": (zlib.compress(b"\0" * (COUNT - 1)), "got 2399 bytes"),
    "long": (zlib.compress(b"\0" * (COUNT + 1)), "unpacks to more than 2400"),
    "bomb": (zlib.compress(b"\0" * 10**6), "unpacks to more than 2400"),
    "cut": (zlib.compress(b"\0" * COUNT)[:-1], "expected a zlib stream"),
    "trailing": (zlib.compress(b"\0" * COUNT) + b"\0", "nothing after it"),
    "checksum": (zlib.compress(b"\0" * COUNT)[:-1] + b"\7", "compression of 'w'"),
    "no stream": (b"hello", "compression of 'w'"),
    "empty": (b"", "got 0 bytes"),
    "dictionary": (b"\x78\xbb\0\0\0\1" + b"\0" * 9, "compression of 'w'"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_damaged_streams_are_refused(good, tmp_path, name):
    stream, message = STREAMS[name]
    data = repack(good, field("planes", [COUNT] * 3 + [len(stream)]), RAW + stream)
    (tmp_path / "x.ckit").write_bytes(data)
    with pytest.raises(ck.ModelFormatError, match=re.escape(message)):
        load(tmp_path / "x.ckit")


def test_the_helper_makes_good_files_too(good, tmp_path):
    """Damage is refused for the damage, not for being rewritten."""
    stream = zlib.compress(b"\0" * COUNT)
    data = repack(good, field("planes", [COUNT] * 3 + [len(stream)]), RAW + stream)
    (tmp_path / "x.ckit").write_bytes(data)
    load(tmp_path / "x.ckit")


def test_a_stream_that_gives_nothing_for_long_takes_no_time(good, tmp_path):
    """Empty deflate blocks: much input, no output."""
    packer = zlib.compressobj()
    stream = b"".join(packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(3))
    stream = stream[:2] + b"\0\0\0\xff\xff" * 1_000_000
    stream += zlib.compress(b"\0" * COUNT)
    shape = [1, len(stream) + 1]
    data = repack(good, lambda e: {"w": {"dtype": "U8", "shape": shape,
                                         "planes": [len(stream)]}}, stream)
    (tmp_path / "x.ckit").write_bytes(data)
    began = time.perf_counter()
    with pytest.raises(ck.ModelFormatError):
        load(tmp_path / "x.ckit")
    assert time.perf_counter() - began < 5


def test_version_1_has_no_compression(good, tmp_path):
    def change(header):
        header[META]["format_version"] = "1"
    (tmp_path / "x.ckit").write_bytes(rebuild(good, change))
    with pytest.raises(ck.ModelFormatError, match="__metadata__: expected"):
        load(tmp_path / "x.ckit")


def test_a_bomb_takes_no_more_than_the_bound(good, tmp_path):
    """A plane that claims 16 MiB of zeros and is some kilobytes: refused or within the bound."""
    count = MEMORY_FLOOR + 1
    stream = zlib.compress(b"\0" * count, 9)
    data = repack(good, lambda e: {"w": {"dtype": "U8", "shape": [1, count],
                                         "planes": [len(stream)]}}, stream)
    (tmp_path / "x.ckit").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ck.ModelFormatError, match="out of proportion"):
            load(tmp_path / "x.ckit")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_fuzz_of_compressed_files(good, tmp_path):
    rng, accepted = random.Random(21), 0
    for i in range(FUZZ_FILES):
        if i % 2:
            data = mutate_bytes(rng, good, 8 + struct.unpack("<Q", good[:8])[0])
        else:
            def change(found):
                mutate_json(rng, found)
            data = repack(good, change)
        accepted += outcome(tmp_path / "x.ckit", data)
    assert 0 < accepted < FUZZ_FILES // 2
