"""Mutated files of weights, arrays, images and data sets, and what fuzzing has found before."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fuzz import arrays, data_files, weights
from fuzz.running import run

import convkit as ck
import convkit.functional as F
from convkit.errors import DataFormatError
from convkit.infer import trace, verify
from convkit.infer.cost import flops

CASES = 400


@pytest.mark.parametrize("kind", [weights, arrays, data_files], ids=lambda kind: kind.__name__)
def test_mutated_files_are_read_or_refused(kind, tmp_path):
    for data in kind.seeds():
        (tmp_path / f"good{kind.SUFFIX}").write_bytes(data)
    outcomes, slowest = run(kind, tmp_path, seed=1, cases=CASES)
    assert sum(outcomes.values()) == CASES and len(outcomes) > 1
    assert slowest < 5


def test_mutated_images_are_read_or_refused(tmp_path):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from fuzz import images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes, _ = run(images, tmp_path, seed=1, cases=CASES)
    assert outcomes["read"] > CASES // 5 and outcomes["DataFormatError"] > CASES // 5


def test_images_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image_module.new("L", (30, 20)).save(tmp_path / "x.png")
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 599)
    with pytest.raises(DataFormatError, match="30 x 20 pixels, at most 599"):
        ck.data.load_image(tmp_path / "x.png")


def test_no_celu_with_an_alpha_of_0():
    graph = trace(lambda x: F.celu(x, alpha=0.5), (1, 3))
    graph.nodes[0].attrs["alpha"] = 0.0
    with pytest.raises(ck.ShapeError, match="other than 0"):
        verify(graph)


def test_no_group_norm_of_no_channels():
    with pytest.raises(ck.ShapeError, match="expected num_groups that divides 0 channels"):
        F.group_norm(np.zeros((2, 0), np.float32), 1)


def test_a_stride_beyond_the_input_takes_no_memory():
    x, w = np.ones((1, 2, 10, 8), np.float32), np.ones((2, 2, 3, 3), np.float32)
    program = ck.compile(lambda t: F.conv2d(t, w, stride=(2**31 - 1, 3), padding=1), x.shape,
                         precision="highest", check=False)
    assert flops(program.graph, program.graph.nodes[0]) > 0
    np.testing.assert_array_equal(program(x), np.asarray(F.conv2d(x, w, stride=(12, 3), padding=1)))
    assert sum(program._ready().runner.bytes(1, 1)) < 1 << 20
