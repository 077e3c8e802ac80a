"""Batches that go through a Program's steps a few samples at a time."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from harness import assert_same_bits, random_array
from program_checks import cut_finely, cut_program, op_by_op, random_inputs, run

import convkit as ck
import convkit.functional as F
from convkit import models, nn
from convkit._kernels import threads as kernel_threads
from convkit.autograd import apply
from convkit.infer import Program, lowering, run_pipeline, segments, trace
from convkit.infer.places import Block
from convkit.infer.plan import plan_segments
from convkit.infer.segments import Load, Segment, crossing, cut
from convkit.ops.op import REGISTRY

BATCHES = (1, 2, 3, 5, 8)
SMALL, LARGE = 10_000, 1_000_000


@pytest.fixture(autouse=True)
def small_work_on_several_threads():
    before = kernel_threads.set_work_per_thread(0)
    yield
    kernel_threads.set_work_per_thread(before)


# -- the choice -----------------------------------------------------------------------------


def test_steps_on_large_samples_take_one_at_a_time():
    assert cut([Load(True, LARGE, 0, 0)] * 4, [LARGE // 2] * 4) == [Segment(0, 4, 1)]


def test_steps_on_small_samples_take_many():
    segments = cut([Load(True, SMALL, 0, 0)] * 4, [SMALL] * 4)
    assert len(segments) == 1 and segments[0].samples >= 24


def test_large_weights_are_read_for_the_whole_batch():
    wide, heavy = Load(True, 800_000, 10_000, 0), Load(True, SMALL, 50_000_000, 0)
    assert cut([wide, wide, heavy, heavy], [0, 400_000, SMALL, SMALL]) == [
        Segment(0, 2, 1), Segment(2, 4, 0)]


def test_there_is_no_cut_where_much_would_be_kept_for_little():
    few, more = Load(True, 400_000, 100_000, 0), Load(True, 350_000, 200_000, 0)
    assert len(cut([few, more, few], [0, 10_000_000, 10_000_000])) == 1


def test_steps_that_mix_samples_take_all_of_them():
    wide, mixed = Load(True, 800_000, 0, 0), Load(False, 800_000, 0, 0)
    segments = cut([wide, wide, wide, mixed, wide, wide, wide], [0, *[1000] * 6])
    assert [s.samples for s in segments] == [1, 0, 1]
    assert segments[1][:2] == (3, 4)


def test_segments_cover_all_steps():
    rng = np.random.default_rng(0)
    for _ in range(50):
        loads = [Load(bool(rng.random() < 0.8), int(10 ** rng.uniform(2, 7)),
                      10 ** rng.uniform(2, 7), 0) for _ in range(int(rng.integers(1, 30)))]
        segments = cut(loads, [int(10 ** rng.uniform(2, 6)) for _ in loads])
        assert [s.first for s in segments] == [0, *[s.stop for s in segments[:-1]]]
        assert segments[-1].stop == len(loads)
        assert all(not s.samples or all(x.apart for x in loads[s.first:s.stop]) for s in segments)


def test_what_crosses_cuts():
    blocks = []
    for first, last in ((-1, 0), (0, 1), (0, 3), (2, 3)):
        blocks.append(Block(10 ** len(blocks), 0))
        blocks[-1].use(first)
        blocks[-1].use(last)
    assert crossing(blocks, 4) == [1, 110, 100, 1100]


def test_networks_of_many_pixels_are_cut():
    program = ck.compile(models.resnet18(), (1, 3, 224, 224))
    first, *_ = program._lowered.segments
    assert first.samples == 1 and first.stop > 5
    assert "samples of a batch that a thread takes at a time: 1 up to layer" in program.summary()


def test_steps_are_cut_at_the_first_call_with_several_samples(monkeypatch):
    """And once, however many threads bring such calls at the same time."""
    made = []

    def slowly(loads, crossing):
        made.append(len(loads))
        time.sleep(0.05)
        return [Segment(0, len(loads), 1)]

    monkeypatch.setattr(segments, "cut", slowly)
    graph = trace(lambda x: F.sigmoid(F.relu(x)), (1, 100))
    program, x = Program(graph), random_array((5, 100))
    want = op_by_op(graph, [x])[0]
    for _ in range(2):
        assert_same_bits(program(x[:1]), want[:1])
    program._ready().runner.bytes(1, 2)
    assert not made
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(program, [x] * 16):
            assert_same_bits(got, want)
    assert made == [2]
    assert program._lowered.segments == (Segment(0, 2, 1),)


def test_a_failure_to_cut_is_of_one_call(monkeypatch):
    graph = trace(lambda x: F.sigmoid(F.relu(x)), (1, 100))
    program, x = Program(graph), random_array((5, 100))
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "plan_segments", lambda *args: 1 / 0)
        with cut_finely(1, 1), pytest.raises(ZeroDivisionError):
            program(x)
    with cut_finely(1, 1):
        assert_same_bits(program(x), op_by_op(graph, [x])[0])
    assert program._lowered.segments


# -- the plan -------------------------------------------------------------------------------


def test_values_within_a_segment_lie_apart_from_those_that_cross():
    rng = np.random.default_rng(3)
    segments = [Segment(0, 10, 2), Segment(10, 12, 0), Segment(12, 20, 0), Segment(20, 40, 1)]
    blocks = []
    for i in range(150):
        first = int(rng.integers(0, 40))
        size = int(rng.integers(1, 5000))
        blocks.append(Block(size, 0) if i % 5 else Block(0, size))
        blocks[-1].use(first)
        blocks[-1].use(min(39, first + int(rng.integers(0, 6))))
    total, own = plan_segments(blocks, segments)

    def where(step):
        return next(i for i, s in enumerate(segments) if s.first <= step < s.stop)

    assert [bool(n) for n in own] == [True, False, False, True]
    for i, a in enumerate(blocks):
        inside = where(a.first) == where(a.last) and segments[where(a.first)].samples > 0
        assert a.own == (inside and a.scaled > 0)
        size = a.scaled or a.fixed
        assert a.offset % 64 == 0
        assert a.offset + size <= (own[where(a.first)] if a.own else total[not a.scaled])
        for b in blocks[:i]:
            if (a.own, bool(a.scaled)) != (b.own, bool(b.scaled)):
                continue
            lives = [(x.first, x.last) if a.own else (where(x.first), where(x.last))
                     for x in (a, b)]
            if lives[0][0] <= lives[1][1] and lives[1][0] <= lives[0][1]:
                assert a.offset >= b.offset + (b.scaled or b.fixed) or b.offset >= a.offset + size


def test_a_cut_arena_hardly_grows_with_the_batch():
    def model(x):
        for _ in range(6):
            x = F.sigmoid(F.relu(x) + x)
        return x

    graph = trace(model, (1, 1000))
    program = cut_program(graph, 100, 2)
    each = 4032     # of a value; an input that is to be copied needs as much for all samples
    values = [program._lowered.runner.bytes(batch, 1)[0] for batch in (1, 2, 16, 64)]
    assert values[:2] == [3 * each, 2 * 3 * each]       # nothing is cut
    assert values[2:] == [16 * each + 2 * 3 * each, 64 * each + 2 * 3 * each]


# -- the bits -------------------------------------------------------------------------------


def check(model, *shapes, precision="high", samples=(1, 2, 3), steps=(2, 100)):
    """Compare cut Programs with the operations one by one."""
    graph = run_pipeline(trace(model, *shapes))
    programs = []
    for number in samples:
        for length in steps:
            programs.append(cut_program(graph, length, number, precision))
            assert any(s.samples for s in programs[-1]._lowered.segments)
    for batch in BATCHES:
        inputs = random_inputs(graph, batch)
        want = tuple(op_by_op(graph, inputs, precision))
        for program in programs:
            for n in (1, 2, 3):
                with ck.threads(n):
                    assert_same_bits(tuple(run(program, inputs)), want,
                                     f"batch {batch}, {n} threads, {program._lowered.segments}")
    return programs


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_residual_networks(precision):
    ck.manual_seed(0)
    check(models.resnet20().eval(), (1, 3, 16, 16), precision=precision, samples=(1, 3))


def test_bytes():
    ck.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
                          nn.Linear(16 * 16, 10)).eval()
    images = random_array((8, 3, 8, 8))
    whole = ck.quantize(model, images)
    for steps, samples in ((1, 1), (3, 2), (100, 3)):
        program = cut_program(whole.graph, steps, samples, "int8")
        for batch in BATCHES:
            for n in (1, 2, 3):
                with ck.threads(n):
                    assert_same_bits(program(images[:batch]), whole(images)[:batch])


def test_joined_channels_and_chains():
    ck.manual_seed(0)
    check(models.create("mobilenet_v2"), (1, 3, 32, 32), samples=(1,), steps=(3,))
    check(dense_block, (1, 16, 9, 9))


def dense_block(x):
    for i in range(3):
        weight = random_array((8, x.shape[1], 3, 3), seed=i)
        x = F.concat([x, F.relu(F.conv2d(x, ck.tensor(weight / 10), padding=1))], 1)
    return x


def test_branches_and_outputs_that_are_read_again():
    def model(x):
        y = F.relu(F.conv2d(x, ck.tensor(random_array((6, 4, 3, 3))), padding=1))
        z = F.max_pool2d(y, 2)
        return y, z + 1, (F.sigmoid(y) * y)[:, 2:4], z.reshape(-1, 9), x

    check(model, (1, 4, 6, 6))


def test_several_inputs_and_what_mixes_the_batch():
    def model(x, y):
        x, y = F.relu(x), F.sigmoid(y)
        total = x.sum(0) + y.mean((0, 2))[:, None]
        return x * total + y, (x + y).reshape(-1, 2, 5).mean(2), F.concat([x, y], 0), total

    check(model, [(1, 4, 5), (1, 4, 5)], samples=(1, 2))


def test_rows_that_are_samples_of_their_own():
    def model(x):
        rows = F.relu(x).reshape(-1, 5)
        rows = F.linear(rows, ck.tensor(random_array((7, 5))))
        return F.softmax(rows, 1).reshape(-1, 4, 7).sum(1)

    check(model, (1, 4, 5))


def test_inputs_in_other_orders_and_results_in_given_arrays():
    graph = trace(lambda x: F.relu(F.conv2d(x, ck.tensor(random_array((5, 3, 3, 3))))) + 1,
                  (1, 3, 9, 9))
    program = cut_program(graph, 1, 1)
    x = random_array((7, 9, 9, 3)).transpose(0, 3, 1, 2)
    want = op_by_op(graph, [x])[0]
    out = np.empty_like(want)
    for n in (1, 2):
        with ck.threads(n):
            for given in (x, np.ascontiguousarray(x), x[::-1].copy()[::-1]):
                assert_same_bits(program(given), want)
                assert program.run(given, out=out) is out
                assert_same_bits(out, want)


def test_open_sizes():
    ck.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    program = ck.compile(model, (1, 3, (6, 12), (6, 12)))
    for size in (7, 12, 7):
        x = random_array((8, 3, size, size))
        with cut_finely(1, 1):
            got = program(x)
        assert program._by_size.program(x)._lowered.segments
        assert_same_bits(got, np.concatenate([program(x[i:i + 1]) for i in range(8)]))


# -- steps that cannot do their work ---------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_that_recovers_has_the_work_done_again(threads):
    ck.manual_seed(1)
    layer = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
                          nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    graph = run_pipeline(trace(layer, (1, 32, 16, 16)))
    x = random_inputs(graph, 7)[0]
    x[1, 3, 4, 5] = np.inf
    x[3] *= 1e37
    x[6, 0, 0, 0] = np.nan
    want = op_by_op(graph, [x])[0]
    for samples in (1, 2):
        with cut_finely(100, samples), ck.threads(threads):
            assert_same_bits(Program(graph)(x), want)


def test_an_error_of_one_sample_is_the_call_s_and_leaves_nothing_behind():
    table = ck.tensor(random_array((5, 2)))

    def model(x):
        places = apply(REGISTRY["cast"], x, dtype="int64")
        return F.relu(apply(REGISTRY["take"], table, places, dim=0))

    graph = trace(model, (1, 4))
    program = cut_program(graph, 100, 1)
    good = (np.arange(32) % 5).reshape(8, 4).astype(np.float32)
    bad = good.copy()
    bad[5, 1] = 7
    want = op_by_op(graph, [good])[0]
    for n in (1, 2):
        with ck.threads(n):
            with pytest.raises(ck.ShapeError, match="expected indices from -5 to 4"):
                program(bad)
            assert_same_bits(program(good), want)


# -- figures --------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_the_time_of_every_step_is_counted_and_none_twice(threads):
    graph = trace(lambda x: F.sigmoid(F.relu(x)).sum(0), (1, 50_000))
    x = random_array((9, 50_000))
    with cut_finely(100, 1), ck.threads(threads):
        program = Program(graph)
        profile = program.profile(x, repeats=3)
        lowered = program._lowered
        made = program._new_results(lowered.outputs, 9)
        seconds = np.zeros(len(lowered.nodes) + 1)
        begin = time.perf_counter()
        lowered.runner.run((x,), made, 9, threads, seconds)
        elapsed = time.perf_counter() - begin
    assert [n.op for n in profile.nodes] == [n.op for n in graph.nodes]
    assert all(node.seconds > 0 for node in profile.nodes)
    assert (seconds[:-1] > 0).all() and seconds.sum() <= elapsed


def test_bytes_are_those_that_a_call_takes():
    graph = run_pipeline(trace(models.resnet20(), (1, 3, 32, 32)))
    program = cut_program(graph, 7, 1)
    runner = program._lowered.runner
    for n in (1, 2, 3):
        for batch in BATCHES:
            program.trim()
            with ck.threads(n):
                program(random_array((batch, 3, 32, 32)))
            values, scratch = runner.bytes(batch, n)
            assert values + scratch <= runner.idle_bytes() <= values + scratch + 8192


def test_summary_says_how_batches_go():
    graph = trace(lambda x: F.relu(F.relu(x).sum(0)), (1, 10))
    with cut_finely(100, 2):
        text = Program(graph).summary()
    assert re.search(r"thread takes at a time: 2 up to \S+, all up to \S+; arena of 32 samples on "
                     r"one thread: [\d,]+ bytes\narena for intermediates: ", text)
    assert "at a time" not in ck.compile(lambda x: x.sum(0), (1, 10)).summary()
