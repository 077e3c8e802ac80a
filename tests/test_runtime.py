"""Threads, memory, and being a good guest in another program's process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cases import all_cases
from harness import assert_same_bits, random_array, run_op, run_python

import convkit as ck
from convkit import functional as F
from convkit import nn, reference, runtime
from convkit._kernels import dispatch, memory
from convkit._kernels import threads as kernel_threads
from convkit.ops.op import REGISTRY

needs_threads = pytest.mark.skipif(
    not kernel_threads.have_threads(), reason="no threads on this platform")


# -- how many threads -----------------------------------------------------------------------


def test_set_and_get():
    before = ck.get_num_threads()
    try:
        ck.set_num_threads(3)
        assert ck.get_num_threads() == 3
        ck.set_num_threads(np.int64(2))
        assert ck.get_num_threads() == 2
    finally:
        ck.set_num_threads(before)


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_a_number_out_of_range(n):
    with pytest.raises(ValueError, match=f"expected 1 to 1024 threads, got {n}"):
        ck.set_num_threads(n)
    with pytest.raises(ValueError, match=f"got {n}"), ck.threads(n):
        pass


@pytest.mark.parametrize("n", [1.5, "2", None, True])
def test_no_number(n):
    with pytest.raises(TypeError, match="expected a number of threads as an int"):
        ck.set_num_threads(n)


def test_context_restores_also_after_an_error():
    before = ck.get_num_threads()
    with ck.threads(5):
        assert ck.get_num_threads() == 5
        with ck.threads(7):
            assert ck.get_num_threads() == 7
        assert ck.get_num_threads() == 5
    with pytest.raises(KeyError), ck.threads(9):
        raise KeyError
    assert ck.get_num_threads() == before


def test_context_is_this_python_threads_own():
    seen = []
    with ck.threads(6):
        other = threading.Thread(target=lambda: seen.append(ck.get_num_threads()))
        other.start()
        other.join()
    assert seen == [runtime._process_threads]


def threads_of_child(**env):
    code = "import convkit; print(convkit.get_num_threads())"
    return run_python(code, {"OMP_NUM_THREADS": "", **env}, check=False)


def test_environment():
    assert threads_of_child(CONVKIT_NUM_THREADS="7").stdout == "7\n"
    assert threads_of_child(CONVKIT_NUM_THREADS="7", OMP_NUM_THREADS="1").stdout == "7\n"
    assert threads_of_child(OMP_NUM_THREADS="1").stdout == "1\n"
    assert int(threads_of_child(OMP_NUM_THREADS="900").stdout) <= os.cpu_count()


@pytest.mark.parametrize("text", ["0", "-2", "many", "1.5", "99999"])
def test_a_wrong_environment_is_an_import_error(text):
    done = threads_of_child(CONVKIT_NUM_THREADS=text)
    assert done.returncode == 1
    assert (f"ImportError: CONVKIT_NUM_THREADS={text!r}: expected a number of threads "
            "from 1 to 1024") in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_is_respected():
    code = """
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        import convkit
        print(convkit.get_num_threads())
    """
    assert run_python(code, {"OMP_NUM_THREADS": ""}).stdout == "1\n"


def fake_cgroup(tmp_path, monkeypatch, files):
    """Let the runtime read control groups from files below a folder."""
    for name, text in files.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(
        runtime, "_text", lambda path: Path(tmp_path, path.lstrip("/")).read_text())


@pytest.mark.parametrize(("quota", "expected"), [
    ("150000 100000", 1.5), ("50000 100000", 0.5), ("max 100000", None), ("nonsense", None)])
def test_cgroup_version_2(tmp_path, monkeypatch, quota, expected):
    fake_cgroup(tmp_path, monkeypatch, {
        "/proc/self/cgroup": "0::/app/job\n", "/sys/fs/cgroup/app/job/cpu.max": quota + "\n"})
    assert runtime._cgroup_quota() == expected


def test_cgroup_version_2_inside_a_container(tmp_path, monkeypatch):
    fake_cgroup(tmp_path, monkeypatch, {
        "/proc/self/cgroup": "0::/not/mounted/here\n",
        "/sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert runtime._cgroup_quota() == 2


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None)])
def test_cgroup_version_1(tmp_path, monkeypatch, quota, expected):
    folder = "/sys/fs/cgroup/cpu/job"
    fake_cgroup(tmp_path, monkeypatch, {
        "/proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n",
        f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"})
    assert runtime._cgroup_quota() == expected


def test_unreadable_cgroups_mean_no_limit(tmp_path, monkeypatch):
    fake_cgroup(tmp_path, monkeypatch, {})
    assert runtime._cgroup_quota() is None


def test_quota_limits_the_default(monkeypatch):
    for name in ("CONVKIT_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for quota, expected in ((0.5, 1), (1.5, 2), (16, 16), (None, 64), (100, 64)):
        monkeypatch.setattr(runtime, "_cgroup_quota", lambda q=quota: q)
        assert runtime.default_num_threads() == expected


def test_show_config(capsys):
    ck.show_config()
    text = capsys.readouterr().out
    for part in (ck.__version__, dispatch.isa(), dispatch.cpu_name(), np.__version__):
        assert part in text
    assert runtime.config()["instruction set in use"] in dispatch.supported_isas()


@needs_threads
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_small_work_stays_on_one_thread():
    code = """
        import os
        import numpy as np
        from convkit import functional as F
        from convkit._kernels import threads as kernel_threads

        x = np.ones((4, 16, 20, 20), np.float32)
        w = np.ones((16, 16, 3, 3), np.float32)
        before = len(os.listdir("/proc/self/task"))
        F.conv2d(x[:1, :, :4, :4], w)
        assert len(os.listdir("/proc/self/task")) == before, "small work started a team"
        kernel_threads.set_work_per_thread(0.0)
        F.conv2d(x, w)
        assert len(os.listdir("/proc/self/task")) == before + 2, "no team of three"
    """
    run_python(code, {"CONVKIT_NUM_THREADS": "3"})


# -- memory ---------------------------------------------------------------------------------


def test_arrays_are_aligned_and_reused():
    a = memory.empty((300, 7, 5), np.float32)
    assert a.shape == (300, 7, 5) and a.flags.c_contiguous and a.flags.writeable
    address = a.ctypes.data
    assert address % 64 == 0
    before = memory.stats()["reused"]
    del a
    b = memory.empty((300 * 35,), np.float32)
    assert b.ctypes.data == address
    assert memory.stats()["reused"] == before + 1


def test_a_view_keeps_its_memory():
    a = memory.empty((64, 64), np.float64)
    a[...] = 3
    view = a[5:7].T
    del a
    others = [memory.zeros((64, 64), np.float64) for _ in range(8)]
    np.testing.assert_array_equal(view, 3)
    del others


def test_the_pool_is_bounded():
    before = memory.stats()["bound"]
    try:
        memory.set_bound(1 << 20)
        arrays = [memory.empty((1 << 18,), np.uint8) for _ in range(32)]
        del arrays
        assert memory.stats()["held"] <= 1 << 20
        memory.trim()
        assert memory.stats()["held"] == 0
    finally:
        memory.set_bound(before)


def test_two_arrays_of_half_the_size_fill_what_one_leaves():
    """What is kept as bfloat16 lies where float32 lay, in the smallest span that serves."""
    run_python("""
    import numpy as np
    from convkit._kernels import memory

    for size in (100_000, 1 << 20, 3_211_264, 12_845_056):
        whole = memory.empty((size,), np.uint16)
        guard = memory.empty((size // 2,), np.uint16)
        larger = memory.empty((3 * size,), np.uint16)
        last = memory.empty((size // 2,), np.uint16)
        begin, bytes = whole.ctypes.data, whole.nbytes
        del whole, larger
        halves = [memory.empty((size // 2,), np.uint16) for _ in range(2)]
        assert [begin <= h.ctypes.data <= begin + bytes // 2 * 1.01 for h in halves] == [True] * 2
        del halves, guard, last
    """)


def test_large_blocks_serve_any_size():
    """What came back is joined: neither larger nor smaller arrays need new pages."""
    run_python("""
    import numpy as np
    from convkit._kernels import memory

    parts = [memory.empty((1 << 20,), np.uint8) for _ in range(8)]
    for i in (3, 1, 5, 0, 7, 2, 6, 4):
        parts[i] = None
    before = memory.stats()
    assert before["used"] == 0 and before["most"] >= 8 << 20
    whole = memory.empty((8 << 20,), np.uint8)
    del whole
    parts = [memory.empty((size,), np.uint8) for size in (5 << 20, 2 << 20, 100_000, 700_001)]
    after = memory.stats()
    assert after["fresh"] == before["fresh"] and after["reused"] == before["reused"] + 5
    assert after["used"] + after["held"] == before["held"]
    del parts
    memory.trim()
    assert memory.stats()["held"] == memory.stats()["used"] == 0
    """)


def test_blocks_never_overlap():
    """Threads take and give back blocks of all sizes, with and without a bound in the way."""
    run_python("""
    import threading
    import numpy as np
    from convkit._kernels import memory

    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        kept = []
        for step in range(1500):
            size = int(rng.choice([700, 5000, 66_000, 300_000, 1_500_000]) * rng.uniform(1, 2))
            array = memory.empty((size,), np.uint8)
            mark = int(rng.integers(256))
            array[::64] = mark
            array[-1] = mark
            kept.append((array, mark))
            if len(kept) > 20 or rng.random() < 0.3:
                old, mark = kept.pop(int(rng.integers(len(kept))))
                if not (old[::64] == mark).all() or old[-1] != mark:
                    wrong.append(seed)

    for bound in (1 << 30, 1 << 22, 0):
        memory.set_bound(bound)
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        memory.empty((1 << 17,), np.uint8)  # joins what came back late
        assert not wrong and memory.stats()["used"] == 0
        assert memory.stats()["held"] <= bound
    """)


def test_sizes_beyond_memory():
    for shape in ((1 << 62, 1 << 62), (1 << 60,), (1 << 45,)):
        with pytest.raises(MemoryError, match=r"too large|could not allocate"):
            memory.empty(shape, np.float64)
    assert memory.empty((0, 1 << 50), np.float32).shape == (0, 1 << 50)


def test_a_steady_step_asks_the_system_for_nothing():
    x, w = random_array((4, 16, 20, 20)), ck.Tensor(random_array((16, 16, 3, 3)), True)

    def step():
        y = F.relu(F.conv2d(x, w, padding=1))
        y.backward(y.detach())
        w.grad = None

    for _ in range(3):
        step()
    before = memory.stats()["fresh"]
    for _ in range(10):
        step()
    assert memory.stats()["fresh"] == before


# -- the host program's process -------------------------------------------------------------

STEP = """
    import sys
    import numpy as np
    import convkit as ck
    from convkit import functional as F
    from convkit._kernels import threads as kernel_threads
    from harness import random_array

    kernel_threads.set_work_per_thread(0.0)
    x, w = random_array((6, 8, 24, 24)), random_array((16, 8, 3, 3), seed=1)

    def step():
        t, v = ck.Tensor(x, requires_grad=True), ck.Tensor(w, requires_grad=True)
        y = F.relu(F.conv2d(t, v, padding=1))
        y.backward(y.detach())
        return b"".join(np.ascontiguousarray(a).tobytes() for a in (y.data, t.grad, v.grad))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_works_and_has_the_same_bits(threads):
    code = STEP + """
    import os
    import time
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)
    before = step()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(0 if step() == before else 7)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - start > 5:
            os.kill(child, 9)
            os.waitpid(child, 0)
            sys.exit("the child hangs")
        time.sleep(0.01)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"the child ended with {os.waitstatus_to_exitcode(status)}")
    assert step() == before
    """
    run_python(code, {"CONVKIT_NUM_THREADS": str(threads)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_while_another_thread_computes():
    code = STEP + """
    import os
    import threading
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)
    want = step()
    stop = False

    def work():
        while not stop:
            step()

    other = threading.Thread(target=work)
    other.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if step() == want else 7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop = True
    other.join()
    """
    run_python(code, {"CONVKIT_NUM_THREADS": "2"}, timeout=60)


def denormals_work() -> bool:
    """Tell whether this thread computes with denormals: neither flushed nor read as zero."""
    tiny = np.array([np.finfo(np.float32).tiny], np.float32)
    half = tiny * np.float32(0.5)
    return bool(half[0] > 0) and bool((half * np.float32(2))[0] == tiny[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_floating_point_state_is_left_alone(threads):
    assert denormals_work()
    x = ck.Tensor(random_array((4, 8, 20, 20)), requires_grad=True)
    w = ck.Tensor(random_array((8, 8, 3, 3)), requires_grad=True)
    with ck.threads(threads):
        y = F.relu(F.conv2d(x, w))
        assert denormals_work()
        y.backward(y.detach())
    assert denormals_work()


def test_no_operation_touches_the_floating_point_state():
    """Each operation once, forward and backward, and a Program; on one thread and on two."""
    seen = set()
    for case in all_cases(seed=5, wide=False):
        if case.name in seen or "fused" in case.tag:
            continue
        seen.add(case.name)
        inputs = [a.astype(np.float32) if a is not None and a.dtype.kind == "f" else a
                  for a in case.inputs]
        op = REGISTRY[case.name]
        y = run_op(op, inputs, case.attrs, (), None).outputs[0]
        grads = getattr(reference, case.name + "_grad")(
            random_array(y.shape), *inputs, **case.attrs)
        wanted = [i for i, g in enumerate(grads) if g is not None]
        for threads in (1, 2):
            run_op(op, inputs, case.attrs, wanted, random_array(y.shape), threads)
            assert denormals_work(), case
    assert len(seen) > 40
    program = ck.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 8, 8))
    program(np.ones((2, 3, 8, 8), np.float32))
    assert denormals_work()


def test_a_caller_that_flushes_denormals_goes_on_flushing(torch):
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot be told to flush denormals")
    try:
        assert not denormals_work()
        y = F.conv2d(ck.Tensor(random_array((2, 3, 8, 8)), True), random_array((4, 3, 3, 3)))
        assert not denormals_work()
        y.backward(y.detach())
        assert not denormals_work()
    finally:
        torch.set_flush_denormal(False)
    assert denormals_work()


def test_import_leaves_the_floating_point_state_alone():
    code = """
        import numpy as np
        half = np.array([np.finfo(np.float32).tiny], np.float32)
        import convkit, convkit.nn
        assert (half * np.float32(0.5))[0] > 0
    """
    run_python(code)


def test_import_starts_no_process_and_opens_no_connection():
    code = """
        import sys
        import numpy
        seen = []

        def watch(event, args):
            if event.split(".")[0] in ("subprocess", "socket", "urllib", "http", "ftplib") or (
                    event in ("os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn",
                              "os.spawn")):
                seen.append((event, args))

        sys.addaudithook(watch)
        import convkit
        import convkit.nn, convkit.optim, convkit.functional
        assert not seen, seen
        heavy = {"torch", "scipy", "onnx", "matplotlib", "sklearn", "PIL", "tqdm", "pandas",
                 "unittest", "asyncio", "multiprocessing"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    run_python(code)


def test_import_takes_at_most_50_ms_over_numpys(tmp_path):
    """CPU time, with modules compiled to Python's cache as after an installation; the best of 6.

    Or half of NumPy's own time: where that takes more than 100 ms (70 are usual), the machine is
    slow at the moment, and both take longer alike.
    """
    code = """
        import time
        start = time.process_time()
        import numpy
        before = time.process_time()
        import convkit
        print(before - start, time.process_time() - before)
    """
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    runs = [[float(t) for t in run_python(code, cached).stdout.split()] for _ in range(6)]
    numpys, ours = (min(times) for times in zip(*runs, strict=True))
    assert ours <= max(0.05, numpys / 2), f"{1e3 * ours:.0f} ms beside {1e3 * numpys:.0f}"


def test_import_loads_little_besides_numpy():
    """Modules are counted, as times depend on what else the machine does.

    On the machine this was written on, 78 modules took 22 ms of CPU time over NumPy's own, and
    tensors' functions and methods (six modules) take 2 more, of the 50 that are promised.
    """
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import convkit
        new = {name for name in set(sys.modules) - before if name.partition(".")[0] != "convkit"}
        allowed = {"__future__", "_heapq", "heapq", "copy", "dataclasses", "threading",
                   "cython_runtime"}
        new = {name for name in new if not name.startswith("_cython_")}
        assert new <= allowed, sorted(new - allowed)
        ours = {name for name in set(sys.modules) - before if name.startswith("convkit")}
        assert len(ours) < 102, len(ours)
        for name in ("infer", "io", "nn", "training", "data", "cli", "models"):
            assert f"convkit.{name}" not in sys.modules, name
    """
    run_python(code)


def test_other_python_threads_keep_running():
    """While kernels run, another Python thread ticks: they do not hold the GIL."""
    x, w = random_array((8, 64, 64, 64)), random_array((64, 64, 3, 3))
    F.conv2d(x, w, padding=1)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    other = threading.Thread(target=tick)
    other.start()
    try:
        with ck.threads(1):
            inside = 0
            for _ in range(200):
                start = time.perf_counter()
                F.conv2d(x, w, padding=1)
                end = time.perf_counter()
                inside += sum(start < t < end for t in ticks[-1000:])
                if inside > 20:
                    break
    finally:
        stop.set()
        other.join()
    assert inside > 20


def test_python_threads_compute_side_by_side():
    """Calls from several Python threads at once give the bits that one alone gives."""
    x, w = random_array((3, 8, 20, 20)), random_array((16, 8, 3, 3))
    want = F.conv2d(x, w).data.copy()
    wrong = []

    def work(n):
        for _ in range(20):
            with ck.threads(n):
                try:
                    assert_same_bits(F.conv2d(x, w).data, want)
                except AssertionError as error:
                    wrong.append(error)

    workers = [threading.Thread(target=work, args=(1 + i % 3,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not kernel_threads.have_openmp(), reason="built without OpenMP")
def test_openmp_gives_the_same_bits_and_children_work():
    code = """
import hashlib, os
import numpy as np
import convkit as ck
from convkit import functional as F, runtime
from convkit._kernels import threads
threads.set_work_per_thread(0)
ck.set_num_threads(3)
rng = np.random.default_rng(0)
x, w = (ck.tensor(rng.standard_normal(s, dtype=np.float32), requires_grad=True)
        for s in ((4, 16, 20, 20), (24, 16, 3, 3)))
def run():
    x.grad = w.grad = None
    y = F.conv2d(x, w, padding=1)
    y.sum().backward()
    return b"".join(np.ascontiguousarray(a).tobytes()
                    for a in (y.detach().numpy(), x.grad.numpy(), w.grad.numpy()))
digest = hashlib.sha256(run()).hexdigest()
child = os.fork()
if child == 0:
    os._exit(hashlib.sha256(run()).hexdigest() != digest)
assert os.waitpid(child, 0)[1] == 0
print(runtime.config()["threading"], digest)
"""
    found = [run_python(code, {"CONVKIT_THREADING": which}).stdout.split()
             for which in ("workers", "openmp")]
    assert [name for name, _ in found] == ["workers", "openmp"]
    assert found[0][1] == found[1][1]
    message = "CONVKIT_THREADING: expected 'workers' or 'openmp', got 'fibres'"
    assert message in run_python("""
try:
    import convkit
except ValueError as error:
    print(error)
""", {"CONVKIT_THREADING": "fibres"}).stdout
