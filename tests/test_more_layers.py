"""Shrinking activations, distances, their losses, windows, 1-D pads: the same as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import nn


def data():
    """Return operands by name."""
    rng = np.random.default_rng(0)
    return {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal((4, 5)),
            "n": rng.standard_normal((4, 5)), "v": rng.uniform(0.0, 2.0, (4, 5)),
            "k": rng.poisson(2.0, (4, 5)).astype(float), "u": rng.uniform(0.5, 2.0, (4, 5)),
            "t": np.where(rng.random((4, 5)) > 0.5, 1.0, -1.0),
            "y": np.array([1.0, -1.0, 1.0, -1.0]), "z": np.zeros((2, 3)),
            "far": rng.standard_normal((4, 5)) * 200,
            "x": rng.standard_normal((2, 3, 7, 6)), "s": rng.standard_normal((2, 3, 7)),
            "row": rng.standard_normal((1, 5)), "m": rng.standard_normal((4, 4)),
            "w": rng.uniform(0.2, 2.0, 4), "holed": np.array([[0.0, -2.0, 1.0], [3.0, 0.0, 0.0]]),
            "lost": np.array([[np.nan, 2.0, 0.1], [-0.1, np.nan, -3.0]])}


# Every expression reads F, nn and operands.
EXPRESSIONS = """
F.hardshrink(a) | F.hardshrink(a, 0.2) | F.softshrink(a) | F.softshrink(a, 0.9) | F.tanhshrink(a)
F.threshold(a, 0.1, 20.0) | F.softmin(a, dim=1) | F.normalize(a) | F.normalize(a, 1.0, 0)
F.normalize(z) | F.normalize(x, dim=2) | F.cosine_similarity(a, b) | F.cosine_similarity(a, b, 0)
F.pairwise_distance(a, b) | F.pairwise_distance(a, b, 1.0, keepdim=True)
F.pairwise_distance(a, b, 3.0) | F.margin_ranking_loss(a, b, t)
F.margin_ranking_loss(a, b, t, 0.5, reduction="sum") | F.soft_margin_loss(a, t)
F.hinge_embedding_loss(v, t) | F.hinge_embedding_loss(v, t, 0.4, reduction="none")
nn.HingeEmbeddingLoss(1.5, reduction="sum")(v, t) | F.soft_margin_loss(far, t, reduction="none")
F.cosine_embedding_loss(a, b, y)
F.cosine_embedding_loss(a, b, y, 0.1, reduction="none") | F.triplet_margin_loss(a, b, n)
F.triplet_margin_loss(a, b, n, 2.0, 1.0, swap=True)
F.triplet_margin_loss(a, b, n, reduction="sum")
F.poisson_nll_loss(a, k) | F.poisson_nll_loss(u, k, log_input=False)
F.poisson_nll_loss(a, k, full=True, reduction="none") | F.gaussian_nll_loss(a, b, v)
F.gaussian_nll_loss(a, b, v, full=True, reduction="sum")
F.gaussian_nll_loss(a, b, v, eps=0.7)
F.cosine_similarity(a, row, 0) | F.cosine_similarity(row, a, 1) | F.soft_margin_loss(a * 0, t)
F.gaussian_nll_loss(m, m.detach() + 1, w) | F.gaussian_nll_loss(a, b, w, full=True)
F.normalize(holed, 0.5) | F.hardshrink(lost) | F.threshold(lost, 0.2, -1.0) | F.softshrink(lost)
F.unfold(x, 3) | F.unfold(x, (2, 3), 2, 1, 1) | F.unfold(x, 2, 1, (1, 0), (2, 3))
F.unfold(x[0], 4)
F.pad(s, (-1, 5), "circular") | F.pad(s, (3, -3), "circular") | F.pad(x, (-2, 1, 2, -1), "circular")
F.pad(x, (-1, 2, -1, -1), "reflect") | F.pad(x, (3, -2, -1, 5), "replicate")
nn.Hardshrink(0.3)(a) | nn.Softshrink()(a) | nn.Tanhshrink()(a) | nn.Threshold(0.0, -1.0)(a)
nn.Softmin(0)(a) | nn.Softmax2d()(x) | nn.Softmax2d()(x[0]) | nn.CosineSimilarity(0)(a, b)
nn.PairwiseDistance(1.0)(a, b) | nn.MarginRankingLoss(0.2)(a, b, t)
nn.CosineEmbeddingLoss(0.3, reduction="sum")(a, b, y) | nn.SoftMarginLoss()(a, t)
nn.TripletMarginLoss(swap=True)(a, b, n) | nn.PoissonNLLLoss(full=True)(a, k)
nn.GaussianNLLLoss()(a, b, v) | nn.Unfold(3, padding=1)(x) | nn.Unflatten(1, (3, 1))(x)
nn.ZeroPad1d(2)(s) | nn.ConstantPad1d((1, 3), 2.5)(s) | nn.ReflectionPad1d((2, 1))(s)
nn.ReplicationPad1d(3)(s) | nn.CircularPad1d((3, 0))(s) | nn.UpsamplingNearest2d(scale_factor=2)(x)
nn.UpsamplingBilinear2d((9, 11))(x)
F.glu(x) | F.glu(x[:, :2], 1) | nn.ChannelShuffle(3)(x) | nn.PixelUnshuffle(2)(x[:, :, :6])
nn.PixelShuffle(2)(nn.PixelUnshuffle(2)(x[:, :, :6])) | nn.SyncBatchNorm(3).double().eval()(x)
F.interpolate(x, 9, mode="nearest-exact") | F.interpolate(x, (3, 13), mode="nearest-exact")
F.interpolate(x, scale_factor=1.7, mode="nearest-exact") | F.interpolate(s, 5, mode="nearest-exact")
F.interpolate(x, (4, 9), mode="area") | F.interpolate(s, scale_factor=0.6, mode="area")
F.interpolate(x, (11, 3), mode="bicubic") | F.interpolate(x, scale_factor=2.3, mode="bicubic")
F.interpolate(x, scale_factor=0.45, mode="bicubic")
F.interpolate(x, 9, mode="bicubic", align_corners=True)
F.interpolate(x, scale_factor=(2, 0.5), mode="bicubic", recompute_scale_factor=True)
F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True)
F.interpolate(x, (3, 4), mode="bilinear", antialias=True)
F.interpolate(x, (3, 2), mode="bicubic", antialias=True)
F.interpolate(x, (12, 4), mode="bicubic", antialias=True)
F.interpolate(x, scale_factor=0.4, mode="bilinear", antialias=True)
nn.Upsample(scale_factor=1.5, mode="bicubic")(x)
"""
LISTED = [e.strip() for line in EXPRESSIONS.splitlines() for e in line.split("|") if e.strip()]


@pytest.mark.parametrize("expression", LISTED)
def test_values_and_gradients_are_pytorchs(torch, expression):
    arrays = data()
    targets = {"t", "y", "k"}
    mine = {k: ck.tensor(v, requires_grad=k not in targets) for k, v in arrays.items()}
    theirs = {k: torch.tensor(v, requires_grad=k not in targets) for k, v in arrays.items()}
    got = eval(expression, {"F": F, "nn": nn, **mine})
    want = eval(expression, {"F": torch.nn.functional, "nn": torch.nn, **theirs})
    assert got.shape == tuple(want.shape) and got.dtype == np.float64
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-6, atol=1e-9)
    weights = np.random.default_rng(1).standard_normal(got.shape)
    got.backward(weights)
    want.backward(torch.tensor(weights))
    for name in arrays.keys() - targets:
        expected = theirs[name].grad
        if expected is not None:
            np.testing.assert_allclose(mine[name].grad.numpy(), expected.numpy(), rtol=1e-5,
                                       atol=1e-7, err_msg=name)
        else:
            assert mine[name].grad is None


@pytest.mark.parametrize("margin", [5.0, 10.0, 17.0, 40.0, 80.0])
def test_a_small_soft_margin_loss_is_not_lost_in_the_rounding_of_1(margin):
    got = F.soft_margin_loss(np.full(1, margin, np.float32), np.ones(1, np.float32))
    np.testing.assert_allclose(got.item(), np.log1p(np.exp(-margin)), rtol=1e-6)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: F.cosine_similarity(x, x[:, :2]), ck.ShapeError, "do not broadcast together"),
    (lambda x: F.unfold(x, 9), ck.ShapeError, "at least the window's size"),
    (lambda x: F.softshrink(x, -1.0), ValueError, "lambd of at least 0"),
    (lambda x: F.gaussian_nll_loss(x, x, -x), ValueError, "variances of at least 0"),
    (lambda x: F.interpolate(x, 3, mode="bicubic", antialias=True, align_corners=True), ValueError,
     "without align_corners"),
    (lambda x: F.interpolate(x, 3, mode="area", antialias=True), ValueError, "antialias is for"),
    (lambda x: F.interpolate(x, 3, recompute_scale_factor=True), ValueError, "for scale_factor"),
    (lambda x: F.interpolate(x, 3, mode="spline"), ValueError, "expected 'nearest',"),
    (lambda x: F.soft_margin_loss(x, x, reduction="average"), ValueError, "reduction must be"),
])
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(ck.tensor(np.ones((2, 3, 4, 4), np.float32)))


def test_networks_of_them_compile():
    net = nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.Softshrink(0.1), nn.Unfold(2, stride=2),
        nn.Unflatten(1, (8, 4)), nn.Flatten(), nn.Linear(8 * 4 * 16, 4), nn.Softmin(1))
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    net.eval()
    program = ck.compile(net, (1, 3, 8, 8))
    np.testing.assert_allclose(program(x), net(ck.tensor(x)).data, rtol=1e-5, atol=1e-6)
