"""Batch norm: values, full gradients, statistics far from zero, the facts about gradients."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    TF,
    assert_same_bits,
    check_batch_invariance,
    check_op,
    random_array,
    run_python,
)

import convkit.ops  # noqa: F401  (registers)
from convkit import runtime
from convkit._kernels import norm
from convkit.autograd import Tensor, apply, no_grad
from convkit.errors import ShapeError
from convkit.ops.op import REGISTRY

TRAIN = REGISTRY["batch_norm_train"]
SHAPES = [(5, 3), (37, 17), (9, 1), (4, 3, 7), (3, 17, 5, 3), (2, 1, 9, 9), (2, 64, 7, 7),
          (2, 1000, 2, 2), (1, 3, 6, 5), (3, 16, 50, 41)]


def parameters(channels, seed=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(channels), rng.standard_normal(channels)


def torch_train(eps):
    return lambda x, *wb: TF.batch_norm(x, None, None, *wb, training=True, eps=eps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_train(shape, affine):
    weight, bias = parameters(shape[1]) if affine else (None, None)
    x = np.random.default_rng(11).standard_normal(shape) * 2 + 1
    check_op(TRAIN, [x, weight, bias], {"eps": 1e-3}, torch=torch_train(1e-3))


def test_train_in_every_order_of_memory():
    weight, bias = parameters(5)
    check_op(TRAIN, [(4, 5, 6, 7), weight, bias], {"eps": 1e-5}, gradcheck=False,
             layouts=("fortran", "strided", "reversed", "read_only", "byte_swapped",
                      "misaligned"))


def test_train_over_many_blocks():
    weight, bias = parameters(24)
    check_op(TRAIN, [(3, 24, 70, 61), weight, bias], {"eps": 1e-5}, gradcheck=False,
             threads=(1, 2, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics(shape, affine):
    weight, bias = parameters(shape[1]) if affine else (None, None)
    mean, _ = parameters(shape[1], 4)
    var = np.random.default_rng(5).uniform(0.1, 2, shape[1])

    def torch(x, w, b, m, v):
        return TF.batch_norm(x, m, v, w, b, training=False, eps=1e-3)

    check_op("batch_norm", [shape, weight, bias, mean, var], {"eps": 1e-3}, torch=torch)


def test_running_statistics_are_batch_invariant():
    weight, bias = parameters(19)

    def run(x):
        with no_grad():
            return apply(REGISTRY["batch_norm"], x, weight.astype(np.float32),
                         bias.astype(np.float32), bias, weight ** 2)

    for layout in ("contiguous", "channels_last"):
        check_batch_invariance(run, random_array((5, 19, 13, 7), layout=layout))


@pytest.mark.parametrize("shape", [(16, 5, 20, 20), (40_000, 3), (300, 70, 3, 3)])
def test_mean_far_from_zero(shape):
    """With mean 1e4 and deviation 1, float32 holds the values to 1e-3 but loses no more."""
    x = (np.random.default_rng(6).standard_normal(shape) + 1e4).astype(np.float32)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    wide = x.astype(np.float64)
    with no_grad():
        y, mean, var = (t.data for t in apply(TRAIN, x, None, None))
    np.testing.assert_allclose(var, wide.var(axes), rtol=1e-6)
    np.testing.assert_allclose(mean, wide.mean(axes), rtol=1e-7)
    keep = tuple(slice(None) if i == 1 else None for i in range(x.ndim))
    want = (wide - wide.mean(axes)[keep]) / np.sqrt(wide.var(axes)[keep] + 1e-5)
    np.testing.assert_allclose(y, want, atol=4e-6)


def test_gradient_with_mean_far_from_zero():
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((4, 7, 30, 31)) + 1e4).astype(np.float32)
    gy = rng.standard_normal(x.shape).astype(np.float32)
    from convkit import reference

    want = reference.batch_norm_train_grad(gy, x, None, None, eps=1e-5)[0]
    t = Tensor(x, requires_grad=True)
    apply(TRAIN, t, None, None)[0].backward(gy)
    np.testing.assert_allclose(t.grad.data, want, atol=2e-6)


def test_moments_of_a_constant_and_of_outliers():
    x = np.full((1000, 3), 7.25, np.float32)
    mean, var = norm.moments(x, 2)
    assert (mean == 7.25).all() and (var == 0).all()
    x[::256] = 1e6  # the first row of every block
    mean, var = norm.moments(x, 2)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=1e-6)


def run_train(x, gy, threads=1, eps=0.0):
    t = Tensor(x, requires_grad=True)
    with runtime.threads(threads):
        y = apply(TRAIN, t, None, None, eps=eps)[0]
        y.backward(gy)
    return y.data, t.grad.data


def test_facts_about_the_training_form():
    """Output invariant to a positive scaling; gradient orthogonal to ones and to the input."""
    x = random_array((4, 6, 9, 8), np.float64, seed=8)
    gy = random_array((4, 6, 9, 8), np.float64, seed=9)
    y, gx = run_train(x, gy)
    scaled, _ = run_train(3.7 * x, gy)
    np.testing.assert_allclose(scaled, y, atol=1e-12)
    axes = (0, 2, 3)
    assert np.abs(gx.sum(axes)).max() < 1e-12
    assert np.abs((gx * x).sum(axes)).max() < 1e-11
    assert np.abs(y.mean(axes)).max() < 1e-14
    np.testing.assert_allclose(y.var(axes), 1.0, rtol=1e-13)


def test_nan_and_infinity_stay_in_their_channel():
    x = random_array((4, 3, 5, 5))
    x[1, 1, 2, 2] = np.nan
    x[2, 2, 0, 0] = np.inf
    with no_grad():
        y, mean, var = (t.data for t in apply(TRAIN, x, None, None))
    assert np.isfinite(y[:, 0]).all()
    assert np.isnan(y[:, 1:]).all() and np.isnan(var[1:]).all()
    assert np.isnan(mean[1])


def test_errors_say_what_was_expected():
    x = np.zeros((2, 3, 4, 4), np.float32)
    w = np.ones(4, np.float32)
    with pytest.raises(ShapeError, match=r"expected weight of shape \(3,\) for x of shape "
                                         r"\(2, 3, 4, 4\), got \(4,\)"):
        apply(TRAIN, x, w, None)
    with pytest.raises(ShapeError, match=r"expected running_var of shape \(3,\)"):
        apply(REGISTRY["batch_norm"], x, None, None, np.zeros(3), np.zeros(2))
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, C\), \(N, C, L\) or "
                                         r"\(N, C, H, W\), got \(5,\)"):
        apply(TRAIN, np.zeros(5, np.float32), None, None)
    for shape in ((1, 3), (1, 3, 1, 1), (0, 3, 4, 4)):
        with pytest.raises(ShapeError, match="expected more than 1 value per channel when "
                                             "training, got x of shape"):
            apply(TRAIN, np.zeros(shape, np.float32), None, None)


def test_affine_with_activation():
    scale, shift = parameters(17)
    for dtype in (np.float32, np.float64):
        x = random_array((3, 11, 17), dtype)
        plain = x * scale.astype(dtype) + shift.astype(dtype)
        for activation, want in [
                (0, plain), (1, np.maximum(plain, 0)), (2, np.clip(plain, -0.5, 0.75)),
                (3, np.where(plain > 0, plain, plain * -0.5))]:
            out = np.empty_like(x)
            norm.affine(x, scale, shift, activation, out, 2, -0.5, 0.75)
            np.testing.assert_allclose(out, want, atol=1e-6)
    with pytest.raises(ValueError, match=r"parameters of shape \(16,\), expected \(17,\)"):
        norm.affine(x, scale[:16], shift, 0, out, 1)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    from convkit._kernels import dispatch

    if isa not in dispatch.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    run_python("""
        from harness import check_op
        from test_norm import parameters
        for shape in [(5, 3), (3, 17, 9, 7), (2, 64, 20, 21)]:
            weight, bias = parameters(shape[1])
            check_op("batch_norm_train", [shape, weight, bias], {"eps": 1e-5})
            check_op("batch_norm", [shape, weight, bias, bias, weight ** 2], {"eps": 1e-5})
        """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize(("shape", "samples"), [
    ((4, 300, 301, 3), None),      # more blocks than groups, and a shorter row
    ((2, 257, 256, 64), None), ((3, 150, 400, 24), 3), ((1, 700, 701, 1), None)])
def test_reductions_over_many_groups_of_blocks(shape, samples):
    x, gy = random_array(shape) + np.float32(3), random_array(shape, seed=1)
    center = random_array(shape[-1:], seed=2)
    apart = (samples or 1, -1, shape[-1])
    wide, wide_gy = x.reshape(apart).astype(np.float64), gy.reshape(apart).astype(np.float64)
    want = [wide.mean(1), wide.var(1), wide_gy.sum(1), (wide_gy * (wide - center)).sum(1)]
    results = [(*norm.moments(x, n, samples), *norm.grad_sums(gy, x, center, n, samples))
               for n in (1, 2, 5)]
    for got in results:
        assert_same_bits(got, results[0])
    for mine, his in zip(results[0], want, strict=True):
        np.testing.assert_allclose(mine, his if samples else his[0], rtol=2e-6, atol=2e-2)
    slope = np.full(shape[-1], 0.25, np.float32)
    sums = [norm.prelu_grad(gy, x, slope, np.empty_like(x), threads) for threads in (1, 3)]
    assert_same_bits((sums[0],), (sums[1],))
    below = np.where(wide > 0, 0, wide * wide_gy).sum((0, 1))
    np.testing.assert_allclose(sums[0], below, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("shape", [(40, 9, 9, 17), (3, 70, 64), (5, 1), (1200, 130), (0, 4)],
                         ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_pixels(rng, shape, dtype):
    """A bias's gradient: as in float64, with the same bits on any number of threads."""
    gy = (rng.standard_normal(shape) + 3).astype(dtype)
    one, *others = (norm.sum_pixels(gy, n) for n in (1, 2, 3))
    want = gy.reshape(-1, shape[-1]).sum(0, dtype=np.float64)
    assert one.dtype == dtype
    np.testing.assert_allclose(one, want, rtol=1e-6 if dtype == np.float32 else 1e-13)
    for other in others:
        assert_same_bits(one, other)
    if gy.size:
        gy[..., -1].flat[0] = np.inf
        assert norm.sum_pixels(gy, 2)[-1] == np.inf
        assert_same_bits(norm.sum_pixels(gy, 2)[:-1], one[:-1])
