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
from convkit import functional as F
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


@pytest.mark.parametrize("part", [
    lambda x: x[0], lambda x: x[:, 1], lambda x: x[..., -1], lambda x: x.select(2, 1),
    lambda x: x.unbind(1)[0], lambda x: x[None], lambda x: x.unsqueeze(2),
    lambda x: x[:, :1].squeeze(1), lambda x: x[:1].flatten(0, 1)])
def test_parts_are_views_in_any_order_in_memory(part):
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)):
        back = np.argsort(order)
        x = ck.tensor(np.zeros((2, 3, 4, 5)).transpose(order).copy().transpose(back))
        seen = part(x)
        seen.fill_(1.0)
        assert x.data.sum() == seen.numel(), order


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
        (a // 0.3, n // 0.3), (2 // a, 2 // n), (a % 0.7, n % 0.7), (2 % a, 2 % n), (a % b, n % m),
        (array // a, array // n), (array % a, array % n), (2.0 ** a, 2.0 ** n), (+a, n),
        (abs(a) ** b, abs(n) ** m), (array ** a, array ** n), (abs(a) ** m, abs(n) ** m),
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


def test_operators_of_truth_values():
    a = ck.tensor([1.0, 2.0, 3.0, 4.0])
    low, array = a < 3, np.array([True, False, True, False])
    assert ((a > 1) & (a < 4)).tolist() == [False, True, True, False]
    assert (low | array).tolist() == [True, True, True, False]
    assert (array & low).tolist() == [True, False, False, False]
    assert (low ^ array).tolist() == [False, True, True, False]
    assert (~low).tolist() == (low ^ True).tolist() == [False, False, True, True]
    assert a[(a > 1) & ~(a > 3)].tolist() == [2, 3]
    for wrong in (lambda: low & a, lambda: ck.tensor([1, 2]) | ck.tensor([1, 2]), lambda: ~a):
        with pytest.raises(ck.DTypeError, match="expected truth values"):
            wrong()
    with pytest.raises(TypeError, match="unsupported operand"):
        low & 1


def test_operators_compile():
    class Net(ck.nn.Module):
        def forward(self, x):
            inside = (x > -0.5) & ~(x > 0.5) | (x > 1) ^ (x > 2)
            return ck.where(inside, x // 0.3 + x % 0.4, 2.0 ** x)

    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(ck.compile(Net(), (1, 4))(x), Net()(ck.tensor(x)).data, rtol=1e-6)


@pytest.mark.parametrize("call", [
    lambda x: x.transpose(0, 5), lambda x: x.squeeze(5), lambda x: x.var(5),
    lambda x: x.std((0, 5)),
    lambda x: x.sum(5), lambda x: x.select(5, 0), lambda x: x.unbind(5), lambda x: x.softmax(5)])
def test_axes_that_there_are_not(call):
    with pytest.raises((IndexError, ck.ShapeError), match="dim 5 is out of range for 2 axes"):
        call(leaf(2, 3))


def test_numbers_beside_truth_values_stay_numbers():
    mask = ck.tensor([1.0, -1.0, 3.0]) > 0
    for got, want in ((mask * 2, [2, 0, 2]), (mask + 1, [2, 1, 2]), (mask * 2 - 1, [1, -1, 1]),
                      (ck.where(mask, mask, -2), [1, -2, 1]), (3 * mask, [3, 0, 3]),
                      (ck.maximum(mask, 5), [5, 5, 5]), (ck.eq(mask, 2), [0, 0, 0])):
        assert got.tolist() == want
    assert (mask * 2).dtype == np.int64 and (mask * True).dtype == np.bool_
    assert (mask / 2).tolist() == [0.5, 0, 0.5] and (mask * 0.5).dtype == np.float32


def test_copies_convert():
    whole = ck.tensor([1, 2, 3])
    assert whole.copy_(ck.tensor([1.7, -2.7, 0.2])).tolist() == [1, -2, 0]
    assert (whole == 0).copy_(whole).tolist() == [True, True, False]
    assert ck.zeros(3).copy_(np.arange(3.0)).tolist() == [0, 1, 2]


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
    for index, message in [(([0, 3],), "index 3 is out of range for axis 0 of size 3"),
                           (([0, 1], [0, 1, 2]), "do not broadcast"),
                           (np.ones((3, 5), bool), r"mask of shape \(3, 5\) does not fit"),
                           (([0], [0], [0]), "too many indices")]:
        with pytest.raises(IndexError, match=message):
            x[index]
    for index in ("a", 1.5, np.array([0.5])):
        with pytest.raises(TypeError, match="expected numbers, slices"):
            x[index]


def _random_index(rng, shape):
    """Return an index with slices, numbers, None, arrays and masks in it."""
    index, axis, ends = [], 0, [(3,), (2, 2), (1,), ()][rng.integers(4)]
    while axis < len(shape) and rng.random() < 0.85:
        size, kind = shape[axis], rng.random()
        if 0.4 <= kind < 0.5:
            index.append(None)
            continue
        if kind < 0.25:
            ends_and_step = [(None, -1, 2), (1, None, None), (None, None, -1)][rng.integers(3)]
            index.append(slice(*ends_and_step))
        elif kind < 0.4:
            index.append(int(rng.integers(-size, size)))
        elif kind < 0.85 or axis + 2 > len(shape) or ends != (3,):
            index.append(rng.integers(-size, size, ends))
        else:
            index.append(rng.random(shape[axis:axis + 2]) > 0.4)
            axis += 1
        axis += 1
    return tuple(index)


def _numbers_first(array, index):
    """Return the array after the numbers, and the index without them, as PyTorch does it."""
    before, after, axis = [], [], 0
    for i in index:
        if i is None:
            after.append(i)
            continue
        width = i.ndim if isinstance(i, np.ndarray) and i.dtype == bool else 1
        before += [i] if isinstance(i, int) else [slice(None)] * width
        after += [] if isinstance(i, int) else [i]
        axis += width
    return array[(*before, ...)], tuple(after)


def test_arrays_and_masks_as_indices_with_gradients():
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(400):
        shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(1, 5)))
        index, array = _random_index(rng, shape), rng.standard_normal(shape)
        try:
            part, rest = _numbers_first(array, index)
            want = part[rest]
        except IndexError:
            with pytest.raises(IndexError):
                ck.Tensor(array, requires_grad=True)[index]
            continue
        x = ck.Tensor(array, requires_grad=True)
        y = x[index]
        np.testing.assert_array_equal(y.data, want, str(index))
        np.testing.assert_array_equal(x.detach()[index].data, want, str(index))
        changed = ck.Tensor(array.copy())
        changed[index] = 7.0
        part[rest] = 7.0
        np.testing.assert_array_equal(changed.data, array, str(index))
        weights = rng.standard_normal(want.shape)
        (y * ck.Tensor(np.asarray(weights))).sum().backward()
        grad = np.zeros(shape)
        part, rest = _numbers_first(grad, index)
        np.add.at(part, rest, weights)
        np.testing.assert_allclose(x.grad.data, grad, atol=1e-12, err_msg=str(index))
        compared += 1
    assert compared > 300


def test_tensors_as_indices_and_compiled_ones():
    x = leaf(4, 6)
    at = ck.tensor(np.array([3, 0, 3]))
    assert x[at].shape == (3, 6)
    picked = x[ck.tensor(np.arange(4)), ck.tensor(np.array([5, 0, 2, 2]))]
    picked.sum().backward()
    assert x.grad.data.sum() == 4 and x.grad.data[0, 5] == 1

    class Columns(ck.nn.Module):
        def forward(self, x):
            return x[:, [2, 0, -1]] + x[:, np.array([True, False, True, True])]

    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    made = ck.compile(Columns(), (1, 4))
    np.testing.assert_array_equal(made(array), array[:, [2, 0, -1]] + array[:, [0, 2, 3]])


@pytest.mark.parametrize("number", [np.array(-1), ck.tensor(np.array(-1))])
def test_what_has_no_axes_is_a_number_in_an_index(number):
    x = leaf(2, 3, 4, 2)
    for index in ((number,), (..., number), (0, number), (number, slice(0, 3), [-1, 1]),
                  (slice(None), [2, 0], slice(1, 3), number), (number, None, [[1], [0]])):
        plain = tuple(-1 if i is number else i for i in index)
        np.testing.assert_array_equal(x[index].data, x[plain].data, str(plain))
        np.testing.assert_array_equal(x.detach()[index].data, x[plain].data, str(plain))
        changed, wanted = (ck.tensor(x.data.copy()) for _ in range(2))
        changed[index] = 7.0
        wanted[plain] = 7.0
        np.testing.assert_array_equal(changed.data, wanted.data, str(plain))


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


SCALARS = {
    "a mean twice": lambda a, b: a.mean() * 2,
    "from a number": lambda a, b: 2 - a.mean(),
    "mean and mean": lambda a, b: a.mean() + b.mean(),
    "quotient": lambda a, b: a.mean() / (b.mean() + 3),
    "function": lambda a, b: a.mean().exp() + (a.mean() ** 2).sqrt(),
    "activation": lambda a, b: F.relu(a.mean()) + a.mean().clamp(0, 1),
    "element": lambda a, b: a[0, 0] * b[1, 2],
    "used twice": lambda a, b: a.mean() * a.mean() + a.sum() * a.std(),
}


@pytest.mark.parametrize("name", SCALARS)
def test_results_without_axes_are_arrays_that_everything_takes(name):
    """NumPy makes scalars of them, which compiled kernels refuse."""
    arrays = [np.random.default_rng(s).standard_normal((3, 4)) for s in (0, 1)]
    ours = [ck.Tensor(a, requires_grad=True) for a in arrays]
    y = SCALARS[name](*ours)
    assert isinstance(y.data, np.ndarray) and y.shape == ()
    y.backward()
    for i, (tensor, array) in enumerate(zip(ours, arrays, strict=True)):
        if tensor.grad is None:
            continue
        assert isinstance(tensor.grad.data, np.ndarray)
        moved = [a.copy() for a in arrays]
        moved[i] += 1e-6 * tensor.grad.data
        rise = SCALARS[name](*map(ck.Tensor, moved)).item() - y.item()
        assert rise == pytest.approx(1e-6 * (tensor.grad.data**2).sum(), rel=1e-4), array.shape
