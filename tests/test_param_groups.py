"""Which parameters decay, and rates that go with the batch."""

from __future__ import annotations

import numpy as np
import pytest

from convkit import nn, optim


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(),
                         nn.Linear(16, 5), nn.LayerNorm(5))


def test_only_weights_decay():
    net = network()
    decayed, spared = optim.param_groups_no_decay(net, 0.1)
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight", "4.weight"]
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_modules_and_parameters_can_be_spared():
    net = network()
    net[2].requires_grad_(False)
    decayed, spared = optim.param_groups_no_decay(net, 0.1, no_decay=["4"])
    assert [id(p) for p in decayed["params"]] == [id(net[0].weight)]
    others = {id(p) for p in spared["params"]}
    assert id(net[4].weight) in others and id(net[2].weight) not in others
    assert len(optim.param_groups_no_decay(nn.Linear(2, 2, bias=False), 0.1)) == 1


def test_a_step_decays_what_it_should():
    net = network()
    optimizer = optim.SGD(optim.param_groups_no_decay(net, 0.5), lr=0.1)
    before = {name: p.data.copy() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = nn.Parameter(np.zeros(p.shape, np.float32)).detach()
    optimizer.step()
    for name, p in net.named_parameters():
        factor = 0.95 if name in ("0.weight", "4.weight") else 1.0
        np.testing.assert_allclose(p.data, before[name] * factor, rtol=1e-6)


def test_rates_go_with_the_batch():
    assert optim.linear_scaled_lr(0.1, 1024) == pytest.approx(0.4)
    assert optim.linear_scaled_lr(0.1, 32, 128) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="batch sizes of at least 1, got 0 and 256"):
        optim.linear_scaled_lr(0.1, 0)
