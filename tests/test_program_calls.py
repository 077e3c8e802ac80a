"""Calling Programs: from many threads, after a fork, asynchronously; memory; edges."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from harness import LAYOUTS, assert_same_bits, lay_out, random_array
from program_checks import NetworkMaker, op_by_op, random_inputs, run

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit.infer import (
    BatchDim,
    Graph,
    Node,
    Port,
    Program,
    Value,
    run_pipeline,
    trace,
    verify,
)


def network() -> nn.Module:
    ck.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 36, 10))


@pytest.fixture(scope="module")
def program() -> Program:
    return ck.compile(network(), (1, 3, 12, 12))


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")


# -- concurrency ----------------------------------------------------------------------------


def together(work, count: int) -> None:
    """Run work(i) in `count` threads; raise the first error."""
    errors = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_python_threads_share_a_program(threads):
    maker = NetworkMaker(13)
    graph = run_pipeline(trace(maker, (1, *maker.input)))
    shared = Program(graph, threads=threads)
    inputs = [random_inputs(graph, 1 + i % 5, seed=i) for i in range(8)]
    want = [tuple(op_by_op(graph, x)) for x in inputs]

    def work(i: int) -> None:
        for _ in range(25):
            assert_same_bits(tuple(run(shared, inputs[i])), want[i], f"thread {i}")

    together(work, 8)


def test_the_interpreter_goes_on_while_a_program_runs():
    ck.manual_seed(0)
    wide = ck.compile(nn.Conv2d(128, 256, 3, padding=1), (1, 128, 64, 64), threads=1)
    x = random_array((8, 128, 64, 64))
    wide(x)
    ticks, done = [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    wide(x)
    end = time.perf_counter()
    done.set()
    ticker.join()
    within = [t for t in ticks if start < t < end]
    assert len(within) >= 0.2 * (end - start) / 0.001, f"{len(within)} ticks in {end - start:.4f} s"


FORK = """
import os, sys, threading
import numpy as np
import convkit as ck
from convkit import nn
from convkit.infer.lowering import making
ck.manual_seed(0)
ck.set_num_threads(2)
layer = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
program = ck.compile(layer, (1, 32, 40, 40))
fresh = ck.compile(layer, (1, 32, 40, 40), check=False)
x = np.random.default_rng(0).standard_normal((4, 32, 40, 40)).astype(np.float32)
want = program(x)
import asyncio
assert (asyncio.run(program.run_async(x)) == want).all()
stop = threading.Event()
def busy():
    while not stop.is_set():
        program(x)
worker = threading.Thread(target=busy)
worker.start()
uncut = ck.compile(layer, (1, 32, 40, 40), check=False)
uncut(x[:1])
making().acquire()      # as a thread does that the child lacks
pid = os.fork()
if pid == 0:
    ok = all((p(x) == want).all() for p in (program, fresh, uncut))
    ok = ok and (asyncio.run(program.run_async(x)) == want).all()
    os._exit(0 if ok else 3)
making().release()
_, status = os.waitpid(pid, 0)
stop.set()
worker.join()
sys.exit(os.waitstatus_to_exitcode(status) or int(not (program(x) == want).all()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_can_call():
    result = subprocess.run([sys.executable, "-c", FORK], timeout=60, capture_output=True,
                            text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert result.returncode == 0, result.stderr


# -- asynchronous ---------------------------------------------------------------------------


def test_run_async(program):
    inputs = [random_array((1 + i % 3, 3, 12, 12), seed=i) for i in range(12)]
    want = [program(x) for x in inputs]
    threads = threading.active_count()

    async def all_of_them():
        return await asyncio.gather(*[program.run_async(x) for x in inputs])

    for got, expected in zip(asyncio.run(all_of_them()), want, strict=True):
        assert_same_bits(got, expected)
    assert threading.active_count() <= threads + 4
    out = np.empty_like(want[0])
    assert asyncio.run(program.run_async(inputs[0], out=out)) is out
    with pytest.raises(ck.ShapeError, match="expected shape"):
        asyncio.run(program.run_async(np.zeros((1, 2), np.float32)))


def test_run_async_uses_the_callers_number_of_threads():
    seen = []
    program = ck.compile(lambda x: F.relu(x), (1, 3))
    original = program.run

    def watching(x, out=None):
        seen.append(ck.get_num_threads())
        return original(x, out)

    program.run = watching
    with ck.threads(3):
        asyncio.run(program.run_async(np.zeros((1, 3), np.float32)))
    assert seen == [3]


# -- memory ---------------------------------------------------------------------------------


@needs_proc
def test_many_runs_do_not_grow(program):
    small = ck.compile(nn.Linear(8, 8), (1, 8), threads=1)
    x, image = random_array((1, 8)), random_array((3, 3, 12, 12))
    out = np.empty((3, 10), np.float32)
    for _ in range(300):
        small(x)
        program.run(image, out=out)
    gc.collect()
    before = resident()
    for _ in range(20_000):
        small(x)
    for _ in range(1_000):
        program.run(image, out=out)
    gc.collect()
    assert resident() - before < 1 << 20


@needs_proc
def test_changing_batches_level_off():
    program = ck.compile(network(), (1, 3, 12, 12))
    rng = np.random.default_rng(0)
    x = random_array((65, 3, 12, 12))
    program(x)
    sizes = []
    for _ in range(4):
        for _ in range(100):
            program(x[:int(rng.integers(1, 66))])
        sizes.append(program._lowered.runner.idle_bytes())
    assert len(set(sizes)) == 1


def test_trim_gives_memory_back():
    program = ck.compile(network(), (1, 3, 12, 12))
    x = random_array((32, 3, 12, 12))
    program.trim()
    want = program(x)
    runner = program._lowered.runner
    values, scratch = runner.bytes(32, ck.get_num_threads())
    assert runner.idle_bytes() >= values + scratch
    program.trim()
    assert runner.idle_bytes() == 0
    assert_same_bits(program(x), want)


def test_arenas_of_many_threads_are_bounded():
    program = ck.compile(nn.Linear(8, 8), (1, 8), threads=1)
    x = random_array((4, 8))
    together(lambda i: [program(x) for _ in range(20)], 80)
    runner = program._lowered.runner
    each = sum(runner.bytes(4, 1)) + 4096
    assert runner.idle_bytes() <= 8 * each


def test_warm_up_does_the_work_of_the_first_call():
    program = ck.compile(network(), (1, 3, 12, 12), check=False)
    assert program._lowered is None
    program.warm_up(5)
    runner = program._lowered.runner
    assert runner.idle_bytes() >= sum(runner.bytes(5, ck.get_num_threads()))
    for batch in (0, True, 1.5):
        with pytest.raises(ValueError, match="expected a batch of at least 1"):
            program.warm_up(batch)


# -- inputs and outputs ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (1, 3, 12, 12), (5, 3, 12, 12)])
def test_inputs_in_any_layout(program, layout, shape):
    x = random_array(shape)
    assert_same_bits(program(lay_out(x, layout)), program(x))


def test_inputs_are_left_alone(program):
    x = random_array((2, 3, 12, 12))
    before = x.copy()
    x.flags.writeable = False
    program(x)
    np.testing.assert_array_equal(x, before)


def test_inputs_by_name_and_by_protocols(program):
    x = random_array((2, 3, 12, 12))
    want = program(x)
    (name,) = program.input_shapes

    class ByArray:
        def __array__(self, dtype=None, copy=None):
            return x

    class ByDlpack:
        def __dlpack__(self, **options):
            return x.__dlpack__(**options)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    for given in ({name: x}, ByArray(), ByDlpack(), {name: ByDlpack()}, x.tolist(), ck.tensor(x)):
        assert_same_bits(program.run(given), want)


def test_tensors_of_pytorch_are_taken(program):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = random_array((2, 3, 12, 12))
    assert_same_bits(program(torch.from_numpy(x)), program(x))
    last = torch.from_numpy(x).to(memory_format=torch.channels_last)
    assert_same_bits(program(last), program(x))


def test_results_are_written_into_out_directly():
    program = ck.compile(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))
    x = random_array((2, 3, 8, 8))
    want = program(x)
    outs = {
        "as a new result": np.empty_like(want),
        "C order": np.empty(want.shape, np.float32),
        "reversed": np.empty(want.shape, np.float32)[:, ::-1],
        "part": np.empty((2, 4, 6, 12), np.float32)[..., ::2],
        "misaligned": np.frombuffer(bytearray(want.nbytes + 1), np.uint8)[1:].view(
            np.float32).reshape(want.shape),
    }
    for name, out in outs.items():
        assert program.run(x, out=out) is out
        assert_same_bits(np.ascontiguousarray(out), np.ascontiguousarray(want), name)
    out = outs["as a new result"]
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out for 'output': the array is read-only"):
        program.run(x, out=out)


def test_out_may_be_the_input():
    program = ck.compile(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), (1, 4, 9, 9))
    x = random_array((2, 4, 9, 9))
    for layout in ("C order", "channels last"):
        y = np.array(x) if layout == "C order" else \
            np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        want = program(y)
        assert program.run(y, out=y) is y
        assert_same_bits(np.ascontiguousarray(y), np.ascontiguousarray(want), layout)


def test_absurd_batches_are_refused():
    wide = Value((BatchDim(), 1 << 20, 1 << 18))
    graph = Graph((Port("x", 0),), {}, (
        Node("expand", (0,), (1,), {"shape": (-1, 1 << 20, 1 << 18)}),
        Node("sum", (1,), (2,), {"dim": (1, 2), "keepdim": False})),
        (Port("y", 2),), {0: Value((BatchDim(), 1, 1)), 1: wide, 2: Value((BatchDim(),))})
    verify(graph)
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 24, 1, 1), (0, 4, 4))
    with pytest.raises(MemoryError, match="no memory for a batch of 16777216"):
        Program(graph).run(x)


def test_an_error_in_a_python_step_comes_through_and_leaves_the_program_usable(monkeypatch):
    from convkit.ops.op import REGISTRY

    program = ck.compile(lambda x: F.relu(x.sum(0)), (1, 3))
    x = random_array((2, 3))
    want = program(x)
    broken = Program(program.graph)
    with monkeypatch.context() as patched:
        patched.setattr(REGISTRY["sum"], "forward", staticmethod(
            lambda ctx, x, **_: (_ for _ in ()).throw(OSError("broken"))))
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                broken(x)
    assert_same_bits(program(x), want)


# -- pickling, profile ----------------------------------------------------------------------


def test_programs_pickle():
    program = ck.compile(network(), (1, 3, 12, 12), threads=1, precision="highest",
                         metadata={"labels": list("abcdefghij")})
    x = random_array((2, 3, 12, 12))
    again = pickle.loads(pickle.dumps(program))
    assert_same_bits(again(x), program(x))
    assert (again.threads, again.precision, again.max_error, again.labels) == (
        1, "highest", program.max_error, program.labels)


def test_programs_of_float64_pickle():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    x = random_array((2, 2, 5, 5)).astype(np.float64)
    program = ck.compile(model, example=x)
    assert_same_bits(pickle.loads(pickle.dumps(program))(x), program(x))


def test_profile(program):
    x = random_array((4, 3, 12, 12))
    profile = program.profile(x, repeats=3)
    names = [node.name for node in profile.nodes if node.op != "copy"]
    assert names == [node.name for node in program.graph.nodes]
    assert (profile.batch, profile.repeats) == (4, 3)
    assert sum(node.share for node in profile.nodes) == pytest.approx(1)
    convolution = next(n for n in profile.nodes if n.op == "conv")
    assert convolution.seconds > 0 and convolution.gflops > 0 and convolution.algorithm
    lines = str(profile).splitlines()
    assert lines[0] == f"batch 4, threads {ck.get_num_threads()}, median of 3"
    assert lines[1].split() == ["step", "op", "algorithm", "ms", "share", "GFLOP/s"]
    assert lines[-1].startswith("total")
    assert "python" in str(ck.compile(lambda x: x.sum(0), (1, 3)).profile(np.ones((1, 3), "f")))
    for repeats in (0, True, 2.0):
        with pytest.raises(ValueError, match="expected repeats of at least 1"):
            program.profile(x, repeats)


def test_summary_says_what_computes_each_step(program):
    text = program.summary()
    assert re.search(r"conv +\(N, 16, 12, 12\) +9,216 .*relu +(direct|winograd)", text)
    assert re.search(r"arena for intermediates: [\d,]+ bytes a sample", text)
