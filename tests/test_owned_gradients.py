"""Gradients that nobody else holds are overwritten; those that somebody holds never are."""

from __future__ import annotations

import numpy as np
import pytest
from cases import all_cases
from convkit._kernels.tape import Context
from harness import assert_same_bits

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit.ops.op import REGISTRY

CASES = [case for case in all_cases(seed=3) if "fused" not in case.tag]


def forward(case):
    """Return an operation, its context after forward, and its first output."""
    op = REGISTRY[case.name]
    inputs = [None if x is None else x.astype(np.float32) if x.dtype.kind == "f" else x
              for x in case.inputs]
    most = 1 if any(w in case.name for w in ("loss", "entropy", "bce")) else len(inputs)
    ctx = Context(tuple(i < most and x is not None and x.dtype.kind == "f"
                        for i, x in enumerate(inputs)), 1, (None,) * len(inputs))
    result = op.forward(ctx, *inputs, **case.attrs)
    return op, ctx, result[0] if isinstance(result, tuple) else result, inputs


def backward(op, ctx, y, owned):
    """Return the incoming gradient, a copy of it, and the gradients that come out."""
    shape = np.shape(y)
    gy = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    if len(shape) == 4:          # as activations lie in memory
        gy = np.ascontiguousarray(gy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    before = gy.copy()
    ctx.owned = owned
    rest = (None,) * (op.differentiable - 1)
    return gy, before, [g for g in op.backward(ctx, gy, *rest) if g is not None]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_backward_returns_is_new_unless_the_operation_says_otherwise(case):
    op, ctx, y, inputs = forward(case)
    gy, before, grads = backward(op, ctx, y, owned=False)
    np.testing.assert_array_equal(gy, before)
    for i, g in enumerate(grads):
        assert op.passes_gradient or not np.shares_memory(g, gy)
        for other in (*grads[:i], *(x for x in inputs if x is not None), y):
            assert op.passes_gradient or not np.shares_memory(g, other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_overwriting_a_gradient_changes_no_bit(case):
    op, ctx, y, _ = forward(case)
    *_, want = backward(op, ctx, y, owned=False)
    want = [np.array(g) for g in want]
    op, ctx, y, _ = forward(case)
    *_, got = backward(op, ctx, y, owned=True)
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)


def block(x, bn, conv):
    """Return a residual block's output: gradients meet, pass a sum and go two ways."""
    y = F.relu(bn(conv(x)))
    return F.relu(bn(conv(y)) + x) + F.relu(x * 0.5) + F.sigmoid(y)


def run(overwrite, monkeypatch):
    """Return all gradients of a block, with or without overwriting."""
    ck.manual_seed(0)
    conv, bn = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5)
    x = ck.Tensor(np.random.default_rng(0).standard_normal((3, 5, 9, 8), dtype=np.float32), True)
    with monkeypatch.context() as patch:
        if not overwrite:
            for op in set(REGISTRY.values()):
                patch.setattr(op, "backward", staticmethod(not_owned(op.backward)))
        y = block(x, bn, conv)
        gy = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
        given = gy.copy()
        y.backward(gy, retain_graph=True)
        np.testing.assert_array_equal(gy, given)
        first = [np.array(t.grad.data) for t in (x, *conv.parameters(), *bn.parameters())]
        y.backward(gy)
        second = [np.array(t.grad.data) for t in (x, *conv.parameters(), *bn.parameters())]
    return first, second


def not_owned(backward):
    """Return an operation's backward that is never told that it may overwrite."""
    def call(ctx, *grads):
        ctx.owned = False
        return backward(ctx, *grads)
    return call


def test_a_network_that_overwrites_has_the_gradients_of_one_that_does_not(monkeypatch):
    first, second = run(True, monkeypatch)
    want, twice = run(False, monkeypatch)
    assert_same_bits(tuple(first), tuple(want))
    assert_same_bits(tuple(second), tuple(twice))


def test_what_hooks_and_retain_grad_keep_stays_as_it_was():
    seen = []
    bn = nn.BatchNorm2d(4)
    x = ck.Tensor(np.random.default_rng(0).standard_normal((2, 4, 6, 6), dtype=np.float32), True)
    y = bn(x * 1.5)
    z = F.relu(y)
    y.register_hook(lambda g: seen.append((g, np.array(g.data))) and None)
    z.register_hook(lambda g: seen.append((g, np.array(g.data))) and None)
    z.retain_grad()
    ((z * 2.0).sum() + (z * z).sum()).backward()
    assert len(seen) == 2
    for grad, before in seen:
        np.testing.assert_array_equal(grad.data, before)
    np.testing.assert_array_equal(z.grad.data, seen[0][1])


def test_batch_norm_overwrites_what_is_its_own(monkeypatch):
    bn, conv = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1)
    x = ck.Tensor(np.ones((4, 16, 32, 32), np.float32), True)
    places = []
    op = REGISTRY["batch_norm_train"]
    whole = op.backward

    def watch(ctx, gy):
        result = whole(ctx, gy)
        places.append((ctx.owned, gy.gy, result[0]))
        return result

    monkeypatch.setattr(op, "backward", staticmethod(watch))
    (F.relu(bn(conv(x))) * 2.0).backward(np.ones((4, 32, 32, 16), np.float32).transpose(0, 3, 1, 2))
    (owned, gy, gx), = places
    assert owned and np.shares_memory(gy, gx)


RESIDUALS = {
    "winograd": ((2, 16, 9, 8), {"padding": 1}, "high"),
    "direct": ((2, 16, 9, 8), {"padding": 1}, "highest"),
    "medium": ((2, 16, 9, 8), {"padding": 1}, "medium"),
    "strided": ((2, 64, 18, 17), {"padding": 1, "stride": 2}, "medium"),
    "strided, high": ((2, 64, 18, 17), {"padding": 1, "stride": 2}, "high"),
    "wide": ((2, 64, 9, 8), {"padding": 1}, "medium"),
    "reflected": ((2, 16, 9, 8), {"padding": 1, "padding_mode": "reflect"}, "high"),
    "groups": ((2, 16, 9, 8), {"padding": 1, "groups": 4}, "high"),
    "pixels beyond all taps": ((2, 32, 9, 8), {"kernel_size": 1, "stride": 2}, "high"),
    "a signal": ((2, 16, 40), {"padding": 1}, "high"),
}


@pytest.mark.parametrize(("shape", "more", "precision"), RESIDUALS.values(), ids=RESIDUALS.keys())
@pytest.mark.parametrize("threads", [1, 2])
def test_a_convolution_adds_the_gradient_that_its_input_has(rng, monkeypatch, shape, more,
                                                            precision, threads):
    """With the bits of a sum of its own, over a norm's masked gradient and over a plain one."""
    layer = nn.Conv2d if len(shape) == 4 else nn.Conv1d
    sums, grads = [], []
    total = REGISTRY["add"].total
    monkeypatch.setattr(REGISTRY["add"], "total",
                        staticmethod(lambda *args: sums.append(args) or total(*args)))
    x = rng.standard_normal(shape).astype(np.float32)
    for adds in (True, False):
        monkeypatch.setattr(REGISTRY["conv"], "adds_gradient", adds)
        ck.manual_seed(2)
        conv = layer(shape[1], shape[1], **{"kernel_size": 3, **more})
        bn = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
        leaf = ck.Tensor(x, requires_grad=True)
        with ck.precision(precision), ck.threads(threads):
            y = F.relu(leaf * 2)
            z = conv(y)
            y = F.relu(bn(y) + y).sum() + (z * z).sum()
            y.backward(retain_graph=True)
            y.backward()
        grads.append((leaf.grad.data, conv.weight.grad.data, bn.weight.grad.data, len(sums)))
    *ours, few = grads[0]
    *theirs, all_ = grads[1]
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)
    apart = {"kernel_size", "padding_mode"} & set(more) or len(shape) == 3
    assert all_ - 2 * few in ((0, 2) if "groups" in more else (0,) if apart else (2,))


def test_a_gradient_that_is_added_to_is_the_hooks_too(rng):
    seen = []
    conv = nn.Conv2d(8, 8, 1)
    x = ck.Tensor(rng.standard_normal((2, 8, 5, 5)).astype(np.float32), requires_grad=True)
    y = x * 1.0
    y.retain_grad()
    y.register_hook(lambda g: seen.append(g.numpy().copy()) and None)
    (conv(y) + y).sum().backward()
    want = 1 + conv.weight.data[:, :, 0, 0].sum(0)[:, None, None]
    np.testing.assert_allclose(seen[0], np.broadcast_to(want, x.shape), rtol=1e-5, atol=1e-6)
    assert_same_bits(seen[0], y.grad.numpy())
    assert_same_bits(seen[0], x.grad.numpy())
