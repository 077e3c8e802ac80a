"""Promises of docs/promises.md that no other file shows."""

from __future__ import annotations

import os
import sys

import pytest
from harness import run_python

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
for _ in range({100_000 if LONG else 5_000}):
    program(x)
assert resident() - before < 1 << 20, resident() - before
""", {"CONVKIT_NUM_THREADS": "1"})


@linux
def test_memory_levels_off_over_random_shapes():
    run_python(PROGRAM + f"""
import convkit.functional as F
rng = np.random.default_rng(0)
count, seen = {2_000 if LONG else 300}, []
for i in range(count):
    n, c, o, h, w = rng.integers(1, [4, 20, 20, 40, 40])
    F.conv2d(np.ones((n, c, h, w), np.float32), np.ones((o, c, 3, 3), np.float32), padding=1)
    seen.append(resident())
assert seen[-1] - seen[count // 2] < 4 << 20, (seen[-1] - seen[count // 2])
""", {"CONVKIT_NUM_THREADS": "1"})


@pytest.mark.parametrize("order", [("torch", "convkit"), ("convkit", "torch"),
                                   ("sklearn.cluster", "convkit"), ("convkit", "sklearn.cluster")])
def test_imports_in_every_order(order):
    """Two OpenMP runtimes in one process: both compute, in either order of import."""
    for name in order:
        pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
    run_python(f"""
import importlib
import numpy as np
for name in {order!r}:
    importlib.import_module(name)
import convkit.functional as F
x = np.ones((4, 16, 32, 32), np.float32)
w = np.ones((16, 16, 3, 3), np.float32)
for _ in range(2):
    assert abs(float(np.asarray(F.conv2d(x, w)).max()) - 144) < 1e-2
    if "torch" in {order!r}:
        import torch
        y = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w))
        assert abs(float(y.max()) - 144) < 1e-3
    else:
        from sklearn.cluster import KMeans
        KMeans(2, n_init=1).fit(np.random.default_rng(0).normal(size=(500, 4)))
""")
