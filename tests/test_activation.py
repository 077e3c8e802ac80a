"""Activations: values, gradients, order in memory, NaN, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    LAYOUTS,
    TF,
    check_batch_invariance,
    check_op,
    lay_out,
    pytorch,
    random_array,
    run_python,
)

from convkit import functional as F
from convkit import nn
from convkit.autograd import Tensor, apply, no_grad
from convkit.errors import DTypeError, ShapeError
from convkit.ops.op import REGISTRY, Context

UNARY = [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.2}),
    ("leaky_relu", {"negative_slope": -0.3}), ("leaky_relu", {"negative_slope": 0.0}),
    ("elu", {"alpha": 1.5}), ("sigmoid", {}), ("tanh", {}), ("silu", {}),
    ("gelu", {"approximate": "none"}), ("gelu", {"approximate": "tanh"}),
    ("hardswish", {}), ("hardsigmoid", {}), ("selu", {}), ("celu", {"alpha": 0.5}),
    ("softplus", {}), ("softplus", {"beta": 0.5, "threshold": 3.1}), ("logsigmoid", {}),
    ("softsign", {}), ("mish", {}), ("hardtanh", {}), ("hardtanh", {"min_val": -3, "max_val": 6}),
    ("clamp", {"min": -3.0, "max": 6.0}), ("clamp", {"min": 0.0}),
]
OF_TORCH = ("sigmoid", "tanh", "clamp")  # in torch itself, not in its functional


def in_torch(name, attrs):
    """Return the function in PyTorch, which is loaded when it is called."""
    if name == "hardsigmoid":  # PyTorch's own multiplies by 1/6 rounded to float32
        return lambda x: pytorch().clamp(x + 3, 0, 6) / 6
    if name in OF_TORCH:
        return lambda x: getattr(pytorch(), name)(x, **attrs)
    return lambda x: getattr(TF, name)(x, **attrs)


def away_from_kinks(shape, seed=0):
    """Return values over the interesting range, none within 1e-3 of a kink."""
    x = np.random.default_rng(seed).uniform(-8, 8, shape)
    for kink in (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 6.2):
        x[np.abs(x - kink) < 1e-3] += 0.01
    return x


@pytest.mark.parametrize("name, attrs", UNARY)
@pytest.mark.parametrize("shape", [(1,), (3, 17), (2, 3, 5, 7), (2, 17, 3)])
def test_unary(name, attrs, shape):
    check_op(name, [away_from_kinks(shape)], attrs, kind="elementwise",
             torch=in_torch(name, attrs), layouts=tuple(LAYOUTS))


@pytest.mark.parametrize("name, attrs", [("relu", {}), ("silu", {})])
def test_several_blocks_and_threads(name, attrs):
    check_op(name, [away_from_kinks((5, 13, 61, 67))], attrs, kind="elementwise",
             gradcheck=False)


@pytest.mark.parametrize("name, attrs", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_as_in_torch(torch, name, attrs, dtype):
    x = np.array([0.0, -0.0, 3, -3, 6, np.inf, -np.inf, np.nan, 100, -100, 1e-30, -1e-30], dtype)
    t = torch.tensor(x.astype(np.float64), requires_grad=True)  # its float32 kernels vary
    function = getattr(torch if name in OF_TORCH else TF, name)
    ty = function(t, **attrs)
    ty.backward(torch.ones_like(ty))
    ours = Tensor(x, requires_grad=True)
    y = apply(REGISTRY[name], ours, **attrs)
    y.backward(np.ones_like(x))
    np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=2e-6, atol=2e-6)
    kept = np.isfinite(x)  # at the others its gradients follow no rule
    np.testing.assert_allclose(ours.grad.data[kept], t.grad.numpy()[kept], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["relu", "silu", "tanh"])
@pytest.mark.parametrize("shape", [(2, 8, 5, 4), (2, 8, 5), (3, 1, 4, 4), (1, 8, 1, 1)])
def test_order_in_memory_stays(name, shape):
    op = REGISTRY[name]
    for layout in ("contiguous", "channels_last", "fortran"):
        x = random_array(shape, layout=layout)
        ctx = Context((True,), 1)
        y = op.forward(ctx, x)
        gx, = op.backward(ctx, np.ones(shape, np.float32))
        for a in (y, gx):
            moved = [s for s, n in zip(a.strides, shape, strict=True) if n > 1]
            expected = [s for s, n in zip(x.strides, shape, strict=True) if n > 1]
            assert moved == expected, layout


def test_only_what_backward_needs_is_kept():
    x = random_array((4, 4))
    for name, attrs in UNARY:
        op = REGISTRY[name]
        ctx = Context((True,), 1)
        y = op.forward(ctx, x, **attrs)
        saved = ctx.saved[0]
        if op.reads_output and attrs.get("negative_slope", 0.0) >= 0:
            assert saved is y
        elif not op.reads_output:
            assert saved is x
        ctx = Context((False,), 1)
        op.forward(ctx, x, **attrs)
        assert ctx.saved is None


@pytest.mark.parametrize("name", ["relu", "gelu", "softmax", "log_softmax"])
def test_batch_invariance(name):
    attrs = {"dim": 1} if "softmax" in name else {}

    def run(x):
        with no_grad():
            return apply(REGISTRY[name], x, **attrs)

    for layout in ("contiguous", "channels_last"):
        check_batch_invariance(run, random_array((5, 19, 13, 7), layout=layout))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4, 4)])
def test_empty(shape):
    for name, attrs in UNARY:
        check_op(name, [np.zeros(shape)], attrs, gradcheck=False)


@pytest.mark.parametrize("shape, weights", [
    ((3, 5), 5), ((3, 5), 1), ((2, 3, 7), 3), ((2, 17, 5, 3), 17), ((2, 17, 5, 3), 1),
    ((4, 1, 9, 9), 1), ((2, 64, 3, 3), 64), ((2, 3, 2, 3, 4), 3), ((7,), 1)])
def test_prelu(shape, weights):
    weight = np.random.default_rng(2).uniform(-0.5, 0.5, weights)
    check_op("prelu", [away_from_kinks(shape), weight], kind="",
             torch=TF.prelu)


def test_prelu_sums_over_many_blocks():
    check_op("prelu", [away_from_kinks((4, 3, 120, 121)), np.array([0.25])], gradcheck=False,
             torch=TF.prelu)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape, dim", [
    ((3, 10), 1), ((3, 10), -1), ((3, 10), 0), ((1, 1), 1), ((5,), 0), ((2, 17, 5, 3), 1),
    ((2, 17, 5, 3), 3), ((2, 17, 5, 3), -2), ((2, 3, 40), 2), ((3, 1000), 1), ((2, 64, 3, 3), 1)])
def test_softmax(name, shape, dim):
    check_op(name, [shape], {"dim": dim},
             torch=lambda x: getattr(TF, name)(x, dim))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extremes(name):
    inf = np.inf
    x = np.array([[1e4, 1e4 + 1, 0], [-1e30, 0, 1], [-inf, 0, 1], [-inf, -inf, -inf],
                  [inf, 0, 1], [np.nan, 0, 1], [-200, 0, 200]], np.float32)
    with no_grad():
        y = apply(REGISTRY[name], x, dim=1).data
    want = {"softmax": np.array([[0, 0.26894143, 0.7310586]]),
            "log_softmax": np.array([[-1.3132616, -0.31326166, -1e4 - 0.31326166]])}
    assert np.isnan(y[3:6]).all()
    assert not np.isnan(np.delete(y, [3, 4, 5], 0)).any()
    if name == "softmax":
        np.testing.assert_allclose(y[1], want[name][0], rtol=1e-6)
        np.testing.assert_allclose(y[2], want[name][0], rtol=1e-6)
    else:
        np.testing.assert_allclose(y[0], [-1.3132616, -0.31326166, -10001.313], rtol=1e-6)
        assert y[2, 0] == -inf


def test_errors_say_what_was_expected():
    x = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(DTypeError, match="expected x of float32 or float64, got int64"):
        apply(REGISTRY["relu"], np.arange(3))
    with pytest.raises(ShapeError, match=r"expected a weight of shape \(1,\) or \(3,\) for x of "
                                         r"shape \(2, 3, 4, 4\), got shape \(4,\)"):
        apply(REGISTRY["prelu"], x, np.zeros(4, np.float32))
    with pytest.raises(DTypeError, match="expected weight of float32 like x, got float64"):
        apply(REGISTRY["prelu"], x, np.zeros(3))
    with pytest.raises(ShapeError, match="dim 4 is out of range for 4 axes"):
        apply(REGISTRY["softmax"], x, dim=4)
    with pytest.raises(ValueError, match="expected approximate of 'none' or 'tanh', got 'erf'"):
        apply(REGISTRY["gelu"], x, approximate="erf")


def test_kernels_refuse_arrays_that_do_not_fit():
    from convkit._kernels import elementwise

    x = np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="not contiguous"):
        elementwise.unary("relu", x[::2], np.zeros(4, np.float32), 1)
    with pytest.raises(ValueError, match="with 7 numbers, expected 8"):
        elementwise.unary("relu", x, np.zeros(7, np.float32), 1)
    with pytest.raises(TypeError, match="different types"):
        elementwise.unary("relu", x, np.zeros(8), 1)
    with pytest.raises(ValueError, match="read-only"):
        elementwise.unary("relu", x, lay_out(x, "read_only"), 1)


def test_add_with_activation():
    from convkit._kernels import elementwise

    for dtype in (np.float32, np.float64):
        a, b = random_array((40_003,), dtype, seed=1), random_array((40_003,), dtype, seed=2)
        for activation, want in [
                (0, a + b), (1, np.maximum(a + b, 0)), (2, np.clip(a + b, -0.5, dtype(0.75))),
                (3, np.where(a + b > 0, a + b, (a + b) * dtype(0.1)))]:
            out = np.empty_like(a)
            elementwise.add(a, b, activation, out, 2, 0.1 if activation == 3 else -0.5, 0.75)
            np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    from convkit._kernels import dispatch

    if isa not in dispatch.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    run_python("""
        import numpy as np
        from harness import check_op
        from test_activation import UNARY, away_from_kinks
        for name, attrs in UNARY:
            check_op(name, [away_from_kinks((3, 37))], attrs, kind="elementwise")
        check_op("prelu", [away_from_kinks((3, 19, 2, 2)), np.full(19, 0.3)])
        for name in ("softmax", "log_softmax"):
            check_op(name, [(3, 37)], {"dim": 1})
        """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("make", [
    lambda m: m.Mish(), lambda m: m.SELU(), lambda m: m.CELU(0.5), lambda m: m.LogSigmoid(),
    lambda m: m.Softsign(), lambda m: m.Softplus(2.0, 5.0), lambda m: m.Hardtanh(-2.0, 0.5),
    lambda m: m.GLU(), lambda m: m.GLU(1)])
def test_layers_are_pytorchs(torch, make):
    x = 3 * random_array((3, 4, 6), np.float64)
    mine, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, want = make(nn)(mine), make(torch.nn)(theirs)
    y.backward(np.ones(y.shape))
    want.backward(torch.ones_like(want))
    np.testing.assert_allclose(y.data, want.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(mine.grad.data, theirs.grad.numpy(), rtol=1e-12)


def test_arguments_that_make_no_sense():
    x = random_array((3, 5))
    with pytest.raises(ShapeError, match=r"expected an even size along dim -1, got x of "
                                         r"shape \(3, 5\)"):
        F.glu(x)
    with pytest.raises(ValueError, match=r"min_val below max_val, got 1\.0 and 1\.0"):
        nn.Hardtanh(1.0, 1.0)
    with pytest.raises(ValueError, match="an alpha other than 0"):
        F.celu(x, 0.0)
