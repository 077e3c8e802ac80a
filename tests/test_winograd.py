"""Winograd convolution: every tile remainder, errors, bits, and values it must not touch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import (
    TF,
    assert_same_bits,
    check_batch_invariance,
    check_op,
    random_array,
    run_python,
)
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import reference
from convkit._kernels import dispatch, winograd_grad
from convkit._kernels import winograd as kernel
from convkit.autograd import Tensor, apply
from convkit.ops import planner
from convkit.ops.conv import Conv
from convkit.ops.conv_algorithms import TASKS, winograd
from convkit.ops.conv_algorithms.direct import Direct
from convkit.ops.conv_algorithms.winograd import Winograd
from convkit.ops.conv_problem import forward_problem

# Taps of a kernel's side, and the form of its tiles, for all there are transforms for.
PLAIN = [(taps, form) for (taps, stride), forms in winograd.FORMS.items() for form in forms
         if stride == 1]
FORMS = [*PLAIN, (3, *winograd.FORMS[3, 2]), (3, *winograd.GRADIENT_FORMS[3, 2])]


def attributes(padding=((1, 1), (1, 1)), **more):
    """Return the attributes of a convolution that Winograd takes."""
    return {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1,
            "algorithm": "winograd", **more}


GEOMETRY = {k: v for k, v in attributes().items() if k != "algorithm"}


def problem(x, w, padding=1, **more):
    """Return the problem of a convolution."""
    attrs = {"stride": (1, 1), "dilation": (1, 1), "groups": 1, **more}
    return forward_problem(x, w, np.dtype(more.pop("dtype", np.float32)),
                           padding=((padding, padding),) * 2,
                           **{k: v for k, v in attrs.items() if k != "dtype"})


def convolve64(x, w, top, left, size, scale=1.0):
    """Convolve (N, H, W, C) by (O, C, taps, taps) in float64; taps begin at (top, left).

    With a scale of 0.5 the stride is 2; with 2 it is the gradient of the input for that stride,
    with the kernels turned.
    """
    x, w = x.astype(np.float64), w.astype(np.float64)
    taps = w.shape[2]
    if scale == 0.5:
        return convolve64(x, w, top, left, [2 * n - 1 for n in size])[:, ::2, ::2]
    if scale == 2:
        apart = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]))
        apart[:, ::2, ::2] = x
        return convolve64(apart, w, 2 * top - 1, 2 * left - 1, size)
    wide = np.zeros((x.shape[0], size[0] + taps - 1, size[1] + taps - 1, x.shape[3]))
    for i, j in itertools.product(range(wide.shape[1]), range(wide.shape[2])):
        if 0 <= i + top < x.shape[1] and 0 <= j + left < x.shape[2]:
            wide[:, i, j] = x[:, i + top, j + left]
    return sum(wide[:, r:r + size[0], s:s + size[1]] @ w[:, :, r, s].T
               for r in range(taps) for s in range(taps))


def run_kernel(x, w, form, top, left, size, *, together=None, threads=1, **epilogue):
    """Pack and convolve with one form; return the output and the samples' peaks."""
    columns, depth, taps, _ = w.shape
    packed = kernel.pack(w, form.tile, taps, form.step, columns, depth, taps * taps * depth,
                         taps * taps, False, "float32", threads)
    y = np.full((x.shape[0], *size, w.shape[0]), np.nan, np.float32)
    peaks = kernel.run(x, packed, y, top, left, together=together, threads=threads, **epilogue)
    return y, peaks


@pytest.mark.parametrize("taps, form", FORMS)
@pytest.mark.parametrize("channels, columns", [(1, 1), (3, 17), (17, 33), (33, 3)])
def test_all_tile_remainders_paddings_and_ways_through_the_work(taps, form, channels, columns):
    sizes = list(itertools.product(range(1, 14), range(1, 14)))[::1 if channels == 3 else 5]
    sizes.append((3, 75))  # more tiles side by side than are transformed together
    w = random_array((columns, channels, taps, taps), seed=1)
    for number, (height, width) in enumerate(sizes):
        top, left = -(number % 4), -(number // 4 % 4)
        scale = form.tile / form.step
        out = tuple(max(1, int(scale * (n - taps + 1 - before)) + number % 3)
                    for n, before in ((height, top), (width, left)))
        x = random_array((2, height, width, channels), seed=number)
        want = convolve64(x, w, top, left, out, scale)
        y, peaks = run_kernel(x, w, form, top, left, out, together=True, threads=2)
        assert_close(y, want, tolerance("forward", np.float32), f"{height}x{width} at {top},{left}")
        np.testing.assert_array_equal(peaks, np.abs(y).max(axis=(1, 2, 3)))
        staged, staged_peaks = run_kernel(x, w, form, top, left, out, together=False, threads=2)
        assert_same_bits((y, peaks), (staged, staged_peaks), "in one step and in two")


CASES = {
    "same": ((2, 20, 12, 9), (24, 20, 3, 3), attributes()),
    "valid": ((2, 17, 9, 11), (33, 17, 3, 3), attributes(((0, 0), (0, 0)))),
    "wide_padding": ((1, 3, 4, 6), (5, 3, 3, 3), attributes(((2, 2), (2, 2)))),
    "padding_over_kernel": ((1, 3, 4, 6), (5, 3, 3, 3), attributes(((4, 3), (0, 5)))),
    "asymmetric": ((2, 16, 7, 8), (16, 16, 3, 3), attributes(((0, 1), (2, 0)))),
    "one_channel": ((2, 1, 6, 6), (1, 1, 3, 3), attributes()),
    "one_pixel": ((2, 4, 1, 1), (6, 4, 3, 3), attributes()),
    "wide": ((1, 70, 3, 5), (130, 70, 3, 3), attributes()),
    "dilated": ((2, 20, 12, 9), (24, 20, 3, 3), attributes(((2, 2), (2, 2)), dilation=(2, 2))),
    "dilated_odd": ((2, 5, 11, 10), (7, 5, 3, 3), attributes(((3, 1), (0, 4)), dilation=(3, 2))),
    "dilated_one_axis": ((1, 9, 8, 7), (7, 9, 3, 3), attributes(((1, 1), (5, 5)), dilation=(1, 5))),
    "dilated_beyond": ((1, 4, 5, 6), (3, 4, 3, 3), attributes(((7, 7), (7, 7)), dilation=(7, 7))),
    "5x5": ((2, 20, 12, 9), (24, 20, 5, 5), attributes(((2, 2), (2, 2)))),
    "5x5_valid": ((2, 17, 9, 11), (33, 17, 5, 5), attributes(((0, 0), (0, 0)))),
    "5x5_padding_over_kernel": ((1, 3, 4, 6), (5, 3, 5, 5), attributes(((6, 3), (0, 7)))),
    "5x5_one_pixel": ((2, 4, 1, 1), (6, 4, 5, 5), attributes(((2, 2), (2, 2)))),
    "strided": ((2, 20, 12, 9), (24, 20, 3, 3), attributes(stride=(2, 2))),
    "strided_valid": ((2, 17, 9, 11), (33, 17, 3, 3), attributes(((0, 0), (0, 0)), stride=(2, 2))),
    "strided_asymmetric": ((2, 16, 8, 7), (16, 16, 3, 3),
                           attributes(((1, 0), (3, 2)), stride=(2, 2))),
    "strided_padding_over_kernel": ((1, 3, 4, 6), (5, 3, 3, 3),
                                    attributes(((5, 3), (1, 4)), stride=(2, 2))),
    "strided_one_pixel": ((2, 4, 1, 1), (6, 4, 3, 3), attributes(stride=(2, 2))),
    "strided_wide": ((1, 70, 3, 75), (130, 70, 3, 3), attributes(stride=(2, 2))),
    "5x5_dilated": ((2, 5, 11, 10), (7, 5, 5, 5), attributes(((3, 1), (0, 8)), dilation=(2, 3))),
}


def torch_conv(attrs):
    """The same convolution in PyTorch."""
    flat = [v for pair in reversed(attrs["padding"]) for v in pair]
    return lambda x, w, b: TF.conv2d(TF.pad(x, flat), w, b, stride=attrs["stride"],
                                     dilation=attrs["dilation"])


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_with_reference_and_pytorch(name):
    x, w, attrs = CASES[name]
    check_op("conv", [x, w, (w[0],)], attrs, torch=torch_conv(attrs),
             dtypes=["float32"])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    check_op("conv", [(2, 3, 7, 8), (4, 3, 3, 3), (4,)],
             attributes(((2, 1), (1, 2)), padding_mode=mode), dtypes=["float32"])


def test_the_gradient_of_the_input_is_taken_by_winograd():
    x, w = Tensor(random_array((1, 32, 12, 12)), True), random_array((32, 32, 3, 3), seed=1)
    apply(Conv, x, w, None, **attributes()).backward(random_array((1, 32, 12, 12), seed=2))
    calls = problem(x.shape, w.shape).calls
    assert {type(call) for key, (_, call) in calls.items() if "grad_weight" not in key} \
        == {kernel.Convolution}


def test_prepared_calls_see_what_changes_from_call_to_call():
    """Weights, the bias, threads and the batch are the call's; the rest is the problem's."""
    x, w = random_array((3, 16, 12, 12)), random_array((16, 16, 3, 3), seed=1)
    bias = random_array((16,), seed=2)
    for inputs in ((x, w, None), (x, 2 * w, None), (x[:1], w, bias), (x, w, None),
                   (x.astype(np.float64), w.astype(np.float64), None)):
        expected = reference.conv(*inputs, **GEOMETRY)
        for threads in (1, 2):
            with ck.threads(threads):
                y = apply(Conv, *inputs, **GEOMETRY).data
            assert y.dtype == inputs[0].dtype
            assert_close(y, expected, tolerance("forward", y.dtype))
    for level in ("highest", "high"):
        with ck.precision(level):
            assert_close(apply(Conv, x, w, None, **GEOMETRY).data,
                         reference.conv(x, w, None, **GEOMETRY), tolerance("forward", x.dtype))


@pytest.mark.parametrize("taps, form", PLAIN)
@pytest.mark.parametrize("channels, columns", [(1, 1), (3, 17), (17, 33), (33, 3)])
def test_the_gradient_of_the_weight_with_all_tile_remainders(taps, form, channels, columns):
    sizes = list(itertools.product(range(1, 10), range(1, 10)))[::1 if channels == 3 else 5]
    sizes.append((3, 75))
    for number, (height, width) in enumerate(sizes):
        top, left = -(number % 4), -(number // 4 % 4)
        out = (max(1, height - taps + 1 - top), max(1, width - taps + 1 - left))
        x = random_array((2, height, width, channels), seed=number)
        gy = random_array((2, *out, columns), seed=number + 1)
        want = np.empty((columns, channels, taps, taps))
        unit = np.eye(taps * taps).reshape(taps * taps, 1, taps, taps)
        for c in range(channels):
            shifted = convolve64(x[..., c:c + 1], unit, top, left, out)
            want[:, c] = np.einsum("nijt,nijo->ot", shifted, gy).reshape(columns, taps, taps)
        got = run_grad_weight(x, gy, form.tile, taps, top, left)
        what = f"{height}x{width} at {top},{left}"
        assert_close(got[0], want, tolerance("gradient", np.float32), what)
        assert got[1] == np.abs(gy).max()
        assert got[2] == np.abs(got[0]).max()
        assert_same_bits(got, run_grad_weight(x, gy, form.tile, taps, top, left, 2), what)


def run_grad_weight(x, gy, tile, taps, top, left, threads=1, **more):
    """Return the gradient of the weight, and the peaks of gy and of the gradient."""
    gw = np.full((gy.shape[3], x.shape[3], taps, taps), np.nan, np.float32)
    return gw, *winograd_grad.grad_weight(x, gy, gw, tile, top, left, (1, 1), threads, **more)


@pytest.mark.parametrize("taps, form", PLAIN)
@pytest.mark.parametrize("parts", [None, 1, 2, 7, 100_000])
def test_stages_and_parts_of_a_weight_gradient_change_no_bit_on_any_number_of_threads(taps, form,
                                                                                      parts):
    x, gy = random_array((9, 30, 31, 20)), random_array((9, 30, 31, 40), seed=1)
    before = taps // 2
    want = run_grad_weight(x, gy, form.tile, taps, -before, -before, parts=parts)
    for threads in (2, 3, 5):
        assert_same_bits(want, run_grad_weight(x, gy, form.tile, taps, -before, -before, threads,
                                               parts=parts))
    direct = np.empty_like(want[0])
    Direct.grad_weight(problem((9, 20, 30, 31), direct.shape, before), x, gy, direct, 1)
    assert_close(want[0], direct, tolerance("gradient", np.float32))


@pytest.mark.parametrize("taps, tile, channels, columns", [
    (3, 2, 420, 650), (3, 4, 350, 370), (5, 2, 350, 370), (5, 4, 261, 259)])
def test_blocks_of_a_large_weight_gradient_change_no_bit_on_any_threads(taps, tile, channels,
                                                                        columns):
    # Sums of over 16 MB beside few tiles: blocks with remainders of rows and columns.
    x, gy = random_array((3, 6, 7, channels)), random_array((3, 6, 7, columns), seed=1)
    before = taps // 2
    got = run_grad_weight(x, gy, tile, taps, -before, -before)
    direct = np.empty_like(got[0])
    Direct.grad_weight(problem((3, channels, 6, 7), direct.shape, before), x, gy, direct, 2)
    assert_close(got[0], direct, tolerance("gradient", np.float32))
    assert got[1:] == (np.abs(gy).max(), np.abs(got[0]).max())
    for threads in (2, 3):
        assert_same_bits(got, run_grad_weight(x, gy, tile, taps, -before, -before, threads))


def test_an_empty_batch_has_a_weight_gradient_of_zeros():
    x, w = Tensor(np.zeros((0, 3, 5, 5), np.float32)), Tensor(random_array((4, 3, 3, 3)), True)
    apply(Conv, x, w, None, **attributes()).backward(np.zeros((0, 4, 5, 5), np.float32))
    assert not w.grad.data.any()


def test_transposed_convolution_by_winograd():
    shape, w = (2, 32, 12, 12), (32, 48, 3, 3)
    taken = problem((2, 48, 12, 12), (32, 48, 3, 3))
    assert planner.choose(taken, "grad_input").name == "winograd"
    check_op("conv_transpose", [shape, w, (48,)],
             {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "output_padding": (0, 0),
              "groups": 1, "dilation": (1, 1)}, dtypes=["float32"])


@pytest.mark.parametrize("taps, form", FORMS)
def test_bias_residual_and_activation_come_after_the_sum(taps, form):
    x, w = random_array((2, 9, 10, 19)), random_array((40, 19, taps, taps), seed=1)
    bias, residual = random_array((40,), seed=2), random_array((2, 9, 10, 40), seed=3)
    plain, peaks = run_kernel(x, w, form, -1, -1, (9, 10))
    for code, alpha, beta, meaning in [
            (0, 0, 0, lambda v: v), (1, 0, 0, lambda v: np.maximum(v, 0)),
            (2, 0, 6, lambda v: np.clip(v, 0, 6)),
            (3, 0.25, 0, lambda v: np.where(v < 0, v * np.float32(0.25), v))]:
        for b, r in itertools.product([None, bias], [None, residual]):
            y, same = run_kernel(x, w, form, -1, -1, (9, 10), bias=b, residual=r, activation=code,
                                 alpha=alpha, beta=beta)
            want = plain + (0 if b is None else b)
            want = meaning(want + (0 if r is None else r))
            assert_same_bits(y, want.astype(np.float32))
            assert_same_bits(same, peaks)


@pytest.mark.parametrize("name", ["same", "dilated_odd", "5x5"])
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(name):
    x, w, attrs = CASES[name]
    weight = random_array(w, seed=1)
    check_batch_invariance(lambda batch: apply(Conv, batch, weight, None, **attrs).data,
                           random_array((65, *x[1:])))


@pytest.mark.parametrize("taps, form", FORMS)
def test_threads_batches_and_ways_through_the_work_change_no_bit(taps, form):
    x, w = random_array((40, 14, 13, 48)), random_array((72, 48, taps, taps), seed=1)
    want = run_kernel(x, w, form, -1, -1, (14, 13))
    for together, threads in itertools.product([None, True, False], [1, 2, 3, 5]):
        got = run_kernel(x, w, form, -1, -1, (14, 13), together=together, threads=threads)
        assert_same_bits(want, got, f"together={together}, {threads} threads")
    for n in (0, 7, 39):
        alone = run_kernel(x[n:n + 1], w, form, -1, -1, (14, 13))
        assert_same_bits(alone, (want[0][n:n + 1], want[1][n:n + 1]), f"sample {n}")


@pytest.mark.parametrize("inputs", ["normal", "after relu", "mean 3"])
def test_error_stays_within_the_bound_of_high_precision(inputs):
    """Against float64: the largest error, and the Frobenius norm's."""
    shape = {"normal": lambda a: a, "after relu": lambda a: np.maximum(a, 0),
             "mean 3": lambda a: a + 3}[inputs]
    print(f"\n{inputs}: channels, tile, step and taps, largest error, Frobenius norm's error")
    for channels, (taps, form) in itertools.product((16, 64, 256, 512), FORMS):
        before = taps // 2
        x = shape(random_array((1, 14, 14, channels), seed=channels)).astype(np.float32)
        w = random_array((48, channels, taps, taps), seed=1) / np.float32(taps * np.sqrt(channels))
        want = convolve64(x, w, -before, -before, (14, 14), form.tile / form.step)
        apart = run_kernel(x, w, form, -before, -before, (14, 14))[0] - want
        largest = np.abs(apart).max() / np.abs(want).max()
        norm = np.linalg.norm(apart) / np.linalg.norm(want)
        print(f"{channels:4d} {form.tile} {form.step} {taps} {largest:.1e} {norm:.1e}")
        # With eight points errors are those of split bfloat16; "high" allows norms of 1e-5.
        assert largest <= (1e-5 if form.side == 8 else 5e-6)
        assert norm <= (5e-6 if form.side == 8 else 2e-6)


# What is done to the first sample (values set at places, or a factor), and the weights' factor.
SPECIAL = {
    "infinity": ([((3, 4, 5), np.inf)], 1),
    "infinities of both signs": ([((3, 4, 5), np.inf), ((3, 5, 7), -np.inf)], 1),
    "NaN": ([((3, 0, 0), np.nan)], 1),
    "infinity in the last corner": ([((0, 11, 10), -np.inf)], 1),
    "largest numbers": ([((3, 4, 5), 3.4e38), ((3, 4, slice(6, 8)), -3.4e38)], 1e-2),
    "sum that overflows": ([((slice(None), 4, 5), 3e38)], 1),
    "tiny numbers": (1e-37, 1),
    "tiny products": (1e-19, 1e-4),
}


def make_special(x, places):
    """Do to the first sample what an entry of SPECIAL says."""
    if isinstance(places, float):
        x[0] *= np.float32(places)
        return
    for place, value in places:
        x[0][place] = value


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("taps, stride", winograd.FORMS)
@pytest.mark.parametrize("task", ["forward", "grad_input"])
def test_values_that_transforms_cannot_bear_come_out_as_in_direct_convolution(name, taps, stride,
                                                                              task):
    places, scale = SPECIAL[name]
    x = random_array((3, 16, 12, 11))
    w = random_array((16, 16, taps, taps), seed=1) * np.float32(scale)
    clean = x.copy()
    make_special(x, places)
    run = _forward if task == "forward" else _grad_input
    y, direct = run(x, w, "winograd", stride), run(x, w, "direct", stride)
    assert_same_bits(y[0], direct[0], "the sample with special values")
    assert_same_bits(y[1:], run(clean, w, "winograd", stride)[1:], "the other samples")
    assert not np.array_equal(y[1:], direct[1:])


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("where", ["x", "gy"])
def test_weight_gradients_with_such_values_come_out_as_in_direct_convolution(name, taps, where):
    places, _ = SPECIAL[name]
    arrays = {"x": random_array((1, 16, 12, 11)), "gy": random_array((1, 16, 12, 11), seed=1)}
    if isinstance(places, float):
        arrays["x"] *= np.float32(places)
        arrays["gy"] *= np.float32(1e-4)
    else:
        for place, value in places:
            arrays[where][0][place] = value
    gw = []
    for algorithm in ("winograd", "direct"):
        w = Tensor(random_array((16, 16, taps, taps), seed=2), True)
        attrs = attributes(((taps // 2,) * 2,) * 2, algorithm=algorithm)
        apply(Conv, arrays["x"], w, None, **attrs).backward(arrays["gy"])
        gw.append(w.grad.data)
    assert_same_bits(*gw)


def _forward(x, w, algorithm, stride=1):
    size = [-(-n // stride) for n in x.shape[2:]]
    bias, residual = random_array((16,), seed=8), random_array((len(x), 16, *size), seed=9)
    attrs = attributes(((w.shape[2] // 2,) * 2,) * 2, algorithm=algorithm, activation="relu",
                       stride=(stride, stride))
    return np.ascontiguousarray(apply(Conv, x, w, bias, residual, **attrs).data)


def _grad_input(x, w, algorithm, stride=1):
    height, width = x.shape[2:]
    zero = Tensor(np.zeros((*x.shape[:2], stride * height, stride * width), np.float32), True)
    attrs = attributes(((w.shape[2] // 2,) * 2,) * 2, algorithm=algorithm, stride=(stride, stride))
    apply(Conv, zero, w, None, **attrs).backward(x)
    return np.ascontiguousarray(zero.grad.data)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30, 0.0])
def test_weights_that_transforms_cannot_bear_go_to_direct_convolution(value):
    x, w = random_array((2, 16, 9, 9)), random_array((16, 16, 3, 3), seed=1)
    if value:
        w[3, 2, 1, 1] = value
    else:
        w *= np.float32(1e-12)
    assert_same_bits(_forward(x, w, "winograd"), _forward(x, w, "direct"))
    assert_same_bits(_grad_input(x, w, "winograd"), _grad_input(x, w, "direct"))


def test_zeros_give_zeros():
    x, w = np.zeros((2, 16, 9, 9), np.float32), random_array((16, 16, 3, 3))
    assert not apply(Conv, x, w, None, **attributes()).data.any()
    assert not apply(Conv, w, np.zeros_like(w), None, **attributes()).data.any()


def test_weights_shared_by_two_strides_are_transformed_for_each():
    x, w, cache = random_array((1, 2, 2, 16)), random_array((16, 16, 3, 3), seed=1), {}
    for stride in (1, 2, 1):        # both by tiles of two pixels
        shared = problem((1, 16, 2, 2), w.shape, stride=(stride, stride))
        y = np.empty(shared.y_last, np.float32)
        Winograd.forward(shared, x, w, y, cache, 1)
        assert_close(y, convolve64(x, w, -1, -1, (2, 2))[:, ::stride, ::stride],
                     tolerance("forward", np.float32))


def test_weights_are_transformed_once_while_they_stay():
    x, w, cache = random_array((1, 12, 12, 16)), random_array((16, 16, 3, 3), seed=1), {}
    y = np.empty((1, 12, 12, 16), np.float32)
    kept = []
    for _ in range(2):
        Winograd.forward(problem((1, 16, 12, 12), w.shape), x, w, y, cache, 1)
        Winograd.grad_input(problem((1, 16, 12, 12), w.shape), x, w, y, cache, 1)
        kept.append(dict(cache))
    assert len(kept[0]) == 2
    assert all(kept[1][key] is packed for key, packed in kept[0].items())


def test_what_winograd_takes_and_why_it_does_not():
    layer = (2, 64, 28, 28), (64, 64, 3, 3)
    for task in TASKS:
        assert planner.choose(problem(*layer), task).name == "winograd"
        medium = planner.choose(problem(*layer, precision="medium"), task).name
        assert medium == ("bf16" if dispatch.has_tiles() else "winograd_int16"
                          if dispatch.has_vnni_winograd() else "winograd")
        assert planner.choose(problem(*layer, precision="highest"), task).name == "direct"
        assert planner.choose(problem(*layer, dtype=np.float64), task).name == "direct"
    for x, w, more, reason in [
            ((1, 4, 9, 9), (4, 4, 7, 7), {}, "kernel of 7x7, transforms are for 3x3 and 5x5"),
            ((1, 4, 9, 9), (4, 4, 3, 5), {}, "kernel of 3x5, transforms are for 3x3 and 5x5"),
            ((1, 4, 9, 9), (4, 4, 3, 3), {"stride": (2, 1)}, "stride must be 1, or with 3x3"),
            ((1, 4, 9, 9), (4, 4, 5, 5), {"stride": (2, 2)}, "stride must be 1, or with 3x3"),
            ((1, 4, 9, 9), (4, 4, 3, 3), {"stride": (2, 2), "dilation": (2, 2)},
             "with stride 2 the dilation must be 1"),
            ((1, 4, 9, 9), (4, 2, 3, 3), {"groups": 2}, "2 groups, sums must run over all"),
            ((1, 4, 9, 9), (4, 4, 3, 3), {"dtype": np.float64}, "float64 is computed in its own"),
            ((1, 4, 9, 9), (4, 4, 3, 3), {"precision": "highest"}, "precision 'highest' asks for")]:
        with pytest.raises(ValueError, match=f"'winograd' cannot take conv .*: {reason}"):
            planner.choose(problem(x, w, **more), "forward", "winograd")
    for task in TASKS:
        wide = problem((2, 64, 28, 28), (64, 64, 5, 5), 2)
        assert Winograd.declines(wide, task) is None
        assert planner.choose(wide, task).name == "winograd" or dispatch.has_tiles()
    few = Winograd.declines(problem((1, 1, 28, 28), (8, 1, 3, 3)), "forward")
    assert few == "transforms of 1 and 8 channels on 28x28 pixels cost more than they save"


def test_what_winograd_takes_with_stride_2():
    layer, strided = ((2, 128, 28, 28), (128, 128, 3, 3)), {"stride": (2, 2)}
    for task in ("forward", "grad_input"):
        assert Winograd.refuses(problem(*layer, **strided), task) is None
        assert Winograd.declines(problem(*layer, **strided), task) is None
        highest = problem(*layer, **strided, precision="highest")
        assert planner.choose(highest, task).name == "direct"
        small = problem((2, 512, 14, 14), (512, 512, 3, 3), **strided)
        assert "cost more than they save" in Winograd.declines(small, task)
    assert Winograd.refuses(problem(*layer, 0, **strided), "forward") is None
    assert "odd padding" in Winograd.refuses(problem(*layer, 0, **strided), "grad_input")
    assert "no faster" in Winograd.refuses(problem(*layer, **strided), "grad_weight")


def test_transposed_convolution_with_stride_2_by_winograd():
    """Values that transforms cannot bear need one step of direct convolution for each phase."""
    attrs = {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "output_padding": (1, 1), "groups": 1,
             "dilation": (1, 1)}
    shape, w = (2, 96, 12, 11), (96, 96, 3, 3)
    taken = problem((2, 96, 24, 22), w, stride=(2, 2))
    assert planner.choose(taken, "grad_input").name == "winograd" or dispatch.has_tiles()
    check_op("conv_transpose", [shape, w, (96,)], attrs, dtypes=["float32"])
    layer = ck.nn.ConvTranspose2d(96, 96, 3, 2, 1, 1).eval()
    program = ck.compile(layer, (1, *shape[1:]))
    x = random_array(shape)
    for value in (1.0, np.inf):
        x[0, 0, 3, 4] = value
        assert_same_bits(program(x), layer(x).data)


def test_small_maps_and_many_channels_want_small_tiles():
    small, large = forms = winograd.FORMS[3, 1]
    assert winograd.choose_form(forms, 64, 64, (56, 56)) == large
    assert winograd.choose_form(forms, 512, 512, (7, 7)) == small


def test_tiles_of_4_with_5_taps_are_taken_where_they_were_measured(monkeypatch):
    small, large = forms = winograd.FORMS[5, 1]
    p = problem((1, 64, 27, 27), (192, 64, 5, 5), 2, precision="high")
    monkeypatch.setattr(dispatch, "has_tiles", lambda: False)
    assert winograd.forms_of(p, "forward") == winograd.forms_of(p, "grad_input") == forms
    assert winograd.choose_form(forms, 64, 192, (27, 27)) == large
    monkeypatch.setattr(dispatch, "has_tiles", lambda: True)
    assert winograd.forms_of(p, "forward") == winograd.forms_of(p, "grad_weight") == (small,)


def test_sizes_without_transforms_are_refused():
    with pytest.raises(ValueError, match=r"no transforms for F\(6x6, 3x3\) on tiles 6 apart"):
        run_kernel(random_array((1, 9, 9, 4)), random_array((4, 4, 3, 3)),
                   winograd.Form(6, 6, 8, 8), -1, -1, (9, 9))


def test_the_environment_switches_it_off():
    code = """
        import numpy as np
        from convkit.ops import planner
        from convkit.ops.conv_problem import forward_problem
        p = forward_problem((1, 64, 28, 28), (64, 64, 3, 3), np.dtype(np.float32), stride=(1, 1),
                            padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
        print(planner.choose(p, "forward").name, planner.choose(p, "forward", "winograd").name)
    """
    for switch, taken in ("0", "direct"), ("1", "winograd"):
        done = run_python(code, {"CONVKIT_WINOGRAD": switch, "CONVKIT_ISA": "avx2"})
        assert done.stdout.split() == [taken, "winograd"]


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    done = run_python("""
        import numpy as np
        from convkit._kernels import dispatch
        from convkit.ops.conv_algorithms.direct import Direct
        from convkit.ops.conv_problem import forward_problem
        from harness import assert_same_bits, random_array
        from test_winograd import FORMS, PLAIN, convolve64, run_grad_weight, run_kernel
        print(dispatch.isa())
        sizes = [(19, 33), (3, 9), (32, 8)]
        for taps, form, channels, columns in [(*f, *s) for f in FORMS for s in sizes]:
            x = random_array((2, 8 + taps, 11 + taps, channels))
            w = random_array((columns, channels, taps, taps), seed=1)
            want = convolve64(x, w, -2, -1, (13, 14), form.tile / form.step)
            y, peaks = run_kernel(x, w, form, -2, -1, (13, 14), together=True, threads=2)
            assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()
            assert_same_bits((y, peaks), run_kernel(x, w, form, -2, -1, (13, 14), together=False))
            if (taps, form) not in PLAIN:
                continue
            gw = run_grad_weight(x, want.astype(np.float32), form.tile, taps, -2, -1)[0]
            direct = np.empty_like(gw)
            p = forward_problem((2, channels, *x.shape[1:3]), gw.shape, gw.dtype, stride=(1, 1),
                                padding=((2, 2), (1, 1)), dilation=(1, 1), groups=1)
            Direct.grad_weight(p, x, want.astype(np.float32), direct, 1)
            assert np.abs(gw - direct).max() <= 1e-5 * np.abs(direct).max()
    """, {"CONVKIT_ISA": isa}, check=False)
    if "support only" in done.stderr:
        pytest.skip(f"no {isa} on this CPU")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
