"""Initialisers by what they promise, and the lectures' experiment on activations by depth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit.errors import ShapeError


def fresh(*shape, dtype=np.float64):
    ck.manual_seed(0)
    return ck.Tensor(np.empty(shape, dtype))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9), (8, 3, 3, 3), (40, 3, 3, 3)])
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_orthogonal(shape, gain):
    w = nn.init.orthogonal_(fresh(*shape), gain).data.reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, gain**2 * np.eye(len(product)), atol=1e-12)


def test_orthogonal_weights_stretch_as_pytorchs_do(torch):
    for shape in ((6, 20), (8, 3, 3, 3), (40, 3, 3, 3)):
        ours = nn.init.orthogonal_(fresh(*shape), 1.7).data
        theirs = torch.nn.init.orthogonal_(torch.empty(*shape), 1.7).numpy()
        stretched = [np.linalg.svd(w.reshape(shape[0], -1))[1] for w in (ours, theirs)]
        np.testing.assert_allclose(*stretched, rtol=1e-5)


def test_orthogonal_matrices_keep_lengths():
    w = nn.init.orthogonal_(fresh(30, 30)).data
    x = np.random.default_rng(0).standard_normal(30)
    assert np.linalg.norm(w @ x) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert not np.allclose(w, nn.init.orthogonal_(ck.Tensor(w.copy())).data)
    with pytest.raises(ShapeError, match="at least 2 axes"):
        nn.init.orthogonal_(fresh(3))


def test_lecun():
    w = nn.init.lecun_normal_(fresh(200, 50, 3, 3)).data
    assert w.std() == pytest.approx(1 / np.sqrt(450), rel=0.01)
    w = nn.init.lecun_uniform_(fresh(300, 300)).data
    assert w.std() == pytest.approx(1 / np.sqrt(300), rel=0.01)
    assert np.abs(w).max() <= np.sqrt(3 / 300)


def test_truncated_normal(torch):
    w = nn.init.trunc_normal_(fresh(400, 500), 0.5, 2.0, -1.0, 3.0).data
    assert w.min() >= -1 and w.max() <= 3
    theirs = torch.nn.init.trunc_normal_(torch.empty(400, 500), 0.5, 2.0, -1.0, 3.0).numpy()
    assert w.mean() == pytest.approx(theirs.mean(), abs=0.01)
    assert w.std() == pytest.approx(theirs.std(), abs=0.01)
    for bounds in ((3.0, -1.0), (50.0, 51.0)):
        with pytest.raises(ValueError, match="a share of the normal distribution between them"):
            nn.init.trunc_normal_(fresh(3), 0.0, 1.0, *bounds)


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
                                  "kaiming_normal_"])
@pytest.mark.parametrize("shape", [(300, 200), (60, 50, 3, 3)])
def test_deviations_are_pytorchs(torch, name, shape):
    for kwargs in ({}, {"mode": "fan_out", "nonlinearity": "relu"}):
        if kwargs and "xavier" in name:
            continue
        ours = getattr(nn.init, name)(fresh(*shape), **kwargs).data
        theirs = getattr(torch.nn.init, name)(torch.empty(*shape), **kwargs).numpy()
        assert ours.std() == pytest.approx(theirs.std(), rel=0.02)


@pytest.mark.parametrize(("name", "settings", "bound"), [
    ("xavier_uniform_", {}, np.sqrt(6 / (540 + 2700))),
    ("xavier_uniform_", {"gain": 5 / 3}, 5 / 3 * np.sqrt(6 / (540 + 2700))),
    ("kaiming_uniform_", {}, np.sqrt(6 / 540)),
    ("kaiming_uniform_", {"a": np.sqrt(5)}, 1 / np.sqrt(540)),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}, np.sqrt(6 / 2700)),
    ("lecun_uniform_", {}, np.sqrt(3 / 540))])
def test_uniform_numbers_fill_their_bounds(name, settings, bound):
    """Fans are channels times the window's 9 places; 162,000 numbers come within 0.1% of the ends.

    The chance that they do not is below e^-80.
    """
    w = getattr(nn.init, name)(fresh(300, 60, 3, 3), **settings).data
    assert bound * 0.999 < w.max() <= bound and -bound <= w.min() < -0.999 * bound
    assert np.histogram(w, 4, (-bound, bound))[0] / w.size == pytest.approx(0.25, abs=0.01)


def deviations(name, **settings):
    return [layer.std for layer in nn.activations_by_depth(name, **settings)]


def test_small_weights_shrink_activations_and_xavier_keeps_them():
    """Six tanh layers of 500 units, as in the lectures."""
    small, xavier = deviations("small"), deviations("xavier")
    assert len(small) == len(xavier) == 6
    # Each layer multiplies the deviation by about 0.01 sqrt(500) = 0.22.
    for before, after in itertools.pairwise(small):
        assert after / before == pytest.approx(0.22, abs=0.02)
    assert small[-1] < 1e-3
    assert 0.25 < xavier[-1] < xavier[0] < 0.7
    assert min(b / a for a, b in itertools.pairwise(xavier)) > 0.75


def test_large_weights_saturate():
    last = nn.activations_by_depth("large")[-1]
    assert last.saturated > 0.9 and last.std > 0.95
    assert nn.activations_by_depth("xavier")[-1].saturated < 0.01
    assert last.values.shape == (1000, 500)


def test_rectifiers_need_kaimings_weights():
    size = {"activation": F.relu, "layers": 10}
    kaiming, xavier = deviations("kaiming", **size), deviations("xavier", **size)
    assert kaiming[-1] > 0.6 * kaiming[0]
    assert xavier[-1] < 0.06 * xavier[0]


def test_own_initialisers_and_bad_names():
    small = deviations(lambda w: nn.init.orthogonal_(w, 0.5), layers=3, width=50, samples=20)
    assert small[2] < small[1] < small[0]
    with pytest.raises(ValueError, match="expected one of small, large, xavier, kaiming, got 'x'"):
        nn.activations_by_depth("x")
