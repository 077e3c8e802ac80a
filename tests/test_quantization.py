"""`convkit.quantize`: accuracy, report, what is skipped, files, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, check_batch_invariance, random_array, run_python

import convkit as ck
from convkit import nn
from convkit._kernels import dispatch
from convkit.infer import run_pipeline, trace
from convkit.infer.graph import Constant, Graph, Node, Port, Value
from convkit.infer.schema import complete
from convkit.infer.verify import infer_node


class Block(nn.Module):
    """What quantised networks are made of."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 12, 1)
        self.left = nn.Conv2d(12, 7, 3, padding=1, stride=2)
        self.right = nn.Conv2d(12, 9, 1, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = ck.functional.max_pool2d(x, 2)
        y = ck.functional.silu(self.depth(x))
        x = (self.point(y) + x).relu()
        both = ck.functional.relu6(self.left(x)), self.right(x)
        z = ck.functional.concat(both, 1)
        z = ck.functional.avg_pool2d(z, 2)
        return self.fc(z.flatten(1) if z.shape[2] == 1 else z.mean((2, 3)))


def data(n=40, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, 16, 16)).astype(np.float32)


def settled_block():
    """Return a Block whose batch norms have seen data."""
    ck.manual_seed(1)
    model = Block()
    model.train()
    for i in range(5):
        model(ck.tensor(data(16, i) * 2 + 1))
    model.eval()
    return model


@pytest.fixture(scope="module")
def block():
    return settled_block()


@pytest.fixture(scope="module")
def digits():
    """A small network, trained for a few seconds; images and labels it has not seen."""
    x, y = bundled_digits()
    ck.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 10))
    optimizer = ck.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1400], order[1400:]
    for epoch in range(4):
        for i in range(0, len(train), 50):
            at = train[i:i + 50]
            loss = ck.functional.cross_entropy(model(ck.tensor(x[at])), ck.tensor(y[at]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    return model, x[test], y[test]


def bundled_digits():
    """Return bundled digits at a quarter of their size, and labels."""
    images = ck.data.digits()
    x = images.images[:2000, :, ::2, ::2]
    return x.astype(np.float32) / 255, images.labels[:2000]


def operations(program):
    return [node.op for node in program.graph.nodes]


def test_every_layer_runs_on_bytes(block):
    program = ck.quantize(block, data())
    assert program.precision == "int8" and program.quantized
    ops = operations(program)
    assert ops.count("quantize_linear") == 1
    assert not {"conv", "linear", "dequantize_linear", "add", "silu"} & set(ops), ops
    assert {"quant_conv", "quant_linear", "lookup", "max_pool", "quant_avg_pool",
            "concat"} <= set(ops)
    want = ck.compile(block, (1, 3, 16, 16)).run(data(20, 7))
    got = program.run(data(20, 7))
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
    check_batch_invariance(program.run, data(4))
    with ck.threads(2):
        assert_same_bits(program.run(data(20, 7)), got)


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_the_same_bits_on_every_instruction_set(block, isa, tmp_path):
    ck.save(ck.quantize(block, data()), tmp_path / "m.ckit")
    np.save(tmp_path / "y.npy", ck.load(tmp_path / "m.ckit").run(data(6)))
    run_python(f"""
        import numpy as np, convkit as ck
        from test_quantization import data
        got = ck.load({str(tmp_path / 'm.ckit')!r}).run(data(6))
        assert got.tobytes() == np.load({str(tmp_path / 'y.npy')!r}).tobytes()
    """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_accuracy_of_a_trained_network(digits, method):
    model, x, y = digits
    program = ck.quantize(model, x[:300], method=method, labels=y[:300])
    before, after = program.quantization.accuracy
    assert before > 0.9
    assert abs(before - after) <= 0.01
    rest = x[300:], y[300:]
    right = (program.run(rest[0]).argmax(1) == rest[1]).mean()
    exact = (ck.compile(model, (1, 1, 14, 14)).run(rest[0]).argmax(1) == rest[1]).mean()
    assert right >= exact - 0.015


def test_report(block):
    report = ck.quantize(block, data(), skip=["left"]).quantization
    assert [x.name for x in report.layers] == ["stem", "depth", "point", "left", "right", "fc"]
    assert report.skipped == ("left",)
    assert report.worst.snr == min(x.snr for x in report.layers if x.quantized) > 20
    assert 0 < report.error < 0.05 and report.samples == 40 and report.accuracy is None
    text = str(report)
    assert "worst layer: " + report.worst.name in text and "left" in text
    assert "ranges by minmax over 40 samples" in text


def test_layers_stay_float_until_the_error_is_within_its_bound(block):
    whole = ck.quantize(block, data())
    bound = whole.quantization.error * 0.7
    program = ck.quantize(block, data(), max_error=bound)
    assert program.quantization.error <= bound
    assert 0 < len(program.quantization.skipped) < 6
    ops = operations(program)
    assert ("conv" in ops or "linear" in ops) and "quant_conv" in ops


def test_bias_correction_lowers_the_mean_error():
    ck.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
    x = np.abs(data())
    coarse = np.array(model[0].weight.data)
    coarse[:, 0, 0, 0] *= 60  # rounding the others then errs by much
    with ck.no_grad():
        model[0].weight.copy_(ck.tensor(coarse))
    want = ck.compile(model, (1, 3, 16, 16)).run(x)
    error = [np.abs((ck.quantize(model, x, bias_correction=c).run(x) - want).mean((0, 2, 3))).mean()
             for c in (False, True)]
    assert error[1] < 0.5 * error[0], error


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_values_that_hardly_differ(method, spread):
    """Fewer floats between the ends of a range than the histogram has bins."""
    ck.manual_seed(0)
    x = (1000 + spread * random_array((8, 3, 6, 6))).astype(np.float32)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    made = ck.quantize(network.eval(), x, method=method)
    want = network(x).data
    assert np.abs(made(x) - want).max() <= 0.02 * np.abs(want).max()


def test_percentile_and_mse_cut_long_tails():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    x = data(60)
    x[0, 0, 0, 0] = 500.0
    want = ck.compile(model, (1, 3, 16, 16)).run(x[1:])

    def error(**how):
        got = ck.quantize(model, x, **how).run(x[1:])
        return np.linalg.norm(got - want) / np.linalg.norm(want)

    plain = error()
    assert error(method="percentile", percentile=99.9) < 0.2 * plain
    x = np.random.default_rng(0).laplace(size=(200, 3, 16, 16)).astype(np.float32)
    want = ck.compile(model, (1, 3, 16, 16)).run(x[1:])
    assert error(method="mse") < 0.95 * error()


def test_files_keep_the_bits_and_are_small(block, tmp_path):
    program = ck.quantize(block, data())
    ck.save(program, tmp_path / "int8.ckit")
    loaded = ck.load(tmp_path / "int8.ckit")
    assert loaded.precision == "int8"
    assert_same_bits(loaded.run(data(6)), program.run(data(6)))
    wide = nn.Sequential(nn.Conv2d(64, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3))
    x = np.random.default_rng(0).standard_normal((2, 64, 8, 8)).astype(np.float32)
    ck.save(ck.compile(wide, (1, 64, 8, 8)), tmp_path / "float.ckit")
    ck.save(ck.quantize(wide, x), tmp_path / "wide.ckit")
    sizes = [(tmp_path / f).stat().st_size for f in ("wide.ckit", "float.ckit")]
    assert sizes[0] <= 0.256 * sizes[1], sizes
    with pytest.raises(ValueError, match=r"convkit\.quantize"):
        ck.load(tmp_path / "float.ckit", precision="int8")


def test_data_in_every_form(block):
    x = data(40)
    want = ck.quantize(block, x).run(x)
    for given in ([x[:20], x[20:]], [(x, np.zeros(40))], ck.tensor(x), {"x": x}, iter([x])):
        assert_same_bits(ck.quantize(block, given).run(x), want)


def test_what_cannot_be_done_is_said(block):
    with pytest.raises(ValueError, match=r"make one with convkit\.quantize"):
        ck.compile(block, (1, 3, 16, 16), precision="int8")
    with pytest.raises(ValueError, match="no layer 'nope' to skip; layers are stem"):
        ck.quantize(block, data(), skip=["nope"])
    with pytest.raises(ValueError, match="expected method 'minmax'"):
        ck.quantize(block, data(), method="best")
    with pytest.raises(ValueError, match="at least one sample"):
        ck.quantize(block, data(0))
    with pytest.raises(ValueError, match="quantised already"):
        ck.quantize(ck.quantize(block, data()), data())
    with pytest.raises(ValueError, match="40 labels"):
        ck.quantize(block, data(), labels=[1, 2])
    bad = data()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="infinite or NaN"):
        ck.quantize(block, bad)


# -- the pass ---------------------------------------------------------------------------------


def graph_of(steps, constants, inputs, outputs):
    """Return a graph of (op, inputs, output, attrs) with values by name."""
    numbers: dict[str, int] = {}
    values = {}

    def number(name):
        return numbers.setdefault(name, len(numbers))

    ports = [Port(n, number(n)) for n in inputs]
    for (n, shape), p in zip(inputs.items(), ports, strict=True):
        values[p.value] = Value((ck.infer.BatchDim(), *shape))
    held = {}
    for n, a in constants.items():
        held[number(n)] = Constant(n, a)
        values[number(n)] = Value(a.shape, a.dtype.name)
    nodes = []
    for op, ins, out, attrs in steps:
        node = Node(op, tuple(number(i) for i in ins), (number(out),), complete(op, attrs), out)
        (values[number(out)],) = infer_node(node, [values[v] for v in node.inputs])
        nodes.append(node)
    return Graph(tuple(ports), held, tuple(nodes), tuple(Port(n, number(n)) for n in outputs),
                 values, "tuple")


def test_what_has_no_form_on_bytes_keeps_its_conversions():
    graph = graph_of(
        [("quantize_linear", ["x", "s", "z"], "q", {"dim": 0}),
         ("dequantize_linear", ["q", "s", "z"], "d", {"dim": 0}),
         ("softmax", ["d"], "y", {"dim": 1}),
         ("quantize_linear", ["y", "s2", "z"], "q2", {"dim": 0}),
         ("dequantize_linear", ["q2", "s2", "z"], "out", {"dim": 0})],
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8),
         "s2": np.array(1 / 255, np.float32)}, {"x": (4,)}, ["out", "d"])
    after = run_pipeline(graph)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for a, b in zip(ck.infer.Program(graph).run(x), ck.infer.Program(after).run(x), strict=True):
        assert_same_bits(a, b)
    assert [n.op for n in after.nodes] == [n.op for n in graph.nodes]


def test_weights_between_conversions_become_floats_where_they_must():
    weight = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    graph = graph_of(
        [("dequantize_linear", ["w", "s"], "f", {"dim": 0}), ("linear", ["x", "f"], "y", {})],
        {"w": weight, "s": np.array(0.1, np.float32)}, {"x": (4,)}, ["y"])
    after = run_pipeline(graph)
    assert [n.op for n in after.nodes] == ["linear"]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(ck.infer.Program(after).run(x)[0], x @ (weight * 0.1).T, rtol=1e-5)


def test_floats_are_left_alone(block):
    graph = run_pipeline(trace(block, (1, 3, 16, 16)))
    assert ck.infer.passes.fuse_quantized(graph) is graph
