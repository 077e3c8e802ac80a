"""Losses of single numbers, focal and hinge losses: their edges, layers and errors.

Values and gradients over random inputs are checked in test_random_ops.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import check_op, random_array, run_python
from tolerances import assert_close, tolerance

from convkit import functional as F
from convkit import nn
from convkit.autograd import Tensor
from convkit.errors import ShapeError

BIG = (3, 40, 31, 17)


@pytest.mark.parametrize("name", ["l1_loss", "huber_loss", "smooth_l1_loss", "hinge_loss"])
def test_over_many_blocks(name):
    check_op(name, [BIG, BIG], {"reduction": "mean"}, gradcheck=False, threads=(1, 2, 3))
    check_op(name, [(3, 5, 4, 7)] * 2, {"reduction": "none"}, gradcheck=False,
             layouts=("fortran", "strided", "reversed", "misaligned", "byte_swapped"))


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    from convkit._kernels import dispatch

    if isa not in dispatch.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    run_python("""
        import numpy as np
        from cases import error_loss_cases
        from harness import check_op
        for case in error_loss_cases(np.random.default_rng(3), True):
            check_op(case.name, case.inputs, case.attrs, gradcheck=False)
        """, {"CONVKIT_ISA": isa})


def slopes(loss, x, *others):
    t = Tensor(np.asarray(x, np.float32), requires_grad=True)
    value = loss(t, *others)
    value.sum().backward()
    return value.data, t.grad.data


def test_slopes_at_the_bends(torch):
    x = np.array([-1.0, -0.0, 0.0, 1.0, 2.0, np.inf, -np.inf, np.nan], np.float32)
    zero = np.zeros_like(x)
    for name in ("l1_loss", "huber_loss", "smooth_l1_loss", "mse_loss"):
        t = torch.tensor(x, requires_grad=True)
        want = getattr(torch.nn.functional, name)(t, torch.zeros(len(x)), reduction="none")
        want.sum().backward()
        value, slope = slopes(lambda a, b, n=name: getattr(F, n)(a, b, reduction="none"), x, zero)
        np.testing.assert_array_equal(value, want.detach().numpy(), err_msg=name)
        finite = np.isfinite(x)
        np.testing.assert_array_equal(slope[finite], t.grad.numpy()[finite], err_msg=name)


def test_certain_probabilities_are_held_at_100(torch):
    x = np.array([0.0, 1.0, 0.0, 1.0, 1e-9, 1 - 2**-24], np.float32)
    y = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0], np.float32)
    t = torch.tensor(x, requires_grad=True)
    want = torch.nn.functional.binary_cross_entropy(t, torch.tensor(y), reduction="none")
    want.sum().backward()
    value, slope = slopes(lambda a, b: F.binary_cross_entropy(a, b, reduction="none"), x, y)
    np.testing.assert_allclose(value, want.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(slope, t.grad.numpy(), rtol=1e-6)
    assert value[4] == pytest.approx(1e-9, rel=1e-6)


def test_divergence_of_a_distribution_from_itself_is_zero():
    p = np.random.default_rng(0).dirichlet(np.ones(6), 4)
    p[0] = [0.5, 0.5, 0, 0, 0, 0]
    with np.errstate(divide="ignore"):
        log_p = np.log(np.where(p > 0, p, 1.0))
    assert F.kl_div(log_p, p, reduction="batchmean").item() == pytest.approx(0, abs=1e-15)
    q = np.full_like(p, 1 / 6)
    want = (p * (np.log(np.where(p > 0, p, 1)) - np.log(q))).sum() / 4
    assert F.kl_div(np.log(q), p, reduction="batchmean").item() == pytest.approx(want)


def test_focal_losses_without_focus_are_cross_entropies():
    x, t = random_array((5, 7), np.float64), np.arange(5)
    weight = np.linspace(0.5, 2, 7)
    for reduction in ("mean", "sum", "none"):
        np.testing.assert_allclose(
            F.focal_loss(x, t, weight, 0.0, reduction=reduction).data,
            F.cross_entropy(x, t, weight, reduction=reduction).data, rtol=1e-12)
    hard = (x > 0.3).astype(float)
    np.testing.assert_allclose(
        F.sigmoid_focal_loss(x, hard, -1.0, 0.0).data,
        F.binary_cross_entropy_with_logits(x, hard, reduction="none").data, rtol=1e-12)


def test_focal_loss_of_what_is_right_vanishes_without_nan():
    value, slope = slopes(lambda a: F.focal_loss(a, np.array([0, 1]), gamma=0.5,
                                                 reduction="none"), [[200.0, 0], [0, 3.0]])
    assert value[0] == 0 and (slope[0] == 0).all() and np.isfinite(slope).all()
    value, slope = slopes(lambda a: F.sigmoid_focal_loss(a, np.ones(3, np.float32), gamma=0.5),
                          [200.0, -200.0, 0.0])
    assert value[0] == 0 and np.isfinite(value).all() and np.isfinite(slope).all()


def test_the_hinge_counts_classes_within_the_margin():
    scores = np.array([[3.0, 2.5, 0.0], [1.0, 1.0, 1.0]])
    loss = F.multi_margin_loss(scores, np.array([0, 2]), reduction="none").data
    np.testing.assert_allclose(loss, [0.5 / 3, 2 / 3])
    assert F.hinge_loss(np.array([0.5, -2.0]), np.array([1.0, -1.0])).item() == 0.25


@pytest.mark.parametrize("make", [
    lambda m: m.L1Loss(reduction="sum"), lambda m: m.HuberLoss("mean", 0.5),
    lambda m: m.SmoothL1Loss(), lambda m: m.KLDivLoss(reduction="batchmean", log_target=True),
    lambda m: m.KLDivLoss(reduction="sum"),
    lambda m: m.BCELoss(), lambda m: m.MultiMarginLoss(2, 0.5)])
def test_layers_are_pytorchs(torch, make):
    theirs = make(torch.nn)
    x = np.random.default_rng(1).uniform(0.05, 0.95, (4, 3))
    y = np.random.default_rng(2).uniform(0.05, 0.95, (4, 3))
    if isinstance(theirs, torch.nn.MultiMarginLoss):
        y = np.array([0, 2, 1, 1])
    assert_close(make(nn)(x, y).data, theirs(torch.tensor(x), torch.tensor(y)).numpy(),
                 tolerance("forward", "float64"))


def test_own_layers():
    x, t = random_array((4, 3), np.float64), np.array([0, 2, 1, 1])
    weight = np.array([1.0, 2.0, 3.0])
    assert nn.FocalLoss(1.5, weight)(x, t).item() == F.focal_loss(x, t, weight, 1.5).item()
    signs = np.sign(x)
    assert nn.HingeLoss(2.0, "sum")(x, signs).item() == F.hinge_loss(x, signs, 2.0, "sum").item()


def test_errors_say_what_was_expected():
    x, t = np.full((3, 4), 0.5, np.float32), np.zeros((3, 4), np.float32)
    for call, message in (
            (lambda: F.l1_loss(x, t, "all"), "reduction must be one of none, mean, sum"),
            (lambda: F.huber_loss(x, t, delta=0.0), r"expected delta above 0, got 0\.0"),
            (lambda: F.smooth_l1_loss(x, t, beta=-1.0), "beta of at least 0, got -1"),
            (lambda: F.binary_cross_entropy(4 * x, t), r"probabilities from 0 to 1, got numbers "
                                                       r"from 2\.0 to 2\.0; for scores there is"),
            (lambda: F.focal_loss(x, np.zeros(3, int), gamma=-1.0), "gamma of at least 0"),
            (lambda: F.sigmoid_focal_loss(x, t, gamma=-1.0), "gamma of at least 0"),
            (lambda: F.multi_margin_loss(x, np.zeros(3, int), p=3), "expected p of 1 or 2, got 3")):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ShapeError, match=r"expected a target of shape \(3, 4\) like x, got"):
        F.l1_loss(x, t[:2])
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, C\), got \(3, 4, 1\)"):
        F.multi_margin_loss(x[..., None], np.zeros((3, 1), int))
    with pytest.raises(IndexError, match="target classes from 0 to 3"):
        F.multi_margin_loss(x, np.array([0, 4, 1]))
    with pytest.warns(UserWarning, match=r"l1_loss broadcasts a target of shape \(4,\)"):
        F.l1_loss(x, t[0])
    with pytest.raises(RuntimeError, match="gradient of target is not defined"):
        F.sigmoid_focal_loss(x, Tensor(t, requires_grad=True))
