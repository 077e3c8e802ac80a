"""`convkit convert` and `convkit verify`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import convkit as ck
from convkit import models
from convkit.cli import main

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with one network as .ckit and .onnx."""
    folder = tmp_path_factory.mktemp("files")
    ck.manual_seed(0)
    program = ck.compile(models.lenet5(), (1, 1, 28, 28), metadata={"labels": ["a", "b"]})
    ck.save(program, folder / "net.ckit")
    ck.io.onnx.save(program, folder / "net.onnx")
    return folder


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_convert_both_ways_keeps_the_network(folder, tmp_path, capsys):
    code, out, err = run(capsys, "convert", folder / "net.onnx", tmp_path / "back.ckit")
    assert (code, err) == (0, "") and "Program(" in out and "bytes ->" in out
    assert ck.load(tmp_path / "back.ckit").labels == ["a", "b"]
    code, _, err = run(capsys, "convert", tmp_path / "back.ckit", tmp_path / "again.onnx",
                       "--opset", 22)
    assert (code, err) == (0, "")
    for other in (tmp_path / "back.ckit", tmp_path / "again.onnx"):
        code, out, err = run(capsys, "verify", folder / "net.ckit", other)
        assert (code, err) == (0, "") and "largest difference" in out


def test_convert_opens_or_fixes_sizes(folder, tmp_path, capsys):
    name = next(iter(ck.load(folder / "net.ckit").input_shapes))
    code, _, err = run(capsys, "convert", folder / "net.onnx", tmp_path / "fixed.ckit",
                       "--input-shape", f"{name}=2,1,28,28", "--weights", "float16")
    assert (code, err) == (0, "")
    assert ck.load(tmp_path / "fixed.ckit").input_shapes == {name: (2, 1, 28, 28)}


def test_convert_leaves_ranges_open(tmp_path, capsys):
    net = ck.compile(ck.nn.Conv2d(1, 2, 3), (1, 1, 32, 32))
    ck.io.onnx.save(net, tmp_path / "net.onnx")
    name = next(iter(net.input_shapes))
    code, out, err = run(capsys, "convert", tmp_path / "net.onnx", tmp_path / "open.ckit",
                         "--input-shape", f"{name}=N,1,16-64,32-64/16")
    assert (code, err) == (0, "") and "(N, 2, H-2, W-2)" in out
    program = ck.load(tmp_path / "open.ckit")
    x = np.ones((1, 1, 21, 48), np.float32)
    assert program(x).shape == (1, 2, 19, 46)
    for wrong in ("16-", "64-16", "1,3-4", "16-64/0"):
        code, _, err = run(capsys, "convert", tmp_path / "net.onnx", tmp_path / "no.ckit",
                           "--input-shape", f"{name}=N,1,{wrong},8")
        assert code != 0 and err


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder with folders of digits, named like the classes."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    folder, digits = tmp_path_factory.mktemp("images"), ck.data.digits("test")
    for i in range(40):
        path = folder / "digits" / str(digits.labels[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(digits.images[i, 0]).save(path)
    return folder


def save_classifier(path, **metadata):
    """Write a small network for digits."""
    ck.manual_seed(1)
    ck.save(ck.compile(models.lenet5(), (1, 1, 28, 28), metadata=metadata), path)


def test_convert_quantizes_with_a_folder_of_images(images, tmp_path, capsys):
    entry = {"channels": 1, "height": 28, "width": 28, "mean": [0.13], "std": [0.31]}
    save_classifier(tmp_path / "net.ckit", labels=[str(i) for i in range(10)], preprocessing=entry)
    code, out, err = run(capsys, "convert", tmp_path / "net.ckit", tmp_path / "small.ckit",
                         "--quantize", images, "--calibration-images", 30, "--method", "mse")
    assert (code, err) == (0, "")
    assert "ranges by mse over 30 samples" in out and "worst layer:" in out and "accuracy:" in out
    small = ck.load(tmp_path / "small.ckit")
    assert small.quantized and small.metadata["preprocessing"] == entry
    # The same as in Python, on the images as predict prepares them.
    x = (ck.data.load_image(next(images.rglob("*.png")), channels=1) / np.float32(255)
         - np.float32(0.13)) / np.float32(0.31)
    want = ck.load(tmp_path / "net.ckit")(x[None].astype(np.float32))
    assert np.abs(small(x[None].astype(np.float32)) - want).max() < 0.05 * np.abs(want).max()
    code, _, _ = run(capsys, "convert", tmp_path / "small.ckit", tmp_path / "small.onnx")
    assert code == 0 and "QuantizeLinear" in {
        n.op_type for n in onnx.load(tmp_path / "small.onnx").graph.node}


def test_convert_leaves_layers_in_floats(images, tmp_path, capsys):
    save_classifier(tmp_path / "net.ckit")
    first = next(n.name for n in ck.load(tmp_path / "net.ckit").graph.nodes if n.op == "conv")
    code, out, err = run(
        capsys, "convert", tmp_path / "net.ckit", tmp_path / "small.ckit", "--quantize",
        images / "digits", "--skip", first, "--mean", "0.13", "--std", "0.31")
    assert (code, err) == (0, "") and "accuracy" not in out  # there are no labels
    ops = [n.op for n in ck.load(tmp_path / "small.ckit").graph.nodes]
    assert "conv" in ops and "quant_conv" in ops
    assert ck.load(tmp_path / "small.ckit").metadata["preprocessing"]["std"] == [0.31]
    code, _, err = run(capsys, "convert", tmp_path / "small.ckit", tmp_path / "again.ckit",
                       "--quantize", images)
    assert code == 1 and "expected a float network" in err


def test_convert_quantizes_with_arrays(folder, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((6, 1, 28, 28), np.float32))
    code, out, err = run(capsys, "convert", folder / "net.onnx", tmp_path / "small.ckit",
                         "--quantize", tmp_path / "x.npy", "--method", "percentile",
                         "--percentile", 99.9)
    assert (code, err) == (0, "") and "ranges by percentile over 6 samples" in out
    assert "folding changes outputs" in out


def test_convert_says_when_it_guesses_how_images_are_prepared(images, tmp_path, capsys):
    save_classifier(tmp_path / "net.ckit")
    code, _, err = run(capsys, "convert", tmp_path / "net.ckit", tmp_path / "small.ckit",
                       "--quantize", images)
    assert code == 0 and "values from 0 to 1 are taken" in err


def test_verify_tells_networks_apart(folder, tmp_path, capsys):
    other = ck.compile(models.lenet5(), (1, 1, 28, 28))
    ck.save(other, tmp_path / "other.ckit")
    code, out, err = run(capsys, "verify", folder / "net.ckit", tmp_path / "other.ckit")
    assert code == 1 and "largest difference" in out
    assert "the files differ by" in err and err.count("\n") == 1
    code, out, _ = run(capsys, "verify", folder / "net.ckit", tmp_path / "other.ckit", "--json",
                       "--tolerance", 1e6)
    assert code == 0 and json.loads(out)["same"] and json.loads(out)["outputs"][0]["relative"] > 0


def test_verify_on_given_inputs(folder, tmp_path, capsys):
    x = np.zeros((3, 1, 28, 28), np.float32)
    name = next(iter(ck.load(folder / "net.ckit").input_shapes))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", **{name: x})
    for file in ("x.npy", "x.npz"):
        code, out, _ = run(capsys, "verify", folder / "net.ckit", folder / "net.onnx", "--input",
                           tmp_path / file)
        assert code == 0 and "(3, 10)" in out
    np.savez(tmp_path / "wrong.npz", y=x)
    code, _, err = run(capsys, "verify", folder / "net.ckit", folder / "net.onnx", "--input",
                       tmp_path / "wrong.npz")
    assert code == 2 and "no array" in err


def test_verify_wants_networks_of_one_form(folder, tmp_path, capsys):
    ck.save(ck.compile(models.resnet20(), (1, 3, 32, 32)), tmp_path / "resnet.ckit")
    code, _, err = run(capsys, "verify", folder / "net.ckit", tmp_path / "resnet.ckit")
    assert code == 1 and "take inputs of shapes" in err


@pytest.mark.parametrize(("argv", "code", "text"), [
    (["convert", "net.txt", "out.onnx"], 2, "ends in .ckit or .onnx"),
    (["convert", "net.ckit", "out.ckit", "--opset", "21"], 2, "--opset is for ONNX files"),
    (["convert", "net.ckit", "out.onnx", "--weights", "float16"], 2, "--weights is for .ckit"),
    (["convert", "net.ckit", "out.onnx", "--input-shape", "x=N,1"], 2, "--input-shape is for ONNX"),
    (["convert", "net.ckit", "out.ckit", "--method", "mse"], 2, "--method is for --quantize"),
    (["convert", "net.ckit", "out.ckit", "--quantize", ".", "--percentile", "99"], 2,
     "--percentile is for --method percentile"),
    (["convert", "net.ckit", "out.ckit", "--quantize", ".", "--mean", "1,1"], 2,
     "--mean: expected 1 numbers, got 2"),
    (["convert", "net.ckit", "out.ckit", "--quantize", "."], 1, "expected images"),
    (["convert", "net.ckit", "out.ckit", "--quantize", "none"], 1, "No such file"),
    (["convert", "net.onnx", "out.ckit", "--input-shape", "x=1,N"], 2, "expected NAME=SIZES"),
    (["convert", "net.onnx", "out.ckit", "--input-shape", "z=N,1"], 1, "no input 'z'"),
    (["convert", "net.ckit", "out.onnx", "--opset", "3"], 1, "opset: expected 21"),
    (["convert", "missing.onnx", "out.ckit"], 1, "No such file"),
])
def test_errors_take_one_line(folder, capsys, monkeypatch, argv, code, text):
    monkeypatch.chdir(folder)
    got, _, err = run(capsys, *argv)
    assert got == code and text in err.splitlines()[-1]
    assert not (folder / "out.ckit").exists() and not (folder / "out.onnx").exists()
