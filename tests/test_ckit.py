"""The .ckit file: round trips, atomic writing, and what strangers may put into one."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cases import all_cases
from fuzz import ckit_files
from fuzz.ckit_files import rebuild, regraph
from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.running import run
from harness import assert_same_bits, run_python

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit.autograd import apply
from convkit.infer import Program, run_pipeline, trace, verify
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.infer.schema import REQUIRED, SCHEMAS
from convkit.io import atomic, ckit, load, max_format_version, save
from convkit.io.state_dict import load_state_dict
from convkit.io.storage import decode, encode
from convkit.io.strict_json import MEMORY_FLOOR
from convkit.ops.op import REGISTRY
from convkit.training.checkpoint import read_checkpoint

HERE = Path(__file__).parent
GOLDEN = sorted((HERE / "golden").glob("*.ckit"))
LOSSES = {"bce", "bce_with_logits", "cross_entropy", "focal_loss", "hinge_loss", "huber_loss",
          "kl_div", "l1_loss", "mse_loss", "multi_margin_loss", "nll_loss", "sigmoid_focal_loss",
          "smooth_l1_loss"}


class Net(nn.Module):
    """A small network with a bit of everything that files must hold."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.alone = nn.BatchNorm2d(5)
        self.up = nn.ConvTranspose2d(5, 4, 2, stride=2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = F.leaky_relu(self.norm(self.conv(x)), 0.1)
        z = F.sigmoid(self.alone(y))
        y = F.concat([y, z], 1)[:, 3:8]
        y, places = F.max_pool2d(self.up(y), 3, 2, padding=1, return_indices=True)
        y = F.adaptive_avg_pool2d(F.avg_pool2d(y, 2, 1), (2, 3)).mean((2, 3))
        return {"logits": self.fc(y.reshape(y.shape[0], -1)), "features": y, "places": places}


@pytest.fixture(scope="module")
def program() -> Program:
    ck.manual_seed(0)
    return ck.compile(Net(), (1, 3, 6, 6), metadata={"labels": ["a", "b", "ç"], "n": [1, None]})


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 3, 6, 6), dtype=np.float32)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.ckit"


# -- round trips ----------------------------------------------------------------------------


def test_a_loaded_program_gives_the_same_bits(program, sample, path):
    save(program, path)
    loaded = load(path, threads=1)
    assert loaded.threads == 1
    assert [n.op for n in loaded.graph.nodes] == [n.op for n in program.graph.nodes]
    assert loaded.metadata == program.metadata
    assert loaded.labels == ["a", "b", "ç"]
    assert loaded.input_shapes == program.input_shapes
    got, want = loaded(sample), program(sample)
    assert list(got) == list(want) == ["logits", "features", "places"]
    assert_same_bits(list(got.values()), list(want.values()))


def test_saving_what_was_loaded_gives_the_same_file(program, path, tmp_path):
    save(program, path)
    save(load(path), tmp_path / "again.ckit")
    assert path.read_bytes() == (tmp_path / "again.ckit").read_bytes()


def test_a_module_is_compiled_and_saved(path, sample):
    model = Net()
    save(model, path, input_shape=(1, 3, 6, 6), metadata={"author": "me"})
    assert model.training
    loaded = load(path)
    assert loaded.metadata == {"author": "me"} and loaded.labels is None
    assert "batch_norm" not in [n.op for n in loaded.graph.nodes]
    want = model.eval()(ck.tensor(sample))["logits"]
    np.testing.assert_allclose(loaded(sample)["logits"], want.detach().numpy(), atol=1e-5)


def test_a_module_of_unknown_shape_is_refused(path):
    with pytest.raises(ValueError, match=r"expected input_shape, the full shape"):
        save(nn.Linear(2, 3), path)
    assert not path.exists()


def test_a_graph_is_saved_as_it_is(path):
    graph = trace(lambda x: F.relu(x.reshape(x.shape)), (1, 4))
    save(graph, path)
    assert [n.op for n in load(path).graph.nodes] == ["reshape", "relu"]


@pytest.mark.parametrize("weights, size", [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_storage_of_weights(weights, size, path, program, sample):
    save(program, path, weights=weights)
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    for name, entry in header.items():
        if name != "__metadata__":
            heavy = name.endswith("weight")
            assert entry["dtype"] == ({"float16": "F16", "bfloat16": "BF16"}.get(weights, "F32")
                                      if heavy else "F32"), name
    got, want = load(path)(sample)["logits"], program(sample)["logits"]
    bound = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 0}[weights]
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
    assert weights == "float32" or (got != want).any()


def test_number_formats_round_to_nearest_even():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38],
                      np.float32)
    back = decode(encode(values, "bfloat16", "w"))
    want = np.array([1.0, 1.0, 1 + 2**-6, -0.0, np.inf, -np.inf, np.nan, back[7], back[8]],
                    np.float32)
    np.testing.assert_array_equal(back, want)
    assert abs(back[8] / 3e38 - 1) < 2**-8 and np.signbit(back[3])
    exact = np.array([1, 2.5, -0.0, 6e-8, np.inf], np.float16)
    back = decode(encode(exact.astype(np.float32), "float16", "w"))
    np.testing.assert_array_equal(back, exact.astype(np.float32))


def test_bfloat16_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="compares number formats with PyTorch")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    want = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(decode(encode(values, "bfloat16", "w")), want)


def test_a_weight_too_large_for_float16_is_refused(path):
    graph = trace(lambda x: F.linear(x, np.full((2, 3), 1e5, np.float32)), (1, 3))
    with pytest.raises(ValueError, match=r"holds 100000, too large for float16"):
        save(graph, path, weights="float16")
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("arguments, message", [
    ({"weights": "int4"}, "expected one of float32, float16, bfloat16, got 'int4'"),
    ({"metadata": {"a": {1, 2}}}, "metadata must be JSON values"),
    ({"metadata": {"a": float("nan")}}, "metadata must be JSON values"),
    ({"metadata": {1: 2}}, "strings as keys"),
])
def test_bad_arguments_of_save(program, path, arguments, message):
    with pytest.raises(ValueError, match=message):
        save(program, path, **arguments)
    assert not path.exists()


def test_infinite_attributes_survive(path):
    graph = trace(lambda x: x ** float("inf"), (1, 4))
    save(graph, path)
    x = np.array([[0.5, 2, 1, 0]], np.float32)
    assert_same_bits(load(path)(x), Program(graph)(x))


def test_safetensors_reads_our_files(program, path):
    safetensors = pytest.importorskip("safetensors", reason="reads our files with safetensors")
    save(program, path)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "ckit"
        arrays = {c.name: c.array for c in program.graph.constants.values()}
        assert set(file.keys()) == set(arrays)
        for name, array in arrays.items():
            assert_same_bits(file.get_tensor(name), array)


def test_names_need_not_be_ascii(path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.größe = nn.Linear(3, 2)

        def forward(self, x):
            return {"出力": self.größe(x)}

    save(Odd(), path, input_shape=(1, 3), metadata={"labels": ["猫", "🐈"]})
    loaded = load(path)
    assert list(loaded.output_shapes) == ["出力"] and loaded.labels == ["猫", "🐈"]
    assert {c.name for c in loaded.graph.constants.values()} == {"größe.weight", "größe.bias"}


def test_weights_are_used_where_they_lie(program, path):
    save(program, path)
    loaded = load(path)
    arrays = [c.array for c in loaded.graph.constants.values()]
    assert all(not a.flags.writeable and not a.flags.owndata for a in arrays)


def test_a_file_may_be_replaced_while_its_program_lives(program, path, sample):
    save(program, path)
    loaded = load(path)
    want = loaded(sample)["logits"]
    save(trace(lambda x: F.relu(x), (1, 2)), path)
    assert_same_bits(loaded(sample)["logits"], want)
    assert len(load(path).graph.nodes) == 1


# -- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(program, path, monkeypatch, failing):
    save(program, path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if failing == "write":  # after the header and some of the tensors
        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *exc):
                self.file.close()

            def __init__(self, handle, mode):
                self.file = os.fdopen(handle, mode)

            def write(self, piece):
                self.file.write(piece)
                if len(piece) > 8:
                    fail()

        monkeypatch.setattr(atomic, "open", Half, raising=False)
    else:
        monkeypatch.setattr(atomic.os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        save(trace(lambda x: F.relu(x), (1, 2)), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_kept_and_links_followed(program, path, tmp_path):
    save(program, path)
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    link = tmp_path / "link.ckit"
    link.symlink_to(path)
    save(program, link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640


def test_saving_to_a_folder_or_a_missing_place(program, tmp_path):
    with pytest.raises(IsADirectoryError):
        save(program, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"net\.ckit: there is no folder .*missing$"):
        save(program, tmp_path / "missing" / "net.ckit")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x02" + bytes(7) + b"[]"])
@pytest.mark.parametrize("read", [load, load_state_dict, read_checkpoint])
def test_errors_name_the_file(tmp_path, read, content):
    path = tmp_path / "net.ckit"
    path.write_bytes(content)
    with pytest.raises(ck.ModelFormatError, match=r"net\.ckit: "):
        read(path)


# -- reading: single damages ----------------------------------------------------------------


@pytest.fixture(scope="module")
def good(program, tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("ckit") / "good.ckit"
    save(program, file)
    return file.read_bytes()


def setter(*keys):
    """Return a change that sets an item by its path of keys (the last entry is the value)."""
    *keys, last, value = keys

    def change(data):
        for key in keys:
            data = data[key]
        data[last] = value
    return change


def renamed(old: str, new: str):
    def change(data):
        data[new] = data.pop(old)
    return change


META = "__metadata__"
HEADER_DAMAGE = {
    "other format": (setter(META, "format", "pt"), "its format is 'pt'"),
    "no metadata": (lambda h: {k: v for k, v in h.items() if k != META}, "its format is None"),
    "newer version": (setter(META, "format_version", "3"), "is in version 3 of the format"),
    "version 0": (setter(META, "format_version", "0"), "expected a whole number"),
    "version word": (setter(META, "format_version", "1.0"), "expected a whole number"),
    "version digits": (setter(META, "format_version", "¹"), "expected a whole number"),
    "more metadata": (setter(META, "extra", "1"), "__metadata__: expected"),
    "metadata number": (setter(META, "extra", 1), "expected a string"),
    "metadata list": (setter(META, []), "expected an object of strings"),
    "user metadata": (setter(META, "metadata", "[]"), "metadata: expected an object"),
    "graph text": (setter(META, "graph", "{"), "graph: not valid JSON"),
    "graph constant": (setter(META, "graph", '{"a": NaN}'), "the word NaN is not JSON"),
    "graph twice": (setter(META, "graph", '{"a": 1, "a": 2}'), "key 'a' appears twice"),
    "graph surrogate": (setter(META, "graph", '{"a": "\\ud800"}'), "surrogate"),
    "graph depth": (setter(META, "graph", "[" * 20 + "]" * 20), "nested deeper than 16"),
    "dtype": (setter("fc.weight", "dtype", "F64"), "unknown dtype 'F64'"),
    "dtype type": (setter("fc.weight", "dtype", ["F32"]), "unknown dtype"),
    "entry": (setter("fc.weight", 5), "expected dtype, shape and data_offsets"),
    "more in entry": (setter("fc.weight", "more", 5), "expected dtype, shape and data_offsets"),
    "shape": (setter("fc.weight", "shape", [3, 5]), "does not take the"),
    "negative shape": (setter("fc.weight", "shape", [-3, -4]), "non-negative"),
    "huge shape": (setter("fc.weight", "shape", [2**62, 2**62]), "does not take the"),
    "wrapping shape": (setter("fc.weight", "shape", [2**62 + 3, 4]), "does not take the"),
    "float shape": (setter("fc.weight", "shape", [3.0, 4]), "non-negative 63-bit"),
    "bool shape": (setter("fc.weight", "shape", [True, 12]), "non-negative 63-bit"),
    "rank": (setter("fc.weight", "shape", [1] * 9), "at most 8"),
    "offsets": (setter("fc.weight", "data_offsets", [0, 10**9]), "do not lie within"),
    "offsets order": (setter("fc.weight", "data_offsets", [48, 0]), "do not lie within"),
    "one offset": (setter("fc.weight", "data_offsets", [0]), "do not lie within"),
    "overlap": (setter("fc.weight", "data_offsets", [0, 48]), "without gap or overlap"),
    "long name": (renamed("fc.weight", "x" * 600), "600 characters"),
    "no name": (renamed("fc.weight", ""), "0 characters"),
    "other name": (renamed("fc.weight", "other"), "no such tensor"),
    "more tensors": (setter("x", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
                     "expected each once"),
    "header list": (lambda h: b"[]", "expected a JSON object"),
    "header twice": (lambda h: b'{"a": {}, "a": {}}', "appears twice"),
    "header encoding": (lambda h: b'{"\xff": 1}', "not valid JSON"),
    "header depth": (lambda h: b'{"a":' * 10_000, "nested deeper"),
    "header digits": (lambda h: b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
}


@pytest.mark.parametrize("name", HEADER_DAMAGE)
def test_a_damaged_header_is_refused(good, path, name):
    change, message = HEADER_DAMAGE[name]
    path.write_bytes(rebuild(good, change))
    with pytest.raises(ck.ModelFormatError, match=re.escape(message)):
        load(path)


def node(graph, op: str) -> dict:
    return next(n for n in graph["nodes"] if n["op"] == op)


def set_attr(op: str, key: str, value):
    def change(graph):
        node(graph, op)["attrs"][key] = value
    return change


def set_field(op: str, key: str, value):
    def change(graph):
        node(graph, op)[key] = value
    return change


def remove(*keys):
    *keys, last = keys

    def change(graph):
        for key in keys:
            graph = node(graph, key) if isinstance(graph, dict) and key in REGISTRY else graph[key]
        del graph[last]
    return change


GRAPH_DAMAGE = {
    "list": (lambda g: [g], "graph: expected an object"),
    "unknown field": (setter("extra", 1), "field 'extra' is unknown"),
    "missing field": (remove("form"), "field 'form' is missing"),
    "form": (setter("form", "list"), "form: expected one of"),
    "form type": (setter("form", ["dict"]), "form: expected one of"),
    "single": (setter("form", "single"), "form single with 3 outputs"),
    "no outputs": (setter("outputs", []), "expected at least one output"),
    "no inputs": (setter("inputs", []), "node 0 (conv)"),
    "twin outputs": (lambda g: setter("outputs", [g["outputs"][0]] * 2)(g), "a name of its own"),
    "output reference": (setter("outputs", 0, "value", 10**6), "is not one of the"),
    "output negative": (setter("outputs", 0, "value", -1), "is not one of the"),
    "output name": (setter("outputs", 0, "name", ""), "expected a name"),
    "input dtype": (setter("inputs", 0, "dtype", "float64"), "expected dtype float32"),
    "input shape": (setter("inputs", 0, "shape", [3, "N", 6, 6]), "expected a shape (N, ...)"),
    "input batch twice": (setter("inputs", 0, "shape", ["N", "N", 6, 6]), "expected a shape (N"),
    "input size": (setter("inputs", 0, "shape", ["N", 3, 6, -6]), "expected a size"),
    "input N0": (setter("inputs", 0, "shape", ["01N", 3, 6, 6]), "expected a size"),
    "input big": (setter("inputs", 0, "shape", ["N", 2**40, 2**40]), "more than"),
    "input wider": (setter("inputs", 0, "shape", ["N", 3, 7, 7]), "declared shapes"),
    "constants": (setter("constants", 0, "missing"), "no such tensor"),
    "constant type": (setter("constants", 0, 3), "no such tensor"),
    "constant left": (remove("constants", 0), "expected each once"),
    "constant twice": (lambda g: setter("constants", 0, g["constants"][1])(g), "each once"),
    "node": (setter("nodes", 0, 3), "node 0: expected an object"),
    "node field": (set_field("conv", "more", 1), "field 'more' is unknown"),
    "op": (set_field("conv", "op", "eval"), "unknown operation 'eval'"),
    "op type": (set_field("conv", "op", {}), "unknown operation"),
    "op class": (set_field("conv", "op", "Conv"), "unknown operation 'Conv'"),
    "loss": (set_field("conv", "op", "cross_entropy"), "unknown operation"),
    "no operands": (set_field("conv", "inputs", []), "first input is missing"),
    "null operand": (set_field("conv", "inputs", [None, 1, 2]), "first input is missing"),
    "null weight": (set_field("conv", "inputs", [0, None, 2]), "input 'weight' is missing"),
    "operands": (set_field("conv", "inputs", [0, 1, 2, None, None]), "expected 2 to 4 inputs"),
    "forward reference": (set_field("conv", "inputs", [0, 10**3, None]), "is not one of the"),
    "bool reference": (set_field("conv", "inputs", [False, 1, None]), "is not one of the"),
    "itself": (lambda g: set_field("conv", "inputs", [1 + len(g["constants"]), 1, None])(g),
               "is not one of the"),
    "shapes": (set_field("conv", "shapes", []), "declared shapes"),
    "shape": (set_field("conv", "shapes", [["N", 5, 6, 7]]), "declared shapes"),
    "shape N": (set_field("conv", "shapes", [["2N", 5, 6, 6]]), "declared shapes"),
    "attrs": (set_field("conv", "attrs", []), "attrs: expected an object"),
    "unknown attr": (set_attr("conv", "code", "x"), "unknown attribute 'code'"),
    "missing attr": (remove("conv", "attrs", "stride"), "'stride' is missing"),
    "stride 0": (set_attr("conv", "stride", [0, 1]), "'stride': expected an integer from 1"),
    "stride negative": (set_attr("conv", "stride", [-1, 1]), "'stride': expected an integer"),
    "stride float": (set_attr("conv", "stride", [1.0, 1]), "'stride': expected an integer"),
    "stride bool": (set_attr("conv", "stride", [True, 1]), "'stride': expected an integer"),
    "stride rank": (set_attr("conv", "stride", [1, 1, 1]), "'stride': expected 2 entries"),
    "stride number": (set_attr("conv", "stride", 1), "'stride': expected a list"),
    "padding": (set_attr("conv", "padding", [[1, 1], [1, -1]]), "'padding': expected an integer"),
    "padding huge": (set_attr("conv", "padding", [[1, 1], [1, 2**31 - 1]]), "declared shapes"),
    "padding deep": (set_attr("conv", "padding", [[[1], 1], [1, 1]]), "'padding'"),
    "padding mode": (set_attr("conv", "padding_mode", "evil"), "'padding_mode'"),
    "dilation": (set_attr("conv", "dilation", [2**31, 1]), "'dilation'"),
    "groups 0": (set_attr("conv", "groups", 0), "'groups'"),
    "groups": (set_attr("conv", "groups", 2), "conv"),
    "algorithm": (set_attr("conv", "algorithm", "cuda"), "'algorithm'"),
    "activation": (set_attr("conv", "activation", "exec"), "'activation'"),
    "activation args": (set_attr("conv", "activation_args", ["x"]), "'activation_args'"),
    "dim": (set_attr("concat", "dim", 4), "'dim': expected an integer from -4 to 3"),
    "axes": (set_attr("mean", "dim", [2, -2]), "named twice"),
    "slice": (set_attr("slice", "starts", [None]), "expected 4 entries"),
    "slice step": (set_attr("slice", "steps", [0, 1, 1, 1]), "slice"),
    "keepdim": (set_attr("mean", "keepdim", 1), "expected true or false"),
    "float string": (set_attr("conv", "activation_args", ["infinity"]), "'activation_args'"),
}


@pytest.mark.parametrize("name", GRAPH_DAMAGE)
def test_a_damaged_graph_is_refused(good, path, name):
    change, message = GRAPH_DAMAGE[name]
    path.write_bytes(regraph(good, change))
    with pytest.raises(ck.ModelFormatError, match=re.escape(message)):
        load(path)


def test_the_helpers_leave_an_undamaged_file_alone(good, path):
    """Damage is refused for the damage, not for being rewritten."""
    path.write_bytes(regraph(good, lambda g: None))
    load(path)


@pytest.mark.parametrize("data, message", [
    (b"", "0 bytes is too short"),
    (b"\x02\0\0\0", "4 bytes is too short"),
    (struct.pack("<Q", 2**63) + b"{}", "at most 16777216 are allowed"),
    (struct.pack("<Q", 100) + b"{}", "does not fit in a file of 10 bytes"),
    (struct.pack("<Q", 0), "expected a JSON object"),
    (struct.pack("<Q", 2) + b"{}", "not a .ckit file"),
    (b"PK\x03\x04" + b"\0" * 60, "not a .ckit file|not valid JSON|expected a JSON|header of"),
])
def test_what_is_no_file_of_ours(data, message, path):
    path.write_bytes(data)
    with pytest.raises(ck.ModelFormatError, match=message):
        load(path)


def test_bytes_missing_or_left_over(good, path):
    for data in (good[:-1], good + b"\0", good[:len(good) // 2]):
        path.write_bytes(data)
        with pytest.raises(ck.ModelFormatError):
            load(path)


def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.ckit")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ck.ModelFormatError, match="not a regular file"):
        load(tmp_path / "pipe")


def test_a_newer_version_says_so_even_with_unknown_types(good, path):
    def change(header):
        header[META]["format_version"] = str(max_format_version + 1)
        header["fc.weight"]["dtype"] = "I4"
    path.write_bytes(rebuild(good, change))
    with pytest.raises(ck.ModelFormatError, match="load it with a newer convkit"):
        load(path)


# -- reading: bombs and fuzz ----------------------------------------------------------------


BOMBS = {
    "lists": b'{"a": [' + b"[]," * 300_000 + b"[]]}",
    "objects": b'{"a": [' + b"{}," * 300_000 + b"{}]}",
    "numbers": b'{"a": [' + b"10000," * 300_000 + b"1]}",
    "keys": b"{" + b",".join(b'"%d":0' % i for i in range(200_000)) + b"}",
    "emoji": '{"🐈": "'.encode() + b"x" * 8_000_000 + b'"}',
    "string": b'{"a": "' + b"[" * 1_000_000 + b'"}',
    "quotes": b'{"a": "' + b'\\"' * 500_000,
    "quotes, backslash": b'{"a": "' + b'\\"' * 500_000 + b"\\",
    "strings": b'{"a": [' + b'"",' * 60_000 + b'""]}',
    "backslashes": b'{"a": "' + b"\\\\" * 500_000 + b'"}',
    "same keys": b"{" + b",".join(b'"%d":0' % (i // 2) for i in range(40_000)) + b"}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_memory_nor_time(name, path):
    header = BOMBS[name]
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    tracemalloc.start()
    try:
        start = time.perf_counter()
        with pytest.raises(ck.ModelFormatError):
            load(path)
        seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= max(4 * path.stat().st_size, MEMORY_FLOOR) + len(header), peak
    assert seconds < 5  # seconds, not hours: a hang is what this would show


def test_a_claim_of_huge_tensors_allocates_nothing(good, path):
    def change(header):
        header["fc.weight"]["shape"] = [2**20, 2**20]
        header["fc.weight"]["data_offsets"] = [0, 2**42]
    path.write_bytes(rebuild(good, change))
    tracemalloc.start()
    try:
        with pytest.raises(ck.ModelFormatError):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


FUZZ_BYTES, FUZZ_JSON = 3000, 3000
FUZZ_NETWORKS = 1500
def outcome(path: Path, data: bytes) -> bool:
    """Load a file; True when it was accepted. Only ModelFormatError may come out."""
    path.write_bytes(data)
    try:
        loaded = load(path)
    except ck.ModelFormatError as error:
        assert str(error)
        return False
    verify(loaded.graph)
    return True


def test_fuzz(good, path):
    """Thousands of mutated files: each is refused with ModelFormatError or is sound."""
    rng = random.Random(20)
    start, slowest, accepted = time.perf_counter(), 0.0, 0
    for i in range(FUZZ_BYTES + FUZZ_JSON):
        if i < FUZZ_BYTES:
            data = mutate_bytes(rng, good, 8 + struct.unpack("<Q", good[:8])[0])
        else:
            change = rebuild if rng.random() < 0.3 else regraph

            def several(parsed):
                for _ in range(rng.choice([1, 1, 2, 4])):
                    if parsed:
                        mutate_json(rng, parsed)
            try:
                data = change(good, several)
            except (KeyError, TypeError, AttributeError):
                continue  # the mutation broke the helper's own way to the graph
        began = time.perf_counter()
        accepted += outcome(path, data)
        slowest = max(slowest, time.perf_counter() - began)
    print(f"{FUZZ_BYTES + FUZZ_JSON} files in {time.perf_counter() - start:.1f} s, "
          f"{accepted} accepted, slowest {slowest * 1e3:.0f} ms")
    assert 0 < accepted < (FUZZ_BYTES + FUZZ_JSON) // 2  # some mutations are harmless, few are


def test_fuzz_of_networks(tmp_path):
    """Mutated files of every operation; those that are sound run."""
    outcomes, _ = run(ckit_files, tmp_path, seed=5, cases=FUZZ_NETWORKS)
    print(dict(outcomes))
    assert outcomes["run"] > FUZZ_NETWORKS // 10
    assert outcomes["ModelFormatError"] > FUZZ_NETWORKS // 4


# -- schema, documents, golden files --------------------------------------------------------


def test_every_operation_but_losses_has_a_schema():
    assert set(REGISTRY) - LOSSES - set(SCHEMAS) == set()


@pytest.mark.parametrize("op", sorted(set(SCHEMAS) & set(REGISTRY)))
def test_schemas_name_what_operations_take(op):
    cls = REGISTRY[op]
    parameters = inspect.signature(cls.forward).parameters.values()
    described = inspect.signature(getattr(cls, "call", cls.forward)).parameters.values()
    attrs = {p.name: p for p in described
             if p.kind == p.KEYWORD_ONLY and p.name not in cls.eager}
    assert set(attrs) == set(SCHEMAS[op].attrs)
    lowered = inspect.signature(cls.lower).parameters.values()
    if not any(p.kind == p.VAR_KEYWORD for p in lowered):
        assert {p.name for p in lowered if p.kind == p.KEYWORD_ONLY} == set(attrs)
    for name, attr in SCHEMAS[op].attrs.items():
        default = attrs[name].default
        if attr.default is not REQUIRED and default is not inspect.Parameter.empty:
            assert attr.default == default, name
    inputs = [p.name for p in list(parameters)[1:] if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [name.rstrip("?.") for name in SCHEMAS[op].inputs.split()]
    assert not inputs or inputs == named


def operations_table() -> str:
    """Return the table of operations in docs/ckit-format.md."""
    lines = ["| operation | inputs | attributes (default) | first input | outputs |",
             "| --- | --- | --- | --- | --- |"]
    made = {"sum": " (int64 unless floats)", "dtype": " of `dtype`", "where": " like a and b",
            "bool": " bool", "int64": " int64", "": "", "0": " like input 0", "1": " like input 1"}
    for op in sorted(SCHEMAS):
        schema = SCHEMAS[op]
        inputs = ", ".join(f"[{n[:-1]}]" if n.endswith("?") else n for n in schema.inputs.split())
        attrs = "; ".join(
            f"`{name}`: {attr.check.text}"
            + ("" if attr.default is REQUIRED else f" ({json.dumps(attr.default)})")
            for name, attr in schema.attrs.items())
        ranks = "rank " + ", ".join(map(str, schema.ranks)) if schema.ranks else "any"
        if schema.kinds != "f":
            ranks += f", types {schema.kinds}"
        outputs = "; ".join(["y" + made[schema.gives]] + [
            f"{'like y' if kind == 'same' else '(C,)'}{f' {dtype}' if dtype else ''}"
            f"{f' if {when}' if when else ''}" for kind, dtype, when in schema.extra])
        lines.append(f"| `{op}` | {inputs} | {attrs} | {ranks} | {outputs} |")
    return "\n".join(lines)


# Operations on whose cases the first axis need not be a batch.
BOUND_TO_A_BATCH = {"add", "amax", "amin", "concat", "cumsum", "div", "expand", "flatten", "fmod",
                    "gather", "matmul", "maximum", "mean", "minimum", "mul", "permute", "power",
                    "prod", "remainder", "resize", "slice", "sub", "sum", "take", "topk", "where"}


@pytest.mark.parametrize("case", [
    case for case in all_cases(seed=7) if case.name in SCHEMAS and np.ndim(case.inputs[0]) > 1
    and case.name not in ("reshape", "batch_norm_train", "where")
    and case.inputs[0].shape[0] > 0], ids=str)
def test_every_operation_survives_compiling_and_a_file(case, path):
    x, *others = [a if a is None or a.dtype.kind != "f" else a.astype(np.float32)
                  for a in case.inputs]

    def model(x):
        return apply(REGISTRY[case.name], x, *others, **case.attrs)

    batched = [a for a in others if a is not None and a.shape[:1] == x.shape[:1] and a.ndim > 1]
    try:
        program = ck.compile(model, x.shape)
    except (ck.ShapeError, ck.UnsupportedOperatorError):
        # Cases whose other operands, or attributes, hold for one batch only.
        assert batched or case.name in BOUND_TO_A_BATCH
        return
    save(program, path)
    loaded = load(path)
    assert loaded.input_shapes == program.input_shapes
    for got, want in ((loaded(x), program(x)), (program(x), model(x))):
        got, want = [list(y) if isinstance(y, tuple) else [y] for y in (got, want)]
        assert_same_bits(got, [getattr(y, "data", y) for y in want]
                         if not isinstance(want[0], np.ndarray) else want)


def test_integers_and_booleans_are_kept(path):
    values = {0: Value((3, 2), "int64"), 1: Value((2,), "bool"), 2: Value((2,), "int64"),
              3: Value((3, 2), "int64")}
    graph = Graph((Port("x", 0),), {1: Constant("mask", np.array([True, False])),
                                    2: Constant("w", np.array([2**40, -1]))},
                  (Node("where", (1, 0, 2), (3,), {}, "pick"),), (Port("y", 3),), values)
    save(graph, path)
    program = load(path)
    assert program.input_shapes == {"x": (3, 2)}
    x = np.arange(6).reshape(3, 2)
    assert program(x).tolist() == [[0, -1], [2, -1], [4, -1]]
    with pytest.raises(ck.DTypeError, match="expected int64, got float32"):
        program(x.astype(np.float32))


def test_the_document_lists_the_operations_as_they_are():
    text = (HERE.parent / "docs" / "ckit-format.md").read_text()
    assert operations_table() in text, f"docs/ckit-format.md should have:\n{operations_table()}"


@pytest.mark.parametrize("file", GOLDEN, ids=lambda p: p.stem)
def test_golden_files_load_for_ever(file):
    """Files that released versions wrote; beside each, an input and what it gave."""
    arrays = np.load(file.with_suffix(".npz"))
    got = load(file).run(tuple(arrays[k] for k in arrays.files if k.startswith("in")))
    got = list(got.values()) if isinstance(got, dict) else \
        list(got) if isinstance(got, tuple) else [got]
    want = [arrays[k] for k in arrays.files if k.startswith("out")]
    assert len(got) == len(want) > 0
    for a, b in zip(got, want, strict=True):
        if file.stem.endswith("int8"):  # sums of whole numbers: the same on every CPU
            assert_same_bits(a, b)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_open_sizes_came_with_version_2(path):
    def older(header):
        header[META]["format_version"] = "1"
        header[META].pop("compression", None)
    path.write_bytes(rebuild((HERE / "golden" / "v2-open-sizes-float32.ckit").read_bytes(), older))
    with pytest.raises(ck.ModelFormatError, match="open sizes came with version 2"):
        load(path)


def test_there_are_golden_files():
    """One at least for each version of the format and storage of weights."""
    names = [file.stem for file in GOLDEN]
    for version in range(1, max_format_version + 1):
        for weights in ("float32", "float16", "bfloat16"):
            assert any(n.startswith(f"v{version}-") and n.endswith(weights) for n in names)
    assert sum(name.endswith("int8") for name in names) == 2


# -- beside other things --------------------------------------------------------------------


def test_loading_needs_no_safetensors_package(good, path):
    path.write_bytes(good)
    run_python(f"""
        import sys
        sys.modules["safetensors"] = None
        import convkit
        print(convkit.load({str(path)!r}))
    """)


def test_threads_may_save_to_one_path(program, path, sample):
    errors = []

    def work():
        try:
            for _ in range(5):
                save(program, path)
                load(path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert list(path.parent.iterdir()) == [path]
    assert ckit.max_format_version == 2 and run_pipeline(load(path).graph).nodes
