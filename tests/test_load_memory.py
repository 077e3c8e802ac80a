"""Memory while loading and while compiling, measured in processes of their own."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from harness import run_python

import convkit as ck
from convkit import nn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SHAPE = (1, 3, 16, 16)
# What the call itself takes: its arena, scratch memory, and large pages that are not full.
CALL = 6 << 20

# Prints what the first result of a file needs beside the library: at most, and afterwards.
MEASURE = """
import json, re, sys
from pathlib import Path
import numpy as np
import convkit as ck

def memory(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def packed(program):
    # What the weights' packed forms take: those of floats are kept, those of bytes are as many.
    held = sum(form.array.nbytes for forms in program._caches.values() for form in forms.values())
    return max(held, sum(c.size for c in program.graph.constants.values()))

path, folder = sys.argv[1:]
ck.save(ck.nn.Conv2d(3, 4, 3), folder + "/small.ckit", input_shape=(1, 3, 8, 8))
x = np.ones((1, 3, 16, 16), np.float32)
ck.load(folder + "/small.ckit")(x[:, :, :8, :8])
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
program = ck.load(path)
program(x)
print(json.dumps({"peak": memory("VmHWM") - before, "after": memory("VmRSS") - before,
                  "packed": packed(program), "file": Path(path).stat().st_size}))
"""
# As it must not be: decoded weights stay beside the packed ones.
KEPT = """
from convkit.io import storage
held = {}
storage.Decoded.parts = lambda self, rows: [(0, held.setdefault(self, self.array().copy()))]
"""


def network() -> nn.Module:
    """Return a network of weights more than anything: Winograd, direct and linear layers."""
    ck.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 512, 3, padding=1), nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(512, 1024, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(16384, 256), nn.ReLU(), nn.Linear(256, 10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the network in every form of file."""
    folder = tmp_path_factory.mktemp("forms")
    program = ck.compile(network(), SHAPE, check=False)
    for weights in ("float32", "float16", "bfloat16"):
        ck.save(program, folder / f"{weights}.ckit", weights=weights)
    for weights in ("float32", "bfloat16"):
        ck.save(program, folder / f"{weights}-compressed.ckit", weights=weights, compress=True)
    images = np.random.default_rng(0).standard_normal((4, *SHAPE[1:]), np.float32)
    ck.save(ck.quantize(program, images), folder / "int8.ckit")
    return folder


def measure(path, folder, before: str = "") -> dict[str, int]:
    """Return what loading a file and its first result take."""
    arguments = f"import sys; sys.argv = ['', {str(path)!r}, {str(folder)!r}]\n"
    done = run_python(arguments + before + MEASURE, {"CONVKIT_NUM_THREADS": "2"})
    return json.loads(done.stdout)


def faults(found: dict[str, int]) -> list[str]:
    """Return in what the promise is not kept."""
    bound = 1.1 * (found["file"] + found["packed"]) + CALL
    left = 1.1 * found["packed"] + CALL
    return [what for what, wrong in (("peak", found["peak"] > bound),
                                     ("after", found["after"] > left)) if wrong]


@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16", "float32-compressed",
                                  "bfloat16-compressed", "int8"])
def test_loading_takes_the_file_the_packed_weights_and_a_tenth(folder, tmp_path, form):
    found = measure(folder / f"{form}.ckit", tmp_path)
    print(form, {k: f"{v / 2**20:.1f} MiB" for k, v in found.items()})
    if form == "int8":
        # Bytes are used as they are mapped, and the file's pages are the system's to take back.
        found["after"] -= found["file"]
    assert not faults(found), found


@pytest.mark.parametrize("form", ["float16", "bfloat16", "float32-compressed"])
def test_the_measure_sees_decoded_weights_that_stay(folder, tmp_path, form):
    assert faults(measure(folder / f"{form}.ckit", tmp_path, KEPT))


COMPILE = """
import re
from pathlib import Path
import convkit as ck
from convkit import nn

def memory(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

model = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
                        for _ in range(12)])
ck.compile(model, (1, 8, 9, 9))
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
ck.compile(model, (1, 8, 256, 256))
print((memory("VmHWM") - before) // (8 * 256 * 256 * 4))
"""
HOARDED = """
from convkit.infer import tracing
add = tracing._Record.add
tracing._Record.add = lambda self, x, keep=False: add(self, x, True)
"""


def test_tracing_keeps_no_values_between():
    """In values of one sample: the trace runs 2 and 5 samples, each of which makes 24 values."""
    assert int(run_python(COMPILE, {"CONVKIT_NUM_THREADS": "1"}).stdout) < 50
    assert int(run_python(HOARDED + COMPILE, {"CONVKIT_NUM_THREADS": "1"}).stdout) > 120
