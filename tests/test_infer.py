"""Tracing models into graphs, and Programs: what they accept, return and promise."""

from __future__ import annotations

import dataclasses
import re
import threading

import numpy as np
import pytest
from harness import LAYOUTS, assert_same_bits, lay_out, random_array

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit._kernels import gemm, memory, winograd
from convkit.autograd import apply
from convkit.infer import Program, compiler, trace, verify
from convkit.infer.check import MaxError, compare
from convkit.infer.cost import flops
from convkit.infer.dims import BatchDim, infer, join, points_of, show
from convkit.infer.graph import Constant
from convkit.ops.op import Op

W = random_array((4, 4, 3, 3), seed=1)


class Block(nn.Module):
    """A residual block with a projection and squeeze-and-excite."""

    def __init__(self, inner: int, outer: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.down = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False),
                                  nn.BatchNorm2d(outer)) if stride > 1 else None
        self.squeeze = nn.Linear(outer, 2)
        self.excite = nn.Linear(2, outer)

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        gate = F.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        y = y * gate.reshape(*gate.shape, 1, 1)
        y += identity
        return F.relu(y)


class Net(nn.Module):
    """Blocks, a channel shuffle, a concatenation and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16, 2))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        n, c, h, w = x.shape
        shuffled = x.reshape(n, 4, c // 4, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        x = F.concat([x, shuffled], 1)
        return self.fc(F.flatten(x.mean((2, 3), keepdim=True), 1))


@pytest.fixture(scope="module")
def net() -> Net:
    ck.manual_seed(3)
    model = Net()
    rng = np.random.default_rng(4)
    with ck.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(rng.uniform(0.5, 2, buffer.shape))
            elif name.endswith("running_mean"):
                buffer.copy_(rng.standard_normal(buffer.shape))
    return model


@pytest.fixture(scope="module")
def program(net) -> Program:
    return ck.compile(net, (1, 3, 13, 11))


def eager(model, x: np.ndarray) -> np.ndarray:
    """Run a model in eval mode."""
    modules = list(model.modules())
    flags = [m.training for m in modules]
    model.eval()
    with ck.no_grad():
        y = model(ck.tensor(x)).numpy()
    for module, flag in zip(modules, flags, strict=True):
        module.training = flag
    return y


# -- dimensions that follow the batch -------------------------------------------------------


def test_sizes_that_follow_the_batch():
    points = points_of([(BatchDim(), 3)])
    assert [p.batch for p in points] == [2, 5]
    assert join([(2, 8, 4), (5, 20, 4)], points) == (BatchDim(), BatchDim(4), 4)
    assert show((BatchDim(), BatchDim(4), 4)) == "(N, 4N, 4)" and show((BatchDim(),)) == "(N,)"
    assert infer(lambda x: (x[0] * x[1], x[2]), [(BatchDim(), 5, 6)], [{}, {}],
                 points) == (BatchDim(5), 6)
    with pytest.raises(ck.ShapeError, match="neither constant nor a multiple of the batch"):
        join([(4,), (6,)], points)
    with pytest.raises(ck.ShapeError, match="number of axes depends on the batch"):
        join([(2,), (5, 1)], points)


# -- trace ----------------------------------------------------------------------------------


def test_a_traced_graph_reads_like_the_model(net):
    graph = trace(net, (1, 3, 13, 11))
    verify(graph)
    assert [p.name for p in graph.inputs] == ["x"]
    assert graph.shape(graph.inputs[0].value) == (BatchDim(), 3, 13, 11)
    assert graph.shape(graph.outputs[0].value) == (BatchDim(), 10)
    state = net.state_dict()
    for constant in graph.constants.values():
        assert_same_bits(constant.array, np.asarray(state[constant.name]), constant.name)
    names = [node.name for node in graph.nodes]
    assert names[0] == "stem" and "blocks.1.down.0" in names and len(set(names)) == len(names)
    lines = str(graph).splitlines()
    assert lines[1].split()[:2] == ["%0", "input"] and "(N, 3, 13, 11)" in lines[1]
    assert "stem.weight stem.bias" in lines[2] and "padding=((1,1),(1,1))" in lines[2]
    assert "groups" not in lines[2]  # at its default
    assert lines[-1].split()[0] == "output"


def test_the_batch_stays_open_in_reshapes(net):
    graph = trace(net, (7, 3, 13, 11))
    shapes = [node.attrs["shape"] for node in graph.nodes if node.op == "reshape"]
    assert (-1, 4, 4, 7, 6) in shapes
    assert all(shape.count(-1) == 1 for shape in shapes)


def test_training_flags_and_statistics_are_left_alone(net):
    net.train()
    net.blocks[0].bn1.eval()
    before = {k: np.array(v) for k, v in net.state_dict().items()}
    trace(net, (1, 3, 13, 11))
    assert net.training and net.blocks[0].bn2.training and not net.blocks[0].bn1.training
    for key, value in net.state_dict().items():
        assert_same_bits(np.asarray(value), before[key], key)
    net.train()


def test_flags_are_restored_after_an_error():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5))
    with pytest.raises(ck.ShapeError):
        trace(model, (1, 3))
    assert model.training and model[1].training


def test_errors_name_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))
    with pytest.raises(ck.ShapeError, match=r"Conv2d '1': "):
        ck.compile(model, (1, 3, 8, 8))


def test_several_inputs_and_outputs():
    def model(image, scale):
        y = F.relu(image) * scale.reshape(scale.shape[0], 1, 1, 1)
        return y, y.mean((1, 2, 3))

    for shapes in ([(1, 2, 3, 3), (1, 1)], {"image": (4, 2, 3, 3), "scale": (4, 1)}):
        program = ck.compile(model, shapes)
        assert list(program.input_shapes) == ["image", "scale"]
        image, scale = random_array((5, 2, 3, 3)), random_array((5, 1))
        for given in ((image, scale), {"scale": scale, "image": image}, [image, scale]):
            y, mean = program.run(given)
            np.testing.assert_array_equal(y, np.maximum(image, 0) * scale.reshape(5, 1, 1, 1))
            assert mean.shape == (5,)
        assert_same_bits(program(image, scale)[0], y)


def test_forms_of_output():
    x = random_array((2, 3))
    assert isinstance(ck.compile(lambda x: F.relu(x), (1, 3))(x), np.ndarray)
    assert isinstance(ck.compile(lambda x: [F.relu(x)], (1, 3))(x), tuple)
    assert list(ck.compile(lambda x: {"b": F.relu(x), "a": x}, (1, 3))(x)) == ["b", "a"]
    for wrong in (lambda x: 3, lambda x: x.data, lambda x: ()):
        with pytest.raises(TypeError, match="expected the model to return"):
            ck.compile(wrong, (1, 3))


def test_scalars_and_arrays_become_constants():
    offset = random_array((3,), seed=8)
    graph = trace(lambda x: (x * 2 + offset) / np.float32(3), (1, 3))
    assert sorted(c.name for c in graph.constants.values()) == [
        "constant", "constant_1", "constant_2"]
    x = random_array((4, 3))
    np.testing.assert_allclose(Program(graph)(x), (x * 2 + offset) / 3, rtol=1e-6)


def test_detached_tensors_are_followed():
    graph = trace(lambda x: F.relu(F.sigmoid(x).detach()), (1, 3))
    assert [n.op for n in graph.nodes] == ["sigmoid", "relu"] and not graph.constants


def test_slices_that_follow_the_batch():
    program = ck.compile(lambda x: F.relu(x[:x.shape[0], 1:]), (1, 3))
    assert program(random_array((5, 3))).shape == (5, 2)


@pytest.mark.parametrize("model, message", [
    (lambda x: x * ck.tensor(np.tanh(x.numpy())), "was not made by recorded operations"),
    (lambda x: x * float(x.numpy().mean()), "was not made by recorded operations"),
    (lambda x: F.relu(x) if x.shape[0] > 2 else F.sigmoid(x), "does different things"),
    (lambda x: F.relu(x) if x.shape[0] > 2 else F.relu(F.relu(x)), "does different things"),
    (lambda x: (x, x) if x.shape[0] > 2 else x, "outputs depend on the data or the batch"),
    (lambda x: x ** float(x.numpy().max()), "attribute exponent depends on the data"),
    (lambda x: x[:x.shape[0] // 2 + 1], "neither constant nor a multiple|depends on the batch"),
    (lambda x: x[:2 * x.shape[0] - 1, :1], "slice.: where it stops depends on the batch|neither"),
    (lambda x: F.relu(x)[:2], None),
    (lambda x: x.reshape(x.shape[0], x.shape[0], -1) if x.shape[0] == 1 else
     F.concat([x] * x.shape[0], 1).reshape(x.shape[0], x.shape[0], -1), "does different things|2 "),
])
def test_what_depends_on_data_or_batch_is_refused(model, message):
    if message is None:
        assert trace(model, (1, 4)).shape(trace(model, (1, 4)).outputs[0].value) == (2, 4)
        return
    with pytest.raises(ck.ShapeError, match=message):
        trace(model, (1, 4))


@pytest.mark.parametrize("decide", [
    lambda x: x if x.sum() > -1e9 else -x,
    lambda x: x[:, int((x.mean((0, 2, 3)) * 0).argmax())],
    lambda x: x * 1 if float(x.max()) < 1e9 else x,
    lambda x: x if x.amin().item() < 1e9 else x * 2])
def test_what_python_decides_by_data_is_warned_of(decide):
    with pytest.warns(UserWarning, match="depends on the input was taken out of a tensor") as seen:
        ck.compile(decide, (1, 3, 4, 4))
    assert seen[0].filename == __file__


@pytest.mark.parametrize("model", [
    lambda x: (x > 0) * 2 - 1, lambda x: ((x > 0) * 2 - 1) * x, lambda x: x.argmax(1) % 2,
    lambda x: x.argmax(1) // 2 - 1, lambda x: x.argmax(1) == 2, lambda x: x.argmax(1) / 2,
    lambda x: ck.where(x > 0, 1, -1), lambda x: (x > 0) * np.arange(4),
    lambda x: ck.maximum(x.argsort(1), 1), lambda x: x + np.arange(4)])
def test_integers_among_themselves_stay_integers(model, tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    program, want = ck.compile(model, (1, 4)), model(ck.Tensor(x)).data
    ck.save(program, tmp_path / "net.ckit")
    for got in (program(x), ck.load(tmp_path / "net.ckit")(x)):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


@pytest.mark.parametrize("model", [
    lambda x: (x > 0).sum(1), lambda x: (x > 0).sum((1, 2), keepdim=True),
    lambda x: (x > 0).sum(1) / 3, lambda x: (x > -1).prod(2), lambda x: (x > 0).cumsum(2),
    lambda x: (x.argmax(1) == 1).sum(1), lambda x: (x > 0).max(1)[0], lambda x: (x > 0).max(1)[1],
    lambda x: (x > 0).argmin(2)])
def test_truth_values_are_counted(model, torch, tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    program, want = ck.compile(model, (1, 4, 5)), model(ck.Tensor(x)).data
    ck.save(program, tmp_path / "net.ckit")
    for got in (program(x), ck.load(tmp_path / "net.ckit")(x)):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    if "argmin" not in model.__code__.co_names:     # PyTorch has none of truth values
        np.testing.assert_array_equal(want, model(torch.from_numpy(x)).numpy())


def test_decisions_by_constants_are_nobodys_business(recwarn):
    weight = ck.ones(3)

    def model(x):
        return x * int(weight.sum()) if weight.max() > 0 and (weight * 2).sum().item() else x

    ck.compile(model, (1, 3, 4, 4))
    assert not recwarn


def test_changes_in_place_are_refused_but_iadd_is_fine():
    def wrong(x):
        y = F.sigmoid(x)
        y.add_(x)
        return F.relu(y)

    with pytest.raises(ck.UnsupportedOperatorError, match=r"changed in place.*write x = x \+ y"):
        trace(wrong, (1, 4))

    def right(x):
        y = F.sigmoid(x)
        y += x
        y *= 2
        return y

    assert [n.op for n in trace(right, (1, 4)).nodes] == ["sigmoid", "add", "mul"]


def test_operations_without_a_place_in_graphs_are_refused():
    class Own(Op):
        name = "own"

        @staticmethod
        def forward(ctx, x):
            return x + 1

    with pytest.raises(ck.UnsupportedOperatorError, match="'own' cannot be part"):
        trace(lambda x: apply(Own, x), (1, 4))


@pytest.mark.parametrize("shape, error, message", [
    (None, ValueError, "expected input_shape, the full shape"),
    ((), ck.ShapeError, "full shape with the batch first"),
    ((0, 3), ck.ShapeError, "full shape with the batch first"),
    ((1, -3), ck.ShapeError, "full shape with the batch first"),
    ([(1, 3), "x"], ck.ShapeError, "full shape with the batch first"),
    (np.zeros((2, 3, 4), "f"), ck.ShapeError, r"got an array of shape \(2, 3, 4\): pass that, or "),
    (ck.Tensor(np.zeros((1, 3), "f")), ck.ShapeError, r"got an array of shape \(1, 3\)"),
    ([0] * 100, ck.ShapeError, r"got \[0, 0, 0, 0, 0, 0, \.\.\.\]$"),
])
def test_bad_input_shapes(shape, error, message):
    with pytest.raises(error, match=re.escape(message) if message[0] == "(" else message):
        ck.compile(lambda x: F.relu(x), shape)


def test_a_model_may_know_its_input_shape():
    model = nn.Linear(3, 2)
    model.input_shape = (1, 3)
    assert ck.compile(model).input_shapes == {"input": (BatchDim(), 3)}


def test_an_example_takes_the_shapes_place():
    x = np.abs(random_array((4, 3))) + 1
    program = ck.compile(lambda x: x.log().sqrt(), example=x)
    assert np.isfinite(program(x)).any() and program.max_error.absolute == 0
    with pytest.raises(ck.ShapeError, match="expected example arrays of floating-point"):
        ck.compile(lambda x: F.relu(x), example=np.zeros((2, 3), np.int64))


# -- compile --------------------------------------------------------------------------------


def test_a_compiled_network_agrees_with_the_model(net, program):
    x = random_array((3, 3, 13, 11))
    want = eager(net, x)
    got = program(x)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert 0 <= program.max_error.relative < 1e-5
    ops = [n.op for n in program.graph.nodes]
    assert "batch_norm" not in ops and "affine" not in ops
    assert [n.attrs["activation"] for n in program.graph.nodes if n.op == "conv"] == [
        "relu", "relu", None, "relu", None, "relu"]


def test_a_graph_or_program_can_be_compiled(net, program):
    x = random_array((2, 3, 13, 11))
    graph = trace(net, (1, 3, 13, 11))
    for again in (ck.compile(graph), ck.compile(program)):
        assert_same_bits(again(x), program(x))
        assert again.max_error is not None


def test_float64_models():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).double()
    x = random_array((5, 3), np.float64)
    program = ck.compile(model, example=x)
    assert program(x).dtype == np.float64 and program.max_error.relative < 1e-13
    np.testing.assert_allclose(program(x), eager(model, x), rtol=1e-12)


def test_a_wrong_pass_is_caught(net, monkeypatch):
    def wrong(graph):
        last = max(graph.constants)
        constant = graph.constants[last]
        return dataclasses.replace(graph, constants={
            **graph.constants, last: Constant(constant.name, constant.array + 1)})

    monkeypatch.setattr(compiler, "run_pipeline", wrong)
    with pytest.raises(ck.ConvkitError, match="differs from the model by"):
        ck.compile(net, (1, 3, 13, 11))
    assert ck.compile(net, (1, 3, 13, 11), check=False).max_error is None


def test_outputs_that_are_nothing_but_rounding_are_no_error():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)

        def forward(self, x):
            y = self.norm(self.conv(x)).mean(2, keepdim=True) * ck.ones(1, 1, 6)
            return y - y.mean(2, keepdim=True)

    ck.manual_seed(0)
    program = ck.compile(Nothing().eval(), (1, 3, 9))
    assert program.max_error.relative > 0.1     # of next to nothing
    assert program.max_error.absolute < 1e-6


def test_the_comparison_itself():
    a = np.array([1.0, -4.0, np.nan, np.inf])
    assert compare([a], [a.copy()]) == MaxError(0, 0)
    assert compare([a], [np.array([1.5, -4, np.nan, np.inf])]) == MaxError(0.5, 0.125)
    for b in ([np.nan, -4, np.nan, np.inf], [1, -4, 0, np.inf], [1, -4, np.nan, -np.inf]):
        assert compare([a], [np.array(b)]).relative == np.inf
    assert compare([np.zeros(2)], [np.ones(2)]) == MaxError(1, np.inf)


def test_training_on_does_not_change_a_program():
    model = nn.Linear(3, 2)
    program = ck.compile(model, (1, 3))
    x = random_array((2, 3))
    before = program(x)
    with ck.no_grad():
        model.weight.add_(1.0)
        model.bias.zero_()
    assert_same_bits(program(x), before)


# -- Program: bits --------------------------------------------------------------------------


def test_a_sample_gives_the_same_bits_alone_and_in_any_batch(program):
    x = random_array((9, 3, 13, 11))
    together = program(x)
    for i in range(9):
        assert_same_bits(program(x[i:i + 1])[0], together[i], f"sample {i}")
    assert_same_bits(program(x[2:7]), together[2:7])


def test_the_same_bits_on_any_number_of_threads(net, program):
    x = random_array((6, 3, 13, 11))
    want = program(x)
    for n in (1, 2, 3):
        with ck.threads(n):
            assert_same_bits(program(x), want)
        assert_same_bits(ck.compile(net, (1, 3, 13, 11), threads=n)(x), want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_in_any_form(program, layout):
    x = random_array((2, 3, 13, 11))
    assert_same_bits(program(lay_out(x, layout)), program(x))


def test_concurrent_calls(program):
    inputs = [random_array((1 + i % 3, 3, 13, 11), seed=i) for i in range(8)]
    want = [program(x) for x in inputs]
    fresh = Program(program.graph)  # nothing packed yet: threads meet at the first call
    errors = []

    def work(i: int) -> None:
        try:
            for _ in range(20):
                assert_same_bits(fresh(inputs[i]), want[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


# -- Program: the edge ----------------------------------------------------------------------


@pytest.mark.parametrize("x, error, message", [
    (np.zeros((2, 4, 13, 11), np.float32), ck.ShapeError,
     "input 'x': expected shape (N, 3, 13, 11) with N of at least 1, got (2, 4, 13, 11)"),
    (np.zeros((3, 13, 11), np.float32), ck.ShapeError, "got (3, 13, 11)"),
    (np.zeros((0, 3, 13, 11), np.float32), ck.ShapeError, "got (0, 3, 13, 11)"),
    (np.zeros((), np.float32), ck.ShapeError, "got ()"),
    (np.zeros((1, 3, 13, 11)), ck.DTypeError,
     "input 'x': expected float32, got float64; convert with x.astype(np.float32)"),
    (np.zeros((1, 3, 13, 11), np.uint8), ck.DTypeError, "expected float32, got uint8"),
    ({"y": 1}, ck.ShapeError, "expected inputs ['x'], got ['y']"),
    ((1, 2), ck.ShapeError, "expected 1 inputs (x), got 2"),
])
def test_wrong_inputs(program, x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        program.run(x)


def test_inputs_of_different_batches():
    program = ck.compile(lambda a, b: F.relu(a) + b, [(1, 3), (1, 3)])
    with pytest.raises(ck.ShapeError, match="same number of samples in every input, got a: 2, b"):
        program(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ck.ShapeError, match=r"expected 2 inputs \(a, b\), got 1"):
        program(np.zeros((2, 3), np.float32))


def test_tensors_and_lists_of_numbers_are_taken():
    program = ck.compile(lambda x: F.relu(x), (1, 2))
    want = np.array([[1, 0], [0, 2]], np.float32)
    for x in (ck.tensor(want - 0), [[1.0, -1], [-3, 2]]):
        assert_same_bits(program.run(x), want)


def test_out(program):
    x = random_array((2, 3, 13, 11))
    out = np.empty((2, 10), np.float32)
    assert program.run(x, out=out) is out
    assert_same_bits(out, program(x))
    both = ck.compile(lambda x: {"a": F.relu(x), "b": x.sum(1)}, (1, 3))
    outs = {"b": np.empty(2, np.float32), "a": np.empty((2, 3), np.float32, order="F")}
    x = random_array((2, 3))
    result = both.run(x, out=outs)
    assert result["a"] is outs["a"] and result["b"] is outs["b"]
    np.testing.assert_array_equal(outs["a"], np.maximum(x, 0))


@pytest.mark.parametrize("out, error, message", [
    (np.empty((1, 10), np.float32), ck.ShapeError, "expected shape (2, 10), got (1, 10)"),
    (np.empty((2, 10)), ck.DTypeError, "expected float32, got float64"),
    ([[1.0]], TypeError, "expected a NumPy array, got list"),
    ((), ck.ShapeError, "expected out to hold an array for each of ['output']"),
    ({"other": 1}, ck.ShapeError, "expected out to hold an array for each of ['output']"),
])
def test_wrong_out(program, out, error, message):
    with pytest.raises(error, match=re.escape(message)):
        program.run(random_array((2, 3, 13, 11)), out=out)


def test_results_are_the_callers():
    weight = random_array((2, 3))

    def model(x):
        y = F.relu(x)
        return x.reshape(x.shape[0], 3, 1), y, y[:, 1:], ck.tensor(weight) * 1

    program = ck.compile(model, (1, 3))
    x = random_array((2, 3))
    first = program(x)
    for i, a in enumerate(first):
        assert not np.shares_memory(a, x)
        assert not any(np.shares_memory(a, b) for b in first[i + 1:])
        a[...] = 7
    second = program(x)
    np.testing.assert_array_equal(second[3], weight)
    assert not np.shares_memory(first[1], second[1])


# -- Program: memory and speed --------------------------------------------------------------


def test_a_steady_program_asks_for_no_memory(program):
    x = random_array((4, 3, 13, 11))
    out = np.empty((4, 10), np.float32)
    for _ in range(3):
        program.run(x, out=out)
    fresh = memory.stats()["fresh"]
    for _ in range(5):
        program.run(x, out=out)
    assert memory.stats()["fresh"] == fresh


def test_weights_are_packed_once(net, monkeypatch):
    program = ck.compile(net, (1, 3, 13, 11))
    x = random_array((1, 3, 13, 11))
    want = program(x)

    def no_more(*args, **kwargs):
        raise AssertionError("packed again")

    for module in (gemm, winograd):
        monkeypatch.setattr(module, "pack", no_more)
    assert_same_bits(program(x), want)


def test_summary(program):
    lines = program.summary().splitlines()
    assert lines[0] == "input x: (N, 3, 13, 11)"
    assert lines[1].split() == ["step", "op", "output", "bytes", "parameters", "FLOPs", "fused",
                                "algorithm"]
    stem = lines[2].split()
    assert stem[:2] == ["stem", "conv"] and stem[-2:] == ["relu", "direct"]
    size = 8 * 13 * 11
    assert stem[-5] == f"{4 * size:,}"
    assert stem[-4:-2] == [f"{3 * 9 * 8 + 8:,}", f"{2 * 27 * size + 2 * size:,}"]
    total = next(line for line in lines if line.startswith("total")).split()
    assert total[1] == f"{program.graph.parameters():,}"
    assert lines[-1].startswith("arena for intermediates: ")
    assert "add + relu" in ck.compile(
        lambda x: F.relu(F.conv2d(x, W, padding=1) + x), (1, 4, 5, 5)).summary()


def test_flops():
    def count(model, shape):
        graph = trace(model, shape)
        return [flops(graph, node) for node in graph.nodes]

    grouped = random_array((8, 2, 3, 3))
    assert count(lambda x: F.conv2d(x, grouped, groups=2), (1, 4, 6, 5)) == [
        2 * 2 * 9 * 8 * 4 * 3]
    assert count(lambda x: F.conv_transpose2d(x, grouped, groups=2), (1, 8, 4, 3)) == [
        2 * 2 * 9 * 8 * 4 * 3]
    matrix = random_array((7, 5))
    assert count(lambda x: F.linear(x, matrix, matrix[:, 0]), (1, 5)) == [2 * 35 + 7]
    assert count(lambda x: F.relu(x.reshape(x.shape[0], -1)).sum(1), (1, 3, 4)) == [0, 12, 12]


def test_repr_labels_and_metadata(net):
    program = ck.compile(net, (1, 3, 13, 11), metadata={"labels": ["cat", "dog"]})
    assert program.labels == ["cat", "dog"]
    program.metadata["author"] = "me"
    assert "Program(x: (N, 3, 13, 11) -> output: (N, 10); " in repr(program)
    assert program.output_shapes == {"output": (BatchDim(), 10)}


@pytest.mark.parametrize("threads, error", [(0, ValueError), ("2", TypeError), (10**6, ValueError)])
def test_wrong_threads(threads, error):
    with pytest.raises(error, match="threads"):
        ck.compile(lambda x: F.relu(x), (1, 3), threads=threads)
