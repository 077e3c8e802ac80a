"""The convkit command, called as a function and as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convkit as ck
from convkit import data
from convkit.cli import main

FAST = ["--epochs", "1", "--batch-size", "500", "--model", "lenet5"]


def process(*argv: object, **options) -> subprocess.CompletedProcess:
    """Run Python on the convkit that is tested, wherever it was imported from."""
    env = os.environ | {"PYTHONPATH": str(Path(ck.__file__).parents[1])}
    return subprocess.run([sys.executable, *map(str, argv)], env=env, text=True, timeout=200,
                          **{"capture_output": True, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file from one short training, and what the command printed."""
    path = tmp_path_factory.mktemp("cli") / "net.ckit"
    done = process("-m", "convkit", "train", "--data", "digits", "--epochs", "1",
                   "--batch-size", "32", "--seed", "5", "--output", path)
    assert done.returncode == 0, done.stderr
    return path, done


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_train_trains_exports_and_checks(trained):
    path, done = trained
    assert done.stderr == ""  # no progress bar where nobody watches
    assert "data    digits, 4,000 training and 1,000 test images 1x28x28, 10 classes" in done.stdout
    assert "model   convnet, 98,682 parameters" in done.stdout
    assert "epoch 1/1  loss" in done.stdout and "images/s" in done.stdout
    assert "same class for all 1,000 images" in done.stdout
    program = ck.load(path)
    assert program.labels == [str(n) for n in range(10)]
    assert program.metadata["preprocessing"]["channels"] == 1
    record = program.metadata["training"]
    assert record["seed"] == 5 and record["test_accuracy"] > 0.9
    assert not [node for node in program.graph.nodes if "batch_norm" in node.op]


def test_same_seed_gives_the_same_weights_for_any_number_of_threads(tmp_path, capsys):
    files = []
    for name, threads, seed in (("a", 1, 3), ("b", 2, 3), ("c", 1, 4)):
        path = tmp_path / f"{name}.ckit"
        before = ck.get_num_threads()
        code, _, _ = run(capsys, "train", *FAST, "--seed", seed, "--threads", threads,
                         "--output", path, "--quiet")
        ck.set_num_threads(before)
        assert code == 0
        files.append([c.array.tobytes() for c in ck.load(path).graph.constants.values()])
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("options", [
    ["--optimizer", "adamw", "--weights", "float16"],
    ["--optimizer", "adam", "--schedule", "none", "--weights", "bfloat16"],
])
def test_other_optimisers_and_storage(tmp_path, capsys, options):
    code, out, err = run(capsys, "train", *FAST, *options, "--output", tmp_path / "net.ckit")
    assert code == 0, err
    assert f"weights as {options[-1]}" in out and "check   the file read back" in out


def test_predict_on_a_data_set(trained, capsys):
    path, _ = trained
    code, out, _ = run(capsys, "predict", path, "digits", "--json")
    assert code == 0
    accuracy = ck.load(path).metadata["training"]["test_accuracy"]
    assert json.loads(out)["accuracy"] == pytest.approx(accuracy, abs=0.001)
    code, out, _ = run(capsys, "predict", path, "digits")
    assert code == 0 and out.startswith("digits: accuracy ") and "of 1,000 test images" in out


def test_predict_on_arrays(trained, tmp_path, capsys):
    path, _ = trained
    images = data.digits("test").images[:5]
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "floats.npy", images / 255.0)
    np.save(tmp_path / "one.npy", images[0, 0])
    _, by_bytes, _ = run(capsys, "predict", path, tmp_path / "bytes.npy", "--top", 2)
    _, by_floats, _ = run(capsys, "predict", path, tmp_path / "floats.npy", "--top", 2)
    assert by_bytes == by_floats and len(by_bytes.splitlines()) == 5
    code, out, _ = run(capsys, "predict", path, tmp_path / "one.npy", "--json", "--top", 10)
    assert code == 0
    (row,), = [json.loads(out)]
    assert sum(entry["probability"] for entry in row) == pytest.approx(1, abs=1e-5)
    assert by_bytes.splitlines()[0].startswith(f"0: {row[0]['label']} ")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_predict_with_a_network_that_takes_images(trained, tmp_path, capsys, layout):
    path, _ = trained
    program = ck.load(path)
    images = ck.compile(program, image=program.preprocessing, layout=layout,
                        metadata=program.metadata)
    ck.save(images, tmp_path / "images.ckit")
    assert ck.load(tmp_path / "images.ckit").image_layout == layout
    results = []
    for file in (path, tmp_path / "images.ckit"):
        code, out, err = run(capsys, "predict", file, "digits", "--json")
        assert code == 0, err
        results.append(json.loads(out))
    assert results[0]["accuracy"] == results[1]["accuracy"] > 0.5
    assert abs(results[0]["loss"] - results[1]["loss"]) < 1e-4


def test_predict_on_an_image_file(trained, tmp_path, capsys):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path, _ = trained
    digits = data.digits("test")
    image_module.fromarray(digits.images[0, 0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", digits.images[0])
    code, from_file, _ = run(capsys, "predict", path, tmp_path / "digit.png")
    _, from_array, _ = run(capsys, "predict", path, tmp_path / "digit.npy")
    assert code == 0 and from_file == from_array and len(from_file.splitlines()) == 1


def test_inspect(trained, capsys):
    path, _ = trained
    code, out, _ = run(capsys, "inspect", path)
    assert code == 0 and f"{path}: {path.stat().st_size:,} bytes" in out
    assert "conv" in out and "preprocessing" in out
    code, out, _ = run(capsys, "inspect", path, "--json")
    content = json.loads(out)
    assert content["bytes"] == path.stat().st_size
    assert list(content["inputs"].values()) == [["N", 1, 28, 28]]
    assert list(content["outputs"].values()) == [["N", 10]]
    assert [node["op"] for node in content["nodes"]].count("conv") == 4
    assert content["metadata"]["model"] == "convnet"


def test_info(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0 and "instruction set in use" in out
    code, out, _ = run(capsys, "info", "--json")
    assert json.loads(out)["convkit"] == ck.__version__


def test_train_on_folders_of_images(tmp_path, capsys, rng):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(level - 30, level + 30, (20, 24, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    model = tmp_path / "net.ckit"
    code, out, err = run(capsys, "train", "--data", tmp_path / "images", "--image-size", "16x16",
                         "--epochs", 2, "--batch-size", 4, "--output", model)
    assert code == 0, err
    assert "19 training and 5 test images 3x16x16, 2 classes" in out
    code, out, _ = run(capsys, "predict", model, tmp_path / "images" / "dark" / "0.png")
    assert code == 0 and out.startswith(("dark ", "light "))
    (tmp_path / "split").mkdir()
    for part in ("train", "test"):
        (tmp_path / "split" / part).symlink_to(tmp_path / "images")
    code, out, _ = run(capsys, "predict", model, tmp_path / "split", "--json")
    assert code == 0 and json.loads(out)["images"] == 24


@pytest.mark.parametrize("argv, code, text", [
    ([], 2, "the following arguments are required: COMMAND"),
    (["fly"], 2, "invalid choice: 'fly'"),
    (["train", "--epochs", "0"], 2, "expected a number of at least 1, got 0"),
    (["train", "--lr", "-1"], 2, "expected a number above 0, got -1"),
    (["train", "--lr", "nan"], 2, "expected a number above 0, got nan"),
    (["train", "--image-size", "4x5x6"], 2, "expected HEIGHTxWIDTH such as 32x32, got 4x5x6"),
    (["train", "--model", "vgg"], 2, "unknown model 'vgg': expected one of alexnet, convnet"),
    (["train", "--data", "nothing"], 2, "unknown data 'nothing': expected digits"),
    (["train", "--data", "mnist:/nowhere"], 1, "expected train-images-idx3-ubyte"),
    (["train", "--output", "/nowhere/net.ckit"], 2, "there is no folder /nowhere"),
    (["train", "--output", "/"], 2, "is a folder, expected the name of a file"),
    (["predict", "/nowhere/net.ckit", "digits"], 1, "/nowhere/net.ckit: No such file"),
    (["inspect", __file__], 1, "error: "),
])
def test_errors_take_one_line(capsys, argv, code, text):
    got, out, err = run(capsys, *argv)
    assert got == code and out == "" and text in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("convkit") and "error: " in err.splitlines()[-1]


@pytest.mark.parametrize("content, text", [
    (b"no array", "cannot be read as an array"),
    (np.zeros((3, 28, 28), np.uint8), r"expected images of shape (1, 28, 28)"),
    (np.zeros((28, 28), np.int32), "expected uint8, or floats from 0 to 1, got int32"),
    (np.zeros((0, 1, 28, 28), np.uint8), "got an array of shape (0, 1, 28, 28)"),
])
def test_bad_arrays(trained, tmp_path, capsys, content, text):
    path = tmp_path / "x.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    code, _, err = run(capsys, "predict", trained[0], path)
    assert code == 1 and text in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("change, text", [
    ({"std": [0.0]}, "expected 1 finite numbers as std"),
    ({"mean": [1.0, 2.0]}, "expected 1 finite numbers as mean"),
    ({"height": 27}, "does not fit an input of shape (1, 28, 28)"),
    ({"more": 1}, "expected the fields"),
])
def test_preprocessing_of_a_strange_file_is_checked(trained, tmp_path, capsys, change, text):
    program = ck.load(trained[0])
    program.metadata["preprocessing"] |= change
    ck.save(program, tmp_path / "odd.ckit")
    code, _, err = run(capsys, "predict", tmp_path / "odd.ckit", "digits")
    assert code == 1 and text in err


def test_divergence_is_an_error_and_leaves_no_file(tmp_path, capsys):
    path = tmp_path / "net.ckit"
    with np.errstate(all="ignore"):
        code, _, err = run(capsys, "train", *FAST, "--lr", "1e30", "--output", path)
    assert code == 1 and "the loss became" in err and not path.exists()


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(FileNotFoundError):
        main(["inspect", "/nowhere/net.ckit", "--debug"])


def test_a_closed_pipe_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = process("-m", "convkit", "info", capture_output=False, stdout=writing,
                   stderr=subprocess.PIPE)
    os.close(writing)
    assert done.stderr == "" and done.returncode == 1


def test_quickstart_runs(tmp_path):
    script = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"
    path = tmp_path / "digits.ckit"
    done = process(script, "--epochs", "1", "--output", path)
    assert done.returncode == 0, done.stderr
    assert "accuracy before folding" in done.stdout and path.exists()
