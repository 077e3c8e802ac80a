"""`convkit bench`, `profile`, `inspect` and `predict` on files of images."""

from __future__ import annotations

import json

import numpy as np
import pytest

import convkit as ck
from convkit import cli, models, nn
from convkit._kernels import dispatch
from convkit.cli import bench, main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the path of a file with labels, preprocessing and other metadata."""
    path = tmp_path_factory.mktemp("measure") / "net.ckit"
    ck.manual_seed(0)
    ck.save(models.lenet5(), path, input_shape=(1, 1, 28, 28), compress=True, metadata={
        "labels": [f"class {i}" for i in range(10)], "author": "A. Uthor",
        "licence": "BSD-3-Clause", "training": {"accuracy": 0.9},
        "preprocessing": {"channels": 1, "height": 28, "width": 28, "mean": [0.5], "std": [0.25],
                          "resize": 32}})
    return path


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


# -- bench ------------------------------------------------------------------------------------


def test_bench_prints_a_row_for_each_batch_threads_and_precision(model, capsys):
    code, out, err = run(capsys, "bench", model, "--batch", "1,3", "--threads", "1,2",
                         "--seconds", "0.01", "--json")
    assert (code, err) == (0, "")  # no progress where nobody watches
    found = json.loads(out)
    rows = found["rows"]
    assert [(r["threads"], r["batch"], r["precision"]) for r in rows] == [
        (t, b, p) for t in (1, 2) for b in (1, 3) for p in ("highest", "high")]
    for row in rows:
        assert row["runs"] >= bench.LEAST_RUNS
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["samples_per_second"] == pytest.approx(1e3 * row["batch"] / row["p50_ms"])
        assert row["times_float32"] > 0
        assert row["precision"] != "highest" or row["times_float32"] == 1
    assert found["config"] == ck.runtime.config()


def test_bench_shows_float32_beside_any_precision_and_says_what_is_emulated(model, capsys):
    code, out, _ = run(capsys, "bench", model, "--precision", "medium", "--seconds", "0.01")
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith(f"{model}: Program(")
    rows = [line.split() for line in lines if line.startswith(("highest", "medium"))]
    assert [row[0] for row in rows] == ["highest", "medium"] and "(float32)" in lines[-2]
    said = any("medium runs in float32" in line for line in lines)
    assert said != (dispatch.has_bfloat16() or dispatch.has_halves())


def test_bench_runs_another_file_beside(model, tmp_path, capsys):
    ck.save(models.lenet5(), tmp_path / "other.ckit", input_shape=(1, 1, 28, 28))
    code, out, _ = run(capsys, "bench", model, "--beside", tmp_path / "other.ckit", "--seconds",
                       "0.01", "--json")
    assert code == 0
    assert [r["precision"] for r in json.loads(out)["rows"]] == ["highest", "high", "beside"]


# -- profile ----------------------------------------------------------------------------------


def test_profile_lists_every_step(model, tmp_path, capsys):
    steps = [n.name for n in ck.load(model).graph.nodes]
    code, out, err = run(capsys, "profile", model, "--repeats", 2, "--batch", 3, "--threads", 1)
    assert (code, err) == (0, "") and "batch 3, threads 1, median of 2" in out
    assert all(name in out for name in steps) and "GFLOP/s" in out
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 28, 28), np.float32))
    code, out, _ = run(capsys, "profile", model, "--input", tmp_path / "x.npy", "--json",
                       "--precision", "highest")
    found = json.loads(out)
    assert code == 0 and found["batch"] == 2 and found["repeats"] == 20
    assert found["seconds"] == pytest.approx(sum(n["seconds"] for n in found["nodes"]))
    code, out, _ = run(capsys, "profile", model, "--top", 1, "--repeats", 1)
    assert code == 0 and "all steps:" in out and sum(name in out for name in steps) == 1


# -- inspect ----------------------------------------------------------------------------------


def test_inspect_shows_storage_and_metadata(model, capsys):
    code, out, _ = run(capsys, "inspect", model)
    assert code == 0 and "format version 2, tensors F32: " in out and "compressed" in out
    for text in ("author: A. Uthor", "licence: BSD-3-Clause", 'training: {"accuracy": 0.9}',
                 "class 9", '"resize": 32'):
        assert text in out
    code, out, _ = run(capsys, "inspect", model, "--json")
    found = json.loads(out)
    assert found["format_version"] == 2 and found["compressed"] > 0
    assert found["stored_bytes"] == {"F32": 4 * found["parameters"]}
    assert found["metadata"]["author"] == "A. Uthor"


# -- predict ----------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """Return a folder of images of several sizes, one in a folder of its own."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name, size in (("a.png", (40, 60)), ("b.jpg", (28, 28)), ("more/c.png", (90, 33))):
        image_module.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predict_takes_files_and_folders(model, images, capsys):
    code, out, err = run(capsys, "predict", model, images, "--images", "--top", 2)
    lines = out.splitlines()
    assert (code, err) == (0, "") and len(lines) == 3
    assert [line.split(": ")[0] for line in lines] == [
        str(images / name) for name in ("a.png", "b.jpg", "more/c.png")]
    assert all(line.count("class ") == 2 and "%" in line for line in lines)
    code, out, _ = run(capsys, "predict", model, images / "more", images / "a.png", "--json")
    found = json.loads(out)
    assert code == 0 and [entry["file"] for entry in found] == [
        str(images / "more/c.png"), str(images / "a.png")]
    alone = run(capsys, "predict", model, images / "a.png", "--json")[1]
    assert json.loads(alone) == found[1:]


def test_predict_scales_the_shorter_side_and_cuts_the_middle(model, images, capsys):
    """As the file's preprocessing says: shorter side to 32, the middle 28x28 of that."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with image_module.open(images / "a.png") as opened:
        grey = opened.convert("L").crop((10, 0, 50, 40)).resize(
            (32, 32), image_module.Resampling.BILINEAR)
    pixels = np.asarray(grey)[2:30, 2:30]
    x = ((pixels / 255 - 0.5) / 0.25)[None, None].astype(np.float32)
    scores = ck.load(model)(x)[0]
    want = np.exp(scores - scores.max())
    want /= want.sum()
    code, out, _ = run(capsys, "predict", model, images / "a.png", "--json", "--top", 10)
    got = {entry["label"]: entry["probability"] for entry in json.loads(out)[0]["classes"]}
    assert code == 0
    np.testing.assert_allclose([got[f"class {i}"] for i in range(10)], want, atol=1e-5)


def test_predict_leaves_probabilities_alone(tmp_path, images, capsys):
    ck.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    ck.save(layers, tmp_path / "scores.ckit", input_shape=(1, 1, 28, 28))
    ck.save(nn.Sequential(layers, nn.Softmax(1)), tmp_path / "probabilities.ckit",
            input_shape=(1, 1, 28, 28))
    outs = [run(capsys, "predict", tmp_path / f"{name}.ckit", images / "b.jpg")[1]
            for name in ("scores", "probabilities")]
    assert outs[0] == outs[1] and "%" in outs[0]


# -- errors and help --------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "code", "text"), [
    (["bench", "MODEL", "--batch", "1,0"], 2, "expected a number of at least 1, got 0"),
    (["bench", "MODEL", "--batch", "x"], 2, "invalid"),
    (["bench", "MODEL", "--precision", "low"], 2, "expected highest, high, medium, got low"),
    (["bench", "MODEL", "--seconds", "0"], 2, "expected a number above 0"),
    (["bench", "MODEL", "--input-shape", "x=N,1"], 2, "--input-shape is for ONNX files"),
    (["bench", "MODEL", "--beside", "/nowhere.ckit"], 1, "/nowhere.ckit: No such file"),
    (["bench", "/nowhere.ckit"], 1, "/nowhere.ckit: No such file"),
    (["profile", "MODEL", "--repeats", "0"], 2, "expected a number of at least 1, got 0"),
    (["profile", "MODEL", "--input", "/nowhere.npy"], 1, "/nowhere.npy: No such file"),
    (["profile", "MODEL", "--precision", "low"], 2, "invalid choice: 'low'"),
    (["predict", "MODEL", "a.npy", "b.png"], 2, "an array can only be given alone"),
    (["predict", "MODEL", "/nowhere.png"], 1, "/nowhere.png: No such file"),
    (["predict", "MODEL", __file__], 1, "cannot be read as an image"),
    (["convert", "MODEL", "out.onnx", "--compress"], 2, "--compress is for .ckit files"),
    (["convert", "MODEL", "out.onnx", "--precision", "high"], 2, "--precision is for .ckit"),
])
def test_errors_take_one_line(model, capsys, argv, code, text):
    if "predict" in argv:
        pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    got, out, err = run(capsys, *[model if a == "MODEL" else a for a in argv])
    assert (got, out) == (code, "") and text in err.splitlines()[-1]


def test_predict_refuses_an_empty_folder(model, tmp_path, capsys):
    code, _, err = run(capsys, "predict", model, tmp_path)
    assert code == 1 and "expected images" in err and "found none" in err


@pytest.mark.parametrize("suffix", ["compress", "precision"])
def test_convert_compresses_and_keeps_a_precision(model, tmp_path, capsys, suffix):
    out = tmp_path / "out.ckit"
    options = ["--compress"] if suffix == "compress" else ["--precision", "highest"]
    code, _, err = run(capsys, "convert", model, out, *options)
    assert (code, err) == (0, "")
    assert (b'"format_version":"2"' in out.read_bytes()) == (suffix == "compress")
    kept = {n.attrs.get("precision") for n in ck.load(out).graph.nodes if n.op == "conv"}
    assert kept == ({None} if suffix == "compress" else {"highest"})


def test_help_describes_every_argument(capsys):
    parser = cli._parser()
    commands = next(a for a in parser._actions if a.choices).choices
    assert {"train", "predict", "convert", "verify", "bench", "profile", "inspect",
            "info"} <= set(commands)
    for name, command in commands.items():
        assert all(action.help for action in command._actions), name
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and out.startswith(f"usage: convkit {name}") and command.description
