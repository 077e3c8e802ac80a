"""Reading ONNX files: open batches, what is not supported, and files from strangers."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from harness import random_array
from tolerances import Tolerance, assert_close

import convkit as ck

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from fuzz import onnx_files  # noqa: E402
from fuzz.running import run  # noqa: E402
from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from convkit.infer.dims import BatchDim  # noqa: E402
from convkit.io.onnx import Backend, from_model, load  # noqa: E402

BOUNDS = Tolerance(1e-4, 2e-5)
node = helper.make_node
FUZZ = 600


def model(nodes, inputs, outputs, weights=None, opset=21, functions=()):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, T.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, T.FLOAT, ("a", "b")) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()])
    return helper.make_model(graph, functions=list(functions), ir_version=10, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("own", 1)])


# -- what a model means -------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(3))
def test_mixtures_agree_with_onnxruntime(i):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    data = onnx_files.seeds()[i]
    program = ck.compile(from_model(onnx.ModelProto.FromString(data)))
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    shape = [2 if isinstance(d, str) else d for d in session.get_inputs()[0].shape]
    x = random_array(shape)
    want, got = session.run(None, {"x": x}), program(x)
    for a, b in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert a.dtype == b.dtype
        # The third normalises by E[x^2] - E[x]^2, as the operator's document has it.
        assert_close(a, b, BOUNDS if i < 2 else Tolerance(1e-3, 1e-3))


@pytest.mark.parametrize("places", [False, True])
def test_max_pools_may_pad_more_than_half_the_kernel(places):
    """The standard bounds padding by what a dilated window spans, PyTorch by half the kernel."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    outputs = ["y", "i"][:1 + places]
    pool = node("MaxPool", ["x"], outputs, kernel_shape=[3, 2], dilations=[2, 3], pads=[2, 1, 2, 1])
    m = model([pool], {"x": (2, 3, 9, 8)}, [])
    m.graph.output.extend(helper.make_tensor_value_info(n, t, "abcd") for n, t in zip(
        outputs, (T.FLOAT, T.INT64), strict=False))
    x = random_array((2, 3, 9, 8))
    want = runtime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]
                                    ).run(None, {"x": x})
    got = ck.compile(from_model(m))(x)
    for a, b in zip(got if places else (got,), want, strict=True):
        np.testing.assert_array_equal(a, b)


EQUATIONS = [
    ("ij,jk", (2, 3), (3, 4)), ("bij , bjk -> bik", (2, 3, 4), (2, 4, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("bij,bkj->ikb", (2, 3, 4), (2, 5, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 6)), ("b...,b...->...", (2, 3, 4), (2, 3, 4)),
    ("nchw,cd->ndhw", (2, 3, 4, 5), (3, 6)), ("abcd,cde->abe", (2, 3, 4, 5), (4, 5, 6)),
    ("kij,jk->i", (2, 3, 4), (4, 2)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("bn,anm,bm->ba", (2, 3), (4, 3, 5), (2, 5)), ("i,j->ij", (3,), (4,)), ("i,i", (5,), (5,)),
    ("ij,ij->ij", (2, 3), (2, 3)), ("i,->i", (3,), ()), ("ij->ji", (3, 4)), ("ij->", (3, 4)),
    ("...ii->...i", (2, 3, 3)), ("ii", (3, 3)), ("iii->i", (3, 3, 3)),
    ("iij,jk", (3, 3, 2), (2, 4))]


def einsum(equation, shapes, weights=None, opened=False):
    """Return a model of an Einsum whose inputs x0, x1, ... are given or among the weights."""
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = {n: ("N", *s[1:]) if opened else s for n, s in zip(names, shapes, strict=True)
              if n not in (weights or {})}
    m = model([node("Einsum", names, ["y"], equation=equation)], inputs, [], weights)
    m.graph.output.append(helper.make_tensor_value_info("y", T.FLOAT, None))
    return from_model(m)


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EQUATIONS],
                         ids=[e[0] for e in EQUATIONS])
def test_einstein_sums_are_numpys(equation, shapes):
    arrays = [random_array(s, np.float32, seed=i) for i, s in enumerate(shapes)]
    given = {f"x{i}": a for i, a in enumerate(arrays)}
    got = ck.compile(einsum(equation, shapes))(given if len(given) > 1 else arrays[0])
    want = np.einsum(equation, *arrays)
    assert got.shape == want.shape
    assert_close(got, want, BOUNDS)


@pytest.mark.parametrize(("equation", "shapes", "operations"), [
    ("bij,jk->bik", [(2, 3, 4), (4, 5)], ["linear"]),
    ("nchw,cd->ndhw", [(2, 3, 4, 5), (3, 6)], ["permute", "linear", "permute"]),
    ("bij,ik->bjk", [(2, 3, 4), (3, 5)], ["permute", "linear"])])
def test_einstein_sums_with_weights_are_layers_of_any_batch(equation, shapes, operations):
    x, w = random_array((7, *shapes[0][1:]), np.float32), random_array(shapes[1], np.float32)
    graph = einsum(equation, shapes, {"x1": w}, opened=True)
    assert [n.op for n in graph.nodes] == operations
    assert_close(ck.compile(graph)(x), np.einsum(equation, x, w), BOUNDS)


@pytest.mark.parametrize(("equation", "shapes", "message"), [
    ("ij,jk", [(2, 3), (4, 4)], "axes 'j' of an equation are of sizes 3 and 4"),
    ("ii", [(2, 3)], r"axes 'i' of an equation are of sizes \[2, 3\]"),
    ("ij->ik", [(2, 3)], "expected each of the output's letters once, and among the inputs'"),
    ("ij->ii", [(2, 3)], "expected each of the output's letters once"),
    ("i...->i", [(2, 3)], "leaves the ellipsis out of the output"),
    ("ijk", [(2, 3)], "'ijk' does not fit 2 axes"), ("i.j", [(2, 3)], "does not fit 1 inputs"),
    ("ij,jk", [(2, 3)], "does not fit 1 inputs")])
def test_equations_that_make_no_sense_are_refused(equation, shapes, message):
    with pytest.raises(ck.ModelFormatError, match=message):
        einsum(equation, shapes)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -1, 2, 2**40])
def test_triangles_of_any_batch(upper, k):
    weights = {} if k is None else {"k": np.array(k)}
    graph = from_model(model([node("Trilu", ["x", *weights], ["y"], upper=upper)],
                             {"x": ("N", 3, 4)}, ["y"], weights))
    x = random_array((5, 3, 4), np.float32)
    x[0, 0] = x[0, 2] = np.nan
    want = (np.triu if upper else np.tril)(x, 0 if k is None else k)
    np.testing.assert_array_equal(ck.compile(graph)(x), want)


def test_a_batch_stays_open():
    graph = from_model(onnx.ModelProto.FromString(onnx_files.seeds()[0]))
    assert graph.shape(graph.outputs[0].value) == (BatchDim(), 5)
    program = ck.compile(graph)
    x = random_array((7, 3, 8, 6))
    np.testing.assert_array_equal(program(x)[3:4], program(x[3:4]))


def test_networks_that_pytorch_exports(torch, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.bn = torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Linear(8 * 4, 5)

        def forward(self, x):
            x = torch.nn.functional.silu(self.bn(self.conv(x)))
            x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = torch.nn.functional.adaptive_avg_pool2d(x, 2)
            return self.head(x.view(x.size(0), -1))

    net, path = Net().eval(), tmp_path / "net.onnx"
    x = torch.randn(2, 3, 8, 8)
    torch.onnx.export(net, (x,), str(path), dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "batch"}})
    program = ck.compile(load(path))
    x = torch.randn(5, 3, 8, 8)
    assert_close(program(x.numpy()), net(x).detach().numpy(), BOUNDS)


def _with_random_weights(m):
    """Return a network of the onnx package, whose weights are left out, with random ones."""
    rng = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
    scales = {n.input[1] for n in m.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    nodes = []
    for n in m.graph.node:
        if n.op_type != "ConstantOfShape" or n.input[0] not in shapes:
            nodes.append(n)
            continue
        name, shape = n.output[0], shapes[n.input[0]]
        wide = name in scales and len(shape) > 1
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) if wide else \
            rng.uniform(0.5, 1.5, shape)
        m.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    del m.graph.node[:]
    m.graph.node.extend(nodes)
    return m


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121"])
def test_networks_that_come_with_onnx(name):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from onnx.backend.test.loader import DATA_DIR

    path = os.path.join(DATA_DIR, "light", f"light_{name}.onnx")
    if not os.path.exists(path):
        pytest.skip("the onnx package has no such network")
    m = _with_random_weights(onnx.load(path))
    program = ck.compile(from_model(m), check=False)
    assert len(program.graph.nodes) < len(m.graph.node)
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = runtime.InferenceSession(m.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])
    x = random_array(program.graph.shape(program.graph.inputs[0].value))
    want, = session.run(None, {session.get_inputs()[0].name: x})
    assert want.std() > 0
    assert_close(program(x), want, Tolerance(1e-3, 1e-3))


@pytest.mark.parametrize(("nodes", "op"), [
    ([node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["y"])], "silu"),
    ([node("HardSigmoid", ["x"], ["s"], alpha=1 / 6), node("Mul", ["x", "s"], ["y"])], "hardswish"),
    ([node("Div", ["x", "r2"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
      node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])], "gelu"),
    ([node("Mul", ["r05", "x"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["one", "e"], ["a"]),
      node("Mul", ["x", "half"], ["m"]), node("Mul", ["a", "m"], ["y"])], "gelu"),
    ([node("Div", ["x", "one"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
      node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])], None),
    ([node("Div", ["r2", "x"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
      node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])], None),
    ([node("Neg", ["x"], ["n"]), node("Sigmoid", ["n"], ["s"]), node("Mul", ["s", "x"], ["y"])],
     None),
], ids=["silu", "hardswish", "gelu", "gelu-other-order", "not-sqrt", "not-divided", "not-itself"])
def test_activations_written_out_are_recognised(nodes, op):
    m = model(nodes, {"x": ("N", 3)}, ["y"], {
        "r2": np.float32(np.sqrt(2)), "r05": np.float32(np.sqrt(0.5)), "one": np.float32(1),
        "half": np.float32(0.5)})
    program = ck.compile(from_model(m))
    ops = [n.op for n in program.graph.nodes]
    assert ops == [op] if op else not {"silu", "hardswish", "gelu"} & set(ops)
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(m)
    x = random_array((4, 3))
    assert_close(program(x), reference.run(None, {"x": x})[0], BOUNDS)


def test_other_open_sizes_need_shapes():
    m = model([node("Relu", ["x"], ["y"])], {"x": ("N", 3, "H", "W")}, ["y"])
    with pytest.raises(ck.UnsupportedOperatorError, match="open sizes other than the batch"):
        from_model(m)
    graph = from_model(m, {"x": ("N", 3, 5, 4)})
    assert graph.shape(0) == (BatchDim(), 3, 5, 4)
    assert from_model(m, {"x": (2, 3, 5, 4)}).shape(0) == (2, 3, 5, 4)
    with pytest.raises(ck.ShapeError, match="no input 'z'"):
        from_model(m, {"z": (1,)})
    fixed = model([node("Relu", ["x"], ["y"])], {"x": (4, 3)}, ["y"])
    program = ck.compile(from_model(fixed))
    with pytest.raises(ck.ShapeError, match=r"expected shape \(4, 3\), got \(1, 3\)"):
        program(random_array((1, 3)))


def test_inputs_that_decide_shapes():
    m = model([node("Reshape", ["x", "shape"], ["y"])], {"x": (2, 6)}, ["y"])
    m.graph.input.append(helper.make_tensor_value_info("shape", T.INT64, (2,)))
    with pytest.raises(ck.UnsupportedOperatorError, match=r"inputs \['shape'\] decide shapes"):
        from_model(m)
    graph = from_model(m, values={"shape": [3, -1]})
    assert [p.name for p in graph.inputs] == ["x"]
    assert graph.shape(graph.outputs[0].value) == (3, 4)
    rep, x = Backend.prepare(m), random_array((2, 6))
    assert rep.run([x, np.array([4, 3])])[0].shape == (4, 3)
    assert rep.run({"x": x, "shape": np.array([1, 12])})[0].shape == (1, 12)


def test_a_model_for_one_batch_says_so():
    m = model([node("Reshape", ["x", "shape"], ["y"])], {"x": ("N", 6)}, ["y"],
              {"shape": np.array([3, 4])})
    with pytest.raises((ck.UnsupportedOperatorError, ck.ModelFormatError), match=r"reshape|batch"):
        from_model(m)
    assert from_model(m, {"x": (2, 6)}).outputs


def test_half_precision_is_computed_in_float32():
    m = model([node("Mul", ["x", "w"], ["y"])], {"x": ("N", 2)}, ["y"],
              {"w": np.array([1.5, -2], np.float16)})
    m.graph.input[0].type.tensor_type.elem_type = T.FLOAT16
    m.graph.output[0].type.tensor_type.elem_type = T.FLOAT16
    assert ck.compile(from_model(m))(np.ones((1, 2), np.float32)).tolist() == [[1.5, -2]]
    y, = Backend.run_model(m, [np.ones((1, 2), np.float16)])
    assert y.dtype == np.float16


def test_bits_of_narrow_integers():
    for name, values in (("INT4", [-8, 7, -1]), ("UINT4", [0, 15, 9]), ("INT2", [-2, 1, -1])):
        m = model([node("DequantizeLinear", ["q", "s"], ["c"]), node("Add", ["x", "c"], ["y"])],
                  {"x": (3,)}, ["y"], {"s": np.float32(0.5)}, opset=25)
        m.graph.initializer.append(helper.make_tensor("q", T.DataType.Value(name), [3], values))
        y = ck.compile(from_model(m))(np.zeros(3, np.float32))
        assert y.tolist() == [v / 2 for v in values]


def test_backend_runs_nodes():
    x = random_array((2, 3))
    y, = Backend.run_node(node("Softmax", ["x"], ["y"], axis=0), [x])
    assert_close(y.sum(axis=0), np.ones(3), BOUNDS)
    assert Backend.supports_device("CPU") and not Backend.supports_device("CUDA:0")
    with pytest.raises(ValueError, match="expected device 'CPU'"):
        Backend.prepare(model([node("Relu", ["x"], ["y"])], {"x": (1,)}, ["y"]), "CUDA")


# -- what is not supported ------------------------------------------------------------------------


def test_everything_that_is_not_supported_is_listed_at_once():
    m = model([node("Det", ["x"], ["a"], name="first"),
               node("Det", ["a"], ["b"], name="second"),
               node("Own", ["b"], ["c"], domain="own", name="mine"),
               node("LRN", ["x4"], ["d"], size=4, name="even"),
               node("NonZero", ["x"], ["y"])], {"x": (3,), "x4": (1, 3, 2, 2)}, ["y"])
    with pytest.raises(ck.UnsupportedOperatorError) as caught:
        from_model(m)
    text = str(caught.value)
    assert "Det (2: 'first', 'second')" in text
    assert "own.Own (1: 'mine')" in text and "NonZero (1: 'y')" in text
    assert "LRN over an even number of channels (1: 'even')" in text


def test_a_missing_package_names_the_extra(monkeypatch):
    import sys

    from convkit.io.onnx.package import require_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install convkit\[onnx\]"):
        require_onnx()


# -- files from strangers -------------------------------------------------------------------------


def external(location, folder, data=b"\0" * 16, **extra):
    """Return a model whose weight of 16 bytes lies in another file."""
    m = model([node("Add", ["x", "w"], ["y"])], {"x": (4,)}, ["y"], {"w": np.zeros(4, np.float32)})
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in {"location": location, **extra}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "model.onnx"
    path.write_bytes(m.SerializeToString())
    return path


def test_external_data_below_the_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"\0" * 8 + np.arange(4, dtype="<f4").tobytes())
    path = external("sub/w.bin", tmp_path, offset="8", length="16")
    assert ck.compile(load(path))(np.ones(4, np.float32)).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("location", "extra", "message"), [
    ("../w.bin", {}, "must lie below"), ("/etc/passwd", {}, "must lie below"),
    ("a/../../w.bin", {}, "must lie below"), ("", {}, "must lie below"),
    ("C:w.bin", {}, "must lie below"), ("a\\b", {}, "must lie below"),
    ("missing.bin", {}, "No such file"), ("link.bin", {}, "through a link"),
    ("dir/w.bin", {}, "through a link"), (".", {}, "below|no file|directory|link"),
    ("w.bin", {"length": "15"}, "external data declares 15"),
    ("w.bin", {"offset": "1"}, "no file of at least 17"),
    ("w.bin", {"offset": "-1"}, "whole number"), ("w.bin", {"offset": "9" * 19}, "no file of at"),
    ("w.bin", {"evil": "1"}, "has keys"),
])
def test_external_data_stays_inside(tmp_path, location, extra, message):
    outside = tmp_path / "outside"
    home = tmp_path / "home"
    home.mkdir()
    outside.mkdir()
    for folder in (tmp_path, home, outside):
        (folder / "w.bin").write_bytes(b"\0" * 16)
    os.symlink(tmp_path / "w.bin", home / "link.bin")
    os.symlink(outside, home / "dir")
    with pytest.raises(ck.ModelFormatError, match=message):
        load(external(location, home, **extra))


def test_external_data_that_is_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ck.ModelFormatError, match="pipe"):
        load(external("pipe", tmp_path))


def relu(**changes):
    return model([node("Relu", ["x"], ["y"])], {"x": (2,)}, ["y"], **changes)


def _edit(change):
    m = relu(weights={"w": np.zeros(3, np.float32)})
    change(m)
    return m


def _set(m, path, value):
    *parents, last = path
    for p in parents:
        m = m[p] if isinstance(p, int) else getattr(m, p)
    setattr(m, last, value)


def _attribute(m, **attrs):
    m.graph.node[0].attribute.extend(helper.make_attribute(k, v) for k, v in attrs.items())


DAMAGE = {
    "no graph": (lambda m: m.ClearField("graph"), "it has no graph"),
    "old": (lambda m: setattr(m, "ir_version", 2), "IR version below 3"),
    "no operators": (lambda m: m.ClearField("opset_import"), "imports no operators"),
    "twice imported": (lambda m: m.opset_import.add(domain="ai.onnx", version=7), "imported twice"),
    "future": (lambda m: setattr(m.opset_import[0], "version", 999), "expected at most"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no outputs"),
    "unknown input": (lambda m: m.graph.node[0].input.__setitem__(0, "z"), "no node before"),
    "cycle": (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "no node before"),
    "made twice": (lambda m: m.graph.node.add().CopyFrom(m.graph.node[0]), "made twice"),
    "makes an input": (lambda m: m.graph.node[0].output.__setitem__(0, "x"), "made twice"),
    "output never made": (lambda m: setattr(m.graph.output[0], "name", "z"), "never made"),
    "same outputs": (lambda m: m.graph.output.add().CopyFrom(m.graph.output[0]), "of its own"),
    "same inputs": (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), "of its own"),
    "weight twice": (lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]),
                     "defined twice"),
    "short weight": (lambda m: setattr(m.graph.initializer[0], "raw_data", b"abc"),
                     "needs 12 bytes, got 3"),
    "wide weight": (lambda m: m.graph.initializer[0].dims.append(2**62), "needs"),
    "negative weight": (lambda m: m.graph.initializer[0].dims.__setitem__(0, -3), "negative size"),
    "rank bomb": (lambda m: m.graph.initializer[0].dims.extend([1] * 50), "more than 16 axes"),
    "unknown attribute": (lambda m: _attribute(m, evil=1), "unknown attribute 'evil'"),
    "too many inputs": (lambda m: m.graph.node[0].input.append("x"), "2 inputs, expected 1 to 1"),
    "no inputs": (lambda m: m.graph.node[0].ClearField("input"), "0 inputs, expected 1 to 1"),
    "negative input": (lambda m: _set(m, ["graph", "input", 0, "type", "tensor_type", "shape",
                                          "dim", 0, "dim_value"], -5), "has shape"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_models_are_refused(name):
    change, message = DAMAGE[name]
    with pytest.raises(ck.ModelFormatError, match=message):
        from_model(_edit(change))


@pytest.mark.parametrize(("nodes", "weights", "message"), [
    ([node("LeakyRelu", ["x"], ["y"], alpha=3)], {}, "wrong type"),
    ([node("Softmax", ["x"], ["y"], axis=9)], {}, "axis 9 is out of range"),
    ([node("Transpose", ["x"], ["y"], perm=[0, 0])], {}, "does not order"),
    ([node("MaxPool", ["x"], ["y"])], {}, "axes|'kernel_shape' is missing"),
    ([node("Cast", ["x"], ["y"])], {}, "attribute 'to' is missing"),
    ([node("Concat", ["x", "x"], ["y"])], {}, "attribute 'axis' is missing"),
    ([node("ConstantOfShape", ["big"], ["y"])], {"big": np.full(4, 2**20)}, "fold to far more"),
    ([node("Expand", ["one", "big"], ["y"])],
     {"one": np.zeros(1, np.float32), "big": np.full(4, 2**20)},
     "more than|fold to far more|too large"),
    ([node("Tile", ["x", "big"], ["y"])], {"big": np.array([2**40])}, "repeats"),
    ([node("Range", ["a", "b", "c"], ["y"])],
     {"a": np.int64(0), "b": np.int64(2**60), "c": np.int64(1)}, "fold to far more"),
    ([node("Gather", ["w", "i"], ["z"]), node("Add", ["x", "z"], ["y"])],
     {"w": np.zeros(3, np.float32), "i": np.array([5])}, "index 5 is out of range"),
    ([node("Reshape", ["x", "s"], ["y"])], {"s": np.array([-1, -1])}, "more than one -1"),
    ([node("Slice", ["x", "s", "s", "s", "z"], ["y"])], {"s": np.array([0]), "z": np.array([0])},
     "steps"),
    ([node("Pad", ["x", "s"], ["y"])], {"s": np.array([2**62, 2**62])}, "node 'y'"),
    ([node("OneHot", ["x", "d", "v"], ["y"])],
     {"d": np.int64(2**31 - 1), "v": np.zeros(2, np.float32)}, "fold to far more|indices|integer"),
])
def test_operators_out_of_their_rules_are_refused(nodes, weights, message):
    with pytest.raises(ck.ModelFormatError, match=message):
        from_model(model(nodes, {"x": (2,)}, ["y"], weights))


@pytest.mark.parametrize("nodes", [
    [node("AveragePool", ["x"], ["y"], kernel_shape=[1, 1], pads=[0, 0, 0, 1], strides=[1, 1],
          auto_pad="NOTSET", dilations=[2, 2])],
    [node("Dropout", ["x"], ["z", "m"]), node("Cast", ["m"], ["y"], to=T.FLOAT)],
    [node("ConstantOfShape", ["s"], ["a"]), node("ConstantOfShape", ["s"], ["c"]),
     node("MatMul", ["a", "c"], ["z"]), node("Identity", ["z"], ["y"])],
    [node("ConstantOfShape", ["s4"], ["a"]), node("Conv", ["a", "a"], ["z"], pads=[999] * 4),
     node("Identity", ["z"], ["y"])],
    [node("Resize", ["x", "", "tiny"], ["y"], antialias=1, mode="linear")],
], ids=["counts", "mask", "product", "convolution", "filter"])
def test_work_and_memory_are_bounded_by_the_file(nodes):
    m = model(nodes, {"x": (1, 1, 2**19, 2**19)}, ["y"], {
        "s": np.array([2048, 2048]), "s4": np.array([1, 1, 1024, 1024]),
        "tiny": np.array([1, 1, 1e-8, 1], np.float32)})
    start = time.perf_counter()
    with pytest.raises(ck.ModelFormatError, match=r"fold to far more|too many|leave less"):
        from_model(m)
    assert time.perf_counter() - start < 5


def _function(name, body):
    return helper.make_function("own", name, ["q"], ["z"], body, [
        helper.make_opsetid("", 21), helper.make_opsetid("own", 1)])


def test_functions_cannot_call_themselves_or_explode():
    loop = _function("F", [node("F", ["q"], ["z"], domain="own")])
    with pytest.raises(ck.ModelFormatError, match="deeper than"):
        from_model(model([node("F", ["x"], ["y"], domain="own")], {"x": (1,)}, ["y"],
                         functions=[loop]))
    bomb = [_function("F0", [node("Relu", ["q"], ["z"])])]
    for i in range(1, 8):
        body = [node(f"F{i - 1}", ["q" if j == 0 else f"t{j}"], ["z" if j == 19 else f"t{j + 1}"],
                     domain="own") for j in range(20)]
        bomb.append(_function(f"F{i}", body))
    start = time.perf_counter()
    with pytest.raises(ck.ModelFormatError, match="expand to far more nodes"):
        from_model(model([node("F7", ["x"], ["y"], domain="own")], {"x": (1,)}, ["y"],
                         functions=bomb))
    assert time.perf_counter() - start < 5


def test_deep_branches_are_refused():
    graph = helper.make_graph([node("Relu", ["x"], ["o"])], "g", [], [
        helper.make_tensor_value_info("o", T.FLOAT, None)])
    small = graph
    for i in range(12):
        graph = helper.make_graph([node("If", ["yes"], [f"o{i}"], then_branch=graph,
                                        else_branch=small)], "g", [],
                                  [helper.make_tensor_value_info(f"o{i}", T.FLOAT, None)])
    m = model([node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph)], {"x": (1,)},
              ["y"], {"yes": np.bool_(True)})
    with pytest.raises(ck.ModelFormatError, match="deeper than"):
        from_model(m)


def test_tiny_parts_are_counted_before_they_are_parsed(tmp_path):
    nodes = b"\x0a\x00" * (2**19 + 10)
    size = len(nodes)
    varint = bytearray()
    while size:
        varint.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
    path = tmp_path / "bomb.onnx"
    path.write_bytes(b"\x08\x0a\x3a" + bytes(varint) + nodes)
    with pytest.raises(ck.ModelFormatError, match="fields"):
        load(path)


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100, b"PK\x03\x04",
                                  b"\x3a\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file(tmp_path, data):
    path = tmp_path / "no.onnx"
    path.write_bytes(data)
    with pytest.raises(ck.ModelFormatError):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.onnx")


def test_fuzz(tmp_path):
    """Mutated files: each is refused with one of two errors, or read into a sound graph."""
    for data in onnx_files.seeds():
        (tmp_path / "good.onnx").write_bytes(data)
        load(tmp_path / "good.onnx")
    outcomes, slowest = run(onnx_files, tmp_path, seed=3, cases=FUZZ)
    print(dict(outcomes), f"slowest {slowest * 1e3:.0f} ms")
    assert outcomes["read"] + outcomes["run"] > FUZZ // 20
    assert outcomes["ModelFormatError"] > FUZZ // 5
    assert slowest < onnx_files.SLOWEST
