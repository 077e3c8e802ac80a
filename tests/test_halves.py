"""What operations hand on as bfloat16 under precision "medium": values, gradients, changes, hooks.

Convolutions do so on tiles alone (AMX); batch norm and activations on any CPU.
"""

from __future__ import annotations

import numpy as np
import pytest
from halves_checks import (
    assert_all_same_bits,
    assert_hooks_see_float32,
    assert_reading_changes_no_bit,
    gradients,
    is_bfloat16,
    relative_error,
    tiles,
)
from harness import assert_same_bits
from test_kept import SHAPE

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import dispatch, memory
from convkit.ops.halves import Halves, halves_of


@pytest.fixture(autouse=True)
def _medium():
    with ck.precision("medium"):
        yield


class Block(nn.Module):
    """A residual block between two convolutions, with a shortcut of its own."""

    def __init__(self, channels: int = 32, stride: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(channels, channels, 1, stride, bias=False)
        self.last = nn.Conv2d(channels, channels, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(4)])
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x, seen=lambda t: t):
        x = seen(self.pool(seen(F.relu(seen(self.norms[0](seen(self.stem(x))))))))
        y = seen(F.relu6(self.norms[1](seen(self.conv1(x)))))
        y = seen(self.norms[2](seen(self.conv2(y))))
        y = seen(F.relu(seen(y + seen(self.norms[3](self.short(x))))))
        return self.last(seen(F.relu(seen(self.norms[1](self.conv2(y)) + y))))


@pytest.fixture(params=[1, 2], ids=["stride 1", "stride 2"])
def net(request):
    """A network in training."""
    ck.manual_seed(3)
    return Block(stride=request.param)


@pytest.fixture
def images(rng):
    """Input for it, large enough behind its stride."""
    return rng.standard_normal((2, 32, 48, 50)).astype(np.float32)


# -- values ---------------------------------------------------------------------------------------


def test_values_are_bfloat16_whoever_reads_them(rng):
    x = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32), requires_grad=True) * 1
    conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
    bn = nn.BatchNorm2d(32)
    y = conv(x)
    assert is_bfloat16(y.data) == dispatch.has_tiles()
    for function in (F.relu, F.relu6, lambda t: t, lambda t: F.relu(t + x)):
        z = function(bn(conv(x)))
        assert z.dtype == np.float32 and z.shape == x.shape
        halves = halves_of(z._deferred)
        assert halves.dtype == np.uint16
        assert_same_bits(np.ascontiguousarray(z.data.transpose(0, 2, 3, 1)).view(np.uint32) >> 16,
                         halves.astype(np.uint32))
        assert is_bfloat16(z.data)
        again = function(bn(conv(x)))       # as float32 first
        assert_same_bits(again.data, z.data)


def test_reading_a_value_changes_no_bit(net, images):
    """In the middle of the network, by anybody, before or behind other readers."""
    assert_reading_changes_no_bit(net, images)


def test_threads_change_no_bit(net, images):
    assert_all_same_bits(gradients(net, images), gradients(net, images, threads=2))


def test_hooks_see_arrays_of_float32(net, images):
    """And leave the results as they are, where they return nothing."""
    assert_hooks_see_float32(net, images, 13)


def test_values_are_near_those_of_float32(net, images):
    """By norm: the errors of six convolutions, each below the bound of `medium`, add in squares."""
    ours = gradients(net, images)
    exact = gradients(net, images, "highest")
    assert np.linalg.norm(ours[0] - exact[0]) < 6**0.5 * 1e-2 * np.linalg.norm(exact[0])


def test_beside_pytorchs_autocast(torch, net, images):
    """The error of all gradients together is at most half as large again as PyTorch's."""
    ours = gradients(net, images)
    exact = gradients(net, images, "highest")

    def convolve(conv, x):
        return torch.nn.functional.conv2d(
            x, weights[id(conv)], None if conv.bias is None else weights["bias"], conv.stride,
            conv.weight.shape[-1] // 2)

    def normalise(bn, x):
        return torch.nn.functional.batch_norm(x, None, None, *weights[id(bn)], True)

    relu, relu6 = torch.relu, torch.nn.functional.relu6
    leaf = torch.tensor(images, requires_grad=True)
    parameters = [torch.tensor(p.data, requires_grad=True) for p in net.parameters()]
    named = dict(zip([n for n, _ in net.named_parameters()], parameters, strict=True))
    weights = {id(getattr(net, n)): named[f"{n}.weight"]
               for n in ("stem", "conv1", "conv2", "short", "last")}
    weights["bias"] = named["last.bias"]
    for i, bn in enumerate(net.norms):
        weights[id(bn)] = named[f"norms.{i}.weight"], named[f"norms.{i}.bias"]
    with torch.autocast("cpu", torch.bfloat16):
        x = relu(normalise(net.norms[0], convolve(net.stem, leaf)))
        x = torch.nn.functional.max_pool2d(x, 3, 1, 1)
        y = relu6(normalise(net.norms[1], convolve(net.conv1, x)))
        y = normalise(net.norms[2], convolve(net.conv2, y))
        y = relu(y + normalise(net.norms[3], convolve(net.short, x)))
        y = convolve(net.last, relu(normalise(net.norms[1], convolve(net.conv2, y)) + y))
    (y.float() ** 2).sum().backward()
    theirs = [leaf.grad.numpy(), *[p.grad.numpy() for p in parameters]]
    assert relative_error(ours[1:], exact[1:]) < 1.5 * relative_error(theirs, exact[1:])


# -- changes in place, and the tape ---------------------------------------------------------------


def put_off():
    """Return a norm's input, what is added to its output, and the activation of the sum."""
    values = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    leaf = ck.Tensor(values, requires_grad=True)
    x, other = leaf * 2, leaf * 3
    return x, other, F.relu(F.batch_norm(x, None, None, training=True) + other)


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["medium", "high"])
@pytest.mark.parametrize("source", [0, 1], ids=["norm's input", "residual"])
def test_changes_in_place_come_too_late(form, precision, source):
    """The activation has the values from before its sources changed, in either form."""
    with ck.precision(precision):
        expected = put_off()[2].data
        *sources, y = put_off()
        with ck.no_grad():
            sources[source].mul_(4)
        if form == "bfloat16":
            assert (halves_of(y._deferred) is None) == (precision == "high")
        assert_same_bits(y.data, expected)


@pytest.mark.parametrize("precision", ["medium", "high"])
@pytest.mark.parametrize("source", [0, 1], ids=["norm's input", "residual"])
def test_changes_before_the_activation_come_too_late_for_the_sum(precision, source):
    """Also where the norm's own output is no longer anybody's."""
    with ck.precision(precision):
        expected = put_off()[2].data
        leaf = ck.Tensor(np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32),
                         requires_grad=True)
        sources = leaf * 2, leaf * 3
        total = F.batch_norm(sources[0], None, None, training=True) + sources[1]
        with ck.no_grad():
            sources[source].mul_(4)
        np.testing.assert_allclose(F.relu(total).data, expected, rtol=2.0**-7)


def test_a_value_that_was_read_is_changed_in_place_by_its_tensor_alone():
    """What is written to the array behind its back would not be seen by all."""
    y = put_off()[2]
    with pytest.raises(ValueError, match="read-only"):
        y.data[0] = 3
    with ck.no_grad():
        y[0] = 3
        y.mul_(2)
    assert (y.data[0] == 6).all() and (F.relu(y).data[0] == 6).all()


@tiles
def test_a_gradient_that_two_operations_get_is_overwritten_by_neither(rng):
    """A norm's gradient that comes to both sides of a sum, behind an activation each."""
    values = rng.standard_normal(SHAPE).astype(np.float32)
    results = []
    for hooked in (False, True):        # which has activations' gradients made arrays
        ck.manual_seed(2)
        convs = [nn.Conv2d(32, 32, 1, bias=False) for _ in range(3)]
        leaf = ck.Tensor(values, requires_grad=True)
        a, b = (F.batch_norm(conv(leaf * 1), None, None, training=True) for conv in convs[:2])
        if hooked:
            for t in (a, b):
                t.register_hook(lambda g: None)
        total = F.relu(a) + F.relu(b)
        y = convs[2](F.relu(F.batch_norm(total, None, None, training=True)))
        (y * y).sum().backward()
        results.append([leaf.grad.numpy(), *[c.weight.grad.numpy() for c in convs]])
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want)


def test_backward_twice(net, images):
    """A retained graph gives the same gradients again."""
    net.zero_grad()
    y = net(ck.Tensor(images, requires_grad=True) * 1)
    loss = (y * y).sum()
    loss.backward(retain_graph=True)
    first = [p.grad.numpy().copy() for p in net.parameters()]
    net.zero_grad()
    loss.backward()
    for a, p in zip(first, net.parameters(), strict=True):
        assert_same_bits(p.grad.numpy(), a)


@tiles
def test_nothing_large_is_float32_between_convolutions(rng):
    """Blocks of convolution, norm and ReLU hold bfloat16 alone, going forward and backward."""
    convs = [nn.Conv2d(32, 32, 3, padding=1, bias=False) for _ in range(3)]
    norms = [nn.BatchNorm2d(32) for _ in range(3)]
    x = ck.Tensor(rng.standard_normal((2, 32, 64, 64)).astype(np.float32), requires_grad=True) * 1
    size, sizes = x.data.nbytes, []
    taken = memory.empty

    def counted(shape, *more):
        array = taken(shape, *more)
        sizes.append(array.nbytes)
        return array

    y = x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "empty", counted)
        for conv, bn in zip(convs, norms, strict=True):
            y = F.relu(bn(conv(y)))
        halves_of(y._deferred)
        # The first input is kept as bfloat16 too.
        assert sizes.count(size // 2) == 7 and size not in sizes
        del sizes[:]
        y.backward(Halves(halves_of(y._deferred), 1).array())
        # The gradient that came, that of the first convolution's input, and the leaf's.
        assert sizes.count(size) == 3


@tiles
@pytest.mark.parametrize("kinds", ["conv norm", "norm conv pool", "pool norm norm"])
def test_what_is_joined_stays_bfloat16(rng, kinds):
    """Values side by side, gradients cut apart; each part's are its own rounded numbers."""
    x = ck.Tensor(rng.standard_normal((2, 32, 33, 31)).astype(np.float32), requires_grad=True) * 1
    make = {"conv": nn.Conv2d(32, 48, 1),
            "norm": nn.Sequential(nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), nn.ReLU()),
            "pool": lambda t: F.max_pool2d(make["conv"](t), 3, 1, 1)}
    parts = [make[kind](x) for kind in kinds.split()]
    y = ck.cat(parts, 1)
    assert isinstance(y._deferred, Halves)
    assert_same_bits(y.data, np.concatenate([p.data for p in parts], 1))
    came = []
    for part in parts:
        part.register_hook(lambda g: came.append(g.data.copy()))
    seen = []
    y.register_hook(lambda g: seen.append(g.data.copy()))
    z = F.conv2d(y, ck.Tensor(rng.standard_normal((32, y.shape[1], 1, 1)).astype(np.float32)))
    z.backward(rng.standard_normal(z.shape).astype(np.float32))
    assert is_bfloat16(seen[0])
    assert_same_bits(np.concatenate(came[::-1], 1), seen[0])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_what_is_joined_with_float32_is_float32(rng, dim):
    """Nobody has rounded that; along other axes than the channels nothing stays bfloat16."""
    x = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32), requires_grad=True) * 1
    y = F.relu(nn.BatchNorm2d(32)(x))
    other = x * 3 if dim == 1 else F.relu(nn.BatchNorm2d(32)(x))
    joined = ck.cat([y, other], dim)
    assert halves_of(joined._deferred) is None
    assert_same_bits(joined.data, np.concatenate([y.data, other.data], dim))


@pytest.mark.parametrize("after", ["pool", "depthwise", "cat", "linear", "group_norm"])
def test_whoever_does_not_take_bfloat16_gets_float32(rng, after):
    ck.manual_seed(0)
    x = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32), requires_grad=True)
    conv, bn = nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32)
    then = {"pool": lambda t: F.max_pool2d(t, 2), "linear": lambda t: F.linear(t, weight),
            "depthwise": nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            "cat": lambda t: ck.cat([t, x * 1], 1), "group_norm": nn.GroupNorm(4, 32)}[after]
    weight = ck.Tensor(rng.standard_normal((5, 25)).astype(np.float32))
    grads = []
    for precision in ("medium", "highest"):
        x.grad = None
        with ck.precision(precision):
            for start in (conv(x * 1), F.relu(bn(conv(x * 1)))):
                y = then(start)
                y.backward(np.random.default_rng(2).standard_normal(y.shape).astype(np.float32))
        assert y.dtype == np.float32
        grads.append((y.data.copy(), x.grad.numpy().copy()))
    if after == "pool":     # of two nearly equal values either may be the largest
        grads = [(y, gx[..., :24].reshape(2, 32, 12, 2, 12, 2).sum((3, 5))) for y, gx in grads]
    for got, want in zip(*grads, strict=True):
        assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
