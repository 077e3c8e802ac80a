"""Convolution in groups of a few channels against the reference, and its order of sums."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python
from tolerances import assert_close, tolerance

from convkit import reference
from convkit._kernels import depthwise, dispatch
from convkit.ops.conv_algorithms.grouped import Grouped
from convkit.ops.conv_problem import forward_problem

CLAMP = {"activation": 2, "alpha": -0.5, "beta": 0.75}


class Case:
    """Random arrays of one problem, run by the grouped kernels alone."""

    def __init__(self, group, channels=48, size=(2, 9, 11), kernel=3, stride=1,
                 padding=((1, 1), (1, 1)), seed=0):
        rng = np.random.default_rng(seed)
        n, h, w = size
        self.x = rng.standard_normal((n, channels, h, w)).astype(np.float32)
        self.w = rng.standard_normal((channels, group, kernel, kernel)).astype(np.float32)
        self.bias = rng.standard_normal(channels).astype(np.float32)
        self.attrs = {"stride": (stride, stride), "padding": padding, "dilation": (1, 1),
                      "groups": channels // group}
        self.problem = forward_problem(self.x.shape, self.w.shape, self.x.dtype, **self.attrs)
        shape = (n, channels, *self.problem.out_size)
        self.gy = rng.standard_normal(shape).astype(np.float32)

    def forward(self, threads=1, **epilogue):
        y = np.full(self.gy.transpose(0, 2, 3, 1).shape, np.nan, np.float32)
        Grouped.forward(self.problem, last(self.x), self.w, y, None, threads, **epilogue)
        return y.transpose(0, 3, 1, 2)

    def gradients(self, threads=1):
        gx, gw = np.full_like(last(self.x), np.nan), np.full_like(self.w, np.nan)
        Grouped.grad_input(self.problem, last(self.gy), self.w, gx, None, threads)
        Grouped.grad_weight(self.problem, last(self.x), last(self.gy), gw, threads)
        return gx.transpose(0, 3, 1, 2), gw

    def check(self):
        assert all(Grouped.refuses(self.problem, task) is None
                   for task in ("forward", "grad_input", "grad_weight"))
        want = reference.conv(self.x, self.w, self.bias, None, **self.attrs)
        y = self.forward(bias=self.bias)
        assert_close(y, want, tolerance("highest", np.float32), "y")
        clamped = self.forward(bias=self.bias, **CLAMP)
        np.testing.assert_array_equal(clamped, np.clip(y, np.float32(-0.5), np.float32(0.75)))
        grads = reference.conv_grad(self.gy, self.x, self.w, self.bias, None, **self.attrs)
        for got, expected, what in zip(self.gradients(), grads, ("x", "w"), strict=False):
            assert_close(got, expected, tolerance("highest_gradient", np.float32),
                         f"gradient of {what}")


def last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1))


WINDOWS = {
    "1x1": {"kernel": 1, "padding": ((0, 0), (0, 0))},
    "3x3": {},
    "3x3 unpadded": {"padding": ((0, 0), (0, 0))},
    "3x3 stride 2": {"stride": 2},
    "3x3 stride 2, uneven": {"stride": 2, "padding": ((0, 2), (2, 0))},
}

needs_vectors = pytest.mark.skipif(
    depthwise.grouped_refusal(2, 64, (3, 3), (1, 1), (1, 1), np.dtype(np.float32)) is not None,
    reason="this instruction set has no grouped kernels")


def sizes():
    vector = 16 if dispatch.isa() == "avx512" else 8
    return [g for g in (2, 4, 8, 16) if g <= vector]


@needs_vectors
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_values_and_gradients(window):
    for group in sizes():
        for channels in (16, 48, 80):
            if channels > group:
                Case(group, channels, **window).check()


@needs_vectors
@pytest.mark.parametrize("size", [(1, 3, 3), (1, 4, 20), (2, 14, 7), (1, 15, 4)])
def test_any_size(size):
    for window in WINDOWS.values():
        Case(4, 32, size=size, **window).check()


@needs_vectors
@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_any_threads_and_batch(stride):
    case = Case(4, 48, size=(5, 30, 33), stride=stride)
    y, gradients = case.forward(), case.gradients()
    assert_same_bits(y, case.forward(threads=2), "y")
    assert_same_bits(gradients, case.gradients(threads=3), "gradients")
    alone = Case(4, 48, size=(1, 30, 33), stride=stride)
    alone.x, alone.w, alone.gy = case.x[2:3], case.w, case.gy[2:3]
    assert_same_bits(alone.forward(), y[2:3], "y alone")
    assert_same_bits(alone.gradients()[0], gradients[0][2:3], "gradient of x alone")


@needs_vectors
def test_nan_and_infinity_stay_in_their_group():
    case = Case(4, 48)
    case.x[0, 5, 4, 4] = np.nan
    case.w[0] = np.inf
    spoilt = np.isnan(case.forward())
    assert spoilt[0, 4:8, 3:6, 3:6].all() and not spoilt[:, 8:].any()
    assert not np.isnan(case.forward()[1, 4:]).any()


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_lower_instruction_sets(isa):
    run_python("""
        import test_grouped_kernel as t
        if not t.needs_vectors.args[0]:
            for window in t.WINDOWS.values():
                for group in t.sizes():
                    t.Case(group, 40 if group < 16 else 48, **window).check()
    """, {"CONVKIT_ISA": isa})


def test_what_is_refused_says_why():
    def refusal(group, channels, kernel=(3, 3), stride=(1, 1), dtype=np.float32):
        return depthwise.grouped_refusal(group, channels, kernel, stride, (1, 1), np.dtype(dtype))

    assert "do not fill vectors" in refusal(3, 48)
    assert "do not fill vectors" in refusal(2, 2)
    assert refusal(4, 64, dtype=np.float64) == "no kernels for groups in float64"
    assert "no kernels for groups with windows of (5, 5)" in refusal(4, 64, kernel=(5, 5))
    x = np.zeros((1, 5, 5, 64), np.float32)
    with pytest.raises(ValueError, match="expected a problem that grouped kernels take"):
        depthwise.grad_weight(x, x, np.zeros((3, 3, 3, 64), np.float32), (1, 1), (1, 1), (1, 1), 1)
