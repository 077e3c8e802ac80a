"""The examples run, as their READMEs say."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import convkit

ROOT = Path(convkit.__file__).resolve().parents[1]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def environment() -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | {"PYTHONPATH": path}


def run(script: str, *arguments: object, folder: Path) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / script, *map(str, arguments)], cwd=folder,
                          env=environment(), capture_output=True, text=True, timeout=240,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.ckit"
    run("digits_model.py", path, folder=path.parent)
    assert convkit.load(path).labels == list("0123456789")
    return path


def accuracy(line: str) -> float:
    return float(line.split("accuracy")[1].strip().rstrip("%"))


def test_worker_pool(model, tmp_path):
    for start in ("spawn", "fork"):
        out = run("worker_pool/pool.py", "--model", model, "--start", start, folder=tmp_path)
        assert "2 workers: " in out and accuracy(out) > 90


def test_encoder_decoder(tmp_path):
    lines = run("encoder_decoder.py", "--epochs", 2, "--images", 1000, folder=tmp_path).splitlines()
    assert lines[0] == "noisy digits: 8.0 dB" and len(lines) == 5
    cleaned = {line.split("dB")[0][:31]: float(line.split("dB")[0].split()[-1])
               for line in lines[1:]}
    assert min(cleaned.values()) > 14
    moved = [float(line.rsplit(" ", 1)[1]) for line in lines[1:]]
    assert moved[3] < moved[1], "a blur before sampling aliases less"


def test_remedies_for_rare_classes(tmp_path):
    """Each remedy finds more of the rare classes, and loses little of the others."""
    lines = run("imbalanced_classes.py", "--epochs", 3, folder=tmp_path).splitlines()
    assert lines[0] == "3230 samples, 15 of each of the classes (8, 9)"
    recalls = {line[:18].strip(): [float(r.rstrip("%")) for r in line[18:].split()]
               for line in lines[2:]}
    rare, common = recalls.pop("plain")
    assert rare < 30 and common > 90
    assert list(recalls) == ["class weights", "balanced batches", "focal loss"]
    for name, (found, others) in recalls.items():
        assert found > rare + 20 and others > common - 10, name


def test_gallery(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    run("gallery.py", "drawn", "--images", 20, "--epochs", 1, folder=tmp_path)
    page = (EXAMPLES.parent / "docs" / "pictures.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"images/gallery/([\w-]+\.png)", page))
    drawn = {path.name: image_module.open(path) for path in (tmp_path / "drawn").iterdir()}
    assert shown == set(drawn) and len(shown) == 17
    for name, picture in drawn.items():
        pixels = np.asarray(picture.convert("L"))
        assert (pixels < 128).mean() > 0.002 and pixels.max() == 255, f"{name} is blank"
        assert picture.size == image_module.open(
            EXAMPLES.parent / "docs" / "images" / "gallery" / name).size


def test_desktop(model, tmp_path):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    folder = tmp_path / "images"
    lines = run("desktop/classify.py", folder, "--model", model, folder=tmp_path).splitlines()
    assert len(lines) == 40 and lines[0].startswith("[1/40] 0000-")
    right = sum(line.split("-")[1][0] == line.split(": ")[1][0] for line in lines)
    assert right > 34
    (folder / "notes.txt").write_text("no image")
    out = run("desktop/classify.py", folder, "--model", model, "--top", "1", folder=tmp_path)
    assert out.splitlines()[-1] == "1 files are no images"


def test_desktop_ends_when_its_thread_fails(model, tmp_path):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    unnamed = tmp_path / "unnamed.ckit"
    program = convkit.load(model)
    program.metadata.pop("labels")
    convkit.save(program, unnamed)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "desktop/classify.py", tmp_path / "images", "--model", unnamed],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "TypeError" in done.stderr


def test_web_service(model, tmp_path):
    pytest.importorskip("flask", reason="Flask is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    service = subprocess.Popen(
        [sys.executable, EXAMPLES / "web_service/service.py", "--model", model, "--port", "0"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True)
    try:
        base = service.stdout.readline().split()[1].removesuffix("/predict")
        out = run("web_service/load.py", base, "--requests", 60, "--clients", 4, folder=tmp_path)
        assert accuracy(out) > 0.9
        with urllib.request.urlopen(f"{base}/load", timeout=30) as answer:
            assert json.load(answer)["requests"] == 60
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(f"{base}/predict", b"no image"),
                                   timeout=30)
    finally:
        service.kill()
        service.wait()
        service.stdout.close()


def test_dask_batch(model, tmp_path):
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    pytest.importorskip("PIL", reason="Pillow is not installed")
    out = run("dask_batch/batch.py", tmp_path / "images", "--model", model, folder=tmp_path)
    assert out.startswith("200 files, ")
    rows = list(csv.reader((tmp_path / "labels.csv").open()))
    assert rows[0] == ["file", "label"] and len(rows) == 201
    assert sum(name.split("-")[1][0] == label for name, label in rows[1:]) > 180
