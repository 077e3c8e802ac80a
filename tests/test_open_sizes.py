"""Heights and widths that are open within a range: shapes, tracing, Programs, files, ONNX."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fuzz.mutations import mutate_json
from graph_checks import array

import convkit as ck
import convkit.functional as F
from convkit import models as zoo
from convkit import nn
from convkit.infer import Editor, compiler, run_pipeline, trace, verify
from convkit.infer.by_size import MOST_SIZES
from convkit.infer.dims import PROBES, at_sizes, join, join_size, points_of, show
from convkit.infer.open_dims import OpenDim, Symbol, Term, fit_open, make_points
from convkit.infer.ranges import read_shapes
from convkit.io.ckit import load, save
from convkit.io.graph_json import graph_from_json, graph_to_json

H, W = Symbol("H", 32, 512), Symbol("W", 40, 300)
IMAGE = (1, 3, (16, 64), (16, 48))
MUTATIONS = 400


class UNet(nn.Module):
    """Two levels with skips, upsampled to the size of what they join, and odd reshapes."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.Conv2d(8 + 8, 8, 3, padding=1)
        self.head = nn.Conv2d(8 + 6, 4, 1)

    def forward(self, x):
        a = F.relu(self.norm(self.down(x)))
        b = F.relu(self.inner(a))
        c = F.relu(self.deep(b))
        y = F.relu(self.up(F.concat([F.interpolate(c, size=b.shape[2:]), b], 1)))
        y = F.interpolate(y, size=a.shape[2:], mode="bilinear")
        return self.head(F.concat([y, a], 1))


class Sequence(nn.Module):
    """Pixels as a sequence, and back; half of the rows; a score of the mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(x)
        n, c, h, w = y.shape
        z = F.relu(self.fc(y.reshape(n, c, h * w).permute(0, 2, 1)))
        z = z.permute(0, 2, 1).reshape(n, c, h, w)
        return {"rows": z[:, :, :h // 2], "score": self.fc(z.mean((2, 3)))}


def models() -> list[nn.Module]:
    return [UNet().eval(), Sequence().eval()]


def run(model, x) -> list[np.ndarray]:
    with ck.no_grad():
        y = model(ck.tensor(x))
    return [t.numpy() for t in (y.values() if isinstance(y, dict) else [y])]


def listed(result) -> list[np.ndarray]:
    return list(result.values()) if isinstance(result, dict) else [result]


# -- formulas -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule, text", [
    (lambda n, h, w: 7, "7"), (lambda n, h, w: 3 * n, "3N"),
    (lambda n, h, w: h, "H"), (lambda n, h, w: w - 2, "W-2"),
    (lambda n, h, w: (h + 1) // 2, "(H+1)//2"), (lambda n, h, w: (w + 31) // 32, "(W+31)//32"),
    (lambda n, h, w: 2 * ((h + 3) // 4) - 1, "2*((H+3)//4)-1"),
    (lambda n, h, w: -(-w // 32) * 32 - w, "32*((W+31)//32)-W"),
    (lambda n, h, w: h + h // 2, "3*H//2"), (lambda n, h, w: h * w, "H*W"),
    (lambda n, h, w: h * h, "H*H"), (lambda n, h, w: n * h, "N*H"),
    (lambda n, h, w: 4 * n * h * w, "4*N*H*W"),
])
def test_sizes_get_the_formula_that_gives_them(rule, text):
    points = make_points((H, W), PROBES)
    values = [rule(p.batch, p.sizes["H"], p.sizes["W"]) for p in points]
    size = join_size(values, points, [Term(H), Term(W)])
    assert str(size) == text
    for n, h, w in ((1, 100, 40), (3, 77, 299)):
        got = at_sizes((size,), {"H": h, "W": w})[0]
        got = got if isinstance(got, int) else got.factor * n
        assert got == rule(n, h, w)


def test_sizes_without_a_formula():
    points = make_points((H, W), PROBES)
    assert fit_open([p.sizes["H"] ** 3 for p in points], points, (H, W)) is None
    with pytest.raises(ck.ShapeError, match="neither constant nor follows the open sizes"):
        join([(p.sizes["H"] ** 3,) for p in points], points, [Term(H), Term(W)])
    with pytest.raises(ck.ShapeError, match="number of axes depends on the batch or the sizes"):
        join([(1,) * (1 + (p.sizes["H"] > 40)) for p in points], points, [Term(H)])


def test_of_few_values_no_size_follows_from_another():
    for low, step in ((64, 32), (16, 16), (5, 1)):
        symbols = tuple(Symbol(n, low, low + 3 * step, step) for n in "HW")
        points = make_points(symbols, PROBES)
        for other, values in (("W", "H"), ("H", "W")):
            rest = [p.sizes[values] for p in points]
            assert fit_open(rest, points, [s for s in symbols if s.name == other]) is None
    ck.compile(zoo.densenet121().eval(), (1, 3, (64, 160, 32), (64, 160, 32)))


def test_what_differs_at_the_smallest_sizes_alone_follows_its_own_size():
    symbols = Symbol("H", 18, 23), Symbol("W", 12, 17)
    points = make_points(symbols, PROBES)
    for name, low in (("H", 18), ("W", 12)):
        values = [2 + (p.sizes[name] > low) for p in points]
        formula = fit_open(values, points, symbols)
        assert formula is None or formula.terms[0].symbol.name == name
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 3, 1), nn.Conv2d(4, 4, 7, 2, 3),
                        nn.Upsample(scale_factor=2, mode="bilinear"))
    program = ck.compile(net.eval(), (1, 3, (18, 23), (12, 17)))
    for size in ((18, 12), (18, 13), (19, 12), (23, 17)):
        x = np.ones((2, 3, *size), np.float32)
        assert program(x).shape == net(ck.Tensor(x)).shape, size


def test_three_sizes_of_two_values_are_told_apart():
    symbols = tuple(Symbol(n, low, low + 1) for n, low in (("H", 54), ("W", 17), ("D", 9)))
    points = make_points(symbols, PROBES)
    for s in symbols:
        assert fit_open([p.sizes[s.name] - 5 for p in points], points, symbols).terms[0].symbol == s


def test_a_rule_that_holds_for_small_sizes_alone_is_not_taken():
    symbol = Symbol("H", 54, 353)
    points = make_points((symbol,), PROBES)
    values = [3 * ((p.sizes["H"] + 14) // 27) - 1 for p in points]
    found = fit_open(values, points, (symbol,))
    assert found is None or all(
        found.at(1, {"H": h}) == 3 * ((h + 14) // 27) - 1 for h in range(54, 354))


def test_points_hold_ends_and_every_remainder():
    points = make_points((H, W), PROBES)
    assert points[0] == (PROBES[0], {"H": 32, "W": 40}) and points[1].batch == PROBES[1]
    assert points[-1].sizes == {"H": 512, "W": 300}
    assert {p.sizes["H"] % 32 for p in points} == set(range(32))
    steps = make_points((Symbol("S", 64, 2**30, 32),), PROBES)
    assert all(p.sizes["S"] % 32 == 0 for p in steps) and len(steps) < 50


# -- how ranges are written -----------------------------------------------------------------


def test_ranges_are_read():
    (shape,) = read_shapes([(1, 3, (32, 512), (64, 256, 32))])
    assert show(shape) == "(1, 3, H, W)"
    assert shape[3].symbol == Symbol("W", 64, 256, 32)
    a, b, c = read_shapes([(1, 3, (8, 9), 4), (1, 1, (8, 9), 4), (1, 1, (8, 10), 4)])
    assert a[2] == b[2] and str(c[2]) == "H1"
    (square,) = read_shapes([(1, 3, ("S", 8, 64), ("S", 8, 64))])
    assert square[2] == square[3] and str(square[2]) == "S"
    assert read_shapes([(1, 3, (8, 8), (8, 40, 33))]) == [(1, 3, 8, 8)]
    (signal,) = read_shapes([[1, 3, (8, 64)]])
    assert show(signal) == "(1, 3, L)"


@pytest.mark.parametrize("shape, message", [
    ((1, 3, (64, 32), 4), "expected a range"), ((1, 3, (0, 32), 4), "expected a range"),
    ((1, 3, (1, 32, 0), 4), "expected a range"), ((1, (3, 4), 4, 4), "sizes after the first two"),
    (((1, 2), 3, 4, 4), "sizes after the first two"), ((1, 3, ("N", 2, 3), 4), "named by a short"),
    ((1, 3, ("a b", 2, 3), 4), "named by a short"),
    ((1, 3, ("S", 2, 3), ("S", 2, 4)), "expected one range for 'S'"),
    ((1, 3, (1, 2, 3, 4), 4), "expected input_shape to be a full shape"),
])
def test_wrong_ranges(shape, message):
    with pytest.raises(ck.ShapeError, match=message):
        read_shapes([shape])


# -- graphs ---------------------------------------------------------------------------------


def test_shapes_and_attributes_follow_open_sizes():
    graph = trace(models()[0], IMAGE)
    ups = [n for n in graph.nodes if n.op == "upsample"]
    assert [str(n.attrs["size"]) for n in ups] == ["((H+1)//2, (W+1)//2)", "(H, W)"]
    assert show(graph.shape(graph.outputs[0].value)) == "(N, 4, H, W)"
    assert [str(s) for s in graph.open_sizes()] == ["H from 16 to 64", "W from 16 to 48"]
    graph = trace(models()[1], IMAGE)
    text = str(graph)
    assert "(N, 4, (H-1)//2*(W-1)//2)" in text or "H" in text
    verify(graph)


@pytest.mark.parametrize("which", [0, 1])
def test_a_graph_at_a_size_is_what_is_traced_at_that_size(which):
    model = models()[which]
    graph = run_pipeline(trace(model, IMAGE))
    for h, w in ((16, 16), (33, 48), (64, 21)):
        fixed = graph.at_size(H=h, W=w)
        verify(fixed)
        wanted = run_pipeline(trace(model, (1, 3, h, w)))
        assert [(n.op, fixed.shape(n.outputs[0])) for n in fixed.nodes] == [
            (n.op, wanted.shape(n.outputs[0])) for n in wanted.nodes]
        assert all(fixed.constants[v] is c for v, c in graph.constants.items())


@pytest.mark.parametrize("sizes, message", [
    ({}, "expected a value for each of H, W, got none"), ({"H": 20}, "got H"),
    ({"H": 20, "W": 20, "D": 1}, "expected a value for each of H, W"),
    ({"H": 65, "W": 20}, "expected H from 16 to 64, got 65"),
])
def test_wrong_sizes(sizes, message):
    graph = trace(lambda x: F.relu(x), IMAGE)
    with pytest.raises(ck.ShapeError, match=message):
        graph.at_size(**sizes)


def test_what_does_not_hold_for_all_sizes_is_refused():
    skip = nn.Conv2d(3, 3, 3, 2, 1)

    def model(x):  # twice the half is the whole only for even sizes
        return F.interpolate(skip(x), scale_factor=2) + x

    with pytest.raises(ck.ShapeError):
        trace(model, (1, 3, (16, 64), (16, 64)))
    graph = trace(model, (1, 3, (16, 64, 2), (16, 64, 2)))
    assert show(graph.shape(graph.outputs[0].value)) == "(N, 3, H, W)"
    with pytest.raises(ck.ShapeError, match="different things"):
        trace(lambda x: F.relu(x) if x.shape[2] > 40 else F.sigmoid(x), IMAGE)
    with pytest.raises(ck.ShapeError, match="depends on the input"):
        trace(lambda x: x + np.arange(x.shape[3], dtype=np.float32), IMAGE)


def test_the_passes_know_that_sizes_are_open():
    """What changes nothing at one size only must stay."""
    def model(x):
        y = F.interpolate(F.relu(x), size=(16, 16))
        return F.sigmoid(y[:, :, :16].reshape(-1, 3, 16, 16))

    graph = run_pipeline(trace(model, (1, 3, (16, 64), 16)))
    assert [n.op for n in graph.nodes] == ["relu", "upsample", "sigmoid"]


# -- Programs -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_a_program_takes_every_size_in_range(which):
    model = models()[which]
    program = ck.compile(model, IMAGE)
    assert program.max_error.relative < 1e-5
    for h, w in ((16, 16), (17, 31), (64, 48), (16, 16)):
        x = array(2, 3, h, w)
        for got, want in zip(listed(program(x)), run(model, x), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)
        fixed = ck.compile(model, (1, 3, h, w))
        for got, want in zip(listed(program(x)), listed(fixed(x)), strict=True):
            assert got.tobytes() == want.tobytes()


def test_sizes_are_kept_up_to_a_bound():
    program = ck.compile(nn.Conv2d(1, 2, 3), (1, 1, (8, 60), 8))
    for h in range(8, 60):
        assert program(array(1, 1, h, 8)).shape == (1, 2, h - 2, 6)
    assert len(program._by_size) == MOST_SIZES


def test_only_the_last_size_keeps_its_arena():
    program = ck.compile(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 1, 3)),
                         (1, 1, (8, 60), 8), check=False)
    for h in (20, 60, 8, 31):
        program(array(4, 1, h, 8))
    held = [p._lowered.runner.idle_bytes() for p in program._by_size.programs()]
    assert len(held) == 4 and held[:-1] == [0] * 3 and held[-1] > 0
    program.trim()
    assert not any(p._lowered.runner.idle_bytes() for p in program._by_size.programs())


def test_all_that_programs_do_works_with_open_sizes():
    program = ck.compile(UNet().eval(), IMAGE)
    x = array(2, 3, 21, 40)
    want = program(x)
    out = np.empty((2, 4, 21, 40), np.float32)
    assert program.run({next(iter(program.input_shapes)): x}, out=out) is out
    assert out.tobytes() == want.tobytes()
    assert asyncio.run(program.run_async(x)).tobytes() == want.tobytes()
    assert pickle.loads(pickle.dumps(program))(x).tobytes() == want.tobytes()
    assert "conv" in str(program.profile(x, 1))
    program.warm_up()
    assert len(program._by_size) == 4  # two of the check, that of x, the largest
    for threads in (1, 2):
        fixed = ck.compile(program, threads=threads)
        assert fixed(x).tobytes() == want.tobytes()
    for i in range(2):
        assert program(x[i:i + 1]).tobytes() == want[i:i + 1].tobytes()


def test_the_check_runs_at_two_sizes(monkeypatch):
    """A pass that is right at the smallest size alone is caught."""
    def wrong(graph):
        editor = Editor(graph)
        (at,) = (i for i, n in enumerate(graph.nodes) if n.op == "upsample")
        editor.replace(at, graph.nodes[at].with_attrs(size=(16, 16)))
        node = graph.nodes[at]
        info = graph.values[node.outputs[0]]
        editor.declare(node.outputs[0], replace(info, shape=(*info.shape[:2], 16, 16)))
        return editor.finish()

    def model(x):
        return F.interpolate(F.relu(x), size=x.shape[2:]).mean((2, 3))

    assert ck.compile(model, IMAGE).max_error.relative < 1e-6
    monkeypatch.setattr(compiler, "run_pipeline", lambda g: wrong(g))
    with pytest.raises(ck.ConvkitError, match="the compiled graph differs"):
        ck.compile(model, IMAGE)


def test_packed_weights_are_shared_by_sizes():
    program = ck.compile(UNet().eval(), IMAGE)
    program(array(1, 3, 20, 20))
    held = {key: set(forms) for key, forms in program._caches.items()}
    program(array(1, 3, 22, 24))
    assert {key: set(forms) for key, forms in program._caches.items()} == held
    assert any(held.values())


def test_threads_may_call_with_sizes_of_their_own():
    program = ck.compile(nn.Conv2d(1, 2, 3), (1, 1, (8, 60), 8))
    xs = [array(1, 1, h, 8) for h in range(8, 60, 3)]
    wanted = [program(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(program, xs * 4), wanted * 4, strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("shape, message", [
    ((1, 3, 15, 20), r"expected shape \(N, 3, H, W\) with H from 16 to 64, got \(1, 3, 15, 20\)"),
    ((1, 3, 20, 49), "with W from 16 to 48"), ((1, 2, 20, 20), "expected shape"),
    ((3, 20, 20), "expected shape"),
])
def test_wrong_inputs(shape, message):
    program = ck.compile(nn.Conv2d(3, 2, 3), IMAGE)
    with pytest.raises(ck.ShapeError, match=message):
        program(np.zeros(shape, np.float32))


def test_axes_of_one_name_have_one_size():
    program = ck.compile(lambda x, y: x + y, [IMAGE, IMAGE])
    a, b = array(1, 3, 20, 30), array(1, 3, 20, 30)
    np.testing.assert_array_equal(program(a, b), a + b)
    with pytest.raises(ck.ShapeError, match="expected shape"):
        program(a, array(1, 3, 21, 30))


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_files_keep_open_sizes(which, tmp_path):
    program = ck.compile(models()[which], IMAGE)
    save(program, tmp_path / "net.ckit")
    again = load(tmp_path / "net.ckit")
    assert graph_to_json(again.graph) == graph_to_json(program.graph)
    x = array(2, 3, 37, 22)
    for got, want in zip(listed(again(x)), listed(program(x)), strict=True):
        assert got.tobytes() == want.tobytes()


def edits():
    """Yield changes to the JSON of a graph, all of them wrong."""
    for value in ({}, {"H": [16, 64]}, {"H": [16, 64, 0]}, {"H": [64, 16, 1]}, [], {"N": [1, 2, 1]},
                  {"H": [16, 64, 1]}, {"H": [16, 64, 1], "W": [16, 48, 1], "X": [1, 2, 1]},
                  {f"S{i}": [1, 2, 1] for i in range(9)}, {"H": [16.0, 64, 1], "W": [16, 48, 1]}):
        yield lambda data, v=value: data.update(sizes=v)
    term = ["H", 1, 1, 0, 1, 0, 0]
    for formula in ({"terms": [term]}, {"factor": 1, "batch": False, "terms": []},
                    {"factor": 0, "batch": False, "terms": [term]},
                    {"factor": 1, "batch": 0, "terms": [term]},
                    {"factor": 1, "batch": True, "terms": [term]},
                    {"factor": 1, "batch": False, "terms": [["H", 1, 1, 0, 0, 0, 0]]},
                    {"factor": 1, "batch": False, "terms": [["Z", 1, 1, 0, 1, 0, 0]]},
                    {"factor": 1, "batch": False, "terms": [["H", 1]]},
                    {"factor": 1, "batch": False, "terms": [["H", 1, 1, 0, 1, 0, -40]]},
                    {"factor": 2**40, "batch": False, "terms": [term] * 4},
                    "H", None, 3.5):
        yield lambda data, f=formula: next(
            n for n in data["nodes"] if n["op"] == "upsample")["attrs"].update(size=[f, 16])
    yield lambda data: data["nodes"][0]["shapes"].__setitem__(0, ["N", 6, "W", "H"])


@pytest.mark.parametrize("edit", list(edits()))
def test_damaged_open_sizes_are_refused(edit):
    graph = run_pipeline(trace(models()[0], IMAGE))
    arrays = {c.name: c for c in graph.constants.values()}
    data = json.loads(json.dumps(graph_to_json(graph)))
    assert graph_to_json(graph_from_json(json.loads(json.dumps(data)), arrays)) == data
    edit(data)
    with pytest.raises(ck.ModelFormatError):
        graph_from_json(data, arrays)


def parts(data: dict) -> list:
    """Return the sizes and nodes of a graph in JSON, as far as they can be changed within."""
    nodes = data.get("nodes")
    found = [data.get("sizes"), *(nodes if isinstance(nodes, list) else [])]
    return [part for part in found if part and isinstance(part, dict)]


@pytest.mark.parametrize("which", [0, 1])
def test_mutated_graphs_are_refused_or_sound(which):
    """One to four changes anywhere: only ModelFormatError comes out, and soon."""
    program = ck.compile(models()[which], IMAGE, image=True)
    arrays = {c.name: c for c in program.graph.constants.values()}
    text, rng = json.dumps(graph_to_json(program.graph)), random.Random(which)
    accepted, slowest = 0, 0.0
    for _ in range(MUTATIONS):
        data = json.loads(text)
        for _ in range(rng.choice([1, 1, 2, 4])):
            if data:
                mutate_json(rng, rng.choice([data, *parts(data)]))
        began = time.perf_counter()
        try:
            graph = graph_from_json(data, arrays)
        except ck.ModelFormatError:
            continue
        finally:
            slowest = max(slowest, time.perf_counter() - began)
        verify(graph)
        with contextlib.suppress(ck.ShapeError):
            verify(graph.at_size(**{s.name: s.low for s in graph.open_sizes()}))
        accepted += 1
    print(f"{accepted} of {MUTATIONS} accepted, slowest {slowest * 1e3:.0f} ms")
    assert 0 < accepted < MUTATIONS // 2


# -- ONNX -----------------------------------------------------------------------------------


def test_onnx_files_with_open_sizes():
    pytest.importorskip("onnx", reason="ONNX files need the onnx package")
    from onnx import TensorProto, helper

    w = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), array(4, 3, 3, 3).reshape(-1))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1] * 4),
             helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("Shape", ["x"], ["s"], start=2),
             helper.make_node("Shape", ["r"], ["t"], end=2),
             helper.make_node("Concat", ["t", "s"], ["u"], axis=0),
             helper.make_node("Resize", ["r", "", "", "u"], ["y"], mode="nearest")]
    proto = helper.make_model(helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [w]),
        opset_imports=[helper.make_opsetid("", 17)])
    from convkit.io.onnx import from_model

    with pytest.raises(ck.UnsupportedOperatorError, match=r"a range \(low, high\)"):
        from_model(proto)
    graph = from_model(proto, {"x": ("N", 3, (16, 64), (16, 64))})
    assert show(graph.shape(graph.outputs[0].value)) == "(N, 4, H, W)"
    program = ck.compile(graph)
    for h, wide in ((16, 16), (33, 20)):
        x = array(2, 3, h, wide)
        fixed = ck.compile(from_model(proto, {"x": ("N", 3, h, wide)}))
        assert program(x).tobytes() == fixed(x).tobytes()
    with pytest.raises(ck.UnsupportedOperatorError, match=r"^y: no form in ONNX for sizes that are "
                       r"open \(H from 16 to 64\); export graph.at_size"):
        ck.io.onnx.to_model(program)


class Gated(nn.Module):
    """Squeeze and excite, group norm, even upsampling, pixels as a sequence."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.stem(x))
        y = y * F.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y = self.norm(y)
        y = F.interpolate(F.max_pool2d(y, 2), scale_factor=2) + F.interpolate(
            F.avg_pool2d(y, 2), scale_factor=2, mode="bilinear")
        n, c, h, w = y.shape
        return self.fc(y.reshape(n, c, h * w).permute(0, 2, 1)).mean(1)


OPEN = {"resnet20": (zoo.resnet20, (1, 3, (16, 64), (16, 48))),
        "mobilenet_v3_small": (zoo.mobilenet_v3_small, (1, 3, (32, 96), (32, 80))),
        "gated": (Gated, (1, 3, (16, 64, 4), (16, 48, 4)))}


@pytest.mark.parametrize("which", OPEN)
@pytest.mark.parametrize("quantised", [False, True])
def test_networks_with_open_sizes_become_onnx_files_with_open_sizes(which, quantised):
    pytest.importorskip("onnx", reason="ONNX files need the onnx package")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    build, shape = OPEN[which]
    # Numbers of the test's own: with others' before, another byte here and there is rounded.
    rng = np.random.default_rng(3)
    ck.manual_seed(0)
    program = ck.compile(build().eval(), shape, precision="highest")
    sizes = [(32, 32), (48, 36), (36, 48)]
    if quantised:
        program = ck.quantize(program, [rng.standard_normal((2, 3, *s), np.float32) for s in sizes])
    proto = ck.io.onnx.to_model(program)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] \
        == ["N", 3, "H", "W"]
    session = runtime.InferenceSession(proto.SerializeToString(),
                                       providers=["CPUExecutionProvider"])
    name = proto.graph.input[0].name
    again = ck.compile(ck.io.onnx.from_model(proto, {name: ("N", *shape[1:])}),
                       precision="highest")
    for h, w in sizes:
        x = rng.standard_normal((2, 3, h, w), np.float32)
        mine = program(x)
        (theirs,) = session.run(None, {name: x})
        # A byte may be rounded the other way, where the sums before it were rounded differently.
        bound = 0.05 if quantised else 1e-5
        assert np.abs(theirs - mine).max() <= bound * np.abs(mine).max()
        assert np.abs(again(x) - mine).max() <= bound * np.abs(mine).max()


@pytest.mark.parametrize("quantised", [False, True])
def test_weights_of_open_sizes_are_written_once(quantised, monkeypatch):
    pytest.importorskip("onnx", reason="ONNX files need the onnx package")
    from convkit.io.onnx import writer, writing

    program = ck.compile(zoo.resnet20().eval(), OPEN["resnet20"][1])
    if quantised:
        program = ck.quantize(program, array(2, 3, 32, 32))
    made, tensor = [], writer.tensor

    def counted(name, values):
        made.append(values.nbytes)
        return tensor(name, values)

    for module in (writer, writing):
        monkeypatch.setattr(module, "tensor", counted)
    proto = ck.io.onnx.to_model(program)
    weights = sum(len(c.raw_data) for c in proto.graph.initializer)
    assert sum(made) < 1.2 * weights


def test_networks_on_bytes_take_every_size(tmp_path):
    program = ck.compile(UNet().eval(), IMAGE)
    sizes = [(16, 16), (33, 47), (64, 20)]
    data = [array(4, 3, *s) for s in sizes]
    small = ck.quantize(program, data, max_error=0.5)
    assert small.quantized and small.graph.open_sizes() == program.graph.open_sizes()
    save(small, tmp_path / "small.ckit")
    again = load(tmp_path / "small.ckit")
    for h, w in sizes:
        x = array(3, 3, h, w)
        want, got = program(x), small(x)
        assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
        assert again(x).tobytes() == got.tobytes() == np.concatenate(
            [small(x[i:i + 1]) for i in range(3)]).tobytes()
        fixed = ck.compile(small.graph.at_size(H=h, W=w))
        assert np.linalg.norm(fixed(x) - want) < 0.05 * np.linalg.norm(want)


def test_points_of_no_open_sizes_are_the_two_batches():
    assert [p.batch for p in points_of([(OpenDim((Term(H),)).largest(1), 3)])] == list(PROBES)
