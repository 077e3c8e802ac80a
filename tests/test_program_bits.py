"""A Program gives the bits that its operations give one by one, in any batch, on any threads."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, random_array
from program_checks import NetworkMaker, cut_program, op_by_op, random_inputs, run

import convkit as ck
import convkit.functional as F
from convkit import models, nn
from convkit._kernels import dispatch
from convkit.autograd import apply
from convkit.infer import (
    BatchDim,
    Constant,
    Graph,
    Node,
    Port,
    Program,
    Value,
    run_pipeline,
    trace,
    verify,
)
from convkit.infer.places import Block
from convkit.infer.plan import plan_arena
from convkit.infer.schema import SCHEMAS
from convkit.ops.cast import DTYPES
from convkit.ops.op import REGISTRY, Op

# Sizes of image at which every network of `convkit.models` runs; by default 32.
SIZES = {"lenet5": (1, 28)}
# Left out for the time that they take: the layers of the first line's, whose weights take longest
# to pack, are those of networks that are checked; of the others, a smaller sister is checked.
HEAVY = {"alexnet", *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn")),
         "densenet161", "densenet169", "densenet201", "efficientnet_b1", "efficientnet_b2",
         "efficientnet_b3", "efficientnet_b4", "inception_v3", "resnet32", "resnet34", "resnet44",
         "resnet50", "resnet56", "resnet101", "resnet110", "resnet152", "resnext101_32x8d",
         "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0",
         "wide_resnet50_2", "wide_resnet101_2"}


def check_graph(graph, batches, threads=(1, 2), precision="high") -> Program:
    """Compare a Program, also cut into segments, with the op-by-op path."""
    program = Program(graph, precision=precision)
    cut = [cut_program(graph, steps, samples, precision) for steps, samples in ((1, 2), (4, 1))]
    for batch in batches:
        inputs = random_inputs(graph, batch)
        want = op_by_op(graph, inputs, precision)
        for n in threads:
            with ck.threads(n):
                for one in (program, *cut):
                    assert_same_bits(tuple(run(one, inputs)), tuple(want),
                                     f"batch {batch}, {n} threads, {one._lowered.segments}")
    return program


@pytest.fixture(autouse=True)
def small_work_on_several_threads():
    from convkit._kernels import threads

    before = threads.set_work_per_thread(0)
    yield
    threads.set_work_per_thread(before)


# -- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in models.names() if n not in HEAVY])
def test_networks_of_the_collection(name):
    channels, size = SIZES.get(name, (3, 32))
    ck.manual_seed(0)
    try:
        graph = trace(models.create(name, in_channels=channels), (1, channels, size, size))
    except ck.ShapeError:
        graph = trace(models.create(name, in_channels=channels), (1, channels, 96, 96))
    program = check_graph(run_pipeline(graph), (1, 4))
    assert not program._lowered.python, "a network of the collection waits for the GIL"


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed):
    maker = NetworkMaker(seed)
    graph = trace(maker, (1, *maker.input))
    check_graph(graph, (1, 3))
    check_graph(run_pipeline(graph), (1, 4))


@pytest.mark.parametrize("seed", range(100, 106))
def test_random_networks_in_float64(seed):
    maker = NetworkMaker(seed, np.float64)
    graph = trace(maker, example=np.random.default_rng(seed).standard_normal((2, *maker.input)))
    check_graph(run_pipeline(graph), (1, 3))


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_precisions(precision):
    maker = NetworkMaker(7)
    check_graph(run_pipeline(trace(maker, (1, *maker.input))), (2,), precision=precision)


def test_every_batch_from_1_to_65():
    maker = NetworkMaker(11)
    graph = run_pipeline(trace(maker, (1, *maker.input)))
    program = Program(graph)
    inputs = random_inputs(graph, 65)
    want = op_by_op(graph, inputs)
    for batch in (*range(1, 66), 3):
        with ck.threads(1 + batch % 3):
            got = run(program, [x[-batch:] for x in inputs])
        assert_same_bits(tuple(got), tuple([w[-batch:] for w in want]), f"batch {batch}")


@pytest.mark.parametrize(("kernel", "channels"), [(3, 32), (5, 24)])
def test_samples_that_transforms_cannot_bear(kernel, channels):
    weights = [random_array((channels, channels, kernel, kernel), seed=n) / np.float32(
        kernel * channels ** 0.5) for n in (1, 2)]

    def layers(x):
        for weight in weights:
            x = F.relu(F.conv2d(x, weight, padding=1, algorithm="winograd"))
        return x

    graph = run_pipeline(trace(layers, (1, channels, 16, 16)))
    program = Program(graph)
    x = random_inputs(graph, 5)[0]
    x[1, 3, 4, 5] = np.inf
    x[2] = 0
    x[3] *= 1e-30
    x[4, 0, 0, 0] = np.nan
    assert "winograd" in program.summary()
    for n in (1, 2):
        with ck.threads(n):
            assert_same_bits(program(x), op_by_op(graph, [x])[0])
    assert_same_bits(program(x[1:2]), op_by_op(graph, [x[1:2]])[0])


# -- one operation at a time ----------------------------------------------------------------

W3 = np.random.default_rng(2).standard_normal((8, 6, 3, 3)).astype(np.float32)
C6 = np.random.default_rng(3).standard_normal(6).astype(np.float32)
ZERO = np.zeros(1, np.float32)

def op(name, *inputs, **attrs):
    return apply(REGISTRY[name], *inputs, **attrs)


def transposed(x, channels, kernel, bias, attrs):
    """Return a transposed convolution by a filter for each of some channels, repeated from x."""
    weight = np.resize(C6 / 3, (channels, 1, *kernel))
    return F.conv_transpose2d(F.concat([x] * (channels // 6), 1), weight,
                              np.resize(C6, channels) if bias else None, groups=channels, **attrs)


COMPILED = {
    "conv": lambda x: F.conv2d(x, W3, padding=1),
    "conv reflected": lambda x: F.conv2d(F.pad(x, (2, 1, 1, 2), mode="reflect"), W3),
    "conv 1d": lambda x: F.conv1d(x[:, :, 2], W3[:, :, 0], padding=1),
    "conv multiplied": lambda x: F.conv2d(
        x, W3.reshape(48, 1, 3, 3)[:18], C6.repeat(3), padding=1, groups=6),
    "conv multiplied 1d": lambda x: F.conv1d(
        x[:, :, 2], W3.reshape(48, 1, 9)[:12, :, :4], stride=2, groups=6),
    "conv transposed": lambda x: F.conv_transpose2d(x, W3[:6], stride=2, padding=1),
    "linear": lambda x: F.linear(x, np.ones((4, 7), np.float32), np.ones(4, np.float32)),
    "max pool": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "max pool 1d": lambda x: F.max_pool1d(x[:, :, 1], 2),
    "avg pool": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "max pool with indices alone": lambda x: F.max_pool2d(
        x, 3, 2, padding=1, dilation=2, return_indices=True)[1],
    "max pool of large windows": lambda x: F.max_pool2d(
        F.concat([x] * 60, 3), (5, 60), return_indices=True),
    "max pool of signals": lambda x: F.max_pool1d(x[:, :, 0], 3, ceil_mode=True,
                                                  return_indices=True),
    "adaptive max with indices": lambda x: F.adaptive_max_pool2d(x, (2, 3), return_indices=True),
    "there and back": lambda x: F.max_unpool2d(*F.max_pool2d(
        x, 2, ceil_mode=True, return_indices=True), 2, output_size=(5, 7)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 2),
    "nearest": lambda x: F.interpolate(x, size=(7, 11)),
    "bilinear": lambda x: F.interpolate(x, size=(7, 11), mode="bilinear", align_corners=True),
    "softmax of channels": lambda x: F.softmax(F.relu6(x), 1),
    "softmax of columns": lambda x: F.log_softmax(x, -1),
    "prelu": lambda x: F.prelu(x, C6),
    "broadcasting": lambda x: (x * C6[:, None, None] - 0.5) / (abs(C6[0]) + 1),
    "channels times": lambda x: x * x.mean((2, 3), keepdim=True),
    "sum": lambda x: x.sum((2, 3)),
    "pad integers": lambda x: F.pad(op("cast", x * 9, dtype="int64"), (1, 2, 0, 3, 2, 0), value=-7),
    "pad of bytes": lambda x: apply(REGISTRY["pad"], op(
        "cast", F.relu(x), dtype="uint8"), padding=((0, 0), (8, 8), (0, 0), (0, 1)), value=3.0),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad": lambda x: F.pad(x, (1, 2, -1, 3), value=2.5),
    "crop": lambda x: x[:, 1:5:2, ::2, 3:],
    "concat of columns": lambda x: F.concat([x, F.relu(x)], 3),
    "concat of signs": lambda x: F.concat([F.relu(x), F.relu(-1 * x)], 1),
    "permute": lambda x: F.relu(x.permute(0, 3, 1, 2)),
    "reshape": lambda x: F.relu(F.max_pool2d(x, 1)).reshape(x.shape[0], 3, -1),
    "shuffle": lambda x: F.concat(
        [x[:, 0:1], x[:, 3:4], x[:, 1:2], x[:, 4:5], x[:, 2:3], x[:, 5:6]], 1),
    "conv transposed on a narrow map": lambda x: F.conv_transpose2d(
        x[:, :, :3, :3], W3[:6], np.ones(6, np.float32), stride=2),
    **{f"depthwise conv transposed {name}": lambda x, c=c: transposed(x, *c) for name, c in {
        "by 4x4": (6, (4, 4), True, {"stride": 2, "padding": 1}),
        "by 4x4 of 42": (42, (4, 4), False, {"stride": 2, "padding": 1}),
        "by 3x3 of 42": (42, (3, 3), True, {"stride": 2, "output_padding": 1}),
        "as it is": (6, (3, 3), True, {"padding": 1}),
        "dilated": (6, (2, 3), False, {"stride": (3, 1), "dilation": (1, 2)}),
        "apart": (6, (1, 1), True, {"stride": 2})}.items()},
    "layer norm": lambda x: F.layer_norm(x, (5, 7), np.ones((5, 7), np.float32)),
    "layer norm of channels last": lambda x: F.layer_norm(
        F.max_pool2d(x, 1), (6, 5, 7), np.arange(210, dtype=np.float32).reshape(6, 5, 7)),
    "layer norm of channels": lambda x: F.layer_norm(
        F.max_pool2d(x, 1).permute(0, 2, 3, 1), (6,), C6, C6).permute(0, 3, 1, 2),
    "clamp": lambda x: F.clamp(x, -0.5, 0.25),
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "group norm": lambda x: F.group_norm(x, 3),
    "group norm with weights": lambda x: F.group_norm(x[:, :, 0], 2, C6, C6, 1e-3),
    "instance norm": lambda x: F.instance_norm(x, weight=C6, bias=C6),
    "one group of one channel": lambda x: F.group_norm(x[:, :1], 1),
    **{name: lambda x, name=name: apply(REGISTRY[name], x) for name in (
        "neg", "exp", "log", "sqrt", "abs", "floor", "ceil", "round", "sign", "reciprocal", "erf",
        "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
        "isnan", "isinf")},
    **{name: lambda x, name=name: apply(REGISTRY[name], x, F.relu(x)) for name in (
        "maximum", "minimum", "power", "remainder", "fmod", "eq", "ne", "lt", "le", "gt", "ge")},
    **{f"{name} of channels": lambda x, name=name: apply(
        REGISTRY[name], x, C6[:, None, None]) for name in ("maximum", "power", "gt")},
    **{name: lambda x, name=name: apply(REGISTRY[name], apply(REGISTRY["gt"], x, ZERO), apply(
        REGISTRY["isnan"], x)) for name in ("logical_and", "logical_or", "logical_xor")},
    "logical_not": lambda x: apply(REGISTRY["logical_not"], apply(REGISTRY["isnan"], x)),
    "pow": lambda x: F.relu(x) ** 3,
    "square of columns": lambda x: x.permute(0, 3, 1, 2) ** 2,
    **{f"{name} of {over}": lambda x, name=name, dim=dim, keep=keep: apply(
        REGISTRY[name], x, dim=dim, keepdim=keep) for name in (
        "sum", "mean", "amax", "amin", "prod") for over, dim, keep in (
        ("channels", (1,), False), ("columns", (-1,), True), ("rows", 2, False),
        ("samples", (1, 2, 3), False), ("channels and columns", (1, 3), True))},
    "any of channels": lambda x: op("amax", op("gt", x, ZERO), dim=1),
    "all of rows and columns": lambda x: op("amin", op("lt", x, ZERO), dim=(2, 3), keepdim=True),
    "largest place": lambda x: op("amax", op("argmax", x, dim=1), dim=-1),
    "mean of channels last": lambda x: F.max_pool2d(x, 1).mean((1, 3)),
    "sum of long rows": lambda x: F.concat([x] * 300, 3).sum(3),
    "exp of a part": lambda x: x[:, 1:4, ::2].exp(),
    "matmul": lambda x: x.matmul(x.permute(0, 1, 3, 2)),
    "matmul of columns": lambda x: x.permute(0, 1, 3, 2).matmul(x),
    "matmul of heads": lambda x: x.permute(0, 2, 3, 1).matmul(x.permute(0, 2, 1, 3)),
    "matmul of parts": lambda x: x[:, :, ::2, ::3].matmul(x[:, 1:2, :3, ::2]),
    "matmul after a constant": lambda x: ck.tensor(C6[:5][None] * C6[:3, None]).matmul(x),
    "matmul with more axes": lambda x: x[:, :, None].matmul(x[:, 0, None, None].permute(
        0, 1, 2, 4, 3)),
    "matmul in one": lambda x: x.reshape(x.shape[0], 1, -1).matmul(x.reshape(x.shape[0], -1, 1)),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "local response norm of rows": lambda x: F.local_response_norm(x[:, :, 0], 20, 0.1, 0.5, 2.0),
    "local response norm of samples": lambda x: F.local_response_norm(x[:, :, 0, 0], 2),
    "resize by cubes": lambda x: apply(
        REGISTRY["resize"], x, size=(None, None, 8, 5), mode="cubic"),
    "resize of channels": lambda x: apply(
        REGISTRY["resize"], x, size=(None, 3, 10, 14), mode="linear", coordinates="align_corners"),
    "resize of channels last": lambda x: apply(
        REGISTRY["resize"], F.max_pool2d(x, 1), size=(None, 6, 10, 3), scale=(1, 1, 2.1, 0.5),
        antialias=True, mode="linear"),
    "argmax": lambda x: op("argmax", x, dim=1),
    "argmin of columns": lambda x: op("argmin", x, dim=-1, keepdim=True),
    "argmax of channels last": lambda x: op("argmax", F.max_pool2d(x, 1), dim=1, keepdim=True),
    "argmax of bytes": lambda x: op("argmax", op("cast", F.relu(x), dtype="uint8"), dim=2),
    "top of channels": lambda x: op("topk", x, k=3, dim=1),
    "top of equals": lambda x: op("topk", op("round", x), k=5, dim=-2, largest=False),
    "top of channels last": lambda x: op("topk", op("round", F.max_pool2d(x, 1)), k=7, dim=3)[1],
    "top of not a number": lambda x: op("topk", op("log", x), k=4, dim=1),
    "lowest of not a number": lambda x: op("topk", op("log", x), k=6, dim=1, largest=False),
    "cumsum": lambda x: op("cumsum", x, dim=1),
    "cumsum of channels last": lambda x: op("cumsum", F.max_pool2d(x, 1), dim=-1),
    "cumsum of integers": lambda x: op("cumsum", op("argmax", x, dim=1), dim=2),
    **{f"cast {a} to {b}": lambda x, a=a, b=b: op("cast", op("cast", abs(x) * 40, dtype=a), dtype=b)
       for a in DTYPES for b in DTYPES},
    "cast of channels last": lambda x: op("cast", F.max_pool2d(x, 1), dtype="float64"),
    "where": lambda x: op("where", op("gt", x, ZERO), x, ZERO),
    "where of channels last": lambda x: op("where", op("gt", x.mean(1, keepdim=True), ZERO),
                                           F.max_pool2d(x, 1), C6[:, None, None]),
    "where with fewer axes": lambda x: op(
        "where", op("gt", F.relu(x[:, 0, 0]), ZERO), C6[0], x[:, 0, 1]),
    "where of logic": lambda x: op("where", op("gt", x, ZERO), op("lt", x, ZERO), op("isnan", x)),
    "where of doubles": lambda x: op("where", op("gt", x, ZERO), op("cast", x, dtype="float64"),
                                     np.float64(2)),
    "where of samples": lambda x: op(
        "where", op("gt", x.sum((1, 2, 3)), ZERO[0]), x[:, 1, 0, 0], ZERO[0]),
    "gather": lambda x: op("gather", x, op("argmax", x, dim=1, keepdim=True), dim=1),
    "gather of channels last": lambda x: op(
        "gather", F.max_pool2d(x, 1), op("topk", x, k=2, dim=3)[1], dim=3),
    "gather of a part": lambda x: op("gather", x[:, ::2, 1:], op(
        "cast", op("argmin", x[:, :3, :4], dim=3, keepdim=True), dtype="int32"), dim=3),
    "take": lambda x: op("take", x, np.array([3, 0, 1, 1, 5]), dim=1),
    "take of rows": lambda x: op("take", x, np.array([[3, 0, 1], [0, 1, -1]]), dim=2),
    "table": lambda x: op("take", ck.tensor(np.arange(42, dtype=np.float32).reshape(7, 2, 3)),
                          op("argmax", x, dim=3), dim=0),
    "table of narrow indices": lambda x: op("take", ck.tensor(C6), op(
        "cast", op("argmax", x, dim=1), dtype="int32"), dim=0),
    "unpool": lambda x: F.max_unpool2d(F.relu(x), op("topk", x, k=7, dim=3)[1], 2),
    "unpool of rows": lambda x: F.max_unpool1d(x[:, :, 0], op("cast", op(
        "argmax", x, dim=2), dtype="int64"), 3),
    "resize of nothing": lambda x: apply(REGISTRY["resize"], x, size=(None, 6, 5, 7)),
    "expand": lambda x: apply(
        REGISTRY["expand"], x.mean((2, 3), keepdim=True), shape=(-1, -1, 3, 4)),
    "expanded and read": lambda x: F.relu(apply(
        REGISTRY["expand"], x.mean(1, keepdim=True), shape=(-1, 4, -1, -1))).sum(3),
}
BY_PYTHON = {
    "sum of all": lambda x: x.sum(),
    "sum of samples": lambda x: x.sum(0),
    "samples last": lambda x: F.relu(x.permute(3, 1, 2, 0)).permute(3, 1, 2, 0),
    "matmul of samples": lambda x: x.reshape(x.shape[0], -1).matmul(
        x.sum(0).reshape(-1, 5)[:, :3].permute(1, 0).matmul(x.sum(0).reshape(-1, 5)).matmul(
            ck.tensor(np.ones((5, 210), np.float32))).permute(1, 0)),
    "resize beyond the input": lambda x: apply(
        REGISTRY["resize"], x, size=(None, None, 4, 4), coordinates="tf_crop_and_resize",
        roi=((0, 1), (0, 1), (0, 1.5), (0, 1))),
    "argmax of samples": lambda x: op("argmax", x, dim=0),
    "top of most": lambda x: op("topk", F.concat([x] * 400, 3), k=1025, dim=3)[0],
    "cumsum of samples": lambda x: op("cumsum", x, dim=0),
    "gather of samples": lambda x: op("gather", x, op("argmax", x, dim=0, keepdim=True), dim=0),
    "concat of samples": lambda x: F.concat([x, x], 0),
    "pad of bytes by themselves": lambda x: apply(REGISTRY["pad"], op(
        "cast", F.relu(x), dtype="uint8"), padding=((0, 0), (0, 0), (1, 0), (0, 1)),
        mode="reflect"),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_operations(name):
    graph = trace(COMPILED[name], (1, 6, 5, 7))
    program = check_graph(graph, (1, 2, 9))
    # Products on tiles pack their second matrix by Python.
    assert not program._lowered.python or ("matmul" in name and dispatch.isa() == "amx")


@pytest.mark.parametrize("name", BY_PYTHON)
def test_operations_that_take_the_gil(name):
    graph = trace(BY_PYTHON[name], (1, 6, 5, 7))
    program = check_graph(graph, (1, 2, 5))
    assert program._lowered.python
    assert "python" in program.summary()


# Operations of graphs without compiled steps, and why.
BY_PYTHON_ALWAYS = {
    "batch_norm_train": "of training; three outputs"}


def test_every_operation_of_graphs_has_steps_or_a_reason():
    without = {name for name in SCHEMAS if REGISTRY[name].lower is Op.lower}
    assert without == BY_PYTHON_ALWAYS.keys()


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize(
    "rows,depth,columns", [(1, 1, 1), (17, 5000, 33), (150, 64, 130), (65, 3, 1)])
def test_products_of_many_sizes(rows, depth, columns, precision):
    shapes = [(BatchDim(), 3, rows, depth), (BatchDim(), 1, depth, columns)]
    for dtype in ("float32", "float64"):
        values = [Value(s, dtype) for s in (*shapes, (BatchDim(), 3, rows, columns))]
        graph = Graph((Port("a", 0), Port("b", 1)), {}, (Node("matmul", (0, 1), (2,)),),
                      (Port("y", 2),), dict(enumerate(values)))
        verify(graph)
        program = check_graph(graph, (1, 2), precision=precision)
        assert not program._lowered.python or dispatch.isa() == "amx"


@pytest.mark.parametrize("name,inputs,attrs,result,message", [
    ("gather", {"x": (3, 4), "i": (3, 4)}, {"dim": 2}, (3, 4),
     "expected indices from -4 to 3 for an axis of size 4"),
    ("take", {"table": (5, 2), "i": (4,)}, {"dim": 0}, (4, 2),
     "expected indices from -5 to 4 for an axis of size 5"),
    ("max_unpool", {"x": (2, 3), "i": (2, 3)}, {"output_size": (6,)}, (2, 6),
     r"expected indices from 0 to 5 for an output of spatial size \(6,\)")])
def test_indices_that_lead_out_of_the_array(name, inputs, attrs, result, message):
    values, constants, ports = {}, {}, []
    for number, (what, shape) in enumerate(inputs.items()):
        if what == "table":
            constants[number] = Constant("table", np.ones(shape, np.float32))
            values[number] = Value(shape)
        else:
            ports.append(Port(what, number))
            values[number] = Value((BatchDim(), *shape), "float32" if what == "x" else "int64")
    graph = Graph(tuple(ports), constants, (Node(name, (0, 1), (2,), attrs),), (Port("y", 2),),
                  {**values, 2: Value((BatchDim(), *result))})
    verify(graph)
    program = Program(graph)
    good = [np.ones((2, *values[p.value].shape[1:]), values[p.value].dtype) for p in ports]
    good[-1].reshape(-1)[0] = 0 if name == "max_unpool" else -1
    want = op_by_op(graph, good)
    for wrong in (6, -7, 2**40, -2**63):
        bad = [x.copy() for x in good]
        bad[-1].reshape(-1)[-1] = wrong
        with pytest.raises(ck.ShapeError, match=message):
            run(program, bad)
        assert_same_bits(tuple(run(program, good)), tuple(want))
    assert not program._lowered.python


def test_inputs_and_constants_as_outputs():
    weight = np.arange(12, dtype=np.float32).reshape(3, 4).T
    scalar = np.float32(3)

    def model(x):
        y = F.relu(x)
        return x, y, y, x.reshape(x.shape[0], -1), y[:, :1], ck.tensor(weight) + 0, x.sum() * scalar

    graph = trace(model, (1, 3, 4))
    check_graph(graph, (1, 2, 3))
    program = Program(graph)
    x = random_inputs(graph, 2)[0]
    made = program(x)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(made) for b in (*made[:i], x))


def test_fixed_shapes_beside_open_ones():
    open_, fixed = Value((BatchDim(), 3, 4)), Value((3, 4))
    graph = Graph((Port("x", 0), Port("table", 1)), {}, (
        Node("relu", (0,), (2,)), Node("relu", (1,), (3,)), Node("mul", (2, 3), (4,))),
        (Port("y", 4), Port("z", 3)), {0: open_, 1: fixed, 2: open_, 3: fixed, 4: open_}, "tuple")
    verify(graph)
    program = Program(graph)
    rng = np.random.default_rng(0)
    for batch in (1, 2, 7):
        x = rng.standard_normal((batch, 3, 4)).astype(np.float32)
        table = rng.standard_normal((3, 4)).astype(np.float32)
        assert_same_bits(program(x, table), tuple(op_by_op(graph, [x, table])))
    assert program._lowered.arena[1] > 0


# -- concatenations without copies -----------------------------------------------------------


def convolution(out: int, inner: int, size: int = 1) -> nn.Conv2d:
    ck.manual_seed(out + inner)
    return nn.Conv2d(inner, out, size, padding=size // 2)


def steps_of(program: Program, op: str) -> int:
    """Return how many steps the nodes of an operation have."""
    nodes = program._ready().nodes
    return sum(nodes.count(i) for i, node in enumerate(program.graph.nodes) if node.op == op)


def test_branches_are_written_side_by_side():
    layers = [convolution(8, 6), convolution(5, 6, 3), convolution(16, 6, 5)]
    graph = trace(lambda x: F.max_pool2d(F.concat([f(x) for f in layers], 1), 2), (1, 6, 12, 10))
    program = check_graph(graph, (1, 3))
    assert steps_of(program, "concat") == 0


@pytest.mark.parametrize("nested", [True, False])
def test_dense_blocks_copy_their_input_alone(nested):
    bottlenecks = [convolution(16, 6 + 4 * i) for i in range(5)]
    grown = [convolution(4, 16, 3) for _ in range(5)]

    def model(x):
        features = [F.avg_pool2d(x, 2)]
        for squeeze, grow in zip(bottlenecks, grown, strict=True):
            y = F.concat(features, 1) if len(features) > 1 else features[0]
            features.append(grow(F.relu(squeeze(y))))
            if nested:
                features = [F.concat(features, 1)]
        return F.concat(features, 1) if len(features) > 1 else features[0]

    program = check_graph(run_pipeline(trace(model, (1, 6, 12, 12))), (1, 3))
    assert steps_of(program, "concat") == 1


def test_skip_connections_are_copied_once():
    down, up = convolution(8, 3, 3), convolution(8, 8, 3)

    def model(x):
        skip = F.relu(down(x))
        y = up(F.interpolate(F.max_pool2d(skip, 2), scale_factor=2))
        return F.relu(convolution(4, 16, 3)(F.concat([skip, y], 1)))

    program = check_graph(run_pipeline(trace(model, (1, 3, 8, 8))), (1, 2))
    assert steps_of(program, "concat") == 1


def test_a_value_twice_in_a_concatenation_and_one_that_is_an_output():
    layer = convolution(4, 3)

    def model(x):
        y = layer(x)
        z = F.concat([y, F.relu(y), y], 1)
        return z, F.concat([z, y], 1), y, F.concat([y, x], 1)

    check_graph(trace(model, (1, 3, 5, 5)), (1, 2))


# -- the plan -------------------------------------------------------------------------------


def test_blocks_that_live_at_the_same_time_lie_apart():
    rng = np.random.default_rng(5)
    blocks = []
    for i in range(200):
        first = int(rng.integers(0, 50))
        size = int(rng.integers(1, 5000))
        block = Block(size, 0) if i % 3 else Block(0, size)
        block.use(first)
        block.use(first + int(rng.integers(0, 8)))
        blocks.append(block)
    totals = plan_arena(blocks)
    for kind, total in enumerate(totals):
        own = [b for b in blocks if bool(b.scaled) == (kind == 0)]
        for i, a in enumerate(own):
            size = (a.scaled, a.fixed)[kind]
            assert a.offset % 64 == 0 and a.offset + size <= total
            for b in own[:i]:
                if a.first <= b.last and b.first <= a.last:
                    assert a.offset >= b.offset + (b.scaled, b.fixed)[kind] \
                        or b.offset >= a.offset + size
    assert totals[0] < sum(b.scaled for b in blocks) / 3


def test_a_chain_needs_two_values_at_a_time():
    def model(x):
        for _ in range(6):
            x = F.sigmoid(x)
        return x

    program = Program(trace(model, (1, 1000)))
    program.warm_up()
    assert program._lowered.arena == (2 * 4032, 0)
