"""Population statistics over many batches, and biases that batch norm takes away."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, random_array

import convkit as ck
from convkit import nn
from convkit.training import biases_before_batch_norm, recompute_batch_stats


def network():
    ck.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5),
                         nn.Flatten(), nn.Linear(5 * 16, 4, bias=False), nn.BatchNorm1d(4))


BATCHES = [(ck.Tensor(random_array((8, 3, 6, 6), seed=i) * (1 + i)), None) for i in range(4)]


def test_statistics_are_the_papers():
    net = network()
    with ck.no_grad():
        for batch, _ in BATCHES:  # moving averages that are off
            net(batch)
    net.eval()
    net[3].train()
    recompute_batch_stats(net, BATCHES)
    first = [net[0](x).data.astype(np.float64) for x, _ in BATCHES]
    m = first[0].size // 5
    mean = np.mean([a.mean((0, 2, 3)) for a in first], axis=0)
    var = m / (m - 1) * np.mean([a.var((0, 2, 3)) for a in first], axis=0)
    np.testing.assert_allclose(net[1].running_mean.data, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net[1].running_var.data, var, rtol=1e-4)
    assert net[1].num_batches_tracked.item() == 4
    # The second layer sees what the first gives when it normalises by each batch, no dropout.
    with ck.no_grad():
        net[1].train()
        second = [net[5](net[4](net[2](net[1](net[0](x))))).data for x, _ in BATCHES]
    np.testing.assert_allclose(net[6].running_mean.data,
                               np.mean([a.mean(0) for a in second], axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(net[6].running_var.data,
                               8 / 7 * np.mean([a.var(0) for a in second], axis=0), rtol=1e-3)


def test_modes_and_momentum_are_as_before():
    net = network().eval()
    net[3].train()
    recompute_batch_stats(net, (x for x, _ in BATCHES), batches=2)
    assert net[1].num_batches_tracked.item() == 2 and net[1].momentum == 0.1
    assert [m.training for m in net] == [i == 3 for i in range(7)]


def test_without_batches_nothing_changes():
    net = network()
    before = [np.array(b.data) for b in net.buffers()]
    with pytest.raises(ValueError, match="a loader with at least one batch"):
        recompute_batch_stats(net, [])
    assert_same_bits([b.data for b in net.buffers()], before)
    with pytest.raises(ValueError, match="batch norm layers that track statistics"):
        recompute_batch_stats(nn.Linear(2, 2), BATCHES)


def test_biases_that_are_taken_away_are_named():
    net = network()
    with pytest.warns(UserWarning, match=r"takes away the biases before it: 0\.bias; leave"):
        assert biases_before_batch_norm(net, BATCHES[0][0]) == ["0.bias"]
    assert net.training
    clean = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5))
    assert biases_before_batch_norm(clean, BATCHES[0][0]) == []


def test_such_a_bias_changes_nothing():
    net = network()
    x = BATCHES[0][0]
    y = net[1](net[0](x))
    y.backward(random_array(y.shape, seed=3))
    scale = np.abs(net[0].weight.grad.data).max()
    assert np.abs(net[0].bias.grad.data).max() < 1e-4 * scale
