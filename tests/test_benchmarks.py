"""The benchmark scripts run, check agreement and write what they say they write."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import convkit
from convkit._kernels import bench, dispatch

# Where convkit is imported from: the source tree or an environment's packages.
ROOT = Path(convkit.__file__).resolve().parents[1]
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def run_python(script, *arguments):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(
        p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)}
    env.pop("PYTHONSAFEPATH", None)  # the scripts import their neighbours
    done = subprocess.run([sys.executable, FOLDER / f"{script}.py", *arguments], env=env,
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_script(script, output, *more):
    run_python(script, "--quick", "--threads", "1", "--output", output, *more)
    written = json.loads(output.read_text())
    assert written["benchmark"] == script
    assert written["machine"]["threads"] == 1 and written["machine"]["torch"]
    return written["results"]


def draw(script, folder, *pictures):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing is drawn")
    run_python(script, folder / "results.json", folder)
    for picture in pictures:
        assert (folder / picture).stat().st_size > 5_000


def test_training_runs_and_is_drawn(tmp_path, torch):
    results = run_script("training", tmp_path / "results.json", "--only", "lenet5")
    assert [r["network"] for r in results] == ["lenet5"]
    for result in results:
        assert len(result["timing"]) == 7
        for row in result["precisions"].values():
            assert row["best"] > 0 and row["memory"] > 0 and row["memory of PyTorch"] > 0
    draw("plot_training", tmp_path, "training-ratios.png")


def test_training_scales_and_loads(tmp_path, torch):
    sizes, *scaled, first, second = run_script("training", tmp_path / "results.json", "--scaling",
                                               "--loading")
    loaded = first, second
    assert set(sizes["by batch"]) == {"2", "4"}
    assert [s["network"] for s in scaled] == ["resnet18", "resnet20"]
    assert all(set(s["by threads"]) == {"1", "2"} for s in scaled)
    assert all(0 <= part["share"] < 1 for part in loaded)


def test_layer_suite_runs_and_is_drawn(tmp_path, torch):
    results = run_script("layer_suite", tmp_path / "results.json")
    assert len(results) == 2
    for result in results:
        assert set(result["timing"]) == {
            "highest", "high", "medium", "medium-bf16", "torch float32 contiguous",
            "torch float32 channels_last", "torch bfloat16 contiguous",
            "torch bfloat16 channels_last"}
        for row in result["precisions"].values():
            assert row["best"] > 0 and row["error"] < 1e-2
    draw("plot_layers", tmp_path, "layer-roofline.png", "layer-ratios.png")


def test_inference_runs_and_is_drawn(tmp_path, torch):
    pytest.importorskip("onnx", reason="onnx is not installed: no file for the peers")
    results = run_script("inference", tmp_path / "results.json", "--precisions", "highest", "high")
    assert [r["network"] for r in results] == ["lenet5"]
    assert {"convkit highest", "convkit high", "torch contiguous",
            "torch channels_last"} <= set(results[0]["timing"])
    draw("plot_inference", tmp_path, "inference.png")


def test_augmentation_runs(tmp_path, torch):
    pytest.importorskip("PIL", reason="Pillow is not installed: no peer")
    results = run_script("augmentation", tmp_path / "results.json", "--only", "resize")
    assert [(r["case"], r["size"], r["dtype"]) for r in results] == [
        (case, size, dtype) for size in (32, 224) for case in ("resize to half", "resized crop")
        for dtype in ("uint8", "float32")]
    for result in results:
        assert result["difference"] <= (1 / 250 if result["dtype"] == "uint8" else 1e-5)
        assert result["images per second by threads"].keys() == {"1"}
        assert result["times as fast by threads"]["1"] > 0


def test_embedding_runs(tmp_path, torch):
    pytest.importorskip("onnx", reason="onnx is not installed: no file for the peers")
    (result,) = run_script("embedding", tmp_path / "results.json")
    assert result["call, us"]["convkit"] > 0 and result["two threads / one"] > 0
    assert result["call, us"]["kernel"] > 0
    assert 0.5 < result["file / float32"]["float16"] < 0.6
    assert 0.25 < result["file / float32"]["int8"] < 0.35


@pytest.mark.parametrize("script", ["regularisers", "batch_size", "depth", "recipes",
                                    "ten_minutes", "cifar_table", "landscape", "seeds"])
def test_experiments_run(script, tmp_path):
    shared = os.environ.get("CONVKIT_SHARED", "")
    needed = "mnist" if script == "regularisers" else "cifar10"
    if not any(Path(shared, *parts, needed).is_dir() for parts in (("data",), ())):
        pytest.skip(f"no {needed} in CONVKIT_SHARED: nothing to experiment with")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), env.get("PYTHONPATH", "")) if p)
    only = {"batch_size": "-128", "depth": "20", "cifar_table": "^mlp 1x512$",
            "landscape": "with batch",
            "seeds": "torch-0" if importlib.util.find_spec("torch") else "high-0"}
    done = subprocess.run(
        [sys.executable, FOLDER / "experiments" / f"{script}.py", "--quick", "--only",
         only.get(script, "drop")], env=env, cwd=tmp_path, capture_output=True, text=True,
        timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("| ")
    if script == "cifar_table":     # and not the same with weight decay
        assert sum(line.startswith("| mlp") for line in done.stdout.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def experiments(monkeypatch):
    """Let tests import the experiments' modules, and forget them afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER / "experiments"))
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "experiments" in sys.modules[
                name].__file__:
            del sys.modules[name]


def test_small_networks_have_the_published_sizes(experiments):
    """Zhang et al., 2017, table 1."""
    import cifar_table as table
    sizes = [sum(p.numel() for p in net.parameters())
             for net in (table.inception(False), table.alexnet(), table.mlp(3), table.mlp(1))]
    assert sizes == [1_649_402, 1_387_786, 1_735_178, 1_209_866]


def test_an_experiments_run_goes_on_where_it_was(experiments, tmp_path):
    import runner

    digits = convkit.data.digits("train")
    digits = convkit.data.ImageDataset(digits.images[:200], digits.labels[:200], digits.classes)
    steps = []

    class Noted(convkit.training.Callback):
        def on_step(self, trainer):
            steps.append(trainer.step)
            if trainer.step == stop_at:
                raise InterruptedError

    def train(work):
        options = runner.arguments("", 2).parse_args(
            ["--work", str(tmp_path / work), "--results", str(tmp_path / work), "--threads", "1"])
        loaders = (convkit.data.DataLoader(digits, 50, shuffle=True, seed=0),
                   convkit.data.DataLoader(digits, 100))
        return runner.Run("tried", "mlp", options, {}).train(
            lambda: convkit.nn.Sequential(convkit.nn.Flatten(), convkit.nn.Linear(784, 10)),
            runner.sgd(0.05), loaders, callbacks=[Noted()],
            extra=lambda trainer: {"steps": trainer.step})

    stop_at = 6
    with pytest.raises(InterruptedError):
        train("broken")
    stop_at = None
    continued = train("broken")
    assert steps == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]  # from the checkpoint after the first epoch
    assert train("broken") == json.loads(json.dumps(continued)) and len(steps) == 10
    whole = train("whole")
    assert continued["steps"] == whole["steps"] == 8
    for a, b in zip(continued["history"], whole["history"], strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_suite_knows_every_layer_of_resnet50():
    sys.path.insert(0, str(FOLDER))
    try:
        from layers import NETWORKS
    finally:
        sys.path.remove(str(FOLDER))
    layers = NETWORKS["resnet50"]
    assert sum(layer.count for layer in layers) == 53
    # 4.09e9 multiply-adds a sample, less the linear layer's 2e6 (He et al. 2015, stride in
    # the 3x3 convolution).
    work = sum(layer.count * layer.operations for layer in layers) / 8 / 2
    assert work == pytest.approx(4.087e9, rel=1e-3)


def test_epochs_run(tmp_path, torch):
    results = run_script("mnist_epoch", tmp_path / "results.json")
    assert [r["side"] for r in results] == ["convkit", "torch channels_last"]
    for result in results:
        assert result["seconds"][0] > 0
        assert result["accuracy"] > 0.3  # chance is 0.1


def test_a_turn_begins_when_threads_have_come_to_rest(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import common

    monkeypatch.setattr(common, "SETTLE", 0.02)  # other guests may hold a core for 5 ms

    def spin():
        end = time.perf_counter() + 0.1
        while time.perf_counter() < end:
            pass

    began = time.perf_counter()
    spinning = threading.Thread(target=spin)
    spinning.start()
    common._settle()
    assert time.perf_counter() - began > 0.1 and not spinning.is_alive()
    common._settle()
    assert time.perf_counter() - began < common.LONGEST_SETTLE


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
    tiles = bench.tile_gflops(1, 0.001)
    assert (tiles is None) != dispatch.has_bfloat16() and (tiles is None or tiles > 0)
    assert bench.copy_gbs(2, 100_000, 0.001) > 0
    with pytest.raises(ValueError, match="expected a positive number of bytes, got 0"):
        bench.copy_gbs(1, 0)
