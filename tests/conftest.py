"""Fixtures that all tests share."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tile_runs

from convkit._kernels import threads as kernel_threads

# Child interpreters import the convkit under test, not the source tree they start in.
os.environ["PYTHONSAFEPATH"] = "1"


def pytest_report_header() -> str:
    """Say whether comparisons with PyTorch run."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: comparisons with PyTorch are left out"
    return "torch is installed: results are compared with PyTorch too"


@pytest.fixture(autouse=True, scope="session")
def _threads_for_small_work():
    """Let even the tests' small problems run on as many threads as they are given."""
    before = kernel_threads.set_work_per_thread(0.0)
    yield
    kernel_threads.set_work_per_thread(before)


@pytest.fixture(autouse=True, scope="session")
def _interrupts():
    """Let tests send Ctrl-C, which a shell has its jobs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rng(request) -> np.random.Generator:
    """A random generator whose seed is the test's name."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture
def torch():
    """Return PyTorch, seeded and on one thread; the test is skipped where it is not installed."""
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    module.set_num_threads(1)
    module.manual_seed(0)
    return module


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data (MNIST's published files and more), or skip the test.

    It is $CONVKIT_SHARED/data, else ../shared/data beside the repository.
    """
    root = os.environ.get("CONVKIT_SHARED")
    shared = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set CONVKIT_SHARED to the folder that holds data/)")
    return folder


@pytest.fixture(scope="session", params=["emulated", "native"])
def run_on_tiles(request, tmp_path_factory):
    """Return a function that runs code in a child that has tiles."""
    return tile_runs.runner(request.param, tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="session", params=["emulated", "native", "vectors"])
def run_on_bfloat16(request, tmp_path_factory):
    """The same, in one that multiplies bfloat16 on vectors too."""
    return tile_runs.runner(request.param, tmp_path_factory.mktemp("bfloat16"))
