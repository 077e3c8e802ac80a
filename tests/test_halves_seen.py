"""Under precision "medium", no bit depends on who looks, recomputes, or does without a record.

Hooks see the numbers that are handed on, checkpoints hand on what the network would, and layers in
training compute under `no_grad` what they would if they were recorded.
"""

from __future__ import annotations

import numpy as np
import pytest
from halves_checks import is_bfloat16, tiles
from harness import assert_same_bits

import convkit as ck
from convkit import functional as F
from convkit import nn

IMAGES = (4, 8, 28, 30)


@pytest.fixture(autouse=True)
def _medium():
    with ck.precision("medium"):
        yield


class Sum(nn.Module):
    """A residual block; the sum is of a norm's output, and may be written as a change in place."""

    def __init__(self, inplace):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inplace = inplace

    def forward(self, x):
        y = self.norm(self.conv(x))
        if self.inplace:
            y += x
        else:
            y = y + x
        return F.relu(y)


class Branches(nn.Module):
    """Convolutions side by side, with and without batch norm, beside pooling; joined."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(conv(16, 24), nn.ReLU())
        self.second = nn.Sequential(conv(16, 8, False), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return ck.cat([self.first(x), self.second(x), F.max_pool2d(x, 3, 1, 1)], 1)


def conv(channels=16, out=16, bias=True):
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=bias)


NETS = {
    "norms": lambda: [conv(8), nn.BatchNorm2d(16), nn.ReLU(), conv(), nn.BatchNorm2d(16),
                      nn.ReLU()],
    "no bias": lambda: [conv(8, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), conv(bias=False),
                        nn.BatchNorm2d(16)],
    "no norm": lambda: [conv(8), nn.ReLU(), conv(), nn.ReLU6(), conv()],
    "pools": lambda: [conv(8), nn.ReLU(), nn.MaxPool2d(2), conv(16, 32), nn.ReLU6(),
                      nn.MaxPool2d(3, 2, 1)],
    "5x5 kernels": lambda: [conv(8, 20), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.ReLU(),
                            nn.MaxPool2d(2), nn.Conv2d(50, 16, 5), nn.ReLU(), nn.MaxPool2d(2)],
    "pool behind a norm": lambda: [conv(8), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), conv()],
    "sums": lambda: [conv(8), nn.ReLU(), Sum(False), Sum(False), conv()],
    "sums in place": lambda: [conv(8), nn.BatchNorm2d(16), nn.ReLU(), Sum(True), Sum(True)],
    "norm behind ReLU": lambda: [conv(8), nn.ReLU(), nn.BatchNorm2d(16), conv(),
                                 nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16), nn.ReLU()],
    "branches": lambda: [conv(8), nn.BatchNorm2d(16), nn.ReLU(), Branches(), conv(48), nn.ReLU(),
                         Branches(), nn.MaxPool2d(2), conv(48)],
    "others": lambda: [conv(8), nn.BatchNorm2d(16), nn.LeakyReLU(), conv(), nn.AvgPool2d(2),
                       nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 15, 3)],
}


def build(name):
    """Return a network in training."""
    ck.manual_seed(0)
    return nn.Sequential(*NETS[name]())


def step(name, call=lambda net, x: net(x)):
    """Return output, gradients and running estimates of a step."""
    net = build(name)
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32),
                  requires_grad=True)
    y = call(net, x)
    value = y.data.copy()
    y.backward(np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
    return [value, x.grad.data, *[p.grad.data for p in net.parameters()],
            *[np.array(b.data) for b in net.buffers()]]


def assert_equal(ours, theirs):
    """Assert that two steps have the same bits."""
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)


def at_every_point(look):
    """Return a call of a network that looks at the output of every layer."""
    def call(net, x):
        for module in net.modules():
            if isinstance(module, Sum) or not list(module.children()):
                module.register_forward_hook(lambda module, inputs, y: look(y))
        return net(x)
    return call


def _hooked(y, hook):
    """Register a hook, which a forward hook must not return."""
    y.register_hook(hook)


# -- hooks ----------------------------------------------------------------------------------------

LOOKS = {"nothing": lambda g: None, "reading": lambda g: print(g.data.sum()),
         "itself": lambda g: g}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("hook", LOOKS)
def test_a_hook_that_looks_changes_no_bit(name, hook):
    ours = step(name)

    def look(y):
        y.register_hook(LOOKS[hook])
        y.register_hook(LOOKS[hook])

    assert_equal(ours, step(name, at_every_point(look)))


@pytest.mark.parametrize("name", NETS)
def test_retained_gradients_change_no_bit(name):
    assert_equal(step(name), step(name, at_every_point(lambda y: y.retain_grad())))


@pytest.mark.parametrize("name", NETS)
def test_hooks_at_one_point_alone_change_no_bit(name):
    ours = step(name)
    for point in range(len(build(name))):
        def call(net, x, point=point):
            for i, layer in enumerate(net):
                x = layer(x)
                if i == point:
                    x.register_hook(lambda g: None)
            return x
        assert_equal(ours, step(name, call))


@tiles
@pytest.mark.parametrize("name", ["norms", "no norm", "norm behind ReLU"])
def test_a_hook_sees_what_is_handed_on(name):
    """Convolutions on tiles get bfloat16, and their gradients follow from what the hook sees."""
    seen = []

    def call(net, x):
        for layer in net:
            given, x = x, layer(x)
            if isinstance(layer, nn.Conv2d):
                x.register_hook(lambda g, layer=layer, given=given: seen.append(
                    (layer, ck.Tensor(given.data, requires_grad=True), g.data.copy())))
        return x

    step(name, call)
    for layer, given, gy in seen[name == "no norm":]:      # whose last gradient is the user's
        assert is_bfloat16(gy)
        weight = ck.Tensor(layer.weight.data, requires_grad=True)
        F.conv2d(given, weight, padding=1).backward(gy)
        assert_same_bits(weight.grad.data, layer.weight.grad.data)


@pytest.mark.parametrize("name", NETS)
def test_a_hook_replaces_a_gradient(name):
    """By an array of the same numbers: only the bias's gradient is summed in another way."""
    ours = step(name)
    theirs = step(name, at_every_point(lambda y: _hooked(y, lambda g: g.data.copy())))
    named = dict(build(name).named_modules())
    names = ["y", "x", *[n for n, _ in build(name).named_parameters()]]
    for n, a, b in zip(names, ours, theirs, strict=False):
        *path, kind = n.split(".")
        if kind == "bias" and isinstance(named[".".join(path)], nn.Conv2d):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-2 * max(1, np.abs(a).max()))
        else:
            np.testing.assert_array_equal(a, b, n)
    nothing = step(name, at_every_point(lambda y: _hooked(y, lambda g: g * 0)))
    assert not any(g.any() for g in nothing[1:len(names)])


# -- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_checkpoints_hand_on_what_the_network_would(name):
    ours = step(name)
    for parts in range(1, len(build(name)) + 1):
        def call(net, x, parts=parts):
            return ck.checkpoint_sequential(net, parts, x)
        assert_equal(ours, step(name, call))


@pytest.mark.parametrize("name", NETS)
def test_every_layer_a_checkpoint_with_hooks(name):
    def call(net, x):
        for layer in net:
            x = ck.checkpoint(layer, x)
            x.register_hook(lambda g: None)
        return x

    assert_equal(step(name), step(name, call))


@pytest.mark.parametrize("name", NETS)
def test_checkpoints_within_checkpoints(name):
    def halves(net, x):
        middle = len(net) // 2
        for part in (net[:middle], net[middle:]):
            x = ck.checkpoint(lambda t, part=part: ck.checkpoint_sequential(part, len(part), t), x)
        return x

    assert_equal(step(name), step(name, halves))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("pooled", ["inside", "outside", "in both"])
def test_values_that_a_part_gives_out(pooled, nested):
    """ReLU's gradient comes from pooling within the part, or behind it, or from both."""
    def part(conv, relu, pool, run=lambda function, x: function(x)):
        def through(x):
            y = run(lambda t: relu(conv(t)), x)
            return (y, run(pool, y)) if pooled != "outside" else (y, y)
        return through

    def call(run, within):
        def through(net, x):
            y, inner = run(part(*net[:3], within), x)
            outer = run(net[2], y) if pooled != "inside" else inner
            return net[3:](inner + outer if pooled == "in both" else outer)
        return through

    def direct(function, x):
        return function(x)

    assert_equal(step("pools", call(direct, direct)),
                 step("pools", call(ck.checkpoint, ck.checkpoint if nested else direct)))


def test_copies_and_changes_within_a_part():
    def part(x):
        y = x.clone()
        y += x[[3, 2, 1, 0]]
        return F.relu(y)

    def call(run):
        return lambda net, x: net[4](net[3](run(part, net[1](net[0](x)))))

    assert_equal(step("norms", call(lambda function, x: function(x))),
                 step("norms", call(ck.checkpoint)))


# -- without a record -----------------------------------------------------------------------------


def values(net, x, recorded, call=lambda net, x: net(x)):
    """Return what a network gives."""
    with ck.enable_grad() if recorded else ck.no_grad():
        y = call(net, x)
    assert y.requires_grad == recorded and (y._edge is not None) == recorded
    return y.data


@pytest.mark.parametrize("name", NETS)
def test_training_mode_gives_the_same_without_a_record(name):
    """Values and running estimates; also layer by layer, and where somebody reads meanwhile."""
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))
    found = []
    for recorded in (True, False):
        for look in (None, lambda y: None if np.isfinite(y.data).all() else y):
            net = build(name)
            y = values(net, x, recorded, at_every_point(look) if look else lambda net, x: net(x))
            found.append([y.copy(), *[np.array(b.data) for b in net.buffers()]])
    for other in found[1:]:
        assert_equal(found[0], other)


def test_a_layer_with_a_precision_of_its_own():
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))
    found = []
    for recorded in (True, False):
        net = build("norms")
        net[0].precision = "medium"
        with ck.precision("high"):
            found.append(values(net, x, recorded))
    assert_same_bits(*found)


def test_sums_between_layers_are_as_recorded():
    """What is made of values of layers in training, outside of any layer."""
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))

    def call(net, x):
        x = F.relu(net[1](net[0](x)))
        y = net[4](net[3](x))
        y += x
        return F.max_pool2d(F.relu(y), 2)

    assert_same_bits(*[values(build("norms"), x, recorded, call) for recorded in (True, False)])


def test_in_place_is_in_place_for_what_is_no_result_of_training():
    total = ck.zeros(4, 16, 28, 30)
    alias, net = total, build("norms")
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))
    with ck.no_grad():
        total += net(x)
        assert alias is total and total.data.any()
        y = net.eval()(x)
        before = y
        y += 1
        assert y is before


def test_what_was_made_without_a_record_goes_into_one():
    """As data, whichever layer reads it first."""
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))
    for cut in range(1, 5):
        net = build("norms")
        with ck.no_grad():
            data = net[:cut](x)
        y = net[cut:](data)
        (y * y).sum().backward()
        assert_same_bits(y.data, build("norms")(x).data)
        assert all(p.grad is None for p in net[:cut].parameters())
        assert all(p.grad is not None for p in net[cut:].parameters())


@tiles
def test_prediction_is_not_rounded_on_its_way():
    net = build("norms").eval()
    x = ck.Tensor(np.random.default_rng(0).standard_normal(IMAGES).astype(np.float32))
    with ck.no_grad():
        assert not is_bfloat16(net[0](x).data) and net[0](x).data.flags.writeable
        net.train()
        assert is_bfloat16(net[0](x).data)
