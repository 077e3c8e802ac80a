"""Tensor and tape: recording, going back, changes in place, hooks, indexing, operators."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import convkit as ck
from convkit import autograd
from convkit.nn import Parameter


def leaf(*shape, seed=0, dtype=np.float64):
    return ck.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype),
                     requires_grad=True)


# -- going back -----------------------------------------------------------------------------


def test_gradients_add_up_over_uses_and_calls():
    x = leaf(3)
    y = x * x + x
    (y * x).sum().backward()
    expected = 3 * x.data ** 2 + 2 * x.data
    np.testing.assert_allclose(x.grad.data, expected)
    (x * 2).sum().backward()
    np.testing.assert_allclose(x.grad.data, expected + 2)


def test_gradients_do_not_share_memory():
    x, y = leaf(3), leaf(3, seed=1)
    seed = np.ones(3)
    (x + y).backward(seed)
    x.grad.zero_()
    assert (y.grad.data == 1).all() and (seed == 1).all()


def test_backward_frees_the_graph():
    x = leaf(3)
    y = (x * x).exp()
    loss = y.sum()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"a second time.*retain_graph=True"):
        loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        y.sum().backward()


def test_retain_graph():
    x = leaf(3)
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(x.grad.data, 4 * x.data)


def test_values_that_backward_does_not_read_are_not_kept():
    x = leaf(1000)
    y = x * 2.0
    memory = weakref.ref(y.data)
    z = y + 1.0
    del y
    gc.collect()
    assert memory() is None
    z.sum().backward()
    assert (x.grad.data == 2).all()


def test_deep_graphs_neither_recurse_nor_leak():
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1
    for _ in range(20_000):
        y = y + x
    del y
    gc.collect()


def test_backward_needs_a_gradient_or_one_element():
    x = leaf(3)
    with pytest.raises(RuntimeError, match=r"needs a single element, got shape \(3,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"gradient has shape \(2,\), expected \(3,\)"):
        (x * 2).backward(np.ones(2))
    with pytest.raises(RuntimeError, match="does not require grad"):
        ck.zeros(1).backward()
    x.backward(np.ones(3))
    assert (x.grad.data == 1).all()


def test_no_grad_records_nothing_and_is_nestable():
    x = leaf(3)
    with ck.no_grad():
        assert not (x * 2).requires_grad
        with ck.enable_grad():
            assert (x * 2).requires_grad
        assert not ck.is_grad_enabled()
    assert (x * 2).requires_grad

    @ck.no_grad()
    def run():
        return x * 2

    assert not run().requires_grad


def test_no_grad_holds_in_its_own_thread_only():
    seen = []
    with ck.no_grad():
        thread = threading.Thread(target=lambda: seen.append(ck.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_gradient_keeps_the_leafs_dtype():
    x = leaf(3, dtype=np.float32)
    (x * np.ones(3)).sum().backward()
    assert x.grad.dtype == np.float32


def test_only_floats_require_gradients():
    with pytest.raises(ck.DTypeError, match="floating-point tensors can require grad, got int64"):
        ck.Tensor(np.arange(3), requires_grad=True)
    with pytest.raises(ck.DTypeError, match="got int64"):
        ck.tensor([1, 2]).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf tensors only"):
        (leaf(3) * 2).requires_grad_(False)


# -- changes in place -----------------------------------------------------------------------


def test_change_in_place_before_backward_is_found():
    x = leaf(3)
    y = x * 2
    z = y * y
    with ck.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="gradient of 'mul' needs was changed in place"):
        z.sum().backward()


def test_change_of_an_output_is_found():
    x = leaf(3)
    y = x.exp()
    with ck.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="gradient of 'exp' needs was changed in place"):
        y.sum().backward()


def test_change_through_a_view_is_found():
    x = leaf(2, 6)
    y = x * x
    with ck.no_grad():
        x.detach().reshape(12)[2:4].fill_(0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_change_of_what_backward_does_not_read_is_allowed():
    x = leaf(3)
    y = x * 2 + 1
    with ck.no_grad():
        y.zero_()
    y.sum().backward()
    assert (x.grad.data == 2).all()


def test_change_in_place_while_recording_is_refused():
    x = leaf(3)
    for change in (lambda: x.zero_(), lambda: x.add_(1), lambda: x.__setitem__(0, 1)):
        with pytest.raises(RuntimeError, match="a leaf that requires grad cannot be changed"):
            change()
    with pytest.raises(RuntimeError, match="by a tensor that requires grad is not recorded"):
        ck.zeros(3).add_(x)


def test_augmented_assignment():
    w = leaf(3)
    array, before = w.data, w.data.copy()
    with ck.no_grad():
        w -= 0.5
    assert w.data is array and w.requires_grad
    np.testing.assert_allclose(array, before - 0.5)
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        w += 1
    total = ck.Tensor(np.zeros(3))
    total += w * 2  # recorded, hence not in place
    total.sum().backward()
    assert (w.grad.data == 2).all()


def test_methods_in_place():
    x = ck.ones(2, 3)
    x.mul_(3).div_(2).sub_(0.5).add_(ck.ones(3), alpha=2)
    assert (x.data == 3).all()
    x.copy_(np.arange(3))
    assert x.tolist() == [[0, 1, 2]] * 2
    x[0, 1:] = 7
    assert x.tolist() == [[0, 7, 7], [0, 1, 2]]
    with pytest.raises(TypeError):
        ck.tensor([1, 2]).add_(ck.ones(2) * 0.5)


def test_parameters_notice_every_change():
    p = Parameter(np.ones((2, 3)))
    packed = p._packed()
    assert p._packed() is packed
    with ck.no_grad():
        p.mul_(2)
    assert p._packed() is not packed
    packed = p._packed()
    p.detach().fill_(1)
    assert p._packed() is not packed and (p.data == 1).all()
    packed = p._packed()
    p.data = np.zeros((2, 3))
    assert p._packed() is not packed
    with pytest.raises(ValueError, match="read-only"):
        p.data[0] = 1
    source = np.ones(3)
    q = Parameter(source)
    source[:] = 5
    assert (q.data == 1).all()


# -- hooks ----------------------------------------------------------------------------------


def test_hooks_see_and_change_whole_gradients():
    x = leaf(3)
    seen = []
    y = x * 2
    y.register_hook(lambda g: seen.append(g.tolist()))
    remove = x.register_hook(lambda g: g * 10)
    (y + y).sum().backward()
    assert seen == [[2, 2, 2]]
    assert (x.grad.data == 40).all()
    remove()
    x.grad = None
    (x * 1).sum().backward()
    assert (x.grad.data == 1).all()
    with pytest.raises(RuntimeError, match="would never run"):
        ck.zeros(3).register_hook(print)


def test_retain_grad():
    x = leaf(3)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    np.testing.assert_allclose(y.grad.data, 2 * y.data)


# -- operators and indexing -----------------------------------------------------------------


def test_operators_are_numpys():
    a, b = leaf(2, 3), leaf(2, 3, seed=1)
    n, m = a.data, b.data
    array = np.full((2, 3), 2.0)
    for got, want in [
        (a + b, n + m), (a - b, n - m), (a * b, n * m), (a / b, n / m), (-a, -n),
        (a ** 2, n ** 2), (abs(a), abs(n)), (1 + a, 1 + n), (1 - a, 1 - n), (2 * a, 2 * n),
        (1 / a, 1 / n), (array + a, array + n), (array * a, array * n), (array - a, array - n),
        (a @ b.T, n @ m.T), (array @ a.T, array @ n.T), (a + np.float64(2), n + 2),
        (a.sum(0), n.sum(0)), (a.mean(-1, keepdim=True), n.mean(-1, keepdims=True)),
        (a.transpose(0, 1), n.T), (a.reshape(3, 2), n.reshape(3, 2)), (a.view((-1,)), n.ravel()),
        (a.permute(1, 0), n.T), (a.flatten(), n.ravel()), (a.unsqueeze(1), n[:, None]),
        (a.unsqueeze(1).squeeze(1), n), (a.clone(), n), (a.exp().log(), n),
        (a.abs().sqrt(), abs(n) ** 0.5), (a.pow(3), n ** 3), (a.matmul(b.T), n @ m.T),
        (a.relu(), np.maximum(n, 0)), (a.tanh(), np.tanh(n)), (a.sigmoid(), 1 / (1 + np.exp(-n))),
    ]:
        assert isinstance(got, ck.Tensor) and got.requires_grad
        np.testing.assert_allclose(got.data, want, rtol=1e-12)


def test_comparisons_and_numbers():
    a = ck.tensor([1.0, 2.0, 3.0])
    assert (a > 2).tolist() == [False, False, True]
    assert (a >= a).tolist() == [True] * 3
    assert (a == ck.tensor([1.0, 0.0, 3.0])).tolist() == [True, False, True]
    assert (a != 1).tolist() == [False, True, True]
    assert (a < 2).data.dtype == bool and (a <= 2).tolist() == [True, True, False]
    assert a.max().item() == 3 and a.min().item() == 1 and a.argmax().item() == 2
    assert float(a[1]) == 2 and int(a[1]) == 2 and bool(a[1]) and len(a) == 3
    assert [t.item() for t in a] == [1, 2, 3]
    assert f"{a[1]:.2f}" == "2.00"
    with pytest.raises(ValueError, match="3 elements, expected 1"):
        a.item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(a)
    with pytest.raises(TypeError):
        a + "x"
    with pytest.raises(TypeError):
        a < None


def test_types_of_numbers():
    assert (ck.tensor([1, 2]) * 0.5).dtype == np.float32
    assert (ck.tensor([1, 2]) + 1).dtype == np.int64
    assert (ck.tensor([1.0]) * np.float64(2)).dtype == np.float32
    assert ck.tensor([1.5]).dtype == np.float32 and ck.tensor([1]).dtype == np.int64
    assert ck.tensor(np.zeros(2)).dtype == np.float64


@pytest.mark.parametrize("index", [
    0, -1, slice(None), slice(1, None), (0, 1), (slice(None), -1), (Ellipsis, 0), None,
    (slice(None), None, 1), (slice(None, None, 2), slice(1, 3)), (1, Ellipsis, slice(0, 2)),
    (np.int64(1), slice(None)), (slice(0, 0),), (0, 1, 2), (Ellipsis,), (slice(0, 3),),
    (slice(None, None, -1), slice(3, None, -2), slice(-1, 0, -3)), (Ellipsis, slice(None, None, 3)),
])
def test_indexing_and_its_gradient(index):
    x = leaf(3, 4, 5)
    y = x[index]
    np.testing.assert_array_equal(y.data, x.data[index])
    weights = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(weights)
    expected = np.zeros(x.shape)
    expected[index] = weights
    np.testing.assert_array_equal(x.grad.data, expected)


def test_the_gradient_of_a_slice_of_everything_is_an_array_of_its_own():
    x, z = leaf(3, 4), leaf(3, 4)
    whole = x[0:3]
    (whole + z * z).sum().backward()
    ((x * 2.0).sum() + (x[0:3] + z).sum()).backward()
    np.testing.assert_array_equal(x.grad.data, np.full((3, 4), 4.0))
    np.testing.assert_allclose(z.grad.data, 2 * z.data + 1)


def test_the_gradient_of_a_slice_of_an_image_in_either_layout():
    for order in (None, (0, 3, 1, 2)):
        values = np.random.default_rng(0).standard_normal((2, 6, 7, 3))
        values = values if order is None else values.transpose(order)
        x = ck.Tensor(values, requires_grad=True)
        y = x[:, ::2, 1::2, 1:]
        y.backward(np.arange(y.data.size, dtype=np.float64).reshape(y.shape))
        expected = np.zeros(x.shape)
        expected[:, ::2, 1::2, 1:] = np.arange(y.data.size).reshape(y.shape)
        np.testing.assert_array_equal(x.grad.data, expected)


def test_bad_indices():
    x = leaf(3, 4)
    for index, message in [((0, 0, 0), "too many indices"), (3, "index 3 is out of range"),
                           (-4, "index -4"), ((Ellipsis, Ellipsis), "too many indices")]:
        with pytest.raises(IndexError, match=message):
            x[index]
    with pytest.raises(TypeError, match="can index a tensor that requires grad"):
        x[np.array([0, 1])]
    assert x.detach()[np.array([0, 1])].shape == (2, 4)
    assert x.detach()[x.detach() > 0].ndim == 1


# -- coming and going -----------------------------------------------------------------------


def test_arrays_and_tensors_share_memory():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = ck.from_numpy(array)
    assert x.numpy() is array and np.shares_memory(np.asarray(x), array)
    assert np.shares_memory(np.from_dlpack(x), array)
    assert not np.shares_memory(ck.tensor(array).data, array)
    with pytest.raises(RuntimeError, match=r"use t.detach\(\).numpy\(\)"):
        leaf(3).numpy()
    x = leaf(3)
    (x.astype(np.float32) * 2).sum().backward()
    np.testing.assert_array_equal(x.grad.data, np.full(3, 2.0))
    assert x.grad.dtype == np.float64 and not x.astype(np.int64).requires_grad


def test_byte_order_is_made_native():
    x = ck.Tensor(np.arange(3, dtype=">f4"))
    assert x.dtype.isnative and x.tolist() == [0, 1, 2]


def test_copies_and_pickles():
    x = leaf(2, 3)
    x.grad = ck.Tensor(np.ones((2, 3)))
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert y.requires_grad and (y.data == x.data).all() and (y.grad.data == 1).all()
        assert not np.shares_memory(y.data, x.data)
    with pytest.raises(RuntimeError, match="only leaf tensors can be copied"):
        copy.deepcopy(x * 2)


def test_repr():
    assert repr(ck.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    assert repr(ck.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(leaf(0)) == "tensor([], dtype=float64, requires_grad=True)"
    assert repr(ck.ones(1, requires_grad=True) * 2) == "tensor([2.], grad_fn=<Mul>)"
    assert repr(Parameter(np.ones(1, np.float32))) == (
        "Parameter containing:\ntensor([1.], requires_grad=True)")


def test_creation():
    ck.manual_seed(3)
    a = ck.randn(2, 3)
    ck.manual_seed(3)
    assert (ck.randn((2, 3)).data == a.data).all()
    assert ck.rand(4).dtype == np.float32 and ck.zeros((2,)).shape == (2,)
    assert ck.full((2,), 7).tolist() == [7, 7] and ck.arange(3).dtype == np.int64
    assert ck.zeros_like(a).shape == ck.ones_like(a).shape == (2, 3)


# -- tracing --------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.calls = []

    def record(self, op, inputs, attrs, outputs):
        self.calls.append((op.name, len(inputs), attrs))


def test_tracing_reports_every_operation():
    recorder = Recorder()
    x = ck.ones(2, 3)
    with autograd.tracing(recorder):
        (x * 2)[0].clone()
    x + 1
    assert [name for name, *_ in recorder.calls] == ["mul", "slice", "reshape", "mul"]
    assert recorder.calls[1][2] == {"starts": (0, None), "stops": (1, None), "steps": (None, None)}
