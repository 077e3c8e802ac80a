"""The learning-rate range test: what it finds, and that it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits

import convkit as ck
from convkit import nn, optim
from convkit.training import RangeTest, lr_range_test


def problem():
    """Return a network with batch norm, an optimiser with state, and separable batches."""
    ck.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    points = (rng.standard_normal((96, 6)) + 3 * np.eye(6)[labels]).astype(np.float32)
    batches = [(ck.Tensor(points[i::3]), ck.Tensor(labels[i::3])) for i in range(3)]
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), batches


def test_the_loss_falls_and_then_runs_away():
    net, optimizer, batches = problem()
    found = lr_range_test(net, optimizer, batches, end_lr=1e3, steps=120, smoothing=0.9)
    assert len(found.rates) == len(found.losses) < 120
    low = found.losses.argmin()
    assert found.losses[low] < 0.5 * found.losses[0]
    assert found.losses[-1] > 4 * found.losses[low]
    assert found.rates[0] < found.steepest < found.rates[low]
    assert found.suggestion == pytest.approx(found.rates[low] / 10)
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e10) / 119)


def test_the_steepest_fall_is_sought_before_the_lowest_loss():
    """Noise beyond it can fall faster, on the way up to no good end."""
    rates = np.geomspace(1e-4, 1, 9)
    found = RangeTest(rates, np.array([2.0, 1.9, 1.6, 1.5, 1.5, 9.0, 5.0, 8.0, 20.0]))
    assert found.steepest in rates[1:3]
    assert RangeTest(rates[:2], np.array([1.0, 2.0])).steepest == rates[0]


def test_everything_is_as_before():
    net, optimizer, batches = problem()
    net[1].eval()
    for p in net.parameters():
        p.grad = ck.Tensor(np.ones(p.shape, np.float32))
    optimizer.step()
    weights = {name: np.array(t.data) for name, t in net.state_dict().items()}
    buffers = [np.array(s["momentum_buffer"].data) for s in optimizer.state.values()]
    lr_range_test(net, optimizer, batches, steps=10)
    for name, tensor in net.state_dict().items():
        assert_same_bits(tensor.data, weights[name], name)
    assert_same_bits([s["momentum_buffer"].data for s in optimizer.state.values()], buffers)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert net.training and not net[1].training
    assert all(p.grad is None for p in net.parameters())


def test_bad_settings():
    net, optimizer, batches = problem()
    with pytest.raises(ValueError, match="expected 0 < start_lr < end_lr"):
        lr_range_test(net, optimizer, batches, start_lr=1, end_lr=0.1)
    with pytest.raises(ValueError, match="a loader with at least one batch"):
        lr_range_test(net, optimizer, [])
    assert net.training
