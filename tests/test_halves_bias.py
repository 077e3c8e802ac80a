"""bfloat16 from layer to layer where no batch norm is: convolution with bias, ReLU and max pooling.

ReLU waits for its reader (`ops.activated`); pooled, it comes behind the pooling.
"""

from __future__ import annotations

import numpy as np
import pytest
import test_kept
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

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import memory
from convkit.autograd import watching
from convkit.ops.activated import Activated
from convkit.ops.halves import Halves, halves_of

pytestmark = tiles
SHAPE = (2, 32, 25, 27)
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6}


@pytest.fixture(autouse=True)
def _medium():
    with ck.precision("medium"):
        yield


class Net(nn.Module):
    """The first convolution is on vectors, and the others on tiles; one pooling overlaps."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 32, 3, padding=1)

    def forward(self, x, seen=lambda t: t, pool=F.max_pool2d):
        x = seen(pool(seen(F.relu(seen(self.conv1(x)))), 2))
        x = seen(pool(seen(F.relu6(seen(self.conv2(x)))), 3, 2, 1))
        x = seen(F.relu(seen(self.conv3(x))))
        return self.conv4(x)


@pytest.fixture
def net():
    """A network in training."""
    ck.manual_seed(3)
    return Net()


@pytest.fixture
def images(rng):
    """Input of odd sizes for it."""
    return rng.standard_normal((3, 1, 61, 53)).astype(np.float32)


def recorded(values, kind):
    """Return a leaf, and what an operation made of it: the values, of float32 or as bfloat16."""
    last = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    leaf = ck.Tensor(last, requires_grad=True)
    if kind == "float32":
        return leaf, leaf * 1
    weight = np.eye(values.shape[1], dtype=np.float32)[:, :, None, None]
    bias = np.zeros(values.shape[1], np.float32)
    return leaf, F.conv2d(leaf, ck.Tensor(weight), ck.Tensor(bias))


def rounded(x):
    """Return an array's numbers as bfloat16, in float32."""
    bits = test_kept.nearest(np.ascontiguousarray(x)).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(x.shape)


# -- values ---------------------------------------------------------------------------------------


def test_who_hands_on_what(net, images):
    """A convolution on vectors float32, one on tiles bfloat16; activations are put off."""
    x = ck.Tensor(images, requires_grad=True)
    first = net.conv1(x)
    assert first._deferred is None
    y = F.relu(first)
    assert y._deferred.__class__ is Activated and is_bfloat16(y.data)
    pooled = F.max_pool2d(F.relu(first), 2)
    assert pooled._deferred.__class__ is Halves
    second = net.conv2(pooled)
    assert second._deferred.__class__ is Halves and is_bfloat16(second.data)
    for function in ACTIVATIONS.values():
        z = function(second)
        assert z.dtype == np.float32 and z.shape == second.shape
        assert_same_bits(z.data, function(second.detach()).data)
        assert_same_bits(
            np.ascontiguousarray(z.data.transpose(0, 2, 3, 1)).view(np.uint32) >> 16,
            halves_of(z._deferred).astype(np.uint32))
    with ck.no_grad():
        assert net.conv2(pooled.detach())._deferred.__class__ is Halves
        assert net.eval().conv2(pooled.detach())._deferred is None
    with ck.precision("high"):
        assert F.relu(net.train().conv2(pooled))._deferred is None


def test_reading_a_value_changes_no_bit(net, images):
    """In the middle of the network, by anybody, before or behind other readers."""
    assert_reading_changes_no_bit(net, images)
    ours, held = gradients(net, images), []
    assert_all_same_bits(ours, gradients(net, images, seen=lambda t: held.append(t) or t))
    assert len(held) == 8 and all(np.isfinite(t.data).all() for t in held)


def test_threads_change_no_bit(net, images):
    assert_all_same_bits(gradients(net, images), gradients(net, images, threads=2))


def test_backward_twice(net, images):
    """A retained graph gives the same gradients again."""
    test_kept.gradients(net, images, "medium", twice=True)


def test_checkpoint_changes_no_bit(net, images):
    ours = gradients(net, images)
    theirs = test_kept.gradients(net, images, "medium", part=lambda t: ck.checkpoint(net, t * 1))
    assert_all_same_bits(ours, theirs)


def test_values_are_near_those_of_float32(net, images):
    ours, exact = gradients(net, images), gradients(net, images, "highest")
    assert np.linalg.norm(ours[0] - exact[0]) < 4**0.5 * 1e-2 * np.linalg.norm(exact[0])


def test_operations_one_by_one_are_as_near(net, images):
    """Watched, each gives float32 to the next."""
    ours = gradients(net, images)
    with watching(lambda *call: None):
        theirs = gradients(net, images)
    for a, b in zip(ours, theirs, strict=True):
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)


def test_beside_pytorchs_autocast(torch, net, images):
    """The error of all gradients together is at most half as large again as PyTorch's."""
    ours, exact = gradients(net, images), gradients(net, images, "highest")
    leaf = torch.tensor(images, requires_grad=True)
    parameters = [torch.tensor(p.data, requires_grad=True) for p in net.parameters()]
    functional = torch.nn.functional
    with torch.autocast("cpu", torch.bfloat16):
        y = leaf
        for i, after in enumerate((
                lambda t: functional.max_pool2d(torch.relu(t), 2),
                lambda t: functional.max_pool2d(functional.relu6(t), 3, 2, 1),
                torch.relu, lambda t: t)):
            weight, bias = parameters[2 * i:2 * i + 2]
            y = after(functional.conv2d(y, weight, bias, 1, weight.shape[-1] // 2))
    (y.float() ** 2).sum().backward()
    theirs = [leaf.grad.numpy(), *[p.grad.numpy() for p in parameters]]
    assert relative_error(ours[1:], exact[1:]) < 1.5 * relative_error(theirs, exact[1:])


# -- pooling before the activation ----------------------------------------------------------------

POOLS = [((2,), {}), ((3, 2, 1), {}), ((2, 3), {}), ((3, 1, 1), {"dilation": 2}),
         ((3, 2, 1), {"ceil_mode": True}), ((3, 2), {"return_indices": True})]


def values_of(rng):
    """Return values with ties, and some windows with nothing above zero."""
    x = np.round(4 * rng.standard_normal(SHAPE)).astype(np.float32) / 2
    x[:, :, :9, :9] = -np.abs(x[:, :, :9, :9])
    x[:, 5] += 1 / 3
    return x


@pytest.mark.parametrize("arguments", POOLS, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_pooling_an_activation(rng, kind, name, arguments):
    """Values and gradients are those of one operation after the other, on the rounded numbers."""
    positional, named = arguments
    leaf, x = recorded(rounded(values_of(rng)), kind)
    y = F.max_pool2d(ACTIVATIONS[name](x), *positional, **named)
    y, *indices = y if isinstance(y, tuple) else (y,)
    with ck.precision("highest"):
        again = ck.Tensor(x.data.copy(order="K"), requires_grad=True)
        want = F.max_pool2d(ACTIVATIONS[name](again), *positional, **named)
        want, *expected = want if isinstance(want, tuple) else (want,)
    np.testing.assert_array_equal(y.data, want.data)
    for a, b in zip(indices, expected, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    g = rng.integers(-8, 8, y.shape).astype(np.float32)
    y.backward(g)
    want.backward(g)
    np.testing.assert_array_equal(leaf.grad.numpy(), again.grad.numpy())


def test_windows_of_padding_alone(rng):
    """They have no largest value, of which there is an activation: they give minus infinity."""
    x = recorded(rng.standard_normal((2, 32, 600, 1)).astype(np.float32), "bfloat16")[1]
    y = F.max_pool2d(F.relu(x), (1, 2), 1, (0, 1), (1, 2))
    assert y.shape == x.shape and (y.data == -np.inf).all()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_special_values_pass(rng, kind):
    """NaN and infinities come out where they went in, with either sign, and so do gradients."""
    values = values_of(rng)
    negative = np.uint32(0xffc00001).view(np.float32)
    values[0, 0, :4, :4] = np.nan
    values[0, 1, :4, :4] = negative
    values[0, 2, :4, :4], values[0, 3, :4, :4] = np.inf, -np.inf
    leaf = ck.Tensor(np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
                     requires_grad=True)
    x = leaf * 1
    if kind == "bfloat16":
        x = F.max_pool2d(F.max_pool2d(F.relu(leaf * 1), 1) * 1, 1)     # relu's own values again
    y = F.max_pool2d(F.relu(x), 2)
    assert np.isnan(y.data[0, :2, :2, :2]).all()
    assert (y.data[0, 2, :2, :2] == np.inf).all() and (y.data[0, 3, :2, :2] == 0).all()
    assert np.isfinite(y.data[1]).all()
    y.backward(np.ones(y.shape, np.float32))
    blocks = leaf.grad.numpy()[0, :4, :4, :4].reshape(4, 2, 2, 2, 2).sum((2, 4))
    np.testing.assert_array_equal(blocks, np.array([1, 1, 1, 0])[:, None, None] + np.zeros((2, 2)))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("arguments", POOLS[:2], ids=str)
@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_hook_sees_the_gradient_of_the_activation(rng, kind, arguments, when):
    """As if pooling had come behind it: at the first of the largest values, of zeros too."""
    leaf, x = recorded(rounded(values_of(rng)), kind)
    seen = []
    y = F.relu(x)
    if when == "before":
        y.register_hook(lambda g: seen.append(g.data.copy()))
    z = F.max_pool2d(y, *arguments[0])
    if when == "behind":
        y.register_hook(lambda g: seen.append(g.data.copy()))
    values = y.data
    del y
    g = rng.integers(-8, 8, z.shape).astype(np.float32)
    z.backward(g)
    with ck.precision("highest"):
        again = ck.Tensor(values.copy(order="K"), requires_grad=True)
        F.max_pool2d(again, *arguments[0]).backward(g)
    np.testing.assert_array_equal(seen[0], again.grad.numpy())
    np.testing.assert_array_equal(leaf.grad.numpy(), again.grad.numpy() * (values > 0))


def test_hooks_everywhere(net, images):
    """They get float32, and leave the results as they are, where they return nothing."""
    assert_hooks_see_float32(net, images, 8)


READERS = {
    "pool and convolution": lambda y, conv: conv(y).sum() + F.max_pool2d(y, 2).sum(),
    "convolution and pool": lambda y, conv: F.max_pool2d(y, 2).sum() + conv(y).sum(),
    "two pools": lambda y, conv: F.max_pool2d(y, 2).sum() + (F.max_pool2d(y, 3, 2) * 2).sum(),
    "pool and product": lambda y, conv: F.max_pool2d(y, 2).sum() + (y * y).sum(),
    "sum": lambda y, conv: F.relu(y + conv(y)).sum(),
    "activation": lambda y, conv: F.relu6(y).sum() + conv(F.relu(y)).sum(),
    "batch norm": lambda y, conv: (F.batch_norm(y, None, None, training=True) * y).sum(),
    "average": lambda y, conv: conv(F.avg_pool2d(y, 2)).sum(),
    "itself": lambda y, conv: y.sum(),
}


@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_values_with_several_readers(rng, kind, readers):
    """Their gradients are added before they are masked; reading meanwhile changes no bit."""
    values, results = values_of(rng), []
    for precision, read in (("medium", False), ("medium", True), ("highest", False)):
        ck.manual_seed(1)
        conv = nn.Conv2d(32, 32, 3, padding=1)
        with ck.precision(precision):
            leaf, x = recorded(values, kind)
            y = F.relu(x)
            if read:
                assert (y.data >= 0).all()
            READERS[readers](y, conv).backward()
        results.append((leaf.grad.numpy(), conv.weight.grad))
    (ours, of_conv), (again, again_conv), (want, _) = results
    assert_same_bits(ours, again)
    if of_conv is not None:
        assert_same_bits(of_conv.numpy(), again_conv.numpy())
    assert np.linalg.norm(ours - want) < 0.03 * np.linalg.norm(want)


def test_backward_from_an_activation_that_nobody_reads(rng):
    leaf, x = recorded(values_of(rng), "bfloat16")
    F.relu(x).backward(np.ones(SHAPE, np.float32))
    np.testing.assert_array_equal(leaf.grad.numpy(), x.data > 0)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("pooled", [False, True])
def test_changes_in_place_come_too_late(rng, kind, pooled):
    """The activation has the values from before, and so has what is pooled of it."""
    values = values_of(rng)

    def run(change):
        x = recorded(values, kind)[1]
        y = F.relu(x)
        if change:
            with ck.no_grad():
                x.mul_(-4)
        return F.max_pool2d(y, 2).data if pooled else y.data

    assert_same_bits(run(True), run(False))


def test_a_value_that_was_changed_is_noticed(rng):
    """Where backward would mask by it."""
    y = F.relu(recorded(values_of(rng), "bfloat16")[1])
    z = F.max_pool2d(y, 2)
    with ck.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.sum().backward()


def test_a_bias_gets_the_sums_of_what_comes_back(rng):
    """Exactly, for whole numbers, whichever way the gradient comes."""
    leaf = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32), requires_grad=True)
    for after in (lambda t: F.max_pool2d(F.relu(t), 2), lambda t: F.max_pool2d(F.relu(t), 3, 1),
                  F.relu, lambda t: t, lambda t: F.max_pool2d(t, 2)):
        conv = nn.Conv2d(32, 32, 3, padding=1)
        y = conv(leaf * 1)
        seen = []
        y.register_hook(lambda g, seen=seen: seen.append(g.data.sum((0, 2, 3))))
        z = after(y)
        g = rng.integers(-3, 4, z.shape).astype(np.float32)
        z.backward(g)
        with_hook = conv.bias.grad.numpy().copy()
        np.testing.assert_array_equal(with_hook, seen[0])
        conv.bias.grad = None
        after(conv(leaf * 1)).backward(g)
        np.testing.assert_array_equal(conv.bias.grad.numpy(), with_hook)


def test_nothing_large_is_float32_between_convolutions(rng):
    """Nor is anything of that size made for an activation that is pooled."""
    convs = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)]
    x = ck.Tensor(rng.standard_normal((2, 32, 64, 64)).astype(np.float32), requires_grad=True) * 1
    size, sizes = x.data.nbytes, []
    taken = memory.empty

    def counted(shape, *more):
        array = taken(shape, *more)
        sizes.append(array.nbytes)
        return array

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "empty", counted)
        y = F.max_pool2d(F.relu(convs[1](F.relu(convs[0](x)))), 2)
        y = convs[2](y)
        # Of the first input, of both convolutions, of the activation between them.
        assert sizes.count(size // 2) == 4 and size not in sizes
        del sizes[:]
        g = Halves(halves_of(y._deferred), 1).array()
        del sizes[:]
        y.backward(g)
        # Gradients of both convolutions' results; of the first one's input, and the leaf.
        assert sizes.count(size // 2) == 2 and sizes.count(size) == 2


@pytest.mark.parametrize("after", ["depthwise", "cat", "linear", "group_norm", "leaky_relu"])
def test_whoever_does_not_take_bfloat16_gets_float32(rng, after):
    x = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32), requires_grad=True)
    ck.manual_seed(4)
    conv = nn.Conv2d(32, 32, 1)
    weight = ck.Tensor(rng.standard_normal((5, 27)).astype(np.float32))
    then = {"linear": lambda t: F.linear(t, weight), "leaky_relu": F.leaky_relu,
            "depthwise": nn.Conv2d(32, 32, 3, padding=1, groups=32),
            "cat": lambda t: ck.cat([t, x * 1], 1), "group_norm": nn.GroupNorm(4, 32)}[after]
    grads = []
    for precision in ("medium", "highest"):
        x.grad = None
        with ck.precision(precision):
            for start in (conv(x * 1), F.relu(conv(x * 1))):
                y = then(start)
                y.backward(np.random.default_rng(2).standard_normal(y.shape).astype(np.float32))
        grads.append((y.data.copy(), x.grad.numpy().copy()))
    for got, want in zip(*grads, strict=True):
        assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
