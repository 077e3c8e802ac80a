"""The benchmark scripts run, check agreement and write what they say they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import convkit
from convkit._kernels import bench

# Where convkit is imported from: the source tree or an environment's packages.
ROOT = Path(convkit.__file__).resolve().parents[1]
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def run_script(script, output):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)}
    del env["PYTHONSAFEPATH"]  # the scripts import their neighbours
    done = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", "--quick", "--threads", "1", "--output", output],
        env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(output.read_text())
    assert written["benchmark"] == script
    assert written["machine"]["threads"] == 1 and written["machine"]["torch"]
    return written["results"]


@pytest.mark.parametrize("script, entries", [("conv_layers", 6), ("training_step", 3)])
def test_script_runs(script, entries, tmp_path, torch):
    results = run_script(script, tmp_path / "results.json")
    assert len(results) == entries
    for result in results:
        assert result["best"] > 0
        assert set(result["timing"]) == {"convkit", "torch contiguous", "torch channels_last"}


def test_epochs_run(tmp_path, torch):
    results = run_script("mnist_epoch", tmp_path / "results.json")
    assert [r["side"] for r in results] == ["convkit", "torch channels_last"]
    for result in results:
        assert result["seconds"][0] > 0
        assert result["accuracy"] > 0.3  # chance is 0.1


def test_disagreement_fails(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import common

    agreement = common.Agreement(1e-4)
    assert agreement.check("close", [1.0, 2.0], [1.0, 2.0001]) <= 1e-4
    agreement.finish()
    agreement.check("apart", [1.0, 2.0], [1.0, 2.01])
    agreement.check("not a number", [1.0, float("nan")], [1.0, 2.0])
    agreement.check("shapes", [1.0], [[1.0]])
    with pytest.raises(SystemExit, match=r"(?s)DISAGREE.*apart: differs by 0.005.*"
                                         r"not a number.*shapes \(1,\) and \(1, 1\)"):
        agreement.finish()


def test_interleaving_times_all_sides(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import common

    calls = []
    timing = common.interleave({name: lambda name=name: calls.append(name) for name in "abc"},
                               0.05)
    assert list(timing) == ["a", "b", "c"] and set(calls) == set("abc")
    for side in timing.values():
        assert side["calls"] >= 3 and 0 <= side["best"] <= side["seconds"]
    assert timing["a"]["ratio"] == 1


def test_measured_rates_are_positive():
    assert bench.fma_gflops(1, 0.001) > 0
    assert bench.copy_gbs(2, 100_000, 0.001) > 0
    with pytest.raises(ValueError, match="expected a positive number of bytes, got 0"):
        bench.copy_gbs(1, 0)
