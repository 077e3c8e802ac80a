"""The reference against independent sources: PyTorch, SciPy and central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, all_cases
from tolerances import GRADCHECK, assert_close, tolerance

from convkit import reference

CASES = all_cases(10)


def outputs_of(case: Case, *inputs: Any) -> tuple:
    """Return the reference's outputs as a tuple."""
    y = getattr(reference, case.name)(*inputs, **case.attrs)
    return y if isinstance(y, tuple) else (y,)


def grads_of(case: Case, gy: np.ndarray) -> tuple:
    """Return the reference's gradients."""
    return getattr(reference, case.name + "_grad")(gy, *case.inputs, **case.attrs)


def _upstream(y: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(np.shape(y))


def check_differences(case: Case) -> None:
    """Compare every gradient with central differences along a random direction."""
    outputs = outputs_of(case, *case.inputs)
    gy = _upstream(outputs[0])
    step = GRADCHECK["step"]
    rng = np.random.default_rng(2)
    checked = 0
    for i, grad in enumerate(grads_of(case, gy)):
        if grad is None:
            continue
        assert grad.shape == np.shape(case.inputs[i])
        assert grad.dtype == np.float64
        direction = rng.standard_normal(grad.shape)
        ends = []
        for sign in (1, -1):
            moved = list(case.inputs)
            moved[i] = case.inputs[i] + sign * step * direction
            ends.append(float((outputs_of(case, *moved)[0] * gy).sum()))
        numeric = (ends[0] - ends[1]) / (2 * step)
        size = float(np.abs(outputs[0] * gy).sum())
        allowed = GRADCHECK["relative"] * np.linalg.norm(grad) + GRADCHECK["roundoff"] * size
        assert numeric == pytest.approx(float((grad * direction).sum()), rel=0, abs=allowed), (
            str(case), i)
        checked += 1
    assert checked


def check_torch(case: Case, torch: Any) -> None:
    """Compare outputs and gradients with PyTorch's, in float64."""
    grads = grads_of(case, gy := _upstream(outputs_of(case, *case.inputs)[0]))
    tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in case.inputs]
    for t, g in zip(tensors, grads, strict=False):
        if g is not None:
            t.requires_grad_()
    outputs = case.torch(torch.nn.functional, *tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for got, want in zip(outputs_of(case, *case.inputs), outputs, strict=False):
        assert_close(got, want.detach().numpy(), tolerance("forward", np.float64), str(case))
    outputs[0].backward(torch.from_numpy(gy))
    for i, (t, g) in enumerate(zip(tensors, grads, strict=False)):
        if g is not None:
            assert_close(g, t.grad.numpy(), tolerance("gradient", np.float64),
                         f"{case} {i}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_derivatives(case):
    check_differences(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_pytorch(case, torch):
    check_torch(case, torch)


def test_every_function_has_cases():
    names = {name.removesuffix("_grad") for name in vars(reference)
             if not name.startswith("_") and name.endswith("_grad")}
    assert {case.name for case in CASES} == names
    assert all(callable(getattr(reference, name)) for name in names)


# -- independent checks ---------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolution_is_scipys_correlation(padding, rng):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, w = rng.standard_normal((2, 3, 7, 8)), rng.standard_normal((4, 3, 3, 2))
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    want = [[np.sum([signal.correlate2d(xp[n, c], w[o, c], "valid") for c in range(3)], axis=0)
             for o in range(4)] for n in range(2)]
    got = reference.conv(x, w, padding=padding)
    assert_close(got, np.array(want), tolerance("forward", np.float64))


def test_input_gradient_is_scipys_full_convolution(rng):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, w = rng.standard_normal((1, 2, 6, 7)), rng.standard_normal((3, 2, 3, 2))
    gy = rng.standard_normal((1, 3, 4, 6))
    want = [np.sum([signal.convolve2d(gy[0, o], w[o, c], "full") for o in range(3)], axis=0)
            for c in range(2)]
    assert_close(reference.conv_grad(gy, x, w)[0][0], np.array(want),
                 tolerance("gradient", np.float64))


def test_transposed_convolution_is_the_adjoint(rng):
    x, y = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((2, 6, 3, 3))
    w = rng.standard_normal((6, 2, 3, 2))
    attrs = {"stride": 2, "padding": (1, 0), "groups": 2}
    there = (reference.conv(x, w, **attrs) * y).sum()
    back = (reference.conv_transpose(y, w, output_padding=(0, 0), **attrs) * x).sum()
    assert there == pytest.approx(back, rel=1e-12)


def test_max_pool_takes_the_first_of_equals_and_nan():
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 3, 2] = np.nan
    y, places = reference.max_pool(x, kernel_size=2, return_indices=True)
    np.testing.assert_array_equal(places[0, 0], [[0, 2], [8, 14]])
    np.testing.assert_array_equal(y[0, 0], [[0, 0], [0, np.nan]])
    lowest = np.full((1, 1, 3), -np.inf)
    y, places = reference.max_pool(lowest, kernel_size=3, padding=1, stride=1, return_indices=True)
    np.testing.assert_array_equal(places[0, 0], [0, 0, 1])
    assert (y == -np.inf).all()


def test_max_pool_agrees_with_pytorch_on_ties_and_nan(torch, rng):
    x = rng.integers(0, 3, (2, 3, 7, 9)).astype(float)
    x[rng.random(x.shape) < 0.05] = np.nan
    got = reference.max_pool(x, kernel_size=3, stride=2, padding=1, return_indices=True)
    want = torch.nn.functional.max_pool2d(
        torch.from_numpy(x), 3, 2, 1, return_indices=True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_bends_agree_with_pytorch(torch):
    x = np.array([-np.inf, -6.0, -3.0, -0.0, 0.0, 3.0, 6.0, np.inf, np.nan])
    for name in ("relu", "relu6", "leaky_relu", "elu", "hardsigmoid", "hardswish", "sigmoid",
                 "tanh"):
        t = torch.from_numpy(x.copy()).requires_grad_()
        y = getattr(torch.nn.functional, name)(t)
        y.backward(torch.ones_like(y))
        with np.errstate(invalid="ignore"):
            got = getattr(reference, name)(x)
            (grad,) = getattr(reference, name + "_grad")(np.ones_like(x), x)
        np.testing.assert_allclose(got, y.detach().numpy(), rtol=1e-7, err_msg=name)
        np.testing.assert_allclose(grad, t.grad.numpy(), rtol=1e-7, atol=1e-15, err_msg=name)


def test_a_mean_over_ignored_targets_only_is_nan():
    x, target = np.zeros((2, 3)), np.array([1, 1])
    assert np.isnan(reference.cross_entropy(x, target, ignore_index=1))
    assert np.isnan(reference.nll_loss(x, target, ignore_index=1))
    assert reference.cross_entropy(x, target, ignore_index=1, reduction="sum") == 0


def test_large_logits_do_not_overflow():
    x = np.array([[1000.0, -1000.0, 0.0]])
    assert_close(reference.softmax(x, dim=1), np.array([[1.0, 0.0, 0.0]]),
                 tolerance("forward", np.float64))
    assert reference.bce_with_logits(np.array([-1000.0]), np.array([1.0])) == 1000.0
