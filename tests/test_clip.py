"""Clipping of gradients, beside PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest

import convkit as ck
from convkit import nn, optim

SHAPES = [(4, 3, 3, 3), (17,), (5, 4)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def parameters(rng, dtype=np.float32):
    made = []
    for shape in SHAPES:
        p = nn.Parameter(np.zeros(shape, dtype))
        (p * rng.standard_normal(shape).astype(dtype)).sum().backward()
        made.append(p)
    return [*made, nn.Parameter(np.zeros(3, dtype))]  # the last one has no gradient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm, p", [(0.5, 2), (1000, 2), (3, 1), (0.1, math.inf), (2, 3)])
def test_norm_is_pytorchs(torch, rng, dtype, max_norm, p):
    ours = parameters(rng, dtype)
    theirs = [torch.nn.Parameter(torch.zeros(q.shape)) for q in ours]
    for a, b in zip(ours, theirs, strict=True):
        b.grad = None if a.grad is None else torch.from_numpy(np.array(a.grad.data)).to(b.dtype)
    norm = optim.clip_grad_norm_(ours, max_norm, p)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, p)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(ours[:-1], theirs, strict=False):
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_a_small_norm_changes_nothing(rng):
    ours = parameters(rng)
    before = [p.grad.data.copy() for p in ours[:-1]]
    optim.clip_grad_norm_(iter(ours), 1e6)
    for p, grad in zip(ours, before, strict=False):
        np.testing.assert_array_equal(p.grad.data, grad)


def test_value_is_pytorchs(torch, rng):
    ours = parameters(rng)
    before = [torch.from_numpy(p.grad.data.copy()) for p in ours[:-1]]
    optim.clip_grad_value_(ours, 0.3)
    for p, grad in zip(ours, before, strict=False):
        np.testing.assert_array_equal(p.grad.data, grad.clamp(-0.3, 0.3).numpy())
    optim.clip_grad_value_(ours[0], 0.1)
    assert np.abs(ours[0].grad.data).max() == np.float32(0.1)


def test_what_is_not_finite():
    p = nn.Parameter(np.ones(3, np.float32))
    (p * np.array([1, np.nan, 2], np.float32)).sum().backward()
    with pytest.raises(RuntimeError, match="the gradients' norm is nan, expected a finite one"):
        optim.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    assert math.isnan(optim.clip_grad_norm_(p, 1.0).item())
    assert np.isnan(p.grad.data).all()


@pytest.mark.parametrize("call, text", [
    (lambda p: optim.clip_grad_norm_(p, 0), "expected max_norm above 0, got 0"),
    (lambda p: optim.clip_grad_norm_(p, 1, -1), "expected norm_type above 0, got -1"),
    (lambda p: optim.clip_grad_value_(p, math.nan), "expected clip_value above 0, got nan"),
])
def test_bad_settings(call, text):
    with pytest.raises(ValueError, match=text):
        call(nn.Parameter(np.ones(2)))


def test_one_pass_over_all_gradients_whatever_the_threads(rng):
    """The compiled norm and scaling, over many chunks and orders in memory, to the bit."""
    arrays = [rng.standard_normal(shape).astype(np.float32)
              for shape in [(64, 32, 3, 3), (50_001,), (1,), (0, 3)]]
    arrays[0] = arrays[0].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    results = []
    for threads in (1, 2):
        params = [nn.Parameter(np.zeros_like(a)) for a in arrays]
        for p, a in zip(params, arrays, strict=True):
            p.grad = ck.Tensor(a.copy(order="K"))
        versions = [p.grad._cell[0] for p in params]
        with ck.threads(threads):
            norm = optim.clip_grad_norm_(params, 1.5).item()
        assert [p.grad._cell[0] for p in params] == [v + 1 for v in versions]
        results.append((norm, [p.grad.numpy() for p in params]))
    expected = math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))
    assert results[0][0] == results[1][0] == np.float32(expected)
    for a, b, given in zip(results[0][1], results[1][1], arrays, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, given * np.float32(1.5 / (expected + 1e-6)))
