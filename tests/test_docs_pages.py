"""The pages of docs/ and the README: their code runs as it stands, the index names them all."""

from __future__ import annotations

import re

import numpy as np
import pytest
from docs_blocks import ROOT, blocks, run_commands, run_python

import convkit as ck
from convkit import data, models
from convkit.data import augment

DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ck.manual_seed(0)


def test_readme(tmp_path, capsys):
    fifteen_lines, network = blocks("README.md", "python")
    names: dict = {"__name__": "docs"}
    exec(fifteen_lines, names)
    assert (tmp_path / "digits.ckit").exists()
    assert capsys.readouterr().out.splitlines()[-1] in "0123456789"
    names["F"] = ck.functional
    exec(network, names)
    assert names["Net"]()(ck.zeros(2, 8, 5, 5)).shape == (2, 8, 5, 5)


def test_augmentation():
    names = run_python("docs/augmentation.md")
    assert isinstance(names["lighting"], names["A"].PCALighting)


def test_every_augmentation_has_its_picture(rng, monkeypatch):
    """Rows of the page of pictures; the picture itself is as large as its rows are."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_augmentation_images as page

    images = rng.integers(0, 256, (10, 3, 32, 32), np.uint8)
    rows = page.rows(data.ImageDataset(images, np.zeros(10, int), "a"))
    transforms = {name for name in augment.__all__ if isinstance(getattr(augment, name), type)
                  and issubclass(getattr(augment, name), augment.Transform)}
    assert {type(row).__name__ for row in rows.values()} == transforms - {"Transform"}
    assert set(augment.__all__) - transforms == {"Draws", "color_components", "soft_labels"}
    for caption, transform in rows.items():
        name = re.match(r"\s*(\w+)", caption)[1]
        assert type(transform).__name__ in caption or name not in transforms, caption
        pictures = page.tiles(transform(images[:page.COLUMNS], np.arange(6), seed=0)[0])
        assert all(max(page.zoomed(p).size) <= page.SIDE - page.GAP for p in pictures)
    with image_module.open(ROOT / "docs" / "images" / "augmentation.png") as picture:
        assert picture.size == page.size(rows)


def test_tensors():
    names = run_python("docs/tensors.md")
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs/tensors.md").read_text()))
    assert names["x"].grad.shape == (2, 6, 8, 8)
    assert {n for n in ck.tensors.__all__ if n != "Picked"} <= listed
    assert all(hasattr(ck.Tensor, n) or hasattr(ck, n) for n in listed)


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run_python("docs/pictures.md")
    assert {p.name for p in tmp_path.iterdir()} == {"curves.png", "filters.png"}


def test_graph(tmp_path, capsys):
    names = run_python("docs/graph.md")
    assert (tmp_path / "net.dot").read_text().startswith("digraph")
    assert names["scores"].shape == (1, 10) and "conv" in capsys.readouterr().out


def test_quantization(tmp_path, capsys):
    names = run_python("docs/quantization.md")
    x = names["images"].numpy()
    np.testing.assert_array_equal(ck.load(tmp_path / "net.ckit")(x), names["small"](x))
    assert "dB" in capsys.readouterr().out


def test_distributed():
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    names = run_python("docs/distributed.md")
    names["distributed"].destroy_process_group()
    assert len(names["trainer"].history) == 1


def test_weights_from_pytorch(tmp_path):
    # The first block fetches weights from the network; those of a fresh one stand in for them.
    ck.io.save_state_dict(models.resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    run_python("docs/pytorch-weights.md", skip=1)
    assert ck.load(tmp_path / "resnet18.ckit").input_shapes["x"][1:] == (3, 224, 224)


def test_command_line(tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    (tmp_path / "holiday").mkdir()
    for name in ("holiday/1.png", "cat.jpg"):
        image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / name)
    printed = run_commands("docs/command-line.md", capsys)
    assert len(printed) > 10 and "accuracy" in printed[3] and "cat.jpg" in printed[4]


def test_the_index_names_every_page():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w/-]+\.md)\)", text))
