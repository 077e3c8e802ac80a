"""Summaries: parameters, operations, and receptive fields against what gradients touch."""

from __future__ import annotations

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import nn


def positive(net):
    """Make every weight positive, so that no path of the gradient cancels another."""
    with ck.no_grad():
        for p in net.parameters():
            p.copy_(np.abs(p.data) + 0.1)
    return net


def touched(net, shape):
    """Return how many pixels along each axis the output's middle depends on."""
    x = ck.Tensor(np.ones(shape), requires_grad=True)
    y = net.double()(x)
    gy = np.zeros(y.shape)
    gy[(0, 0, *(n // 2 for n in y.shape[2:]))] = 1
    y.backward(gy)
    found = []
    for axis in range(2, len(shape)):
        others = tuple(i for i in range(len(shape)) if i != axis)
        places = np.flatnonzero(np.abs(x.grad.data).sum(others))
        found.append(int(places[-1] - places[0] + 1))
    return tuple(found)


class Residual(nn.Module):
    """Two branches of different reach."""

    def __init__(self):
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(2, 2, 5, padding=2), nn.Conv2d(2, 2, 3, padding=1))
        self.short = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.long(x) + self.short(x)


NETS = [
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)), (5, 5)),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 7, 2, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(2, 1, 3)),
     (19, 19)),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, dilation=4)),
     (13, 13)),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.BatchNorm2d(2), nn.Conv2d(2, 2, (1, 3))),
     (3, 7)),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Residual()), (9, 9)),
    (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(
        scale_factor=2)), (6, 6)),
    (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 4, 4)), (3, 3)),
]


@pytest.mark.parametrize(("make", "size"), NETS)
def test_receptive_fields_are_what_gradients_touch(make, size):
    ck.manual_seed(0)
    net = positive(make()).eval()
    shape = (1, 1, 48, 48)
    assert ck.summary(net.float(), shape).receptive_field == size
    assert touched(net, shape) == size


def test_a_network_of_the_lectures():
    """Each 3x3 convolution adds two pixels, a stride doubles what the next ones add."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    table = ck.summary(net, (1, 3, 32, 32))
    names = [s.node.name for s in table.steps]
    assert [table.field(name).pixels[0] for name in names] == [3, 3, 4, 8, 10, 18]
    assert [int(table.field(name).jump[0]) for name in names] == [1, 1, 2, 2, 4, 4]
    with pytest.raises(KeyError, match="no step is called 'x'; there are 0"):
        table.field("x")


def test_sequences_and_global_layers():
    net = nn.Sequential(nn.Conv1d(2, 3, 5, 2), nn.Conv1d(3, 3, 3))
    assert ck.summary(net, (1, 2, 40)).receptive_field == (9,)
    for head in ([nn.Flatten(), nn.Linear(2 * 36, 3)], [nn.AdaptiveAvgPool2d(1)],
                 [nn.GroupNorm(1, 2)]):
        assert ck.summary(nn.Sequential(nn.Conv2d(1, 2, 3), *head),
                          (1, 1, 8, 8)).receptive_field is None
    assert ck.summary(lambda x: F.pixel_shuffle(x, 2), (1, 4, 3, 3)).receptive_field is None


def test_counts():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                        nn.Linear(8 * 36, 10))
    net[4].bias.requires_grad_(False)
    table = ck.summary(net, (2, 3, 8, 8))
    assert table.parameters == 3 * 8 * 9 + 16 + 8 * 36 * 10 + 10
    assert table.trainable == table.parameters - 10
    convolution, dense = 2 * 8 * 36 * 27, 2 * 8 * 36 * 10 + 10
    assert [s.flops for s in table.steps] == [convolution, 2 * 288, 288, 0, dense]
    assert table.flops == sum(s.flops for s in table.steps)
    text = str(table)
    assert text == repr(table)
    lines = text.splitlines()
    assert lines[0].endswith("(N, 3, 8, 8)")
    for words in (("batch_norm", "16", "3 x 3"), ("linear", "2,890", "all"),
                  ("total", f"{table.parameters:,}", f"{table.flops:,}")):
        assert any(all(w in line for w in words) for line in lines), (words, text)


def test_the_model_stays_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = net[1].running_mean.data.copy()
    ck.summary(net, (1, 3, 8, 8))
    assert net.training and net[2].training
    np.testing.assert_array_equal(net[1].running_mean.data, before)
