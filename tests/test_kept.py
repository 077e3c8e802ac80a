"""What is kept for backward: computed again to the bit, or as bfloat16 under precision "medium"."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from harness import assert_same_bits

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import memory, norm
from convkit.autograd import watching
from convkit.ops import kept
from convkit.ops.deferred import NormInput
from convkit.ops.kept import Kept, Remade, Rounded

SHAPE = (2, 32, 24, 25)          # of 150 KB: large enough not to be kept as it is
MEDIUM = 1e-2                    # the bound of precision "medium" (convkit._precision)
SPECIAL = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40, -0.0, 0.0]


def nearest(x: np.ndarray) -> np.ndarray:
    """Return the nearest bfloat16 of finite floats, ties to even, as uint16."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def apart(got: np.ndarray, want: np.ndarray) -> float:
    """Return how far apart two arrays are, relative to the second, by the Euclidean norm."""
    return float(np.linalg.norm(np.float64(got) - want) / np.linalg.norm(np.float64(want)))


# -- kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 15, 17, 16384, 40001])
def test_floats_round_to_the_nearest_bfloat16(rng, size):
    x = np.ldexp(rng.standard_normal(size), rng.integers(-100, 100, size)).astype(np.float32)
    x.view(np.uint32)[::3] = x.view(np.uint32)[::3] & 0xffff0000 | 0x8000      # ties
    halves, back = np.empty(size, np.uint16), np.empty(size, np.float32)
    for threads in (1, 2):
        halves.fill(7)
        norm.narrow(x, halves, threads)
        assert_same_bits(halves, nearest(x))
        norm.widen(halves, back, threads)
        assert_same_bits(back.view(np.uint32), halves.astype(np.uint32) << 16)


def test_special_values_survive_rounding():
    x = np.array(SPECIAL * 5, np.float32)
    x.view(np.uint32)[8:11] = 0x7fffffff, 0xffffffff, 0x7f800001       # NaN of other payloads
    halves, back = np.empty(x.size, np.uint16), np.empty(x.size, np.float32)
    norm.narrow(x, halves, 1)
    norm.widen(halves, back, 1)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(x))
    np.testing.assert_array_equal(np.isinf(back), np.isinf(x))
    np.testing.assert_array_equal(np.signbit(back[11:]), np.signbit(x[11:]))
    assert back[np.abs(x) > 3e38].max() == np.inf
    assert back[3] == np.uint32(0x7f7f0000).view(np.float32)


@pytest.mark.parametrize("shape", [(3, 7, 5, 17), (2, 40, 41, 16), (5, 1), (4, 9, 9, 130)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_passes_over_kept_input_are_those_over_its_values(rng, shape, threads):
    """Each pass that reads bfloat16 has the bits of the float32 pass over the same values."""
    x, residual, gy = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    x.flat[1::7] *= 1e3
    numbers = [rng.standard_normal(shape[-1]).astype(np.float32) for _ in range(6)]
    center, scale, shift, factor, slope, offset = numbers
    zero = np.zeros_like(center)
    halves, rounded = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
    y, again, plain, values, centred = (np.empty(shape, np.float32) for _ in range(5))
    for ends, activation in (((0, np.inf), (1, 0.0, 0.0)), ((0, 6), (2, 0.0, 6.0)),
                             ((-np.inf, np.inf), (0, 0.0, 0.0))):
        for more in (None, residual):
            norm.affine_kept(x, halves, center, scale, shift, ends, y, threads, more, rounded)
            assert_same_bits(halves, nearest(x - center))
            assert_same_bits(rounded, nearest(y))
            norm.affine_kept(None, halves, center, scale, shift, ends, again, threads, more)
            assert_same_bits(again, y)
            norm.widen(halves, centred, threads)
            norm.affine(centred, scale, shift, activation[0], plain, threads, *activation[1:],
                        center=zero, residual=more)
            assert_same_bits(y, plain)
    norm.widen(rounded, values, threads)
    mask, out, expected = (0.0, np.nan), np.empty(shape, np.float32), np.empty(shape, np.float32)
    for with_value in (False, True):
        got = norm.masked_sums(gy, halves, mask, *numbers[:3], rounded if with_value else None,
                               out if with_value else None, threads)
        want = norm.masked_sums(gy, centred, mask, zero, scale, shift,
                                values if with_value else None,
                                expected if with_value else None, threads)
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b)
    assert_same_bits(out, expected)
    norm.masked_input(gy, halves, mask, *numbers[:3], factor, slope, offset, out, threads)
    norm.masked_input(gy, centred, mask, zero, scale, shift, factor, slope, offset, expected,
                      threads)
    assert_same_bits(out, expected)
    got = norm.masked_sums(gy, halves, (np.nan, np.nan), *numbers[:3], None, None, threads)
    for a, b in zip(got, norm.grad_sums(gy, centred, zero, threads), strict=True):
        assert_same_bits(a, b)


def test_kernels_refuse_arrays_that_do_not_fit():
    x, halves = np.ones((4, 3), np.float32), np.ones((4, 3), np.uint16)
    one = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="12 numbers, expected 9"):
        norm.narrow(x, halves[:3], 1)
    with pytest.raises(TypeError, match="12 numbers, expected 9 of bfloat16"):
        norm.widen(halves, x[:3].copy(), 1)
    with pytest.raises(TypeError, match="float32 and 12 numbers, expected 12 of bfloat16"):
        norm.narrow(x, x, 1)
    with pytest.raises(TypeError):
        norm.affine_kept(None, x, one, one, one, (0.0, 6.0), x.copy(), 1)
    with pytest.raises(TypeError):
        norm.masked_sums(x, halves, (0.0, 6.0), one, one, one, x, x.copy(), 1)


# -- networks -----------------------------------------------------------------------------------


class Block(nn.Module):
    """Convolutions behind all that is kept: a norm, a norm and ReLU, a residual sum, a pool."""

    def __init__(self, channels=32, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.wide = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.norm3 = nn.BatchNorm2d(channels)
        self.deep = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.thin = nn.Conv2d(channels, channels, 1, bias=False)
        self.last = nn.Conv2d(channels, channels, 3, stride=2, padding=1, padding_mode="reflect")
        self.turn = nn.ConvTranspose2d(channels, 5, 2)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu6(self.norm1(self.wide(x)))
        y = self.norm2(self.deep(y))
        y = self.norm3(self.thin(y))
        y = self.turn(self.last(F.relu(y + x)))
        return self.head(y.permute(0, 2, 3, 1))


def gradients(net, x, precision, watch=False, threads=1, twice=False, part=None):
    """Return output and gradients of a network, or of a part, which calls the network."""
    net.zero_grad()
    x = ck.Tensor(x, requires_grad=True)
    call = part or net
    with ck.threads(threads), ck.precision(precision):
        if watch:
            with watching(lambda *call: None):
                y = call(x)
        else:
            y = call(x)
        loss = (y * y).sum()
        if twice:
            loss.backward(retain_graph=True)
            first = [t.grad.numpy().copy() for t in (x, *net.parameters())]
            net.zero_grad()
            x.grad = None
            loss.backward()
            for a, b in zip(first, (x, *net.parameters()), strict=True):
                assert_same_bits(a, b.grad.numpy())
        else:
            loss.backward()
    return [y.data, x.grad.numpy(), *[p.grad.numpy() for p in net.parameters()]]


@pytest.fixture(params=[1, 4], ids=["dense", "groups"])
def net(request):
    """A network in training."""
    ck.manual_seed(3)
    return Block(groups=request.param)


@pytest.fixture
def images(rng):
    """Images for it."""
    return rng.standard_normal((2, 3, 24, 25)).astype(np.float32)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_computing_values_again_changes_no_bit(net, images, precision, monkeypatch):
    made = []
    for name in ("array", "source"):        # before they are read, or on the way
        method = getattr(Remade, name)
        monkeypatch.setattr(Remade, name, lambda self, n, method=method: made.append(self)
                            or method(self, n))
    ours = gradients(net, images, precision)
    assert len(made) == 2        # for the convolutions behind a norm
    monkeypatch.setattr(kept, "LEAST_BYTES", 1 << 40)
    for a, b in zip(ours, gradients(net, images, precision), strict=True):
        assert_same_bits(a, b)
    assert len(made) == 2


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_same_bits_however_the_tape_runs(net, images, precision):
    """On two threads, backward twice, run again from a checkpoint, and but for medium watched."""
    ours = gradients(net, images, precision)
    watched = [{"watch": True}] if precision != "medium" else []
    for how in (*watched, {"threads": 2}, {"twice": True}):
        for a, b in zip(ours, gradients(net, images, precision, **how), strict=True):
            assert_same_bits(a, b)
    whole = nn.Sequential(net)
    whole.forward = lambda x: ck.checkpoint(net, x)
    for a, b in zip(ours, gradients(net, images, precision, part=whole), strict=True):
        assert_same_bits(a, b)


def test_what_medium_hands_on_in_bfloat16_is_float32_where_it_is_watched(net, images):
    """Whoever watches operations sees each give float32, which is rounded less often."""
    ours, watched = gradients(net, images, "medium"), gradients(net, images, "medium", watch=True)
    assert apart(ours[0], watched[0]) < MEDIUM
    assert not np.array_equal(ours[0], watched[0])


def test_medium_stays_within_its_bound(net, images):
    """Beside the same network with nothing rounded.

    Where the argument of a ReLU is next to 0, rounding opens or shuts it for a gradient.
    """
    ours, exact = gradients(net, images, "medium"), gradients(net, images, "highest")
    assert not np.array_equal(ours[2], exact[2])
    assert apart(ours[0], exact[0]) < MEDIUM
    got, want = (np.concatenate([g.ravel() for g in grads[1:]]) for grads in (ours, exact))
    assert apart(got, want) < 0.1


@pytest.mark.parametrize("op", ["conv1d", "conv2d", "grouped", "transposed", "linear"])
def test_weight_gradients_of_rounded_inputs(rng, op):
    """Each kind of layer behind a ReLU."""
    x = rng.standard_normal({"conv1d": (4, 32, 601), "linear": (80, 1003)}.get(op, SHAPE))
    layer = {"conv1d": lambda: nn.Conv1d(32, 7, 5), "conv2d": lambda: nn.Conv2d(32, 17, 3),
             "grouped": lambda: nn.Conv2d(32, 64, 3, groups=8),
             "transposed": lambda: nn.ConvTranspose2d(32, 3, 3, stride=2),
             "linear": lambda: nn.Linear(1003, 5)}[op]()
    results = {}
    for precision in ("high", "medium"):
        layer.zero_grad()
        leaf = ck.Tensor(x.astype(np.float32), requires_grad=True)
        with ck.precision(precision):
            y = layer(F.relu(leaf * 1))
            (y * y).sum().backward()
        results[precision] = [y.data, leaf.grad.numpy(), layer.weight.grad.numpy()]
    for got, want in zip(results["medium"], results["high"], strict=True):
        assert apart(got, want) < MEDIUM
    rounded = results["medium"][2]
    assert not np.array_equal(rounded, results["high"][2])


@pytest.mark.parametrize("function", [F.relu, F.relu6], ids=lambda f: f.__name__)
@pytest.mark.parametrize("last", [True, False], ids=["channels last", "in order"])
def test_the_gradient_of_an_activation_reads_bfloat16(rng, function, last, monkeypatch):
    """With the bits of that of the values as floats, which nobody makes of them."""
    x = 4 * rng.standard_normal(SHAPE).astype(np.float32)
    x.flat[:80] = SPECIAL * 10
    if function is F.relu6:     # whose own pass stops the gradient of a NaN; a mask lets it through
        x[np.isnan(x)] = 1
    gy = rng.standard_normal(SHAPE).astype(np.float32)
    gy.flat[8:11] = -0.0, np.inf, np.nan
    if last:
        x, gy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
                 for a in (x, gy))
    rounded = nearest(np.array(x)).astype(np.uint32) << 16
    x = np.where(np.isfinite(x), rounded.view(np.float32), x)       # both sides see these
    monkeypatch.setattr(Rounded, "array", None)
    grads = []
    for precision, threads in (("high", 1), ("medium", 1), ("medium", 2)):
        leaf = ck.Tensor(x, requires_grad=True)
        with ck.precision(precision), ck.threads(threads):
            y = function(leaf * 1)
            y.backward(gy.copy())
        grads.append(leaf.grad.numpy())
    for got in grads[1:]:
        assert_same_bits(got, grads[0])


def test_nothing_large_is_kept_in_float32():
    """Under medium, blocks of conv, norm and ReLU hold bfloat16 only, one array for two layers."""
    convs = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(4)]
    norms = [nn.BatchNorm2d(16) for _ in range(4)]
    x = ck.Tensor(np.random.default_rng(0).standard_normal((4, 64, 64, 16)).astype(np.float32)
                  .transpose(0, 3, 1, 2))
    size = x.data.nbytes

    def forward(x):
        for i in (0, 2):
            y = F.relu(norms[i](convs[i](x)))
            x = F.relu(norms[i + 1](convs[i + 1](y)) + x)
        return x.mean()

    def held(precision):
        with ck.precision(precision):
            forward(x).backward()
            gc.collect()
            before = memory.stats()["used"]
            loss = forward(x)
            held = memory.stats()["used"] - before
            loss.backward()
        return held / size

    # Four inputs of norms and the values of two sums, and what lies around.
    assert 6 <= held("high") < 6.3
    assert 3 <= held("medium") < 3.3


def test_small_arrays_are_kept_as_they_are(rng):
    x = ck.Tensor(rng.standard_normal((2, 8, 9, 9)).astype(np.float32), requires_grad=True)
    layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    results = {}
    for precision in ("high", "medium"):
        layers.zero_grad()
        with ck.precision(precision):
            (layers(x) * 2).sum().backward()
        results[precision] = [p.grad.numpy().copy() for p in layers.parameters()]
    if not ck._kernels.dispatch.has_tiles():
        for a, b in zip(*results.values(), strict=True):
            assert_same_bits(a, b)


def test_float64_is_never_rounded(rng):
    x = ck.Tensor(rng.standard_normal(SHAPE), requires_grad=True)
    weight = ck.Tensor(rng.standard_normal((5, 32, 3, 3)), requires_grad=True)
    grads = {}
    for precision in ("highest", "medium"):
        weight.grad = x.grad = None
        with ck.precision(precision):
            y = F.relu(F.batch_norm(x * 1, None, None, training=True))
            F.conv2d(y, weight).sum().backward()
        grads[precision] = weight.grad.numpy().copy(), x.grad.numpy().copy()
    for a, b in zip(*grads.values(), strict=True):
        assert_same_bits(a, b)


# -- notes --------------------------------------------------------------------------------------


def activated(rng, shape=SHAPE):
    """Return a recorded ReLU of a batch norm, with its note."""
    x = ck.Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
    y = F.relu(F.batch_norm(x * 1, None, None, training=True))
    assert isinstance(memory.noted(y.data.transpose(0, 2, 3, 1)), Remade)
    return y


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_values_changed_in_place_are_what_backward_reads(rng, precision):
    weight = ck.Tensor(rng.standard_normal((4, 32, 1, 1)).astype(np.float32), requires_grad=True)
    with ck.precision(precision):
        y = activated(rng)
        with ck.no_grad():
            y.mul_(0)
            y.add_(1)
        leaf = ck.Tensor(y.data, requires_grad=True)
        F.conv2d(y.detach(), weight).sum().backward()
        np.testing.assert_allclose(weight.grad.numpy(), 2 * 24 * 25, rtol=1e-5)
        weight.grad = None
        F.conv2d(leaf * 1, weight).sum().backward()
        np.testing.assert_allclose(weight.grad.numpy(), 2 * 24 * 25, rtol=1e-5)
        z = activated(rng)
        out = F.conv2d(z, weight).sum()
        with ck.no_grad():
            z.mul_(0)
        with pytest.raises(RuntimeError, match="changed in place"):
            out.backward()


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("view", [
    lambda y: y.permute(0, 1, 3, 2), lambda y: y.reshape(2, 16, 48, 25),
    lambda y: y[:1].expand(2, -1, -1, -1) if hasattr(y, "expand") else y[:, :, ::2],
    lambda y: y[:, :, 1:], lambda y: y.permute(0, 2, 3, 1)], ids=range(5))
def test_views_of_noted_values(rng, precision, view):
    """Whatever a convolution or a ReLU sees of the values, its gradients are of what it saw."""
    with ck.precision(precision):
        y = activated(rng)
        seen = view(y)
        weight = ck.Tensor(rng.standard_normal((4, seen.shape[1], 1, 1)).astype(np.float32),
                           requires_grad=True)
        grads = []
        for x in (seen, ck.Tensor(np.array(seen.data), requires_grad=True) * 1):
            weight.grad = None
            z = F.relu(x)
            (F.conv2d(z, weight) * F.conv2d(x, weight)).sum().backward()
            grads.append(weight.grad.numpy().copy())
    assert apart(*grads) < (1e-5 if precision == "high" else MEDIUM)


def test_a_note_is_about_the_very_numbers():
    x = memory.empty((4, 64, 64))
    memory.note(x, "all")
    assert memory.noted(x) == memory.noted(x.reshape(64, 256)) == "all"
    assert memory.noted(x[:2]) is memory.noted(x[1:]) is memory.noted(x.transpose(0, 2, 1)) is None
    assert memory.noted(np.broadcast_to(x[:1], (4, 64, 64))) is None
    memory.forget(x[1:])
    assert memory.noted(x) is None
    plain = np.empty(100_000)
    memory.note(plain, "nothing to note on")
    assert memory.noted(plain) is None


def test_inputs_of_users_are_not_rounded(rng):
    """Data is held by whoever made it; a second array beside it would only cost."""
    x = ck.Tensor(rng.standard_normal(SHAPE).astype(np.float32))
    weight = ck.Tensor(rng.standard_normal((3, 32, 3, 3)).astype(np.float32), requires_grad=True)
    grads = []
    for precision in ("high", "medium"):
        weight.grad = None
        with ck.precision(precision):
            y = F.conv2d(x, weight)
            assert not isinstance(y._edge[0].ctx.saved[2], Kept)
            y.backward(np.ones(y.shape, np.float32))
        grads.append(weight.grad.numpy().copy())
    assert_same_bits(*grads)


def test_norms_of_users_arrays_are_not_computed_again_from_them(rng):
    """A leaf's memory belongs to the user, who may write to it before backward."""
    data = rng.standard_normal(SHAPE).astype(np.float32)
    weight = ck.Tensor(rng.standard_normal((3, 32, 1, 1)).astype(np.float32), requires_grad=True)
    scale = ck.Tensor(np.ones(32, np.float32), requires_grad=True)
    grads = []
    for change in (False, True):
        own = data.copy()
        x = ck.from_numpy(own)
        weight.grad = None
        out = F.conv2d(F.relu(F.batch_norm(x, None, None, scale, None, training=True)), weight)
        if change:
            own[:] = 7
        out.sum().backward()
        grads.append(weight.grad.numpy().copy())
    assert_same_bits(*grads)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(rng, precision, value):
    x = rng.standard_normal(SHAPE).astype(np.float32)
    x[0, 3, 1, 1] = value
    leaf = ck.Tensor(x, requires_grad=True)
    weight = ck.Tensor(rng.standard_normal((4, 32, 1, 1)).astype(np.float32), requires_grad=True)
    with ck.precision(precision), np.errstate(all="ignore"):
        F.conv2d(F.relu(leaf * 1), weight).sum().backward()
    assert not np.isfinite(weight.grad.numpy()[:, 3]).any()
    assert np.isfinite(np.delete(weight.grad.numpy(), 3, axis=1)).all()


def test_a_gradient_without_values_is_of_the_rounded_input(rng):
    """Nobody computes the norm's output, and its gradient comes all the same."""
    x = rng.standard_normal(SHAPE).astype(np.float32)
    g = rng.standard_normal(SHAPE).astype(np.float32)
    grads = []
    for read in (False, True):
        leaf = ck.Tensor(x, requires_grad=True)
        with ck.precision("medium"):
            y = F.batch_norm(leaf * 1, None, None, training=True)
            if read:
                assert np.isfinite(y.data).all()
            y.backward(g)
        grads.append(leaf.grad.numpy().copy())
    assert_same_bits(*grads)


def test_precisions_may_change_between_layers(rng):
    """A norm that rounds beside one that does not, behind one activation."""
    x = rng.standard_normal(SHAPE).astype(np.float32)
    grads = []
    for first, second, third in (("high",) * 3, ("medium", "high", "high"),
                                 ("high", "medium", "medium"), ("high", "high", "medium")):
        leaf = ck.Tensor(x, requires_grad=True)
        with ck.precision(first):
            a = F.batch_norm(leaf * 2, None, None, training=True)
        with ck.precision(second):
            b = F.batch_norm(leaf * leaf, None, None, training=True)
        with ck.precision(third):
            y = F.relu(a + b)
        (y * y).sum().backward()
        grads.append(leaf.grad.numpy().copy())
    assert not np.array_equal(grads[0], grads[1])
    for got in grads[1:]:
        assert apart(got, grads[0]) < MEDIUM


def test_a_layer_that_asks_for_another_precision_keeps_that(rng):
    """Beside a ReLU that keeps bfloat16, and beside one that keeps nothing of the kind."""
    x = rng.standard_normal(SHAPE).astype(np.float32)
    weight = ck.Tensor(rng.standard_normal((3, 32, 3, 3)).astype(np.float32), requires_grad=True)
    grads = {}
    for around, own in (("high", "highest"), ("medium", "highest"), ("high", "medium")):
        leaf = ck.Tensor(x, requires_grad=True)
        weight.grad = None
        with ck.precision(around):
            F.conv2d(F.relu(leaf * 1), weight, precision=own).sum().backward()
        grads[around, own] = weight.grad.numpy().copy()
    assert_same_bits(grads["medium", "highest"], grads["high", "highest"])
    assert 1e-6 < apart(grads["high", "medium"], grads["high", "highest"]) < MEDIUM


def test_kinds_of_what_is_kept(rng):
    x = rng.standard_normal((4, 64, 64)).astype(np.float32)
    rounded = Rounded.of(x, 1)
    assert_same_bits(rounded.halves, nearest(x))
    numbers = (np.zeros(64, np.float32), np.ones(64, np.float32), np.zeros(64, np.float32))
    source = NormInput(x, numbers, rounds=True, private=False)
    y = source.output("relu", None, 1)
    assert source.last is None and source.private
    assert_same_bits(Remade(source, "relu").array(1), y)
    assert_same_bits(kept.restored(rounded, (64, 256), 1).view(np.uint32),
                     nearest(x).reshape(64, 256).astype(np.uint32) << 16)
