"""Recomputation in backward: the same bits from less memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import memory


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.4)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.drop(F.relu(self.bn(self.conv1(x)))))


def run(how, seed=0):
    """Return everything that a step leaves: loss, gradients, buffers, the next random number."""
    ck.manual_seed(seed)
    blocks = [Block(8) for _ in range(4)]
    x = ck.Tensor(np.random.default_rng(1).standard_normal((3, 8, 9, 7), np.float32),
                  requires_grad=True)
    y = x
    for block in blocks:
        y = how(block, y)
    # The input is read after the blocks too, so its gradient is a sum over several ways.
    loss = (y * y + x).sum()
    loss.backward()
    found = [loss.item(), x.grad.data]
    for block in blocks:
        found += [p.grad.data for p in block.parameters()]
        found += [np.array(b.data) for b in block.buffers()]
    return [*found, ck.random.generator().random()]


def plain(block, x):
    return block(x)


def nested(block, x):
    return ck.checkpoint(lambda t: ck.checkpoint(block, t) * 1, x)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("how", [ck.checkpoint, nested])
def test_gradients_buffers_and_random_numbers_are_bit_equal(how, precision):
    with ck.precision(precision):
        expected = run(plain if how is ck.checkpoint else lambda b, x: b(x) * 1)
        got = run(how)
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert np.array_equal(a, b)


def test_without_the_random_state_dropout_differs():
    expected = run(plain)
    got = run(lambda block, x: ck.checkpoint(block, x, preserve_rng_state=False))
    assert not all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))


def test_matches_pytorch(torch):
    from torch.utils.checkpoint import checkpoint

    a = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    mine, other = ck.Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    ck.checkpoint(lambda t: (t.sigmoid() * t).tanh(), mine).sum().backward()
    checkpoint(lambda t: (t.sigmoid() * t).tanh(), other, use_reentrant=False).sum().backward()
    np.testing.assert_allclose(mine.grad.data, other.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_parameters_alone_get_gradients_and_hooks_on_results_run():
    layer = nn.Linear(3, 2)
    seen = []
    y = ck.checkpoint(layer, ck.ones(4, 3))
    assert y.requires_grad
    y.register_hook(lambda g: seen.append(g.shape) or g * 2)
    y.sum().backward()
    assert seen == [(4, 2)] and np.array_equal(layer.bias.grad.data, [8, 8])


def test_several_results_and_keyword_arguments():
    x = ck.Tensor(np.ones(3, np.float32), requires_grad=True)
    a, b = ck.checkpoint(lambda t, *, k: (t * k, t.exp()), x, k=3.0)
    a.sum().backward(retain_graph=True)
    assert np.array_equal(x.grad.data, [3, 3, 3])
    (a * 2).sum().backward()
    assert np.array_equal(x.grad.data, [9, 9, 9])
    del b


def test_a_second_backward_needs_the_graph():
    x = ck.Tensor(np.ones(3, np.float32), requires_grad=True)
    y = ck.checkpoint(lambda t: t * t, x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        y.backward()


def test_a_weight_changed_between_is_noticed():
    layer = nn.Linear(3, 2)
    y = ck.checkpoint(layer, ck.ones(4, 3)).sum()
    with ck.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_no_gradient_no_node_and_wrong_results():
    with ck.no_grad():
        assert not ck.checkpoint(nn.Linear(3, 2), ck.ones(4, 3)).requires_grad
    assert not ck.checkpoint(lambda t: t * 2, ck.ones(3)).requires_grad
    with pytest.raises(TypeError, match="to return Tensors, got float"):
        ck.checkpoint(lambda t: t.sum().item(), ck.ones(3))
    sizes = iter((2, 3))
    x = ck.Tensor(np.ones(3, np.float32), requires_grad=True)
    y = ck.checkpoint(lambda t: t[:next(sizes)] * 2, x)
    with pytest.raises(RuntimeError, match=r"returned shape \(2,\), and \(3,\)"):
        y.sum().backward()


def test_sequential():
    layers = nn.Sequential(*[nn.Linear(6, 6) for _ in range(5)])
    x = ck.Tensor(np.random.default_rng(0).standard_normal((2, 6), np.float32))
    layers(x).sum().backward()
    expected = [p.grad.data.copy() for p in layers.parameters()]
    layers.zero_grad()
    ck.checkpoint_sequential(layers, 2, x).sum().backward()
    assert all(np.array_equal(a, p.grad.data)
               for a, p in zip(expected, layers.parameters(), strict=True))
    with pytest.raises(ValueError, match="1 to 5 segments, got 6"):
        ck.checkpoint_sequential(layers, 6, x)


def test_a_cut_between_a_convolution_and_its_batch_norm():
    """The batch norm reads the moments that the convolution gathered, as without checkpoints."""
    ck.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(5, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU())
    x = ck.Tensor(np.random.default_rng(0).standard_normal((3, 5, 33, 17), np.float32))
    found = []
    for call in (layers, lambda x: ck.checkpoint_sequential(layers, 3, x)):
        layers.zero_grad()
        layers[1].reset_running_stats()
        call(x).sum().backward()
        found.append([p.grad.data.copy() for p in layers.parameters()]
                     + [np.array(b.data) for b in layers.buffers()])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def pool_after(call):
    """Return the bytes of all blocks that a call took: what it held at most, in effect."""
    call()
    gc.collect()
    memory.trim()
    call()
    return memory.stats()["held"]


def test_memory_peak_falls():
    def step(how):
        ck.manual_seed(0)
        blocks = [Block(16) for _ in range(8)]
        x = ck.Tensor(np.ones((4, 16, 64, 64), np.float32))

        def run():
            y = x
            for block in blocks:
                y = how(block, y)
            y.sum().backward()
        return run

    assert pool_after(step(ck.checkpoint)) < 0.6 * pool_after(step(plain))
