"""Optimisers step by step beside PyTorch's, their state, groups, bits and schedules."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from harness import assert_same_bits
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import nn, optim
from convkit.nn import Parameter

SHAPES = [(17,), (3, 5, 3, 3), (1,), (130, 257)]

SETTINGS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "eps": 1e-4,
                 "initial_accumulator_value": 0.5}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ("RMSprop", {"lr": 0.01, "centered": True}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
]

# One for each optimiser and each array of state that it may have.
EACH = [*SETTINGS[2:5:2], *SETTINGS[6:9], SETTINGS[10], SETTINGS[13], *SETTINGS[14:18]]
CLIMBING = [(name, {**settings, "maximize": True}) for name, settings in EACH]


def make_params(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.standard_normal(s).astype(dtype)) for s in SHAPES]


def gradients(step, dtype):
    rng = np.random.default_rng(100 + step)
    return [(rng.standard_normal(s) * (1 + step)).astype(dtype) for s in SHAPES]


def run(optimizer, params, steps, dtype, first=0):
    for step in range(first, first + steps):
        for p, g in zip(params, gradients(step, dtype), strict=True):
            p.grad = ck.Tensor(g)
        optimizer.step()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_trajectory_is_pytorchs(torch, name, settings, dtype):
    params = make_params(dtype)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params]
    optimizer = getattr(optim, name)(params, **settings)
    reference = getattr(torch.optim, name)(theirs, **settings)
    for step in range(12):
        run(optimizer, params, 1, dtype, step)
        for p, g in zip(theirs, gradients(step, dtype), strict=True):
            p.grad = torch.from_numpy(g)
        reference.step()
        for p, q in zip(params, theirs, strict=True):
            assert_close(p.data, q.detach().numpy(), tolerance("forward", dtype), f"step {step}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_climbing_is_pytorchs(torch, name, settings, dtype):
    """20 steps of a group that climbs and one that goes down, beside PyTorch's."""
    params = make_params(dtype)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params]
    optimizer, reference = (
        getattr(module, name)([{"params": ps[::2]}, {"params": ps[1::2], "maximize": False}],
                              maximize=True, **settings)
        for module, ps in ((optim, params), (torch.optim, theirs)))
    for step in range(20):
        run(optimizer, params, 1, dtype, step)
        for p, g in zip(theirs, gradients(step, dtype), strict=True):
            p.grad = torch.from_numpy(g)
        reference.step()
        for p, q in zip(params, theirs, strict=True):
            assert_close(p.data, q.detach().numpy(), tolerance("forward", dtype), f"step {step}")
    ours, saved = optimizer.state_dict(), reference.state_dict()
    assert [g["maximize"] for g in ours["param_groups"]] == [True, False]
    for number, entries in saved["state"].items():
        for key, value in entries.items():
            if key != "step" and value is not None:
                assert_close(ours["state"][number][key].data, value.numpy(),
                             tolerance("forward", dtype), key)


@pytest.mark.parametrize(("name", "settings"), EACH)
def test_climbing_is_going_down_the_negated_gradient(name, settings):
    """The same bits, and the gradients stay as they were."""
    params, others = make_params("float32"), make_params("float32")
    up = getattr(optim, name)(params, maximize=True, **settings)
    down = getattr(optim, name)(others, **settings)
    for step in range(3):
        given = gradients(step, "float32")
        for p, q, g in zip(params, others, given, strict=True):
            p.grad, q.grad = ck.Tensor(g), ck.Tensor(-g)
        up.step()
        down.step()
        assert_same_bits([p.grad.data for p in params], given)
        assert_same_bits([p.data for p in params], [q.data for q in others])


def test_a_state_without_maximize_goes_down():
    """States saved before the option, and states that have it, are taken over as they were."""
    params = make_params("float32")
    saved = optim.Adam(params).state_dict()
    climber = optim.Adam(params, maximize=True)
    kept = climber.state_dict()
    del saved["param_groups"][0]["maximize"]
    climber.load_state_dict(saved)
    assert climber.param_groups[0]["maximize"] is False
    climber.load_state_dict(kept)
    assert climber.param_groups[0]["maximize"] is True


@pytest.mark.parametrize(("name", "settings"), EACH + CLIMBING)
def test_same_bits_for_any_number_of_threads(name, settings):
    results = []
    for threads in (1, 2, 3):
        params = make_params("float32")
        with ck.threads(threads):
            run(getattr(optim, name)(params, **settings), params, 3, "float32")
        results.append([p.data for p in params])
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize(("name", "settings"), EACH + CLIMBING)
def test_order_in_memory_does_not_matter(name, settings):
    plain = make_params("float64")
    rng = np.random.default_rng(5)
    moved = []
    for p in plain:
        order = rng.permutation(p.ndim)
        laid = np.ascontiguousarray(p.data.transpose(order)).transpose(np.argsort(order))
        moved.append(Parameter(laid))
    run(getattr(optim, name)(plain, **settings), plain, 3, "float64")
    run(getattr(optim, name)(moved, **settings), moved, 3, "float64")
    for p, q in zip(plain, moved, strict=True):
        assert_same_bits(p.data, np.ascontiguousarray(q.data))


@pytest.mark.parametrize(("name", "settings"), EACH + CLIMBING)
def test_resuming_gives_the_same_bits(name, settings):
    params = make_params("float32")
    optimizer = getattr(optim, name)(params, **settings)
    run(optimizer, params, 3, "float32")
    saved = copy.deepcopy(optimizer.state_dict())
    others = [Parameter(p.data) for p in params]
    resumed = getattr(optim, name)(others, lr=123.0)
    resumed.load_state_dict(saved)
    run(optimizer, params, 2, "float32", 3)
    run(resumed, others, 2, "float32", 3)
    assert_same_bits([p.data for p in params], [p.data for p in others])


@pytest.mark.parametrize(("name", "settings"), [
    ("AdamW", {}), ("Adagrad", {}), ("Adadelta", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9})])
def test_state_dict_is_pytorchs(torch, name, settings):
    params = make_params("float32")
    optimizer = getattr(optim, name)(params, lr=0.01, **settings)
    run(optimizer, params, 2, "float32")
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params]
    reference = getattr(torch.optim, name)(theirs, lr=0.01, **settings)
    for p, g in zip(theirs, gradients(0, "float32"), strict=True):
        p.grad = torch.from_numpy(g)
    reference.step()
    ours, saved = optimizer.state_dict(), reference.state_dict()
    assert list(ours["state"]) == list(saved["state"])
    assert set(ours["state"][0]) == set(saved["state"][0])
    assert ours["param_groups"][0]["params"] == saved["param_groups"][0]["params"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": ours["param_groups"]})
    assert optimizer.state[params[0]]["step"] == 1


def test_the_state_of_another_optimiser_is_refused():
    params = make_params("float32")
    saved = optim.SGD(params, lr=0.1, momentum=0.9).state_dict()
    adam = optim.Adam(params)
    with pytest.raises(ValueError, match=r"another kind of optimiser: .* no settings \['amsgrad', "
                                         r"'betas', 'eps'\] of Adam"):
        adam.load_state_dict(saved)
    assert adam.param_groups[0]["lr"] == 1e-3


def test_groups_have_settings_of_their_own():
    a, b = Parameter(np.ones(3, np.float32)), Parameter(np.ones(3, np.float32))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    a.grad = b.grad = ck.ones(3)
    optimizer.step()
    np.testing.assert_allclose(a.data, 0.9)
    np.testing.assert_allclose(b.data, 0.5)
    with pytest.raises(ValueError, match="appears twice"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(ValueError, match="unknown settings"):
        optimizer.add_param_group({"params": [Parameter(np.ones(1))], "momentun": 1})


def test_parameters_without_gradient_stay():
    a, b = Parameter(np.ones(3)), Parameter(np.ones(3))
    optimizer = optim.Adam([a, b])
    a.grad = ck.Tensor(np.ones(3))
    optimizer.step()
    assert (b.data == 1).all() and (a.data < 1).all()
    assert b not in optimizer.state
    optimizer.zero_grad(set_to_none=False)
    assert (a.grad.data == 0).all() and b.grad is None
    optimizer.zero_grad()
    assert a.grad is None


def test_update_counts_as_change_in_place():
    p = Parameter(np.ones(3))
    loss = (p * p).sum()
    optimizer = optim.SGD([p], lr=0.1)
    p.grad = ck.Tensor(np.ones(3))
    packed = p._packed()
    optimizer.step()
    assert p._packed() is not packed
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize(("cls", "settings", "message"), [
    (optim.SGD, {"lr": -1}, "lr of at least 0.0, got -1"),
    (optim.SGD, {"momentum": -0.1}, "momentum of at least"),
    (optim.SGD, {"nesterov": True}, "nesterov needs a momentum"),
    (optim.Adam, {"betas": (0.9, 1.0)}, "two betas from 0 to below 1"),
    (optim.AdamW, {"lr": float("nan")}, "lr of at least"),
    (optim.RMSprop, {"alpha": 1.01}, "alpha from 0 to 1, got 1.01"),
    (optim.RMSprop, {"alpha": -0.1}, "alpha of at least"),
    (optim.Adadelta, {"rho": 1.5}, "rho from 0 to 1, got 1.5"),
    (optim.Adagrad, {"lr_decay": -1}, "lr_decay of at least"),
])
def test_bad_settings(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls([Parameter(np.ones(3))], **settings)


def test_bad_parameters():
    with pytest.raises(ValueError, match="empty list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="expected parameters as tensors, got ndarray"):
        optim.SGD([np.ones(3)])
    with pytest.raises(TypeError, match="expected an iterable of parameters"):
        optim.SGD(Parameter(np.ones(3)))
    with pytest.raises(ValueError, match="an operation made"):
        optim.SGD([Parameter(np.ones(3)) * 2])


def test_plain_tensors_and_views_can_be_optimised():
    t = ck.Tensor(np.arange(12, dtype=np.float64).reshape(3, 4)[:, ::2], requires_grad=True)
    optimizer = optim.SGD([t], lr=1.0)
    t.sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(t.data, np.arange(12.).reshape(3, 4)[:, ::2] - 1)


def test_closure():
    p = Parameter(np.ones(3))
    optimizer = optim.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with ck.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 3
    np.testing.assert_allclose(p.data, 0.8)


def test_forms_of_weights_are_counted():
    """A step makes each form once and keeps none; prediction makes none after the first."""
    from convkit.autograd import forms_made

    conv = nn.Conv2d(8, 8, 3, padding=1)
    x = ck.Tensor(np.ones((2, 8, 9, 9), np.float32), requires_grad=True)
    optimizer = optim.SGD(conv.parameters(), lr=0.1)
    for _ in range(2):
        start = forms_made()
        conv(x).sum().backward()
        assert forms_made() - start == 2 and not conv.weight._packed()
        optimizer.step()
    start = forms_made()
    with ck.no_grad():
        conv(x), conv(x)
    assert forms_made() - start == 1
    conv(x)
    assert forms_made() - start == 1


def test_forms_are_kept_where_several_batches_make_a_step():
    from convkit.autograd import forms_made

    conv = nn.Conv2d(8, 8, 3, padding=1)
    x = ck.Tensor(np.ones((2, 8, 9, 9), np.float32), requires_grad=True)
    optimizer = optim.SGD(conv.parameters(), lr=0.1)
    made = []
    for _ in range(3):
        start = forms_made()
        for _ in range(4):
            conv(x).sum().backward()
        optimizer.step()
        made.append(forms_made() - start)
    assert made == [4, 2, 2]


def test_the_average_of_weights_in_one_pass(rng):
    """EMA beside its formula in NumPy, over several chunks, on one thread and two."""
    from convkit.training import EMA

    model = nn.Sequential(nn.Linear(300, 111), nn.BatchNorm1d(111))
    before = {k: np.array(t.data) for k, t in model.state_dict().items()}
    averages = [EMA(model, 0.5) for _ in range(2)]
    with ck.no_grad():
        for p in model.parameters():
            p.copy_(rng.standard_normal(p.shape).astype(np.float32))
    for threads, average in zip((1, 2), averages, strict=True):
        with ck.threads(threads):
            average.update()
    share = np.float32(1 - 2 / 11)
    for name, t in model.state_dict().items():
        ours, other = (a.average[name] for a in averages)
        np.testing.assert_array_equal(ours, other)
        if ours.dtype.kind == "f":
            expected = before[name] + share * (t.data - before[name])
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_arrays_that_were_replaced_are_the_ones_that_change(rng):
    """What a step changes is looked up anew: values, gradients and state of other layouts too."""
    start = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    for make in (lambda p: optim.SGD(p, lr=0.1, momentum=0.5), lambda p: optim.Adam(p, lr=0.1),
                 lambda p: optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
                 lambda p: optim.Adagrad(p, lr=0.1), lambda p: optim.Adadelta(p, lr=0.1)):
        plain, turned = nn.Parameter(start), nn.Parameter(start)
        optimizers = [make([plain]), make([turned])]
        for lie in ((0, 1, 2, 3), (2, 3, 0, 1), (1, 0, 3, 2)):
            grad = rng.standard_normal(start.shape).astype(np.float32)
            turned.data = np.array(turned.data.transpose(lie), order="C").transpose(np.argsort(lie))
            for p, optimizer, g in zip((plain, turned), optimizers, (grad, np.asfortranarray(grad)),
                                       strict=True):
                version = p._cell[0]
                p.grad = ck.Tensor(g)
                optimizer.step()
                assert p._cell[0] > version
            optimizers[1].load_state_dict(optimizers[1].state_dict())
        np.testing.assert_array_equal(plain.data, turned.data)
        assert not np.array_equal(plain.data, start)
    idle = nn.Parameter(start)
    optimizer = optim.SGD([idle], lr=0.1)
    idle.grad = ck.Tensor(start)
    optimizer.step()
    assert not optimizer.state_dict()["state"]
