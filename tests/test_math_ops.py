"""Arithmetic, reductions, matrix products and shape operations."""

from __future__ import annotations

import numpy as np
import pytest
from harness import LAYOUTS, assert_same_bits, check_batch_invariance, check_op, random_array
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import autograd
from convkit.ops import REGISTRY as OPS
from convkit.ops.layout import like

POSITIVE = np.random.default_rng(3).uniform(0.5, 2.0, (2, 3, 5, 4))

BROADCASTS = [
    ((2, 3, 5, 4), (2, 3, 5, 4)),
    ((2, 3, 5, 4), (3, 1, 1)),
    ((1, 3, 1, 4), (2, 1, 5, 1)),
    ((), (2, 3)),
    ((17,), (4, 17)),
    ((0, 3), (1, 3)),
]


def run(name, *inputs, **attrs):
    return autograd.apply(OPS[name], *inputs, **attrs)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize(("a", "b"), BROADCASTS)
def test_arithmetic(torch, name, a, b):
    check_op(name, [a, b], torch=getattr(torch, name), kind="elementwise")


def test_div(torch):
    check_op("div", [(2, 3, 5, 4), POSITIVE], torch=torch.div, kind="elementwise")
    check_op("div", [(3, 1, 1), POSITIVE], torch=torch.div, kind="elementwise")
    check_op("div", [(2, 3, 5, 4), POSITIVE[:1, :, :1, :1]], torch=torch.div, kind="elementwise")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_arithmetic_takes_every_layout(layout):
    for name in ("add", "mul"):
        check_op(name, [(2, 3, 5, 4), (2, 3, 5, 4)], layouts=[layout], kind="elementwise")
    check_op("mean", [(2, 3, 5, 4)], {"dim": (2, 3)}, layouts=[layout])
    check_op("reshape", [(2, 3, 5, 4)], {"shape": (6, -1)}, layouts=[layout])
    check_op("concat", [(2, 3, 5, 4), (2, 1, 5, 4)], {"dim": 1}, layouts=[layout])
    check_op("exp", [(2, 3, 5, 4)], layouts=[layout], kind="elementwise")
    check_op("log", [POSITIVE], layouts=[layout], kind="elementwise")


@pytest.mark.parametrize("name", ["neg", "exp", "abs"])
def test_functions(torch, name):
    check_op(name, [(2, 3, 5, 4)], torch=getattr(torch, name), kind="elementwise")


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_functions_of_positive_numbers(torch, name):
    check_op(name, [POSITIVE], torch=getattr(torch, name), kind="elementwise")


@pytest.mark.parametrize("exponent", [2, 3, 0.5, -1, 0, 1])
def test_pow(torch, exponent):
    check_op("pow", [POSITIVE], {"exponent": exponent}, torch=lambda x: x ** exponent,
             kind="elementwise")


def test_edges_follow_pytorch(torch):
    values = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], np.float32)
    for name in ("log", "sqrt", "abs", "exp"):
        x = ck.tensor(values, requires_grad=True)
        t = torch.tensor(values, requires_grad=True)
        y, u = run(name, x), getattr(torch, name)(t)
        np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-6)
        y.sum().backward()
        u.sum().backward()
        np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("dim", [None, (0,), (1,), (2, 3), (-1, 0), (0, 2, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions(torch, name, dim, keepdim):
    def theirs(x):
        if dim is None:
            return getattr(x, name)(dim=(0, 1, 2, 3), keepdim=keepdim)
        return getattr(x, name)(dim=dim, keepdim=keepdim)

    check_op(name, [(2, 3, 5, 7)], {"dim": dim, "keepdim": keepdim}, torch=theirs)


def test_long_sums_stay_accurate():
    x = np.random.default_rng(0).random((4, 200_000, 2)).astype(np.float32)
    wide = x.astype(np.float64)
    assert_close(run("sum", x, dim=None).data, wide.sum(), tolerance("highest", "float32"))
    image = like(random_array((8, 3, 224, 224), layout="channels_last"))
    image[...] = np.random.default_rng(1).random(image.shape)
    assert_close(run("sum", image, dim=(0, 2, 3)).data,
                 image.astype(np.float64).sum((0, 2, 3)), tolerance("forward", "float32"))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_means_do_not_depend_on_the_batch(layout, channels):
    x = random_array((5, channels, 13, 11), layout=layout)
    check_batch_invariance(lambda x: run("mean", x, dim=(2, 3)), x)
    check_batch_invariance(lambda x: run("sum", x, dim=(1,)), x)


def test_reductions_of_nothing():
    assert run("sum", np.zeros((0, 3), np.float32), dim=(0,)).tolist() == [0, 0, 0]
    assert np.isnan(run("mean", np.zeros((0, 3), np.float32), dim=None).item())


MATRICES = [
    ((3, 5), (5, 17)), ((5,), (5, 3)), ((3, 5), (5,)), ((5,), (5,)),
    ((4, 3, 5), (5, 2)), ((4, 3, 5), (4, 5, 2)), ((2, 1, 3, 5), (4, 5, 2)), ((4, 3, 5), (5,)),
    ((5,), (4, 5, 2)), ((0, 5), (5, 2)),
]


@pytest.mark.parametrize(("a", "b"), MATRICES)
def test_matmul(torch, a, b):
    check_op("matmul", [a, b], torch=torch.matmul)


def test_matmul_of_nothing_is_zero():
    y = run("matmul", np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32))
    assert y.tolist() == [[0.0] * 3] * 2


SHAPES = [
    ("reshape", {"shape": (6, 20)}), ("reshape", {"shape": (-1,)}),
    ("reshape", {"shape": (2, 1, 3, 20)}), ("flatten", {}),
    ("flatten", {"start_dim": 1}), ("flatten", {"start_dim": 1, "end_dim": 2}),
    ("permute", {"dims": (0, 2, 3, 1)}), ("permute", {"dims": (-1, 0, 1, 2)}),
    ("slice", {"starts": (0, 1, None, -3), "stops": (1, None, None, -1),
               "steps": (1, None, 2, None)}),
    ("slice", {"starts": (None,) * 4, "stops": (None,) * 4, "steps": (None, None, -1, -2)}),
    ("slice", {"starts": (5, None, 0, 0), "stops": (9, 0, 99, 2), "steps": (None,) * 4}),
]


@pytest.mark.parametrize(("name", "attrs"), SHAPES)
def test_shapes(name, attrs):
    check_op(name, [(2, 3, 5, 4)], attrs, kind="elementwise")


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concat(torch, dim):
    shapes = [[2, 3, 5, 4], [2, 3, 5, 4], [2, 3, 5, 4]]
    for n, shape in zip((1, 3, 17), shapes, strict=True):
        shape[dim] = n
    check_op("concat", [tuple(s) for s in shapes], {"dim": dim}, kind="elementwise",
             torch=lambda *x: torch.cat(x, dim=dim))


def test_results_keep_the_order_in_memory():
    x = ck.Tensor(random_array((2, 3, 5, 4), layout="channels_last"), requires_grad=True)
    y = (x * x + 1).exp()
    z = run("concat", y, y, dim=1)
    for t in (y, z):
        assert t.data.transpose(0, 2, 3, 1).flags.c_contiguous
    z.mean().backward()
    assert x.grad.data.transpose(0, 2, 3, 1).flags.c_contiguous


def test_views_share_memory_and_version():
    x = ck.zeros(2, 6)
    y = x.reshape(3, 4)
    y.add_(1)
    assert (x.data == 1).all()
    assert x._cell is y._cell


def test_types_meet_as_in_pytorch():
    single, double = np.ones(3, np.float32), np.ones(3, np.float64)
    integers = np.arange(3)
    assert run("add", single, double).dtype == np.float64
    assert run("add", single, integers).dtype == np.float32
    assert run("div", integers, integers + 1).dtype == np.float32
    assert run("sum", np.ones(3, bool), dim=None).dtype == np.int64
    a = ck.Tensor(single, requires_grad=True)
    run("mul", a, double).sum().backward()
    assert a.grad.dtype == np.float32


@pytest.mark.parametrize(("name", "inputs", "attrs", "message"), [
    ("add", [(2, 3), (4, 3)], {}, r"shapes \(2, 3\) and \(4, 3\) do not broadcast"),
    ("matmul", [(2, 3), (4, 3)], {}, r"\(2, 3\) and \(4, 3\): 3 columns against 4 rows"),
    ("matmul", [(), (3,)], {}, "at least one axis on each side"),
    ("reshape", [(2, 3)], {"shape": (4, -1)}, r"cannot reshape \(2, 3\) \(6 elements\)"),
    ("reshape", [(2, 3)], {"shape": (-1, -1)}, "at most one -1"),
    ("reshape", [(2, 3)], {"shape": (-2, -3)}, "at least 0"),
    ("permute", [(2, 3)], {"dims": (0, 0)}, "permutation of 2 axes"),
    ("permute", [(2, 3)], {"dims": (0, 2)}, "dim 2 is out of range for 2 axes"),
    ("flatten", [(2, 3)], {"start_dim": 1, "end_dim": 0}, "comes after"),
    ("concat", [(2, 3), (3, 2)], {"dim": 0}, "differ only along dim 0"),
    ("concat", [], {"dim": 0}, "at least one array"),
    ("slice", [(2, 3)], {"starts": (0,), "stops": (1,), "steps": (1,)}, "expected 2 starts"),
    ("slice", [(2,)], {"starts": (0,), "stops": (1,), "steps": (0,)}, "steps must not be 0"),
    ("sum", [(2, 3)], {"dim": (2,)}, "dim 2 is out of range for 2 axes"),
    ("mean", [(2, 3)], {"dim": (0, -2)}, "names an axis twice"),
])
def test_bad_shapes(name, inputs, attrs, message):
    with pytest.raises(ck.ShapeError, match=message):
        run(name, *[np.zeros(s, np.float32) for s in inputs], **attrs)


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.dtype("U3")])
def test_bad_types(dtype):
    x = np.zeros(3, dtype)
    for name in ("add", "div"):
        with pytest.raises(ck.DTypeError, match="expected a of float32 or float64"):
            run(name, x, x)
    with pytest.raises(ck.DTypeError, match="expected x of float32 or float64"):
        run("exp", x)


def test_gradients_of_broadcasts_have_the_same_bits_for_any_threads():
    x = random_array((4, 3, 8, 8), layout="channels_last")
    grads = []
    for threads in (1, 2):
        w = ck.Tensor(random_array((3, 1, 1), seed=1), requires_grad=True)
        with ck.threads(threads):
            (w * x).sum().backward()
        grads.append(w.grad.data)
    assert_same_bits(*grads)
