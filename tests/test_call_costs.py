"""What training steps and loading cost around the kernels, counted in calls of functions.

Counts do not vary as times do: without tiles they are the same for every instruction set (2,831 and
6,524 for the two steps below, with Python 3.11), with tiles other algorithms are chosen. Bounds of
steps without tiles are a hundredth above these, so that whoever adds calls to each layer sees it.
Before the tape was compiled, convolutions' calls prepared and like layers looked at once, the
counts were three times as large.
"""

from __future__ import annotations

import json
import sys
import weakref

import numpy as np
import pytest

import convkit as ck
from convkit import autograd, models, nn, optim
from convkit import functional as F
from convkit._kernels import dispatch, memory
from convkit.errors import ModelFormatError, ShapeError
from convkit.infer.graph import Constant
from convkit.io.graph_json import graph_from_json, graph_to_json
from convkit.io.strict_json import _nests_deeper
from convkit.ops.conv_problem import forward_problem, output_shape


def calls(work) -> int:
    """Return how many functions, of Python or built in, a call of `work` calls."""
    count = 0

    def seen(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("name", "size", "most", "on_tiles"), [
    ("resnet20", 32, 2860, 3180), ("mobilenet_v2", 64, 6590, 7620)])
def test_a_training_step_calls_few_functions(rng, name, size, most, on_tiles, monkeypatch):
    monkeypatch.setattr(autograd, "_any_post_hook", False)  # other tests may have had one
    net = models.create(name, num_classes=10)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x = ck.Tensor(rng.standard_normal((2, 3, size, size)).astype(np.float32))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(net(x), np.zeros(2, np.int64)).backward()
        optimizer.step()

    with ck.threads(1):
        for _ in range(3):
            step()
        assert calls(step) <= (on_tiles if dispatch.has_tiles() else most)


def test_loading_calls_few_functions(rng, tmp_path):
    path = tmp_path / "net.ckit"
    ck.save(models.resnet20().eval(), path, input_shape=(1, 3, 32, 32))
    batch = rng.standard_normal((3, 3, 32, 32)).astype(np.float32)
    x = batch[:1]
    with ck.threads(1):
        ck.load(path)(batch)
        assert calls(lambda: ck.load(path)) <= 6400
        program = ck.load(path)
        assert calls(lambda: program(x)) <= 5500
        assert calls(lambda: program(x)) <= 16
        assert calls(lambda: program(batch)) <= 3400    # cuts the steps
        assert calls(lambda: program(batch)) <= 16


def test_a_call_of_a_program_takes_what_it_took_before(rng):
    """What is kept of one call does not outlive a change of the batch, and refuses no less."""
    program = ck.compile(nn.Flatten().eval(), (1, 2, 3), check=False)
    x = rng.standard_normal((5, 2, 3)).astype(np.float32)
    for batch in (5, 2, 5, 1):
        np.testing.assert_array_equal(program(x[:batch]), x[:batch].reshape(batch, 6))
    for bad in (x[:0], x[:, :1], x[0], np.float32(1).reshape(())):
        with pytest.raises(ShapeError, match="expected shape"):
            program(bad)
    line = ck.compile(lambda t: t * 2, (1,), check=False)
    assert line(x[:, 0, 0]).shape == (5,)
    with pytest.raises(ShapeError, match="expected shape"):
        line(np.ones((), np.float32))


# -- the tape ---------------------------------------------------------------------------------


def test_a_long_record_that_is_dropped_overflows_no_stack():
    x = ck.Tensor(np.ones(2, np.float32), requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    del y
    y = x * 2
    y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad.data, [2, 2])


def test_nodes_go_when_the_result_goes():
    x = ck.Tensor(np.ones(3, np.float32), requires_grad=True)
    y = (x * 2).exp()
    seen = weakref.ref(y)
    del y
    assert seen() is None


def test_a_weight_that_was_replaced_by_a_plain_tensor_is_used(rng):
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    conv, norm, linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3), nn.Linear(5, 2)
    for layer in (conv, norm, linear):
        before = layer(x).data.copy()
        doubled = layer.weight.data * 2
        del layer.weight
        layer.weight = ck.Tensor(doubled)
        bias = layer.bias.data.reshape(-1, *[1] * (2 if layer is not linear else 0))
        np.testing.assert_allclose(layer(x).data, 2 * before - bias, rtol=1e-5, atol=1e-5)


def test_estimates_that_were_replaced_are_used(rng):
    norm = nn.BatchNorm2d(3).eval()
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    del norm.running_mean
    norm.running_mean = ck.Tensor(np.full(3, 2, np.float32))
    np.testing.assert_allclose(norm(x).data, (x - 2) / np.sqrt(1 + 1e-5), rtol=1e-5, atol=1e-6)


# -- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i8", "?", "f2", "c8"])
def test_new_arrays_of_any_type(dtype):
    for shape in ((3,), (70, 80), (2, 30, 40, 5)):
        a = memory.empty(shape, dtype)
        a[...] = 1
        assert a.shape == shape and a.dtype == np.dtype(dtype) and a.flags.c_contiguous
        assert a.flags.writeable and (a == 1).all()
        if a.nbytes >= 4096:
            assert a.ctypes.data % 64 == 0
    assert memory.address_of(a) == a.ctypes.data


def test_new_arrays_that_cannot_be():
    with pytest.raises(ValueError, match="negative"):
        memory.empty((-100, -100))
    with pytest.raises(MemoryError, match="too large"):
        memory.empty((1 << 40, 1 << 40))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 1, 1, 5), (0, 3, 4, 5)])
def test_channels_last_and_back(rng, shape):
    x = rng.standard_normal(shape)
    last = memory.to_last(x)
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(last, np.moveaxis(x, 1, -1))
    np.testing.assert_array_equal(memory.from_last(last), x)
    assert memory.address_of(memory.to_last(memory.from_last(last))) == memory.address_of(last)
    for bad in (np.zeros(3), np.zeros((1,) * 5)):
        with pytest.raises(ValueError, match="2 to 4 axes"):
            memory.to_last(bad)


def test_alike():
    a, b = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    assert memory.alike((a, b, None))
    assert not memory.alike((a, b.T)) and not memory.alike((a.T, b.T))
    assert not memory.alike((a, b.astype(np.float64)))


# -- what is kept between calls -----------------------------------------------------------------


GEOMETRY = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}


def test_the_output_shape_is_that_of_the_problem():
    for batch in (1, 7, 0):
        x, weight = (batch, 4, 9, 11), (6, 2, 3, 3)
        p = forward_problem(x, weight, np.dtype(np.float32), **GEOMETRY)
        assert output_shape(x, weight, **GEOMETRY) == (batch, 6, *p.out_size)
        assert p.batch == batch


@pytest.mark.parametrize(("name", "value"), [
    ("stride", (2.0, 1)), ("padding", ((True, 0), (0, 2))), ("dilation", (1, 2.0)),
    ("groups", True), ("groups", 2.0)])
def test_what_equals_a_known_geometry_but_is_no_integer_is_refused(name, value):
    """1.0 and True equal 1 in every table of what was looked at before."""
    x, weight = (3, 4, 9, 11), (6, 4 if value is True and name == "groups" else 2, 3, 3)
    good = {**GEOMETRY, **({"groups": 1} if weight[1] == 4 else {})}
    for rule in (lambda **g: forward_problem(x, weight, np.dtype(np.float32), **g),
                 lambda **g: output_shape(x, weight, **g)):
        rule(**good)
        if name == "padding":
            rule(**{**good, name: value})  # padding of True is the integer 1, as before
        else:
            with pytest.raises(ShapeError, match=f"expected {name}"):
                rule(**{**good, name: value})


def test_errors_name_this_calls_shape():
    for batch in (2, 5):
        with pytest.raises(ShapeError, match=rf"\({batch}, 3, 9, 11\)"):
            output_shape((batch, 3, 9, 11), (6, 2, 3, 3), **GEOMETRY)


def test_pads_and_slices_are_those_of_this_call(rng):
    """Ways through memory are remembered by shape, order, place and mode."""
    for shape in ((2, 3, 8, 9), (2, 3, 6, 7), (2, 3, 8, 9)):
        for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
            array = rng.standard_normal([shape[i] for i in order]).transpose(np.argsort(order))
            for index in ((..., slice(None, None, 2)), (slice(1, None), 2),
                          (None, 0, ..., slice(2, 5))):
                x = ck.Tensor(array, requires_grad=True)
                x[index].backward(np.ones(array[index].shape))
                expected = np.zeros(shape)
                expected[index] = 1
                np.testing.assert_array_equal(x[index].data, array[index])
                np.testing.assert_array_equal(x.grad.data, expected)
            for mode in ("constant", "reflect", "circular"):
                for pairs in (((0, 0), (1, 2)), ((0, 3), (2, 1))):
                    expected = np.pad(array, [(0, 0), (0, 0), *pairs],
                                      "wrap" if mode == "circular" else mode)
                    pad = (*pairs[1], *pairs[0])
                    np.testing.assert_array_equal(F.pad(array, pad, mode).data, expected)
    for bad in ((True, 2), (1.0, 2)):  # which equal (1, 2)
        with pytest.raises(TypeError, match="integers"):
            F.pad(array, bad)


# -- files ------------------------------------------------------------------------------------


def two_like_layers():
    """Return the JSON of a graph with two equal convolutions, and its constants."""
    net = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2)]).eval()
    graph = ck.compile(net, (1, 4, 8, 8), check=False).graph
    data = graph_to_json(graph)
    return data, {c.name: Constant(c.name, c.array) for c in graph.constants.values()}


def test_like_nodes_are_read_alike():
    data, constants = two_like_layers()
    first, second = data["nodes"]
    assert first["attrs"] == second["attrs"] and first["shapes"] == second["shapes"]
    graph = graph_from_json(data, constants)
    assert graph.nodes[0].attrs == graph.nodes[1].attrs
    assert graph.nodes[0].attrs is not graph.nodes[1].attrs


@pytest.mark.parametrize(("name", "value"), [
    ("groups", True), ("groups", 1.0), ("stride", [True, 1]), ("stride", [1, 1.0]),
    ("algorithm", None), ("padding", [[1, 1], [1, True]])])
def test_a_node_that_only_equals_one_before_is_refused(name, value):
    data, constants = two_like_layers()
    data["nodes"][1]["attrs"] = {**data["nodes"][1]["attrs"], name: value}
    with pytest.raises(ModelFormatError, match=f"attribute '{name}'"):
        graph_from_json(data, constants)


def test_a_node_like_one_before_must_declare_its_shape():
    data, constants = two_like_layers()
    data["nodes"][1]["shapes"] = [["N", 4, 8, 9]]
    with pytest.raises(ModelFormatError, match=r"node 1 .*declared shapes"):
        graph_from_json(data, constants)


def test_how_deep_json_nests(rng):
    """Strings with brackets, quotes and backslashes do not count."""
    words = ["", "[", "]]", "{", '"', "\\", '\\"', "\\\\", "[{", "a", "\\u005b"]

    def tree(depth):
        if depth == 0:
            return words[rng.integers(len(words))]
        inner = tree(depth - 1)
        side = words[rng.integers(len(words))]
        return [side, inner, 1] if rng.integers(2) else {side: inner, "b" + side: [2]}

    def deepest(value):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(deepest, inner), default=0) if isinstance(value, (dict, list)) else 0

    for _ in range(300):
        value = tree(int(rng.integers(0, 8)))
        text = json.dumps(value).encode()
        depth = deepest(value)
        assert not _nests_deeper(text, depth)
        assert depth == 0 or _nests_deeper(text, depth - 1)
