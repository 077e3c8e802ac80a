"""The page about a run: what is on it, and that it needs nothing else."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import convkit as ck
from convkit import data, nn, training

HISTORY = [{"epoch": e, "step": 10 * e, "lr": 0.1 / e, "seconds": 1.0, "loss": 1.0 / e,
            "accuracy": 1 - 0.5 / e, "val_loss": 1.2 / e, "val_accuracy": 1 - 0.6 / e}
           for e in (1, 2, 3)]


class Structure(HTMLParser):
    """Checks that tags close in order, and collects text and what is loaded."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.loaded, self.images = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
        self.loaded += [v for k, v in attrs.items()
                        if k in ("src", "href", "xlink:href") and not v.startswith(("data:", "#"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


@pytest.fixture
def digits():
    test = data.digits("test")
    scores = np.full((40, 10), -1.0)
    scores[np.arange(40), test.labels[:40]] = 2
    scores[3] = scores[7] = 0
    scores[3, (test.labels[3] + 1) % 10] = 9  # the worst
    scores[7, (test.labels[7] + 1) % 10] = 4
    return data.ImageDataset(test.images[:40], test.labels[:40], test.classes), scores


def write(path, *args, **options):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return Structure(training.write_report(path, *args, **options).read_text(encoding="utf-8"))


def test_everything_is_on_one_page(tmp_path, digits):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    dataset, scores = digits
    program = ck.compile(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 1, 28, 28))
    monitor = training.LayerMonitor()
    monitor.records = [{"step": 20, "layers": {"1.weight": {
        "weight_norm": 1.5, "grad_norm": 0.25, "update_ratio": 0.00125}}}]
    monitor.dead_relus = {"stem.relu": 0.375}
    page = write(tmp_path / "r.html", HISTORY, dataset=dataset, scores=scores, monitor=monitor,
                 targets=dataset.labels, program=program, settings={"lr": 0.1, "model": "<b>"},
                 title="Digits & more")
    text = " ".join(page.text)
    for part in ("Digits & more", "3 epochs, 30 steps", "Settings", "<b>", "Curves", "validation",
                 "38 of 40 are right (95.00%)", "Worst mistakes", "Model", "7,850",
                 "At step 20.", "0.00125", "stem.relu", "0.375"):
        assert part in text, part
    assert page.loaded == [] and len(page.images) == 2
    shown = [np.asarray(image_module.open(io.BytesIO(base64.b64decode(src.split(",")[1]))))
             for src in page.images]
    for image, i in zip(shown, (3, 7), strict=True):  # the worst first
        np.testing.assert_array_equal(image, dataset.images[i, 0])


def test_float_and_colour_images(tmp_path, rng):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images = rng.standard_normal((6, 3, 5, 4)).astype(np.float32)
    page = write(tmp_path / "r.html", HISTORY, scores=np.eye(3)[[0, 0, 1, 1, 2, 2]],
                 dataset=data.TensorDataset(images, np.zeros(6, int)), targets=np.zeros(6, int),
                 mistakes=3)
    assert len(page.images) == 3
    image = image_module.open(io.BytesIO(base64.b64decode(page.images[0].split(",")[1])))
    assert image.mode == "RGB" and image.size == (4, 5)
    assert (np.asarray(image).min(), np.asarray(image).max()) == (0, 255)


def test_no_mistakes_and_little_to_say(tmp_path, digits):
    dataset, _ = digits
    page = write(tmp_path / "r.html", [{"epoch": 1, "step": 3, "lr": 0.1, "seconds": 1.0,
                                        "loss": 2.0, "accuracy": None}],
                 dataset=dataset, scores=np.eye(10)[dataset.labels], targets=dataset.labels)
    text = " ".join(page.text)
    assert "There are none." in text and "40 of 40 are right" in text and page.images == []
    assert "Model" not in text
    page = write(tmp_path / "r.html", [])
    assert "Curves" not in " ".join(page.text)


def test_many_classes_are_listed_by_pairs(tmp_path):
    targets = np.arange(60)
    scores = np.eye(60)
    scores[5], scores[6] = np.eye(60)[7], np.eye(60)[7]
    page = write(tmp_path / "r.html", HISTORY, scores=scores, targets=targets)
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "The commonest mistakes" in text and " 5 7 1 " in text and " 6 7 1 " in text


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a report needs matplotlib: "
                                          r"pip install 'convkit\[report\]'"):
        training.write_report(tmp_path / "r.html", HISTORY)
