"""PyTorch's functions of tensors: the same expression with both libraries, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

import convkit as ck
from convkit import tensors
from convkit.errors import ShapeError
from convkit.tensors.methods import Methods


def data():
    """Return operands: two matrices, positive ones, a vector, booleans, places."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))
    return {"a": a, "b": b, "p": np.abs(rng.standard_normal((3, 4, 5))) + 0.5,
            "u": rng.uniform(-0.9, 0.9, (3, 4, 5)), "v": rng.standard_normal(5),
            "w": rng.standard_normal(5), "m": rng.standard_normal((4, 6)),
            "n": rng.standard_normal((6, 3)), "s": rng.standard_normal((2, 6, 3)),
            "c": rng.standard_normal((2, 4, 6)), "z": np.zeros((2, 3)), "one": np.ones((1, 4, 1)),
            "far": rng.standard_normal((3, 4)) * 500}


# Every expression reads `m` (a library) and operands by name; the names are in `data`.
EXPRESSIONS = """
m.abs(a) | a.abs() | abs(a) | m.acos(u) | m.acosh(p + 1) | m.add(a, b, alpha=2) | a.add(b)
a.add(2) | m.asin(u) | m.asinh(a) | m.atan(a) | m.atanh(u) | m.ceil(a) | m.clamp(a, -0.5, 0.5)
a.clamp(min=0) | a.clamp(max=b) | m.clamp(a, b - 1, b + 1) | m.cos(a) | m.cosh(a) | m.div(a, p)
a.div(2) | m.div(a, p, rounding_mode="floor") | m.div(a, p, rounding_mode="trunc") | m.erf(a)
m.exp(a) | m.floor(a) | m.fmod(a, p) | m.log(p) | m.log2(p) | m.log10(p)
a.masked_fill(b > 0, 3.0) | m.maximum(a, b) | m.minimum(a, b) | m.mul(a, b) | a.mul(3) | m.neg(a)
m.pow(p, 2.5) | m.pow(p, b) | m.pow(2.0, a) | m.reciprocal(p) | m.remainder(a, p) | m.round(a)
p.rsqrt() | m.sign(a) | m.sin(a) | m.sinh(a) | m.sqrt(p) | m.square(a) | m.sub(a, b, alpha=0.5)
a.sub(1) | m.tan(u) | m.where(a > 0, a, b) | m.where(a > b, a, 0.0) | m.where(a > 0, 1.0, b)
a.where(a > 0, b) | m.eq(a, a) | m.ne(a, b) | a.ge(b) | a.gt(b) | a.le(0) | a.lt(b) | a.eq(0)
m.isnan(a / 0) | m.isinf(p / 0) | m.isfinite(a / 0) | m.logical_and(a > 0, b > 0)
m.logical_or(a > 0, b > 0) | m.logical_xor(a > 0, b > 0) | m.logical_not(a > 0) | a.sum()
a.sum(1) | a.sum((0, 2), keepdim=True) | m.sum(a, dim=-1) | a.mean() | m.mean(a, (1, 2))
m.prod(a, dim=1) | m.prod(a) | m.amax(a, (0, 1)) | a.amax(1, keepdim=True) | m.amin(a, 2)
m.argmax(a) | a.argmax(1) | a.argmin(2, keepdim=True) | m.argmin(a, 0) | a.max() | a.min()
a.max(1)[0] | a.max(1)[1] | a.max(1, keepdim=True).values | a.min(2).indices | m.max(a, b)
m.min(a, b) | a.min(-1).values | a.var() | a.var(1) | m.var(a, (0, 2), correction=0)
a.var(1, False) | a.std(2) | m.std(a, 1, keepdim=True) | m.std(a, correction=0) | a.norm()
a.norm(dim=1) | m.norm(a, 1) | m.norm(a, 3, 2) | m.norm(a, math.inf, 1) | a.norm(2, (1, 2), True)
z.norm(dim=1) | z.std(1) | m.std(one, 1, correction=0) | m.norm(a, 0, 1) | m.logsumexp(a, 1)
far.logsumexp(1)
far.logsumexp((0, 1), keepdim=True) | a.cumsum(1) | m.topk(a, 3)[0] | a.topk(2, 1).indices
a.topk(2, 0, False)[0] | m.sort(a).values | a.sort(1, True)[0]
a.sort(0, descending=True).indices | a.median() | m.median(a, 1).values | a.median(2, True)[1]
a.median(0)[0] * a.mean() | m.argsort(a, 2) | a.argsort(1, descending=True)
(a > 5).any() | m.all(a > -9) | (a > 0).any(1) | (a > 0).all(2, keepdim=True) | a.split(2, 1)[0]
a.split(2, 2)[2] | m.split(a, [1, 3], 1)[1] | a.chunk(2, -1)[1] | m.chunk(a, 3, 1)[1]
m.unbind(a, 1)[2] | a.unbind()[1] | a.narrow(2, 1, 3) | m.select(a, 1, -1) | a.select(0, 1)
m.flip(a, (0, 2)) | a.flip(1) | a.flip(0, -1) | m.roll(a, 2, 1) | a.roll((1, -2), (0, 2))
a.roll(7) | m.movedim(a, 0, 2) | a.movedim((0, 1), (2, 0)) | a.swapaxes(0, 2)
m.swapaxes(a, 1, -1) | mm.t() | v.t() | a.unflatten(1, (2, 2)) | m.unflatten(a, -1, (-1, 5))
one.expand(3, -1, 5) | one.expand(2, 1, 4, 3) | m.broadcast_to(one, (3, 4, 5)) | a.repeat(2, 1, 3)
v.repeat(2, 3) | m.tile(a, (2,)) | one.tile(2, 1, 1, 3) | a.repeat_interleave(2, dim=1)
a.repeat_interleave(3) | m.tril(a) | a.triu(1)
a.tril(-1) | m.diff(a) | a.diff(2, 1) | one.expand_as(a)
m.index_select(a, 1, m.tensor([3, 0, 0])) | a.index_select(-1, m.tensor([4]))
m.gather(a, 1, m.argsort(b, 1)) | a.gather(2, m.argsort(b, 2)) | a.view_as(b.reshape(5, 12))
mm.mm(n) | c.bmm(s) | v.dot(w) | a.contiguous() * 2 | a.cpu() * 3 | a.float() * 2
a.float().double() | v.outer(w) | m.outer(v, w) | m.mm(mm, n) | m.matmul(c, s) | m.bmm(c, s)
m.dot(v, w) | mm.matmul(n) | m.sigmoid(a) | m.softmax(a, 1) | m.tanh(a) | m.relu(a)
m.log_softmax(a, -1) | a.double() | (a * 9).long() | (a * 9).int() | a.bool() | a.dim() + 0 * a
"""
LISTED = [e.strip() for line in EXPRESSIONS.splitlines() for e in line.split("|") if e.strip()]


def evaluate(expression, library, operands):
    names = {**operands, "mm": operands["m"], "m": library, "math": math}
    return eval(expression, names)


@pytest.mark.parametrize("expression", LISTED)
def test_values_and_gradients_are_pytorchs(torch, expression):
    arrays = data()
    mine = {k: ck.tensor(v, requires_grad=True) for k, v in arrays.items()}
    theirs = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    got, want = evaluate(expression, ck, mine), evaluate(expression, torch, theirs)
    assert got.shape == tuple(want.shape) and got.dtype == want.detach().numpy().dtype
    np.testing.assert_allclose(got.data, want.detach().numpy(), rtol=1e-6, atol=1e-7)
    if not want.requires_grad:
        assert not got.requires_grad
        return
    weights = np.random.default_rng(1).standard_normal(got.shape)
    want.backward(torch.tensor(weights, dtype=want.dtype))
    if got.requires_grad:
        got.backward(weights.astype(got.dtype))
    for name, array in arrays.items():
        mine_, theirs_ = (np.zeros_like(array) if g is None else np.asarray(g)
                          for g in (mine[name].grad, theirs[name].grad))
        np.testing.assert_allclose(mine_, theirs_, rtol=1e-5, atol=1e-6, err_msg=name)


def test_every_function_is_tried_and_has_a_docstring():
    text = " ".join(LISTED)
    functions = {n for n in tensors.__all__ if n != "Picked"}
    methods = {n for n in vars(Methods) if not n.startswith("_")}
    for name in functions | methods:
        assert f".{name}(" in text, name
    for name in functions:
        assert getattr(ck, name) is getattr(tensors, name) and getattr(ck, name).__doc__
    assert all(getattr(ck.Tensor, name).__doc__ for name in methods)


def test_numbers_beside_tensors_keep_the_tensors_type():
    x = ck.tensor([1, 2, 3])
    assert (x + 1).dtype == ck.add(x, 1).dtype == np.int64
    assert (x + 0.5).dtype == ck.maximum(x, 1.5).dtype == np.float32
    assert ck.where(x > 1, 1.0, 0.0).dtype == np.float32 and ck.where(x > 1, 1, 0).dtype == np.int64
    assert ck.maximum(np.ones(2), 3).dtype == np.float64


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: x.split([1, 1], 1), ShapeError, "add up to 4"),
    (lambda x: x.split(0), ShapeError, "at least 1"),
    (lambda x: x.chunk(0), ShapeError, "at least 1 chunk"),
    (lambda x: x.narrow(1, 3, 2), IndexError, "out of range for axis 1 of size 4"),
    (lambda x: x.select(5, 0), IndexError, "dim 5 is out of range for 2 axes"),
    (lambda x: x.unflatten(1, (3, 2)), ShapeError, "axis of size 4"),
    (lambda x: x.repeat(2), ShapeError, "a number of at least 0 for each axis"),
    (lambda x: x.flip(2), IndexError, "dim 2"),
    (lambda x: x.clamp(), ValueError, "min, max or both"),
    (lambda x: ck.t(x[None]), ShapeError, "at most 2 axes"),
    (lambda x: x.mm(x[0]), ShapeError, "two tensors with 2 axes"),
    (lambda x: x.expand(3, 5), ShapeError, "cannot expand"),
])
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(ck.tensor(np.ones((3, 4), np.float32)))


def test_networks_made_of_them_compile():
    def network(x):
        left, right = ck.chunk(x, 2, 1)
        y = ck.where(left > 0, left, right.clamp(-1, 1)) + ck.maximum(left, right)
        y = (y - y.mean((2, 3), keepdim=True)) / (y.std((2, 3), keepdim=True) + 1e-3)
        return ck.cos(y).flip(3).roll(1, 2).sum(1).amax(1)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 6, 8, 8), dtype=np.float32)
    program = ck.compile(network, (1, 6, 8, 8))
    np.testing.assert_allclose(program(x), network(ck.tensor(x)).numpy(), rtol=1e-4, atol=1e-5)


NETWORKS = {
    "repeated": lambda x: x.repeat(1, 2, 1, 3) * ck.tile(x, (2, 1, 3)),
    "expanded": lambda x: x.mean(1, keepdim=True).expand(*x.shape) + x[:, :1].expand_as(x),
    "truth values as numbers": lambda x: (x > 0) * x + (x < -1) * 2.0 + (x > 1) * x.sum(1)[:, None],
    "places as numbers": lambda x: x.argmax(1) * 0.5 + x.argmax(1) / x.amax(1).exp(),
    "in order": lambda x: x.sort(2)[0] + x.argsort(1, descending=True) * 0.1 + x.round().sort(3)[1],
    "middles": lambda x: x.median(1, keepdim=True)[0] + x.round().median(3)[1][:, :, None],
    "truths": lambda x: (x > 0).any(1) * 1.0 + (x > -1).all((2, 3)).any(1)[:, None, None],
    "logarithms of sums": lambda x: x.logsumexp(1) + x.logsumexp((1, 2), keepdim=True)[:, :, 0],
    "elements at places": lambda x: x[:, [2, 0], 1:] - x[:, -1:, [3, 3, 1]],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_go_through_files(name, tmp_path):
    """As Programs, .ckit files and ONNX files, for any batch."""
    network = NETWORKS[name]
    x = np.random.default_rng(0).standard_normal((5, 3, 4, 4), dtype=np.float32)
    want = network(ck.tensor(x)).numpy()
    program = ck.compile(network, (1, 3, 4, 4))
    ck.save(program, tmp_path / "a.ckit")
    for made in (program, ck.load(tmp_path / "a.ckit")):
        for batch in (1, 5):
            np.testing.assert_allclose(made(x[:batch]), want[:batch], rtol=1e-5, atol=1e-6)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    ck.io.onnx.save(program, tmp_path / "a.onnx")
    session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-6)


def test_what_a_file_cannot_hold_is_not_saved(tmp_path):
    program = ck.compile(lambda x: x.reshape(-1, 1, 1, 1, 1, 1, 1, 1, 3) * 2.0, (1, 3))
    with pytest.raises(ValueError, match="at most 8 axes"):
        ck.save(program, tmp_path / "a.ckit")
