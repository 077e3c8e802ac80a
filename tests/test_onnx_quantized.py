"""Quantised ONNX models: read as layers on bytes, written, and beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from test_quantised_ops import one_node
from test_quantization import data, settled_block

import convkit as ck

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(5)


def model_of(nodes, inputs, outputs, constants):
    """Return an ONNX model of nodes; inputs and outputs are (name, elem, shape)."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, path, **inputs):
    onnx.save(model, path)
    program = ck.compile(ck.io.onnx.load(path))
    return program, program.run(inputs)


def operations(program):
    return [node.op for node in program.graph.nodes]


@pytest.fixture(scope="module")
def block():
    return settled_block()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_models_quantised_by_onnx_runtime(block, tmp_path, signed, per_channel):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    quantization = pytest.importorskip("onnxruntime.quantization")
    kinds = quantization.QuantType

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"x": data(1, k)} for k in range(20)])

        def get_next(self):
            return next(self.batches, None)

    exact, path = str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx")
    ck.io.onnx.save(block, exact, input_shape=(1, 3, 16, 16))
    quantization.quantize_static(
        exact, path, Reader(), quant_format=quantization.QuantFormat.QDQ,
        activation_type=kinds.QInt8 if signed else kinds.QUInt8, weight_type=kinds.QInt8,
        per_channel=per_channel)
    program = ck.compile(ck.io.onnx.load(path))
    ops = operations(program)
    assert not {"conv", "linear", "add"} & set(ops), ops
    assert ops.count("quant_conv") == 5 and ops.count("quant_linear") == 1
    x = data(16, 99)
    want = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    got = np.asarray(program.run(x))
    # A step more or less where a half is rounded the other way.
    assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


def test_quantised_programs_are_written(block, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = str(tmp_path / "int8.onnx")
    program = ck.quantize(block, data())
    ck.io.onnx.save(program, path)
    onnx.checker.check_model(path)
    x = data(16, 99)
    want = program.run(x)
    got = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)
    again = ck.compile(ck.io.onnx.load(path))
    assert operations(again).count("quant_conv") == 5
    assert np.linalg.norm(np.asarray(again.run(x)) - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("signed", [False, True])
def test_qlinear_conv_and_matmul(tmp_path, signed):
    dtype, elem = (np.int8, TensorProto.INT8) if signed else (np.uint8, TensorProto.UINT8)
    w = RNG.integers(-128, 128, (6, 4, 3, 3), np.int8)
    constants = {
        "xs": np.float32(0.02), "xz": dtype(3), "w": w, "wz": np.zeros(6, np.int8),
        "ws": RNG.uniform(0.001, 0.002, 6).astype(np.float32), "ys": np.float32(0.031),
        "yz": dtype(7), "b": RNG.integers(-900, 900, 6).astype(np.int32)}
    model = model_of(
        [helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
                          ["y"], pads=[1, 1, 1, 1])],
        [("x", elem, ("N", 4, 8, 7))], [("y", elem, ("N", 6, 8, 7))],
        {k: np.asarray(v) for k, v in constants.items()})
    x = RNG.integers(*(-128, 128) if signed else (0, 256), (2, 4, 8, 7)).astype(dtype)
    program, got = run(model, tmp_path / "m.onnx", x=x)
    assert operations(program) == ["quant_conv"]
    want = ck.reference.quant_conv(
        x, w, constants["ws"], constants["b"], stride=(1, 1), padding=((1, 1), (1, 1)),
        dilation=(1, 1), x_scale=float(np.float32(0.02)), x_zero=3, dtype=np.dtype(dtype).name,
        y_scale=float(np.float32(0.031)), y_zero=7)
    assert got.dtype == dtype and np.abs(got.astype(int) - want).max() <= 1
    assert np.count_nonzero(got != want) <= 2

    m = RNG.integers(-128, 128, (5, 9), np.int8)
    model = model_of(
        [helper.make_node("QLinearMatMul", ["a", "s", "z", "m", "t", "o", "s", "z"], ["y"])],
        [("a", elem, ("N", 5))], [("y", elem, ("N", 9))],
        {"s": np.array(0.05, np.float32), "z": np.array(2, dtype), "m": m,
         "t": np.array(0.01, np.float32), "o": np.array(0, np.int8)})
    a = RNG.integers(*(-128, 128) if signed else (0, 256), (3, 5)).astype(dtype)
    program, got = run(model, tmp_path / "m.onnx", a=a)
    assert operations(program) == ["quant_linear"]
    info = np.iinfo(dtype)
    sums = (a.astype(int) - 2) @ m.astype(int)
    assert np.abs(got - np.clip(sums * 0.01 + 2, info.min, info.max)).max() <= 0.501


def test_integer_layers(tmp_path):
    w = RNG.integers(0, 256, (6, 4, 3, 3)).astype(np.uint8)
    x = RNG.integers(0, 256, (2, 4, 8, 7)).astype(np.uint8)
    for zero, ops in ((128, ["quant_conv"]), (3, None)):
        model = model_of(
            [helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], strides=[2, 1])],
            [("x", TensorProto.UINT8, ("N", 4, 8, 7))], [("y", TensorProto.INT32, ("N", 6, 3, 5))],
            {"w": w, "xz": np.array(9, np.uint8), "wz": np.array(zero, np.uint8)})
        program, got = run(model, tmp_path / "m.onnx", x=x)
        assert ops is None or operations(program) == ops
        want = ck.reference.conv(x - 9.0, w - float(zero), stride=(2, 1), padding=((0, 0), (0, 0)),
                                 dilation=(1, 1))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, want)


def test_dynamic_quantisation(tmp_path):
    """What onnxruntime's quantize_dynamic makes of a linear layer."""
    m = RNG.integers(-127, 128, (20, 9), np.int8)
    model = model_of(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
         helper.make_node("MatMulInteger", ["q", "m", "z", "o"], ["i"]),
         helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
         helper.make_node("Mul", ["s", "t"], ["st"]),
         helper.make_node("Mul", ["f", "st"], ["y"])],
        [("x", TensorProto.FLOAT, (7, 20))], [("y", TensorProto.FLOAT, (7, 9))],
        {"m": m, "t": np.array(0.01, np.float32), "o": np.array(0, np.int8)})
    x = RNG.standard_normal((7, 20)).astype(np.float32)
    program, got = run(model, tmp_path / "m.onnx", x=x)
    assert "quant_linear" in operations(program)
    want = x @ (m * 0.01)
    assert np.linalg.norm(got - want) < 0.01 * np.linalg.norm(want)


# -- writing ----------------------------------------------------------------------------------

Q = RNG.integers(0, 256, (2, 4, 6, 5)).astype(np.uint8)
S = Q.view(np.int8)
W = RNG.integers(-128, 128, (4, 4, 3, 3), np.int8)
SCALE = RNG.uniform(0.001, 0.002, 4).astype(np.float32)
BIAS = RNG.integers(-900, 900, 4).astype(np.int32)
FORM = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1,
        "x_scale": 0.0231, "x_zero": 3}
END = {"dtype": "uint8", "y_scale": 0.0317, "y_zero": 5}
CASES = [
    ("quant_conv", [Q, W, SCALE, BIAS, S], {
        **FORM, **END, "residual_scale": 0.0113, "residual_zero": -3, "activation": "relu"}),
    ("quant_conv", [S, W, SCALE], {**FORM, "dtype": "float32", "activation": "relu6"}),
    ("quant_conv", [Q, W, SCALE, BIAS], {**FORM, "dtype": "int32"}),
    ("quant_linear", [Q[:, :, 0, 0], W[:, :, 0, 0], SCALE, BIAS],
     {"x_scale": 0.0231, "x_zero": 3, **END, "activation": "leaky_relu",
      "activation_args": (0.1,)}),
    ("quant_linear", [Q[:, :, 0, :4], W[:, :, 0, 0], SCALE, BIAS],
     {"x_scale": 0.0231, "x_zero": 3, **END}),
    ("quant_linear", [Q[:, :, 0, 0], W[:, :, 0, 0], SCALE, BIAS],
     {"x_scale": 1.0, "x_zero": 3, "dtype": "int32"}),
    ("quant_add", [Q, S], {"a_scale": 0.0211, "a_zero": 9, "b_scale": 0.0173, "b_zero": -9, **END}),
    ("quant_avg_pool", [Q], {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1),
                             "x_scale": 0.0231, "x_zero": 3, **END}),
    ("lookup", [Q, RNG.integers(0, 256, 256).astype(np.uint8)], {}),
    ("lookup", [S, RNG.integers(0, 256, 256).astype(np.uint8)], {}),
    ("max_pool", [S], {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1),
                       "dilation": (1, 1)}),
]
WRITTEN = {case[0] for case in CASES} - {"max_pool"}


@pytest.mark.parametrize(("op", "inputs", "attrs"), CASES, ids=str)
def test_operations_are_written(op, inputs, attrs, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    inputs = [np.ascontiguousarray(a) for a in inputs]
    graph, varying = one_node(op, inputs, attrs)
    ck.io.onnx.save(graph, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {f"in{i}": inputs[i] for i in varying})
    want = getattr(ck.reference, op)(*inputs, **attrs)
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    else:
        assert np.abs(got.astype(np.int64) - want).max() <= (attrs.get("dtype") == "uint8")
