"""What mathematics says about training-mode batch norm, whatever the numbers are.

Its output does not change when a channel is scaled by a positive number or shifted. So the
gradient by the input has nothing along the ones vector, and, where eps is near 0, nothing
along the input itself; a bias in front of it has no effect, hence no gradient; and the
gradient of a weight in front of it is orthogonal to that weight.
(Ioffe and Szegedy, "Batch Normalization", 2015, section 3.3.)
"""

from __future__ import annotations

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F

# A gradient's part that should vanish, measured against the gradient: rounding only.
VANISHES = {"float32": 2e-5, "float64": 1e-12}
SHAPES = [(9, 5), (4, 5, 11), (3, 17, 5, 6), (2, 3, 8, 8)]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(rng, shape, dtype, requires_grad=False):
    """Return a tensor of normal values around 1."""
    return ck.Tensor((1 + rng.standard_normal(shape)).astype(dtype), requires_grad)


def batch_norm(x, weight=None, bias=None, eps=0.0):
    """Normalise by the batch's own statistics."""
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def input_gradient(rng, shape, dtype, eps=0.0):
    """Return x, the gradient of a random function of batch_norm(x), both in float64."""
    x = normal(rng, shape, dtype, True)
    c = shape[1]
    y = batch_norm(x, normal(rng, (c,), dtype), normal(rng, (c,), dtype), eps)
    y.backward(rng.standard_normal(shape).astype(dtype))
    return x.detach().numpy().astype(np.float64), x.grad.numpy().astype(np.float64)


def by_channel(a):
    """Return (C, everything else)."""
    return np.moveaxis(a, 1, 0).reshape(a.shape[1], -1)


@dtypes
@shapes
def test_output_does_not_change_with_a_positive_scale(shape, dtype, rng):
    x = normal(rng, shape, dtype)
    scale = rng.uniform(0.1, 10, shape[1]).astype(dtype).reshape(-1, *(1,) * (len(shape) - 2))
    y, scaled = batch_norm(x).numpy(), batch_norm(ck.Tensor(x.data * scale)).numpy()
    np.testing.assert_allclose(scaled, y, rtol=0, atol=np.abs(y).max() * VANISHES[dtype])
    turned = batch_norm(ck.Tensor(-x.data)).numpy()
    np.testing.assert_allclose(turned, -y, rtol=0, atol=np.abs(y).max() * VANISHES[dtype])


@dtypes
@shapes
def test_scaling_by_a_power_of_two_keeps_the_bits(shape, dtype, rng):
    x = normal(rng, shape, dtype)
    np.testing.assert_array_equal(batch_norm(ck.Tensor(x.data * 8)).numpy(), batch_norm(x).numpy())


@dtypes
@shapes
def test_input_gradient_is_orthogonal_to_ones(shape, dtype, rng):
    _, grad = input_gradient(rng, shape, dtype, eps=1e-5)
    g = by_channel(grad)
    size = np.linalg.norm(g, axis=1) * np.sqrt(g.shape[1])
    assert (np.abs(g.sum(axis=1)) <= VANISHES[dtype] * size).all()


@dtypes
@shapes
def test_input_gradient_is_orthogonal_to_the_input(shape, dtype, rng):
    x, grad = input_gradient(rng, shape, dtype)
    x, g = by_channel(x), by_channel(grad)
    size = np.linalg.norm(g, axis=1) * np.linalg.norm(x, axis=1)
    assert (np.abs((g * x).sum(axis=1)) <= VANISHES[dtype] * size).all()


def test_the_orthogonality_check_can_fail(rng):
    x, grad = input_gradient(rng, (3, 17, 5, 6), "float64", eps=1.0)
    x, g = by_channel(x), by_channel(grad)
    size = np.linalg.norm(g, axis=1) * np.linalg.norm(x, axis=1)
    assert (np.abs((g * x).sum(axis=1)) > 1e-4 * size).any()


def layers(rng, dtype):
    """Yield the name, the output and the parameters of each layer that can stand in front."""
    x = normal(rng, (4, 6, 7, 8), dtype)
    w, b = normal(rng, (10, 6, 3, 3), dtype, True), normal(rng, (10,), dtype, True)
    yield "conv", F.conv2d(x, w, b, padding=1), w, b, (1, 2, 3)
    w, b = normal(rng, (12, 1, 3, 3), dtype, True), normal(rng, (12,), dtype, True)
    yield "depthwise", F.conv2d(x, w, b, stride=2, groups=6), w, b, (1, 2, 3)
    w, b = normal(rng, (6, 5, 3, 2), dtype, True), normal(rng, (5,), dtype, True)
    yield "transposed", F.conv_transpose2d(x, w, b, stride=2), w, b, (0, 2, 3)
    w, b = normal(rng, (6, 6, 5), dtype, True), normal(rng, (6,), dtype, True)
    yield "sequence", F.conv1d(normal(rng, (4, 6, 20), dtype), w, b), w, b, (1, 2)
    w, b = normal(rng, (5, 6), dtype, True), normal(rng, (5,), dtype, True)
    yield "linear", F.linear(normal(rng, (30, 6), dtype), w, b), w, b, (1,)


@dtypes
def test_parameters_in_front_of_batch_norm(dtype, rng):
    for name, z, w, b, axes in layers(rng, dtype):
        y = batch_norm(z)
        gy = rng.standard_normal(y.shape).astype(dtype)
        y.backward(gy)
        gw, gb = w.grad.numpy().astype(np.float64), b.grad.numpy().astype(np.float64)
        values = w.detach().numpy().astype(np.float64)
        size = np.sqrt((gw**2).sum(axis=axes) * (values**2).sum(axis=axes))
        # The dot product adds large terms that cancel: they count in the rounding.
        terms = np.abs(gw * values).sum(axis=axes)
        dot = np.abs((gw * values).sum(axis=axes))
        assert (dot <= VANISHES[dtype] * (size + terms) * 10).all(), name
        # A bias' gradient would be the sum of these, did they not cancel.
        alone = np.abs(gy).sum() / len(gb) / np.abs(z.detach().numpy()).std()
        assert (np.abs(gb) <= VANISHES[dtype] * alone).all(), name
        assert np.abs(gw).max() > 0, name


def test_in_evaluation_the_bias_in_front_does_count(rng):
    for name, z, w, b, axes in layers(rng, "float64"):
        c = z.shape[1]
        F.batch_norm(z, np.zeros(c), np.ones(c)).backward(rng.standard_normal(z.shape))
        assert np.abs(b.grad.numpy()).min() > 1e-6, name
        assert np.abs((w.grad.numpy() * w.detach().numpy()).sum(axis=axes)).min() > 1e-6, name


@dtypes
def test_statistics_are_the_papers(dtype, rng):
    x = normal(rng, (4, 3, 5, 6), dtype)
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    F.batch_norm(x, mean, var, training=True, momentum=0.25)
    wide = by_channel(x.data.astype(np.float64))
    np.testing.assert_allclose(mean, 0.25 * wide.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(var, 0.75 + 0.25 * wide.var(axis=1, ddof=1), rtol=1e-5)


def test_a_mean_far_from_zero_costs_no_accuracy(rng):
    x = rng.standard_normal((8, 4, 9, 9)).astype(np.float32)
    far = x + np.float32(4096)
    exact = by_channel(far.astype(np.float64) - 4096)
    want = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    np.testing.assert_allclose(by_channel(batch_norm(ck.Tensor(far)).numpy()), want,
                               rtol=1e-4, atol=1e-4)
