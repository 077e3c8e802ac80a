"""The depthwise kernels against plain NumPy in float64, on one instruction set after another."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python
from tolerances import assert_close, tolerance

from convkit._kernels import depthwise, dispatch, memory

# kernel, stride, dilation, padding (top, bottom, left, right)
FORMS = {
    "3x3": ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "3x3 stride 2": ((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "3x3 stride 2, padded below only": ((3, 3), (2, 2), (1, 1), (0, 1, 0, 1)),
    "3x3 unpadded": ((3, 3), (1, 1), (1, 1), (0, 0, 0, 0)),
    "5x5": ((5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "5x5 stride 2": ((5, 5), (2, 2), (1, 1), (2, 2, 2, 2)),
    "3x3 stride 3": ((3, 3), (3, 3), (1, 1), (1, 1, 1, 1)),
    "3x3 dilated": ((3, 3), (1, 1), (2, 2), (2, 2, 2, 2)),
    "stride 4, dilation 6": ((3, 3), (4, 4), (6, 6), (6, 6, 6, 6)),
    "stride above the kernel": ((2, 2), (3, 5), (1, 1), (0, 0, 0, 0)),
    "3x3 dilated by 2 and 3, padded unevenly": ((3, 3), (1, 1), (2, 3), (1, 2, 4, 0)),
    "3x3 dilated beyond the width": ((3, 3), (1, 1), (1, 25), (1, 1, 25, 25)),
    "3x3 stride 2, padded far": ((3, 3), (2, 2), (1, 1), (4, 5, 3, 6)),
    "5x5 stride 2, padded below only": ((5, 5), (2, 2), (1, 1), (0, 3, 1, 2)),
    "5x5 dilated": ((5, 5), (1, 1), (2, 2), (4, 4, 4, 4)),
    "7x7": ((7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),
    "7x7 unpadded": ((7, 7), (1, 1), (1, 1), (0, 0, 0, 0)),
    "7x2, all apart": ((7, 2), (1, 2), (1, 3), (5, 1, 0, 2)),
    "1x1": ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    "1x9": ((1, 9), (1, 1), (1, 1), (0, 0, 4, 4)),
    "3x3 on padding alone": ((3, 3), (1, 1), (1, 1), (4, 4, 5, 5)),
}


class Case:
    """Random arrays for one problem, and what the kernels should make of them."""

    def __init__(self, form, size=(2, 13, 19), channels=17, dtype=np.float32, seed=0):
        (kh, kw), stride, dilation, (top, bottom, left, right) = form
        n, h, w = size
        rng = np.random.default_rng(seed)
        self.window = (stride, (top, left), dilation)
        self.form = form
        oh = (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        ow = (w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        self.x = rng.standard_normal((n, h, w, channels)).astype(dtype)
        self.w = rng.standard_normal((kh, kw, channels)).astype(dtype)
        self.bias = rng.standard_normal(channels).astype(dtype)
        self.residual = rng.standard_normal((n, oh, ow, channels)).astype(dtype)
        self.gy = rng.standard_normal((n, oh, ow, channels)).astype(dtype)

    def taps(self):
        """Yield (kernel row, kernel column, slice of the padded input) of every tap."""
        (kh, kw), (sh, sw), (dh, dw), _ = self.form
        _, oh, ow, _ = self.gy.shape
        for i in range(kh):
            for j in range(kw):
                yield i, j, np.s_[:, i * dh:i * dh + (oh - 1) * sh + 1:sh,
                                  j * dw:j * dw + (ow - 1) * sw + 1:sw]

    def padded(self):
        """Return x in float64 with its padding."""
        top, bottom, left, right = self.form[3]
        return np.pad(self.x.astype(np.float64),
                      ((0, 0), (top, bottom), (left, right), (0, 0)))

    def expected(self):
        """Return y without extras, and the gradients of x and w, in float64."""
        x, gy, w = self.padded(), self.gy.astype(np.float64), self.w.astype(np.float64)
        y, gx, gw = np.zeros(gy.shape), np.zeros(x.shape), np.zeros(w.shape)
        for i, j, window in self.taps():
            y += x[window] * w[i, j]
            gx[window] += gy * w[i, j]
            gw[i, j] = (x[window] * gy).sum((0, 1, 2))
        top, _, left, _ = self.form[3]
        return y, gx[:, top:top + self.x.shape[1], left:left + self.x.shape[2]], gw

    def forward(self, bias=None, residual=None, activation=0, alpha=0.0, beta=0.0, threads=1):
        """Run the kernel into an array of NaN."""
        y = np.full_like(self.gy, np.nan)
        depthwise.forward(self.x, self.w, bias, residual, y, *self.window, activation, alpha,
                          beta, threads)
        return y

    def gradients(self, threads=1):
        """Run both gradient kernels into arrays of NaN."""
        gx, gw = np.full_like(self.x, np.nan), np.full_like(self.w, np.nan)
        depthwise.grad_input(self.gy, self.w, gx, *self.window, threads)
        depthwise.grad_weight(self.x, self.gy, gw, *self.window, threads)
        return gx, gw

    def check(self):
        """Compare everything with NumPy."""
        y, gx, gw = self.expected()
        dtype = self.x.dtype
        assert_close(self.forward(), y, tolerance("highest", dtype), "y")
        got = self.gradients()
        assert_close(got[0], gx, tolerance("highest_gradient", dtype), "gradient of x")
        assert_close(got[1], gw, tolerance("highest_gradient", dtype), "gradient of w")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_values_and_gradients(form, dtype):
    Case(form, dtype=dtype).check()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 48, 100])
@pytest.mark.parametrize("form", ["3x3", "3x3 stride 2", "5x5", "5x5 dilated", "7x7",
                                  "3x3 dilated by 2 and 3, padded unevenly", "7x2, all apart"])
def test_any_number_of_channels(form, channels):
    Case(FORMS[form], size=(2, 7, 9), channels=channels).check()


@pytest.mark.parametrize("width", [*range(1, 19), 31, 40])
@pytest.mark.parametrize("form", ["3x3", "3x3 stride 2", "5x5", "5x5 stride 2", "7x7"])
def test_any_width(form, width):
    Case(FORMS[form], size=(1, 5, width), channels=20).check()


@pytest.mark.parametrize("height", range(1, 12))
@pytest.mark.parametrize("form", ["3x3 stride 2", "3x3 stride 2, padded below only",
                                  "5x5", "5x5 stride 2"])
def test_any_height(form, height):
    Case(FORMS[form], size=(2, height + 2, 9), channels=20).check()


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_lower_instruction_sets(isa):
    run_python("""
        from test_depthwise_kernel import FORMS, Case
        for form in FORMS.values():
            for channels in (1, 3, 8, 17):
                Case(form, channels=channels).check()
        Case(FORMS["3x3"], dtype="float64").check()
    """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("channels", [3, 17])
def test_bias_residual_and_activation(channels):
    case = Case(FORMS["3x3"], channels=channels)
    plain = case.expected()[0]
    bounds = tolerance("highest", np.float32)
    clamped = case.forward(case.bias, None, 2, -0.5, 0.75)
    assert_close(clamped, np.clip(plain + case.bias, -0.5, 0.75), bounds, "clamped")
    case.x[0, 5, 5, 1] = np.nan
    clamped = case.forward(case.bias, None, 2, -0.5, 0.75)
    assert np.isnan(clamped[0, 5, 5, 1]) and np.isnan(clamped).sum() == 9
    case = Case(FORMS["3x3"], channels=channels)
    sums = plain + case.bias + case.residual
    for activation, alpha, beta, want in [
        (0, 0.0, 0.0, sums),
        (1, 0.0, 0.0, np.maximum(sums, 0)),
        (2, -0.5, 0.75, np.clip(sums, -0.5, 0.75)),
        (3, 0.1, 0.0, np.where(sums < 0, 0.1 * sums, sums)),
    ]:
        got = case.forward(case.bias, case.residual, activation, alpha, beta)
        assert_close(got, want, bounds, f"activation {activation}")
    assert_close(case.forward(case.bias), plain + case.bias, bounds, "bias")
    assert_close(case.forward(None, case.residual), plain + case.residual, bounds, "residual")


@pytest.mark.parametrize("form", ["3x3", "3x3 stride 2", "7x2, all apart"])
@pytest.mark.parametrize("channels", [3, 40])
def test_same_bits_for_any_threads(form, channels):
    case = Case(FORMS[form], size=(5, 30, 33), channels=channels)
    assert_same_bits(case.forward(case.bias), case.forward(case.bias, threads=2), "y")
    assert_same_bits(case.gradients(), case.gradients(threads=2), "gradients")
    assert_same_bits(case.gradients(), case.gradients(threads=3), "gradients")


def test_a_sample_alone_has_the_same_bits():
    case = Case(FORMS["3x3"], size=(4, 30, 33), channels=40)
    y, (gx, _) = case.forward(threads=2), case.gradients(threads=2)
    for i in range(4):
        case = Case(FORMS["3x3"], size=(4, 30, 33), channels=40)
        case.x, case.gy = case.x[i:i + 1], case.gy[i:i + 1]
        assert_same_bits(case.forward(threads=2), y[i:i + 1], "y")
        assert_same_bits(case.gradients(threads=2)[0], gx[i:i + 1], "gradient of x")


@pytest.mark.parametrize("channels", [3, 17])
def test_padding_is_skipped_and_nan_stays_where_it_is(channels):
    case = Case(FORMS["3x3"], size=(1, 12, 12), channels=channels)
    case.w[0, 0, 0] = np.inf
    y = case.forward()
    assert np.isfinite(y[0, 0]).all() and np.isfinite(y[0, :, 0]).all()
    assert np.isinf(y[0, 1:, 1:, 0]).all()
    case = Case(FORMS["3x3"], size=(1, 12, 12), channels=channels)
    case.x[0, 5, 5, 1] = np.nan
    spoilt = np.zeros((1, 12, 12, channels), bool)
    spoilt[0, 4:7, 4:7, 1] = True
    np.testing.assert_array_equal(np.isnan(case.forward()), spoilt)
    case.x[0, 5, 5, 1] = np.inf
    gw = case.gradients()[1]
    assert np.isinf(gw[:, :, 1]).all() and np.isfinite(np.delete(gw, 1, 2)).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_outputs_stored_past_the_caches_are_the_same(stride):
    # From 16 MB of input and output on, stores pass the caches by; one sample is below that.
    rng = np.random.default_rng(5)
    x = memory.empty((24, 64, 64, 32))
    x[...] = rng.standard_normal(x.shape, dtype=np.float32)
    w = rng.standard_normal((3, 3, 32), dtype=np.float32)
    size = 64 // stride

    def run(x, threads):
        y = memory.empty((len(x), size, size, 32))
        depthwise.forward(x, w, None, None, y, (stride, stride), (1, 1), (1, 1), 0, 0.0, 0.0,
                          threads)
        return y

    alone = np.concatenate([run(x[i:i + 1], 1) for i in range(len(x))])
    for threads in (1, 2):
        assert run(x, threads).tobytes() == alone.tobytes()


def test_arrays_apart_begin_an_odd_number_of_lines_from_each_other():
    x = memory.empty((64, 64))
    for _ in range(4):
        y = memory.empty((64, 64), np.float32, x)
        assert (y.ctypes.data - x.ctypes.data) // 64 % 2 == 1
        assert y.ctypes.data % 64 == 0
        y[...] = 1
        x = y


def test_nothing_in_nothing_out():
    window = ((1, 1), (1, 1), (1, 1))
    x, w = np.zeros((0, 5, 5, 4), np.float32), np.ones((3, 3, 4), np.float32)
    y, gx, gw = np.zeros_like(x), np.zeros_like(x), np.full_like(w, np.nan)
    depthwise.forward(x, w, None, None, y, *window, 0, 0.0, 0.0, 2)
    depthwise.grad_input(y, w, gx, *window, 2)
    depthwise.grad_weight(x, y, gw, *window, 2)
    np.testing.assert_array_equal(gw, 0)


def test_wrong_arrays_are_refused():
    case = Case(FORMS["3x3"])
    case.w = case.w[:, :, :-1]
    with pytest.raises(ValueError, match=r"expected a C-contiguous float32 array of shape "
                                         r"\(3, 3, 17\), got float32 of shape \(3, 3, 16\)"):
        case.forward()
    case = Case(FORMS["3x3"])
    case.w = case.w.astype(np.float64)
    with pytest.raises(ValueError, match="expected a C-contiguous float32"):
        case.gradients()
    case = Case(FORMS["3x3"])
    case.window = ((1, 0), (1, 1), (1, 1))
    with pytest.raises(ValueError, match="expected positive stride and dilation"):
        case.gradients()
