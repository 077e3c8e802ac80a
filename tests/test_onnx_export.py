"""Export: every operation and whole networks, through the checker, onnxruntime and back."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from cases import all_cases
from harness import random_array
from test_onnx_quantized import WRITTEN
from tolerances import Tolerance, assert_close

import convkit as ck
from convkit import functional as F
from convkit import models, nn
from convkit.autograd import apply
from convkit.infer import verify
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.infer.schema import SCHEMAS, check_attrs, complete
from convkit.infer.verify import infer_node
from convkit.ops.op import REGISTRY

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from convkit.io.onnx import from_model, load, save  # noqa: E402
from convkit.io.onnx.writer import RULES  # noqa: E402
from convkit.io.onnx.writing import to_model  # noqa: E402

# Two roundings of the same sums, and onnxruntime's exp and its kin.
BOUNDS = Tolerance(1e-4, 2e-5)
PER_OP = 6


def session(model):
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def listed(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def single(op: str, arrays: list, attrs: dict) -> Graph:
    """Return a graph of one operation, all of whose inputs come from outside."""
    values = {i: Value(a.shape, a.dtype.name) for i, a in enumerate(arrays) if a is not None}
    numbers = tuple(None if a is None else i for i, a in enumerate(arrays))
    attrs = check_attrs(op, complete(op, attrs), arrays[0].ndim)
    node = Node(op, numbers, (), attrs, op)
    results = infer_node(node, [values.get(i) for i in range(len(arrays))])
    made = tuple(range(100, 100 + len(results)))
    values.update(zip(made, results, strict=True))
    graph = Graph(tuple(Port(f"in{i}", i) for i in numbers if i is not None), {},
                  (Node(op, numbers, made, attrs, op),),
                  tuple(Port(f"out{i}", v) for i, v in enumerate(made)), values,
                  "single" if len(made) == 1 else "tuple")
    verify(graph)
    return graph


def check(graph: Graph, arrays: list, what: str) -> None:
    """Compare a graph with onnxruntime on its export, and with its export read back."""
    want = listed(ck.infer.Program(graph).run(tuple(arrays)))
    model = to_model(graph)
    feeds = {p.name: a for p, a in zip(graph.inputs, arrays, strict=True)}
    got = session(model).run(None, feeds)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype, what
        assert_close(a, b, BOUNDS, f"{what}: onnxruntime")
    back = ck.infer.Program(from_model(model))
    assert list(back.input_shapes.values()) == [graph.shape(p.value) for p in graph.inputs]
    for a, b in zip(listed(back.run(tuple(arrays))), want, strict=True):
        assert a.dtype == b.dtype, what
        assert_close(a, b, BOUNDS, f"{what}: read back")


def _sampled():
    """Return a few cases of every operation that has a form in ONNX."""
    groups: dict = {}
    for case in all_cases(seed=11):
        if case.name in RULES:
            groups.setdefault(case.name, []).append(case)
    return list(itertools.chain.from_iterable(
        group[::max(len(group) // PER_OP, 1)][:PER_OP + 1] for group in groups.values()))


@pytest.mark.parametrize("case", _sampled(), ids=str)
def test_operations(case):
    arrays = [None if a is None else a.astype(np.float32) if a.dtype.kind == "f" else a
              for a in map(_array, case.inputs)]
    attrs = {**case.attrs}
    if case.name == "adaptive_max_pool" and any(
            n % m for n, m in zip(arrays[0].shape[2:], attrs["output_size"], strict=True)):
        attrs["return_indices"] = False  # has no form in ONNX
    check(single(case.name, arrays, attrs), [a for a in arrays if a is not None], str(case))


def _array(a):
    return None if a is None else np.asarray(a)


X = np.array([[0.5, -1.5, np.nan, np.inf], [2.0, -0.0, 7.0, -np.inf]], np.float32)
I = np.array([[7, -7, 3, 0], [5, -5, 2, 9]], np.int32)  # noqa: E741
B = X > 0


@pytest.mark.parametrize(("op", "inputs", "attrs"), [
    *((op, [X, X[::-1].copy()], {}) for op in ("eq", "ne", "lt", "le", "gt", "ge")),
    *((op, [B, B[::-1].copy()], {}) for op in ("logical_and", "logical_or", "logical_xor")),
    ("logical_not", [B], {}), ("isnan", [X], {}), ("isinf", [X], {}),
    ("argmax", [X[:, :2]], {"dim": 1}), ("argmin", [X[:, :2]], {"dim": None}),
    ("argmax", [X[:, :2]], {"dim": None, "keepdim": True}),
    ("cast", [I], {"dtype": "float32"}), ("cast", [X[:, :2]], {"dtype": "int64"}),
    ("cast", [I], {"dtype": "bool"}),
    ("div", [I, I[::-1].copy() * 2 + 1], {"rounding_mode": "trunc"}),
    ("div", [I, I[::-1].copy() * 2 + 1], {"rounding_mode": "floor"}),
    ("remainder", [I, I[::-1].copy() * 2 + 1], {}), ("fmod", [I, I[::-1].copy() * 2 + 1], {}),
    ("sum", [I], {"dim": (1,)}), ("amax", [I], {"dim": (0,)}), ("cumsum", [I], {"dim": 1}),
    ("sum", [B], {"dim": (1,)}), ("prod", [B], {"dim": None}), ("cumsum", [B], {"dim": 1}),
    ("argmax", [B], {"dim": 1}), ("argmin", [B], {"dim": None}),
    ("clamp", [I], {"min": -3.0, "max": 5.0}),
    ("quantize_linear", [X[:, :2], np.array(0.25, np.float32)], {"dtype": "int8"}),
    ("quantize_linear", [X[:, :2], np.array([0.5, 0.25], np.float32), np.array([3, 4], np.uint8)],
     {"dtype": "uint8", "dim": 1, "quant_max": 6}),
    ("dequantize_linear", [I.astype(np.int8), np.array(0.5, np.float32)], {}),
    ("take", [X[:, :2], np.array([1, 0, 1])], {"dim": 1}),
    *(("image", [np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)[..., :n].copy(),
                 np.array([0.5, 2][:n], np.float32), np.array([-1, 3][:n], np.float32)],
       {"layout": layout}) for n, layout in ((2, "NHWC"), (2, "NCHW"))),
    ("expand", [X[:1, :2]], {"shape": (3, 2, -1)}),
    ("slice", [I], {"starts": (None, 3), "stops": (None, None), "steps": (None, -2)}),
], ids=str)
def test_operations_on_other_types(op, inputs, attrs):
    check(single(op, inputs, attrs), inputs, op)


def test_every_rule_is_tested():
    assert set(RULES) <= set(SCHEMAS)
    tested = {c.name for c in _sampled()} | {
        "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor",
        "logical_not", "isnan", "isinf", "argmax", "argmin", "cast", "quantize_linear",
        "dequantize_linear", "image", *WRITTEN}
    assert tested == set(RULES)


# -- networks -----------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Branches, a fused residual, padding by reflection, several inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.b = nn.Conv2d(3, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x, y):
        z = self.norm(self.a(x) + self.b(y)).relu()
        return self.head(z.mean(dim=(2, 3))), z


@pytest.mark.parametrize(("name", "shape"), [("lenet5", (1, 1, 28, 28)),
                                             ("resnet20", (1, 3, 32, 32))])
def test_models(name, shape, tmp_path):
    ck.manual_seed(0)
    model = getattr(models, name)()
    path = tmp_path / "model.onnx"
    save(model, path, input_shape=shape, metadata={"labels": ["a", "b"]})
    program = ck.compile(model, shape)
    for batch in (1, 3):
        x = random_array((batch, *shape[1:]))
        want = program(x)
        (got,) = session(path.read_bytes()).run(None, {"x": x} if "x" in program.input_shapes
                                                else {next(iter(program.input_shapes)): x})
        assert_close(got, want, BOUNDS)
        assert_close(ck.compile(load(path))(x), want, BOUNDS)
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(props["labels"]) == ["a", "b"]


def test_several_inputs_and_outputs(tmp_path):
    ck.manual_seed(0)
    model = Mixed()
    path = tmp_path / "mixed.onnx"
    save(model, path, input_shape=[(1, 3, 7, 6)] * 2, opset=22)
    proto = onnx.load(path)
    assert proto.opset_import[0].version == 22
    assert [i.name for i in proto.graph.input] == ["x", "y"]
    program = ck.compile(load(path))
    x, y = random_array((2, 3, 7, 6)), random_array((2, 3, 7, 6), seed=1)
    want = ck.compile(model, [(1, 3, 7, 6)] * 2)(x, y)
    for a, b, c in zip(session(proto).run(None, {"x": x, "y": y}), want, program(x, y),
                       strict=True):
        assert_close(a, b, BOUNDS)
        assert_close(c, b, BOUNDS)


def test_outputs_that_are_inputs_constants_or_twice_the_same():
    values = {i: Value((2,)) for i in range(3)}
    two = np.array([1, 2], np.float32)
    graph = Graph((Port("x", 0),), {1: Constant("w", two)},
                  (Node("add", (0, 1), (2,), {}, "sum"),),
                  (Port("same", 0), Port("w_out", 1), Port("a", 2), Port("b", 2)), values, "tuple")
    x = np.array([3, 4], np.float32)
    got = session(to_model(graph)).run(None, {"x": x})
    assert [y.tolist() for y in got] == [[3, 4], [1, 2], [4, 6], [4, 6]]


@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("counted", [True, False])
def test_windows_of_ceil_mode(op, counted):
    """Every way in which the last windows of two axes may end."""
    for (h, k, s, p), w in itertools.product(
            itertools.product((3, 5, 6), (2, 3), (2, 3), (0, 1)), (4, 5, 7)):
        attrs = {"kernel_size": (k, 2), "stride": (s, 2), "padding": (p, 1), "ceil_mode": True}
        attrs |= {"count_include_pad": counted} if op == "avg_pool" else {
            "dilation": (1, 1), "return_indices": False}
        attrs |= {"divisor_override": None} if op == "avg_pool" else {}
        x = random_array((1, 2, h, w))
        check(single(op, [x], attrs), [x], f"{op} {h} {k} {s} {p} {w}")


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 2, 0)])
def test_zeros_around_a_maximum_stay_zeros(pads, tmp_path):
    """onnxruntime takes a Pad for a part of the MaxPool behind it."""
    class Padded(nn.Module):
        def forward(self, x):
            return F.max_pool2d(F.pad(x, pads), 3, 2)

    x = random_array((2, 3, 8, 8)) - 5
    save(Padded(), tmp_path / "a.onnx", x.shape)
    got, = session((tmp_path / "a.onnx").read_bytes()).run(None, {"x": x})
    np.testing.assert_array_equal(got, Padded()(x).data)
    assert got.max() == 0
    np.testing.assert_array_equal(ck.compile(load(tmp_path / "a.onnx"))(x[:1]), got[:1])


def test_what_cannot_be_written_is_listed(tmp_path):
    path = tmp_path / "old.onnx"
    path.write_bytes(b"old")
    x = random_array((1, 2, 5, 5))

    def model(x):
        y = apply(REGISTRY["adaptive_max_pool"], x, output_size=(3, 3), return_indices=True)
        z = apply(REGISTRY["adaptive_max_pool"], x, output_size=(2, 2), return_indices=True)
        return y[0], z[0]

    with pytest.raises(ck.UnsupportedOperatorError, match=r"several sizes.*\(2 times\)"):
        save(model, path, input_shape=x.shape)
    with pytest.raises(ValueError, match="opset: expected 21 to"):
        save(model, path, input_shape=x.shape, opset=20)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_float64_takes_only_operators_that_have_it(tmp_path):
    """The checker knows Celu for float32 alone."""
    x = random_array((2, 3, 4), np.float64)
    for alpha in (1.0, 0.3, -0.7):
        save(ck.compile(nn.CELU(alpha), example=x), tmp_path / "a.onnx")
        np.testing.assert_allclose(ck.compile(load(tmp_path / "a.onnx"))(x),
                                   nn.CELU(alpha)(ck.tensor(x)).data, rtol=1e-12)
