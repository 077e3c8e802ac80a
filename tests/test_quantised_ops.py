"""Quantised operations beside the reference, eagerly and as steps of a Program."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, lay_out, run_op, run_python

import convkit as ck
from convkit import reference
from convkit._kernels import dispatch
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.infer.schema import complete
from convkit.infer.verify import infer_node
from convkit.ops.op import REGISTRY

X = {"x_scale": 0.02117, "x_zero": 7}
CONVS = [
    ((2, 3, 9, 8), 17, 3, {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}, 1),
    ((1, 16, 7, 7), 33, 1, {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}, 1),
    ((2, 8, 10, 6), 8, 3, {"stride": (2, 1), "padding": ((0, 1), (2, 0)), "dilation": (1, 2)}, 8),
    ((1, 12, 5, 9), 6, 3, {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}, 3),
    ((3, 5, 11), 4, 3, {"stride": (2,), "padding": ((1, 0),), "dilation": (1,)}, 1),
]


def one_node(op, inputs, attrs):
    """Return a graph of one operation; the first input comes from outside."""
    attrs = complete(op, attrs)
    values = {i: Value(a.shape, a.dtype.name) for i, a in enumerate(inputs) if a is not None}
    varying = [0] + [i for i in (4,) if len(inputs) > 4] + ([1] if op == "quant_add" else [])
    for i in varying:
        values[i] = Value((ck.infer.BatchDim(), *inputs[i].shape[1:]), inputs[i].dtype.name)
    numbers = tuple(None if a is None else i for i, a in enumerate(inputs))
    node = Node(op, numbers, (9,), attrs)
    (values[9],) = infer_node(node, [None if a is None else values[i]
                                     for i, a in enumerate(inputs)])
    constants = {i: Constant(f"c{i}", a) for i, a in enumerate(inputs)
                 if a is not None and i not in varying}
    return Graph(tuple(Port(f"in{i}", i) for i in varying), constants, (node,),
                 (Port("y", 9),), values), varying


def check(op, inputs, attrs, exact=False):
    """Compare an operation with its reference, within half a step where floats round apart."""
    want = getattr(reference, op)(*inputs, **attrs)
    runs = []
    for layout in ("contiguous", "channels_last"):
        laid = [a if a is None or i not in (0, 1, 4) or (a.dtype.kind == "f" and a.ndim < 2)
                else lay_out(a, layout) for i, a in enumerate(inputs)]
        for threads in (1, 2):
            runs.append(run_op(REGISTRY[op], laid, attrs, (), None, threads).outputs[0])
    for other in runs[1:]:
        assert_same_bits(np.ascontiguousarray(other), np.ascontiguousarray(runs[0]), op)
    got = runs[0]
    assert got.shape == want.shape == REGISTRY[op].shape(
        *[None if a is None else a.shape for a in inputs], **attrs)
    graph, varying = one_node(op, inputs, attrs)
    ck.infer.verify(graph)
    program = ck.infer.Program(graph)
    assert_same_bits(np.ascontiguousarray(program.run(tuple(inputs[i] for i in varying))),
                     np.ascontiguousarray(got), f"{op} as a step")
    assert got.dtype == attrs.get("dtype", got.dtype)
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    elif exact:
        np.testing.assert_array_equal(got, want)
    else:  # float32 rounds a few of the halves the other way
        apart = np.abs(got.astype(int) - want.astype(int))
        assert apart.max() <= 1 and np.count_nonzero(apart) <= 1 + got.size // 100


def some(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape, dtype)


def layer_inputs(rng, shape, weight, out, dtype, residual):
    scale = rng.uniform(1e-3, 3e-3, len(weight)).astype(np.float32)
    bias = rng.integers(-3000, 3000, len(weight), np.int32)
    inputs = [some(rng, shape, dtype), weight, scale, bias]
    if residual == "float32":
        inputs.append(rng.standard_normal(out).astype(np.float32))
    elif residual:
        inputs.append(some(rng, out, residual))
    return inputs


ENDS = [
    ({"dtype": "uint8", "y_scale": 0.05, "y_zero": 120}, None),
    ({"dtype": "uint8", "y_scale": 0.03, "y_zero": 0, "activation": "relu"}, "uint8"),
    ({"dtype": "int8", "y_scale": 0.04, "y_zero": -9, "activation": "leaky_relu",
      "activation_args": (0.1,)}, "int8"),
    ({"dtype": "uint8", "y_scale": 0.02, "y_zero": 3, "activation": "clamp",
      "activation_args": (-0.5, 2.0)}, "float32"),
    ({"dtype": "float32", "activation": "relu6"}, "uint8"),
    ({"dtype": "int32"}, None),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda e: f"{e[0]['dtype']}+{e[1]}")
def test_convolution(rng, end):
    attrs, residual = end
    more = {"residual_scale": 0.03, "residual_zero": 5} if residual else {}
    for dtype in ("uint8", "int8"):
        for shape, out, kernel, geometry, groups in CONVS:
            weight = some(rng, (out, shape[1] // groups, *(kernel,) * (len(shape) - 2)), np.int8)
            full = {**geometry, "groups": groups, **X, **attrs, **more}
            probe = [shape, weight.shape, (out,)]
            y = REGISTRY["quant_conv"].shape(*probe, **full)
            check("quant_conv", layer_inputs(rng, shape, weight, y, dtype, residual), full,
                  exact=attrs["dtype"] == "int32")


@pytest.mark.parametrize("end", ENDS, ids=lambda e: f"{e[0]['dtype']}+{e[1]}")
def test_linear(rng, end):
    attrs, residual = end
    more = {"residual_scale": 0.03, "residual_zero": 5} if residual else {}
    for shape, out in (((5, 70), 33), ((2, 3, 17), 5)):
        weight = some(rng, (out, shape[-1]), np.int8)
        check("quant_linear", layer_inputs(rng, shape, weight, (*shape[:-1], out), "uint8",
                                           residual), {**X, **attrs, **more})


def test_addition(rng):
    for a, b in (("uint8", "uint8"), ("int8", "uint8"), ("uint8", "int8")):
        for end, _ in ENDS[:5]:
            check("quant_add", [some(rng, (2, 3, 5, 7), a), some(rng, (2, 3, 5, 7), b)],
                  {"a_scale": 0.01237, "a_zero": 3, "b_scale": 0.02091, "b_zero": 100, **end}
                  if b == "uint8" else
                  {"a_scale": 0.01237, "a_zero": 3, "b_scale": 0.02091, "b_zero": -100, **end})


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_pooling(rng, dtype):
    for shape, sizes in (((2, 35, 9, 8), 2), ((1, 70, 11), 1)):
        x = some(rng, shape, dtype)
        for pad, whole in ((0, False), (1, True)):
            pool = {"kernel_size": (3,) * sizes, "stride": (2,) * sizes, "padding": (pad,) * sizes,
                    "ceil_mode": whole}
            check("max_pool", [x], {**pool, "dilation": (1,) * sizes}, exact=True)
            for end, _ in ENDS[:5]:
                end = {k: v for k, v in end.items() if not k.startswith("act")}
                check("quant_avg_pool", [x], {**pool, "count_include_pad": whole, **X, **end})


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("channels, width", [(1, 28), (6, 29), (130, 200)])
def test_max_pooling_of_short_and_long_rows(rng, dtype, channels, width):
    # Rows of up to 16 KB are pooled along columns first; pixels of few channels share vectors.
    x = some(rng, (2, channels, 5, width), dtype)
    for stride in (1, 2):
        check("max_pool", [x], {"kernel_size": (2, 3), "stride": (2, stride), "padding": (1, 1),
                                "dilation": (1, 1), "ceil_mode": False}, exact=True)


def test_lookup(rng):
    for kind in ("uint8", "int8"):
        table = some(rng, 256, kind)
        for dtype in ("uint8", "int8"):
            check("lookup", [some(rng, (2, 5, 7, 3), dtype), table], {}, exact=True)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_conversions(rng, dtype):
    x = rng.standard_normal((3, 7, 9, 4)).astype(np.float32) * 3
    scale, zero = np.float32(0.02).reshape(()), np.array(5, dtype)
    check("quantize_linear", [x, scale, zero], {"dtype": dtype}, exact=True)
    check("dequantize_linear", [some(rng, (3, 7, 9, 4), dtype), scale, zero], {})


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_other_instruction_sets(isa):
    run_python("""
        import numpy as np
        from test_quantised_ops import ENDS, test_addition, test_conversions, test_convolution
        from test_quantised_ops import test_linear, test_lookup, test_pooling
        for end in ENDS:
            test_convolution(np.random.default_rng(0), end)
            test_linear(np.random.default_rng(0), end)
        test_addition(np.random.default_rng(0))
        test_lookup(np.random.default_rng(0))
        for dtype in ("uint8", "int8"):
            test_pooling(np.random.default_rng(0), dtype)
            test_conversions(np.random.default_rng(0), dtype)
    """, {"CONVKIT_ISA": isa})


def test_bad_input():
    def run(op, *inputs, **attrs):
        return run_op(REGISTRY[op], inputs, attrs, (), None)

    x, w = np.ones((1, 4, 3, 3), np.uint8), np.ones((2, 4, 1, 1), np.int8)
    s = np.ones(2, np.float32)
    conv = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1,
            "x_scale": 0.1, "x_zero": 0, "dtype": "uint8"}
    for call, message in (
            (lambda: run("quant_conv", x.astype(np.float32), w, s, **conv), "x of uint8 or int8"),
            (lambda: run("quant_conv", x, w.astype(np.int16), s, **conv), "weight of int8"),
            (lambda: run("quant_conv", x, w, s[:1], **conv), r"scale of shape \(2,\)"),
            (lambda: run("quant_conv", x, w, s, s, **conv), "bias of int32"),
            (lambda: run("quant_conv", x[:, :3], w, s, **conv), "expected 4 input channels"),
            (lambda: run("quant_conv", x, w, s, **{**conv, "x_zero": 256}), "x_zero to be a value"),
            (lambda: run("quant_conv", x, w, s, **{**conv, "x_scale": 0.0}), "x_scale to be pos"),
            (lambda: run("quant_conv", x, w, s, None, x, **conv), "expected residual of shape"),
            (lambda: run("quant_linear", x[0, 0], w[:, :, 0, 0], s, x_scale=1.0, x_zero=0,
                         dtype="uint8"), "expected 4 input features"),
            (lambda: run("quant_add", x, x[:, :2], a_scale=1.0, a_zero=0, b_scale=1.0, b_zero=0,
                         dtype="uint8"), "arrays of one shape"),
            (lambda: run("lookup", x, np.ones(255, np.uint8)), r"table of shape \(256,\)"),
            (lambda: run("max_pool", x, kernel_size=2, return_indices=True), "x of floats"),
            (lambda: run("quant_avg_pool", x * 1.0, kernel_size=2, stride=2, padding=0,
                         x_scale=1.0, x_zero=0, dtype="uint8"), "uint8 or int8")):
        with pytest.raises((ck.ShapeError, ck.DTypeError), match=message):
            call()
