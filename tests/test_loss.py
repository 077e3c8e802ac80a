"""Losses: values and gradients as in PyTorch, ignored and wrong targets, exact sums."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TF, check_op, random_array, run_python

import convkit as ck
from convkit import functional as F
from convkit.autograd import Tensor, apply, no_grad
from convkit.errors import DTypeError, ShapeError
from convkit.ops.op import REGISTRY

REDUCTIONS = ("mean", "sum", "none")
SHAPES = [(1, 2), (7, 17), (3, 1000), (2, 21, 5, 4)]


def in_torch(name, **attrs):
    return lambda *tensors: getattr(TF, name)(*tensors, **attrs)


def targets(shape, seed=5, ignored=None):
    rng = np.random.default_rng(seed)
    t = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    if ignored is not None:
        t.flat[:: 3] = ignored
    return t


def distributions(shape, seed=6):
    p = np.random.default_rng(seed).random(shape)
    return p / p.sum(1, keepdims=True)


def class_weight(shape):
    return np.random.default_rng(7).uniform(0.2, 2, shape[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes(shape, reduction, weighted, smoothing):
    attrs = {"ignore_index": -100, "label_smoothing": smoothing, "reduction": reduction}
    t = targets(shape)
    w = class_weight(shape) if weighted else None
    check_op("cross_entropy", [shape, t, w], attrs, torch=in_torch("cross_entropy", **attrs))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted, smoothing", [(False, 0.0), (True, 0.2)])
def test_cross_entropy_of_probabilities(shape, reduction, weighted, smoothing):
    attrs = {"label_smoothing": smoothing, "reduction": reduction}
    w = class_weight(shape) if weighted else None
    check_op("cross_entropy", [shape, distributions(shape), w], attrs,
             torch=in_torch("cross_entropy", **attrs))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [-100, 1, 255])
def test_ignored_targets(name, reduction, ignored):
    shape = (4, 5, 3, 2)
    t = targets(shape, ignored=ignored)
    w = class_weight(shape)
    attrs = {"ignore_index": ignored, "reduction": reduction}
    check_op(name, [shape, t, w], attrs, torch=in_torch(name, **attrs))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nll(shape, reduction):
    for w in (None, class_weight(shape)):
        check_op("nll_loss", [shape, targets(shape), w], {"reduction": reduction})


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_all_targets_ignored(name):
    x = random_array((3, 4))
    t = np.full(3, -100)
    for reduction, want in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(3))):
        leaf = Tensor(x, requires_grad=True)
        loss = apply(REGISTRY[name], leaf, t, None, reduction=reduction)
        np.testing.assert_array_equal(loss.data, want)
        if reduction != "mean":
            loss.backward(np.ones_like(loss.data))
            assert not leaf.grad.data.any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int16, ">i8"])
def test_targets_of_any_integer_type(dtype):
    x = random_array((6, 9))
    t = targets((6, 9))
    with no_grad():
        want = apply(REGISTRY["cross_entropy"], x, t, None).data
        assert apply(REGISTRY["cross_entropy"], x, t.astype(dtype), None).data == want


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("wrong", [-1, 5, 2**40, -(2**40)])
def test_targets_out_of_range(name, wrong):
    t = np.array([0, 1, wrong, 2])
    with pytest.raises(IndexError, match=rf"expected target classes from 0 to 4, or "
                                         rf"ignore_index=-100; got {wrong}"):
        apply(REGISTRY[name], random_array((4, 5)), t, None)


def test_targets_changed_after_forward_do_no_harm():
    x = Tensor(random_array((4, 5)), requires_grad=True)
    t = np.array([0, 1, 2, 3])
    loss = apply(REGISTRY["cross_entropy"], x, t, None)
    t[:] = 10**9
    loss.backward()
    np.testing.assert_allclose(x.grad.data.sum(1), 0, atol=1e-6)


def test_one_class_has_no_loss():
    for t in (np.zeros(4, np.int64), np.ones((4, 1), np.float32)):
        x = Tensor(random_array((4, 1)), requires_grad=True)
        loss = apply(REGISTRY["cross_entropy"], x, t, None, label_smoothing=0.1)
        loss.backward()
        assert abs(float(loss.data)) < 1e-6 and np.abs(x.grad.data).max() < 1e-7


def test_extreme_logits():
    inf = np.inf
    x = np.array([[1e4, 1e4 + 1, 0], [-inf, 0, 1], [1e30, -1e30, 0]], np.float32)
    with no_grad():
        y = apply(REGISTRY["cross_entropy"], x, np.array([0, 1, 1]), None, reduction="none").data
    np.testing.assert_allclose(y, [1.3132616, 1.3132616, 2e30], rtol=1e-6)
    leaf = Tensor(x, requires_grad=True)
    apply(REGISTRY["cross_entropy"], leaf, np.array([0, 1, 0]), None, reduction="sum").backward()
    np.testing.assert_allclose(
        leaf.grad.data,
        [[-0.7310586, 0.7310586, 0], [0, -0.7310586, 0.7310586], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (2, 3, 5, 7), (3, 40, 29, 31)])
def test_mse(shape, reduction):
    rng = np.random.default_rng(8)
    check_op("mse_loss", [rng.standard_normal(shape), rng.standard_normal(shape)],
             {"reduction": reduction}, torch=in_torch("mse_loss", reduction=reduction),
             layouts=("contiguous", "channels_last", "fortran"))


def test_mse_broadcasts_with_a_warning():
    with pytest.warns(UserWarning, match=r"a target of shape \(4, 1\) against x of shape \(4, 3\)"):
        check_op("mse_loss", [(4, 3), (4, 1)], {"reduction": "mean"}, gradcheck=False)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1,), (5, 3), (2, 3, 5, 7), (3, 10, 29, 31)])
def test_bce_with_logits(shape, reduction):
    rng = np.random.default_rng(9)
    t, w, p = rng.random(shape), rng.random(shape), rng.uniform(0.5, 3, shape[-1])

    def torch_form(x, t, w, p):
        return TF.binary_cross_entropy_with_logits(x, t, w, pos_weight=p, reduction=reduction)

    for weight in (None, w):
        for pos_weight in (None, p):
            check_op("bce_with_logits", [rng.standard_normal(shape) * 3, t, weight, pos_weight],
                     {"reduction": reduction}, torch=torch_form)


def test_bce_of_extreme_logits():
    x = np.array([-1e4, -100, -20, 0, 20, 100, 1e4], np.float32)
    for t in (0.0, 1.0):
        leaf = Tensor(x, requires_grad=True)
        loss = apply(REGISTRY["bce_with_logits"], leaf, np.full(7, t, np.float32), None, None,
                     reduction="none")
        loss.backward(np.ones(7, np.float32))
        wide = x.astype(np.float64)
        np.testing.assert_allclose(loss.data, np.logaddexp(0, wide) - t * wide, rtol=1e-6,
                                   atol=1e-37)
        slope = 1 / (1 + np.exp(np.clip(-wide, -700, 700))) - t
        np.testing.assert_allclose(leaf.grad.data, slope, rtol=1e-6, atol=1e-7)


def test_sums_are_exact_to_float32():
    """A million equal losses: a sum in float32 would be off in the third digit."""
    x = np.full((1000, 1001), 0.1, np.float32)
    with no_grad():
        total = apply(REGISTRY["mse_loss"], x, np.zeros_like(x), reduction="sum").data
    np.testing.assert_allclose(total, float(np.float32(0.1)) ** 2 * x.size, rtol=1e-6)


def test_errors_say_what_was_expected():
    x = np.zeros((4, 5, 3), np.float32)
    ce, mse, bce = (REGISTRY[n] for n in ("cross_entropy", "mse_loss", "bce_with_logits"))
    classes = np.zeros((4, 3), np.int64)
    with pytest.raises(ShapeError, match=r"expected target classes of shape \(4, 3\) for x of "
                                         r"shape \(4, 5, 3\), got \(4,\)"):
        apply(ce, x, classes[:, 0], None)
    with pytest.raises(ShapeError, match=r"expected target probabilities of shape \(4, 5, 3\) "
                                         r"like x, got \(4, 3\)"):
        apply(ce, x, classes.astype(np.float32), None)
    with pytest.raises(DTypeError, match="expected target of float32 like x, got float64"):
        apply(ce, x, np.zeros((4, 5, 3)), None)
    with pytest.raises(DTypeError, match="expected target classes of an integer type"):
        apply(ce, x, np.zeros((4, 3), bool), None)
    with pytest.raises(ShapeError, match=r"expected weight of shape \(5,\), one for each class"):
        apply(ce, x, classes, np.ones(4, np.float32))
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, C, \.\.\.\), got \(5,\)"):
        apply(ce, x[0, :, 0], np.int64(0), None)
    with pytest.raises(ValueError, match=r"expected label_smoothing from 0 to 1, got 1\.5"):
        apply(ce, x, classes, None, label_smoothing=1.5)
    with pytest.raises(ValueError, match="expected reduction of 'mean', 'sum' or 'none'"):
        apply(ce, x, classes, None, reduction="avg")
    with pytest.raises(RuntimeError, match="the gradient of weight is not defined"):
        apply(ce, x, classes, Tensor(np.ones(5, np.float32), requires_grad=True))
    with pytest.raises(ShapeError, match=r"expected a target of shape \(4, 5, 3\) like x"):
        apply(mse, x, np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ShapeError, match=r"expected a target of shape \(4, 5, 3\) like x"):
        apply(bce, x, np.zeros((4, 1, 3), np.float32), None, None)
    with pytest.raises(ShapeError, match=r"expected pos_weight that broadcasts to the shape"):
        apply(bce, x, x, None, np.ones(5, np.float32))


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    from convkit._kernels import dispatch

    if isa not in dispatch.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    run_python("""
        import numpy as np
        from harness import TF, check_op
        from test_loss import class_weight, distributions, targets
        for shape in [(5, 10), (2, 21, 5, 4)]:
            for smoothing in (0.0, 0.1):
                attrs = {"label_smoothing": smoothing}
                check_op("cross_entropy", [shape, targets(shape), class_weight(shape)], attrs)
                check_op("cross_entropy", [shape, distributions(shape), None], attrs)
            check_op("mse_loss", [shape, shape])
            check_op("bce_with_logits", [shape, distributions(shape), None, None])
        """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("loss", [F.nll_loss, F.multi_margin_loss, F.focal_loss])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_losses_over_classes_have_the_same_bits_on_any_threads(loss, reduction):
    """Of several blocks of rows, and of a row alone."""
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((7001, 7)).astype(np.float32)
    classes, found = rng.integers(0, 7, 7001), set()
    for threads in (1, 2, 3):
        with ck.threads(threads):
            x = ck.Tensor(scores, requires_grad=True)
            losses = loss(x, classes, reduction=reduction)
            losses.backward(np.ones(losses.shape, np.float32))
            found.add(losses.data.tobytes() + x.grad.data.tobytes())
    assert len(found) == 1
    if reduction == "none":
        alone = loss(ck.Tensor(scores[5:6]), classes[5:6], reduction="none")
        assert alone.data[0] == losses.data[5]
