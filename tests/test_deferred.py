"""Batch norm put off and computed with the addition and activation after it: same bits, same tape.

Whoever watches operations sees each computed by itself, so `watching` gives the reference.
"""

from __future__ import annotations

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit.autograd import watching

SHAPES = [(6, 5), (4, 3, 7), (3, 17, 5, 6), (2, 64, 9, 8), (8, 16, 32, 32), (5, 1, 4, 4)]


def direct(x, bn, other):
    """Batch norm and ReLU."""
    return F.relu(bn(x))


def capped(x, bn, other):
    """Batch norm and ReLU6."""
    return F.relu6(bn(x))


def residual(x, bn, other):
    """Batch norm, a sum, ReLU."""
    return F.relu(bn(x) + other)


def residual_left(x, bn, other):
    """The residual first, then the batch norm, with ReLU6."""
    return F.relu6(other + bn(x))


def two_norms(x, bn, other):
    """A sum of two batch norms."""
    return F.relu(bn(x) + bn(other))


def not_activated(x, bn, other):
    """A sum that nothing activates."""
    return bn(x) + other


def read_twice(x, bn, other):
    """A batch norm's output that two operations read."""
    y = bn(x)
    return F.relu(y) + 2 * y


def sum_read_twice(x, bn, other):
    """A sum that two operations read, of which one is the residual of the other."""
    y = bn(x) + other
    return F.relu(y) * y


def added_to_itself(x, bn, other):
    """A batch norm's output plus itself."""
    y = bn(x)
    return F.relu(y + y)


def chain(x, bn, other):
    """Two blocks, the first's output being the second's residual."""
    y = F.relu(bn(x) + other)
    return F.relu(bn(y * other) + y)


FORMS = [direct, capped, residual, residual_left, two_norms, not_activated, read_twice,
         sum_read_twice, added_to_itself, chain]


def run(form, shape, dtype="float32", watch=False, hook=None, threads=1):
    """Return output and gradients of one form, as arrays."""
    rng = np.random.default_rng(0)
    channels = shape[1]
    leaves = [ck.Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True)
              for s in (shape, shape, (channels,), (channels,))]
    a, b, weight, bias = leaves
    mean, var = np.zeros(channels, dtype), np.ones(channels, dtype)

    def bn(x):
        y = F.batch_norm(x, mean, var, weight, bias, training=True)
        if hook:
            hook(y)
        return y

    def work():
        y = form(3 * a + 1, bn, 2 * b)
        upstream = rng.standard_normal(shape).astype(dtype)
        upstream.flat[::7] = 0
        y.backward(upstream)
        return [y.detach().numpy(), *[t.grad.numpy() for t in leaves if t.grad is not None],
                mean, var]

    with ck.threads(threads):
        if not watch:
            return work()
        with watching(lambda *call: None):
            return work()


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bits_as_one_operation_after_the_other(form, shape):
    """Nothing but time depends on what is computed together."""
    for ours, reference in zip(run(form, shape), run(form, shape, watch=True), strict=True):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("form", [direct, capped, residual, chain], ids=lambda f: f.__name__)
def test_same_bits_in_double_and_with_two_threads(form):
    """Two threads and float64, on an array of several blocks."""
    shape = (6, 17, 32, 31)
    reference = run(form, shape, "float64", watch=True)
    for ours, expected in zip(run(form, shape, "float64", threads=2), reference, strict=True):
        np.testing.assert_array_equal(ours, expected)
    reference = run(form, shape)
    for ours, expected in zip(run(form, shape, threads=2), reference, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("form", [direct, residual], ids=lambda f: f.__name__)
@pytest.mark.parametrize("which", ["x", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number_goes_the_same_way(form, which, value):
    """NaN and infinity in the input or in the gradient."""
    def spoilt(x, bn, other):
        if which == "x":
            poison = np.ones(x.shape, np.float32)
            poison.flat[3] = value
            x = x * poison
        y = form(x, bn, other)
        if which == "gradient":
            poison = np.ones(x.shape, np.float32)
            poison.flat[3::5] = value
            y = y * poison
        return y

    with np.errstate(all="ignore"):
        pairs = zip(run(spoilt, (4, 3, 5, 5)), run(spoilt, (4, 3, 5, 5), watch=True), strict=True)
    for ours, expected in pairs:
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("form", [direct, residual, read_twice], ids=lambda f: f.__name__)
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_hooks_see_the_gradient_of_the_norms_output(form, late):
    """A hook set before or after the activation sees, and changes, the same gradient."""
    def with_hook(watch):
        seen, outputs = [], []

        def halve(grad):
            seen.append(grad.numpy().copy())
            return 0.5 * grad

        def hooked(x, bn, other):
            y = form(x, bn, other)
            if late:
                outputs[0].register_hook(halve)
            return y

        def hook(y):
            outputs.append(y)
            if not late:
                y.register_hook(halve)

        return run(hooked, (3, 5, 6, 7), watch=watch, hook=hook), seen

    (ours, seen), (reference, expected) = with_hook(False), with_hook(True)
    assert len(seen) == len(expected) == 1
    np.testing.assert_array_equal(seen[0], expected[0])
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(a, b)


def norm_of(x):
    """Return training batch norm without parameters."""
    return F.batch_norm(x, None, None, training=True)


def recorded(rng, shape=(3, 4, 5, 5)):
    """Return a result of a recorded operation."""
    return 2 * ck.Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)


def test_put_off_and_computed_once_read(rng):
    """Shape, type and rank are known without the values, which are computed when read."""
    y = norm_of(recorded(rng))
    assert y._deferred is not None
    assert (y.shape, y.ndim, y.dtype) == ((3, 4, 5, 5), 4, np.float32)
    assert y.requires_grad and not y.is_leaf and "BatchNormTrain" in repr(y)
    assert y._deferred is None
    assert y.data is y.data


def test_computed_at_once_where_it_might_be_seen(rng):
    """Without a tape, for leaves' own memory, and under watchers nothing is put off."""
    x = recorded(rng)
    with ck.no_grad():
        assert norm_of(x)._deferred is None
    assert norm_of(x.detach())._deferred is None
    with watching(lambda *call: None):
        assert norm_of(x)._deferred is None
    with ck.training.detect_anomaly():
        assert norm_of(x)._deferred is None
    leaf = ck.Tensor(np.ones(x.shape, np.float32))
    assert (norm_of(x) + leaf)._deferred is None


def test_changes_in_place_come_too_late(rng):
    """What was put off has the values from before its sources changed."""
    x, other = recorded(rng), recorded(rng)
    expected = (norm_of(x) + other).data.copy()
    for source in (x, other):
        y = norm_of(x) + other
        with ck.no_grad():
            source.mul_(4)
        np.testing.assert_array_equal(y.data, expected)
        with ck.no_grad():
            source.div_(4)
    y = norm_of(x)
    positive = F.relu(y)
    with ck.no_grad():
        y.zero_()
    assert not y.data.any() and positive.data.any()


def test_backward_again_and_after_a_change(rng):
    """A retained graph gives the same gradient again; a changed input is an error."""
    leaf = ck.Tensor(rng.standard_normal((3, 4, 5, 5)).astype(np.float32), requires_grad=True)
    x = 2 * leaf
    y = F.relu(norm_of(x)).sum()
    y.backward(retain_graph=True)
    first = leaf.grad.numpy().copy()
    y.backward(retain_graph=True)
    np.testing.assert_array_equal(leaf.grad.numpy(), 2 * first)
    with ck.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="'batch_norm_train' needs was changed in place"):
        y.backward()


def test_retained_gradient(rng):
    """`retain_grad` on the norm's output gets the gradient behind the activation."""
    x = recorded(rng)
    y = norm_of(x)
    z = F.relu(y)
    y.retain_grad()
    z.backward(np.ones(z.shape, np.float32))
    np.testing.assert_array_equal(y.grad.numpy(), (z.data > 0).astype(np.float32))


def test_shapes_that_broadcast_and_other_types(rng):
    """Sums that no single pass can do are computed as ever."""
    x = recorded(rng)
    y = norm_of(x)
    np.testing.assert_array_equal((y + 1.5).data, norm_of(x).data + np.float32(1.5))
    row = ck.Tensor(np.ones((4, 1, 1), np.float32), requires_grad=True) * 2
    np.testing.assert_array_equal((y + row).data, y.data + 2)
    with pytest.raises(ck.ShapeError, match="do not broadcast"):
        norm_of(x) + recorded(rng, (3, 4, 5, 6))


def test_against_pytorch(rng):
    """The gradients of a residual block's end."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    arrays = [rng.standard_normal((4, 5, 6, 6)).astype(np.float32) for _ in range(3)]
    ours = [ck.Tensor(a, requires_grad=True) for a in arrays[:2]]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays[:2]]
    F.relu(norm_of(ours[0] * 1.5) + ours[1] * 0.5).backward(arrays[2])
    functional = torch.nn.functional
    functional.relu(functional.batch_norm(theirs[0] * 1.5, None, None, training=True)
                    + theirs[1] * 0.5).backward(torch.tensor(arrays[2]))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)
