"""Promises of docs/promises.md that no other file shows."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import pkgutil
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from harness import run_python

import convkit as ck
from convkit import models, nn
from convkit._kernels import depthwise, gemm, memory, winograd
from convkit.autograd import forms_made

LONG = os.environ.get("CONVKIT_LONG_TESTS") == "1"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PROGRAM = """
import threading
import numpy as np
import convkit as ck
from convkit import nn

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

program = ck.compile(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), (1, 3, 16, 16))
"""


@linux
def test_64_python_threads_need_no_team_each():
    run_python(PROGRAM + """
import os
x = np.ones((8, 3, 16, 16), np.float32)
want, wrong, counts = program(x).tobytes(), [], []
barrier = threading.Barrier(64)

def work():
    barrier.wait()
    for _ in range(5):
        if program(x).tobytes() != want:
            wrong.append(1)
        counts.append(len(os.listdir("/proc/self/task")))

team = [threading.Thread(target=work) for _ in range(64)]
for t in team: t.start()
for t in team: t.join()
assert not wrong
assert max(counts) <= 1 + 64 + 2, max(counts)
""", {"CONVKIT_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"})


@linux
def test_runs_of_one_shape_do_not_grow():
    run_python(PROGRAM + f"""
x = np.ones((1, 3, 16, 16), np.float32)
for _ in range(500):
    program(x)
before = resident()
for _ in range({1_000_000 if LONG else 100_000}):
    program(x)
assert resident() - before < 1 << 20, resident() - before
""", {"CONVKIT_NUM_THREADS": "1"})


@linux
def test_memory_levels_off_over_random_shapes():
    run_python(PROGRAM + """
import convkit.functional as F
rng = np.random.default_rng(0)
seen = []
for i in range(2_000):
    n, c, o, h, w = (int(v) for v in rng.integers(1, [4, 20, 20, 40, 40]))
    x = ck.Tensor(np.ones((n, c, h, w), np.float32), requires_grad=i % 4 == 0)
    y = F.conv2d(x, np.ones((o, c, 3, 3), np.float32), padding=1)
    if x.requires_grad:
        y.sum().backward()
    seen.append(resident())
assert seen[-1] - seen[1_000] < 4 << 20, seen[-1] - seen[1_000]

open_sizes = ck.compile(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
                        (1, 3, (8, 64), (8, 64)), check=False)
seen = []
for i in range(400):
    open_sizes(np.ones((1, 3, *rng.integers(8, 65, 2)), np.float32))
    seen.append(resident())
assert seen[-1] - seen[200] < 4 << 20, seen[-1] - seen[200]
""", {"CONVKIT_NUM_THREADS": "1"})


def test_every_cache_of_calls_is_bounded():
    """`lru_cache` without a bound would keep all shapes that a server ever sees."""
    seen = 0
    for info in pkgutil.walk_packages(ck.__path__, "convkit."):
        if info.name.endswith("__main__") or info.name in ("convkit.sklearn",):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # an optional dependency is missing
            continue
        for name, value in vars(module).items():
            if hasattr(value, "cache_parameters") and value.__module__ == info.name:
                seen += 1
                bound = value.cache_parameters()["maxsize"]
                assert bound is not None and bound <= 4096, f"{info.name}.{name}: {bound}"
    assert seen >= 4


def test_compiling_leaves_no_arrays_to_the_garbage_collector():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    ck.compile(net, (1, 8, 64, 64))
    gc.collect()
    gc.disable()
    try:
        before = memory.stats()["used"]
        program = ck.compile(net, (1, 8, 64, 64))
        program.free_arenas()
        assert memory.stats()["used"] - before < 8 * 64 * 64 * 4
    finally:
        gc.enable()


@linux
def test_trim_gives_memory_back_to_the_system():
    run_python(PROGRAM + """
program.run(np.ones((1, 3, 16, 16), np.float32))
program.trim()
before = resident()
wide = ck.compile(nn.Sequential(*[nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)]),
                  (1, 32, 128, 128), check=False, threads=1)
wide(np.ones((16, 32, 128, 128), np.float32))
held = resident() - before
assert held > 30 << 20, held
wide.trim()
kept = resident() - before
assert kept < 12 << 20, (held, kept)
""", {"CONVKIT_NUM_THREADS": "1"})


# -- in other programs ----------------------------------------------------------------------

USES = {
    "torch": """
import torch
y = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w))
assert abs(float(y.max()) - 144) < 1e-3
""",
    "sklearn": """
from sklearn.cluster import KMeans
KMeans(2, n_init=1).fit(np.random.default_rng(0).normal(size=(500, 4)))
""",
    "lightgbm": """
import lightgbm
points = np.random.default_rng(0).normal(size=(500, 4))
found = lightgbm.train({"verbose": -1}, lightgbm.Dataset(points, points[:, 0] > 0), 5)
assert len(found.predict(points)) == 500
""",
    "convkit": """
import convkit.functional as F
assert abs(float(np.asarray(F.conv2d(x, w)).max()) - 144) < 1e-2
""",
}
ORDERS = (list(itertools.permutations(USES)) if LONG else
          [order for name in USES if name != "convkit"
           for order in ((name, "convkit"), ("convkit", name))])


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_imports_in_every_order(order):
    """Several OpenMP runtimes in one process: all compute, in any order of import."""
    for name in order:
        pytest.importorskip(name, reason=f"{name} is not installed")
    imports = "".join(f"import {name}\n" for name in order)
    uses = "".join(USES[name] for name in order) * 2
    run_python("import numpy as np\n" + imports + """
x = np.ones((4, 16, 32, 32), np.float32)
w = np.ones((16, 16, 3, 3), np.float32)
""" + uses)


WORK = """
import os, sys
import numpy as np
import convkit as ck
from convkit import nn, optim
from convkit._kernels import threads as kernel_threads
import convkit.functional as F
kernel_threads.set_work_per_thread(0)
ck.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
step = optim.SGD(net.parameters(), lr=0.1)
F.cross_entropy(net(ck.tensor(x)), np.array([0, 1, 2, 0])).backward()
step.step()
program = ck.compile(net.eval(), (1, 3, 16, 16))
ck.save(program, PATH)
answer = ck.load(PATH)(x)
"""


@linux
def test_works_within_a_set_of_processors_and_pins_nothing(tmp_path):
    if shutil.which("taskset") is None:
        pytest.skip("taskset is not installed")
    code = textwrap.dedent(WORK.replace("PATH", repr(str(tmp_path / "net.ckit")))) + """
allowed = set()
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/status") as file:
        allowed |= {line.split()[1] for line in file if line.startswith("Cpus_allowed_list")}
print(len(os.listdir("/proc/self/task")), *allowed, answer.tobytes().hex())
"""
    core = str(min(os.sched_getaffinity(0)))
    mine = run_python(code, {"CONVKIT_NUM_THREADS": "3"}).stdout.split()
    path = os.pathsep.join([str(Path(ck.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(["taskset", "-c", core, sys.executable, "-c", code], check=False,
                          capture_output=True, text=True, timeout=100,
                          env={**os.environ, "PYTHONPATH": path, "CONVKIT_NUM_THREADS": "3"})
    assert done.returncode == 0, done.stderr
    theirs = done.stdout.split()
    assert int(mine[0]) >= 3 and len(mine) == 3, "all threads may run where the process may"
    assert theirs[1] == core and len(theirs) == 3 and theirs[2] == mine[2]


@linux
def test_works_where_neither_sys_nor_proc_can_be_read(tmp_path):
    run_python("""
import sys
import numpy
refused = []
def refuse(event, args):
    if event == "open" and str(args[0]).startswith(("/sys", "/proc")):
        refused.append(args[0])
        raise PermissionError(13, "Permission denied", args[0])
sys.addaudithook(refuse)
""" + textwrap.dedent(WORK.replace("PATH", repr(str(tmp_path / "net.ckit")))) + """
assert refused and np.isfinite(answer).all()
ck.show_config()
""")


def test_nothing_in_the_package_can_abort():
    """No compiled module calls abort, exit or an assertion's failure."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    modules = list(Path(ck.__file__).parent.rglob("*.so"))
    if not modules:
        pytest.skip("extensions of this platform do not end in .so")
    for module in modules:
        names = subprocess.run(["nm", "-D", "--undefined-only", str(module)], check=True,
                               capture_output=True, text=True).stdout.split()
        names = {name.partition("@")[0] for name in names}
        assert "PyErr_Occurred" in names or "PyErr_SetString" in names, module.name
        bad = names & {"abort", "exit", "_exit", "quick_exit", "__assert_fail", "__assert_rtn",
                       "raise", "kill", "Py_FatalError", "_Py_FatalErrorFunc"}
        assert not bad, f"{module.name} calls {bad}"


def test_needs_no_compiler_and_no_other_program(tmp_path):
    """With nothing in PATH, and any attempt to start a program refused."""
    run_python("""
import sys
def refuse(event, args):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"):
        raise AssertionError((event, args))
sys.addaudithook(refuse)
""" + textwrap.dedent(WORK.replace("PATH", repr(str(tmp_path / "net.ckit")))) + """
assert np.abs(answer - program(x)).max() == 0
""", {"PATH": "", "CC": "/nonexistent", "LD_LIBRARY_PATH": ""})


# -- another Python thread goes on ----------------------------------------------------------

TICKS = """
import threading, time
import numpy as np
import convkit as ck
from convkit import models, nn
ck.set_num_threads(1)
sys_path = PATH
net = nn.Sequential(nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(), nn.Flatten(),
                    nn.Linear(25088, 128))
x = np.ones((8, 512, 7, 7), np.float32)
for kind in ("float32", "float16"):
    ck.save(net.eval(), sys_path + kind, weights=kind, input_shape=(1, 512, 7, 7))
ck.save(net, sys_path + "small", weights="float16", input_shape=(1, 512, 7, 7), compress=True)
ck.save(models.mobilenet_v2().eval(), sys_path + "many", input_shape=(1, 3, 64, 64))
program = ck.load(sys_path + "float32")
loss = [net.train()(ck.tensor(x)).sum() for _ in range(4)]

def watch(work):
    ticks, stop = [], threading.Event()
    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)
    other = threading.Thread(target=tick, daemon=True)
    other.start()
    while not ticks:
        time.sleep(0.001)
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    stop.set()
    other.join()
    inside = [start, *(t for t in ticks if start < t < end), end]
    return end - start, len(inside) - 2, max(b - a for a, b in zip(inside, inside[1:]))

WORK = {
    "load": lambda: ck.load(sys_path + "small"),
    "load of many layers": lambda: [ck.load(sys_path + "many") for _ in range(10)],
    "first runs": lambda: [ck.load(sys_path + kind)(x) for kind in ("float32", "float16")],
    "run": lambda: [program(x) for _ in range(3)],
    "backward": lambda: loss.pop().backward(),
}
for name, work in WORK.items():
    found = []
    for _ in range(3):
        found.append(watch(work))
        seconds, ticks, gap = found[-1]
        if ticks > 40 * seconds and gap < max(0.05, seconds / 3):
            break
    else:
        raise AssertionError((name, found))
    assert seconds > 0.01, (name, seconds)
"""


def test_another_thread_ticks_during_load_run_and_backward(tmp_path):
    run_python(TICKS.replace("PATH", repr(str(tmp_path / "net."))))


# -- weights and orders in memory -----------------------------------------------------------

@pytest.fixture
def packings(monkeypatch):
    """A list that grows by the name of every function that is called to pack weights."""
    seen = []
    for module, name in ((gemm, "pack"), (winograd, "pack"), (depthwise, "pack_groups")):
        def pack(*args, original=getattr(module, name), what=f"{module.__name__}.{name}", **more):
            seen.append(what)
            return original(*args, **more)

        monkeypatch.setattr(module, name, pack)
    return seen


def chain(rng):
    """Return convolutions of every algorithm, one after the other, with few values between."""
    net = nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=2, padding=3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 32, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(32, 48, 1),
        nn.MaxPool2d(2), nn.Conv2d(48, 16, 5, stride=2, padding=2), nn.LeakyReLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.Conv2d(8, 12, (1, 3), dilation=(1, 2))
    ).eval()
    with ck.no_grad():  # weights that no algorithm hands to another
        for p in net.parameters():
            p.copy_(rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.1))
    return net


def test_a_program_packs_its_weights_once(rng, packings):
    program = ck.compile(chain(rng), (1, 3, 64, 64), check=False)
    x = rng.standard_normal((5, 3, 64, 64)).astype(np.float32)
    want = program(x)
    first = len(packings)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in packings} == {
        "gemm", "winograd", "depthwise"}
    assert first < 40  # once or twice for each of 9 layers, and the parts of large ones
    for threads in (1, 2, 3):
        with ck.threads(threads):
            for batch in (1, 5, 2):
                np.testing.assert_array_equal(program(x[:batch]), want[:batch])
    program.trim()
    program(np.zeros_like(x))
    assert packings[first:] == []


def test_layers_pack_their_weights_once_until_these_change(rng):
    net = chain(rng)
    x = ck.tensor(rng.standard_normal((2, 3, 64, 64)).astype(np.float32))
    before = forms_made()
    with ck.no_grad():
        net(x)
        first = forms_made()
        assert first - before >= 7
        for _ in range(3):
            net(x)
        assert forms_made() == first
        net[0].weight.mul_(0.5)
        net(x)
    assert forms_made() == first + 1


@pytest.mark.parametrize("name", ["chain", "resnet20", "mobilenet_v2"])
def test_no_reorder_within_a_chain_of_convolutions(name, rng):
    """Values are put into another order at the edges at most: `summary` counts them."""
    net = chain(rng) if name == "chain" else getattr(models, name)().eval()
    program = ck.compile(net, (1, 3, 64, 64), check=False)
    assert program._ready().reorders == 0
    assert program.summary().endswith("reorders: 0")


def test_a_reorder_is_counted():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    program = ck.compile(net, (1, 3, 8, 8))
    assert program._ready().reorders == 1
    assert program.summary().endswith("reorders: 1")


# -- older processors -----------------------------------------------------------------------

OLDER = ("test_conv.py", "test_pool.py", "test_program_calls.py")


@pytest.mark.parametrize("isa", ["generic", "avx2"] if LONG else ["generic"])
def test_the_suite_passes_with_the_kernels_of_an_older_processor(isa):
    """All of it with CONVKIT_LONG_TESTS=1, else what calls most kernels (test_isa.py: all)."""
    folder = Path(__file__).parent
    files = [str(folder)] if LONG else [str(folder / name) for name in OLDER]
    path = os.pathsep.join([str(Path(ck.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files,
         "--deselect", __file__], check=False,
        env={**os.environ, "CONVKIT_ISA": isa, "CONVKIT_LONG_TESTS": "", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=3600, cwd=folder.parent)
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_emulated_processor_of_2008_gives_the_bits_of_the_generic_kernels(tmp_path):
    """Under an emulator that refuses AVX and later, with -cpu Nehalem (NumPy's own baseline)."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed (Debian's qemu-user)")
    code = textwrap.dedent(WORK.replace("PATH", repr(str(tmp_path / "net.ckit")))) + """
from convkit._kernels import dispatch
print(dispatch.isa(), ck.quantize(net, x)(x).tobytes().hex(), answer.tobytes().hex())
"""
    native = run_python(code, {"CONVKIT_ISA": "generic", "CONVKIT_NUM_THREADS": "2"}).stdout
    path = os.pathsep.join([str(Path(ck.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CONVKIT_NUM_THREADS": "2"}
    environment.pop("CONVKIT_ISA", None)
    done = subprocess.run([emulator, "-cpu", "Nehalem", sys.executable, "-c", code], check=False,
                          capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == native and native.startswith("generic ")
    if LONG:
        files = [str(Path(__file__).parent / name) for name in OLDER]
        done = subprocess.run([emulator, "-cpu", "Nehalem", sys.executable, "-m", "pytest", "-q",
                               "-x", "-p", "no:cacheprovider", *files], env=environment,
                              capture_output=True, text=True, timeout=7200, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
