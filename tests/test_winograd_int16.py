"""Winograd convolution on 16-bit integers (AVX-512 VNNI): errors, bits, no sum that overflows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import assert_same_bits, check_batch_invariance, random_array, run_python
from test_winograd import SPECIAL, attributes, convolve64, make_special, problem

import convkit as ck
from convkit import functional, nn
from convkit._kernels import dispatch, winograd_grad
from convkit._kernels import winograd as kernel
from convkit.autograd import Tensor, apply
from convkit.ops import planner
from convkit.ops.conv import Conv

pytestmark = pytest.mark.skipif(not dispatch.has_vnni_winograd(), reason="no AVX-512 VNNI")

NAME = "winograd_int16"
# F(4x4, 3x3), F(2x2, 5x5) and F(4x4, 5x5): taps and pixels of a tile. Errors by norm, against
# float64: "medium" allows 1e-2, and bfloat16 has 2.9e-3.
BOUNDS = {(3, 4): 1e-3, (5, 2): 1e-3, (5, 4): 2.8e-3}
BOUND = BOUNDS[3, 4]

all_forms = pytest.mark.parametrize("taps, tile", BOUNDS)
both_kernels = pytest.mark.parametrize("taps", [3, 5])


def convolve(x, w, top=-1, left=-1, size=None, *, tile=4, threads=1, together=None, **epilogue):
    """Pack and convolve; return the output and the samples' peaks."""
    columns, depth, taps, _ = w.shape
    count = taps ** 2
    packed = kernel.pack(w, tile, taps, tile, columns, depth, count * depth, count, False, "int16",
                         threads)
    y = np.full((len(x), *(size or x.shape[1:3]), columns), np.nan, np.float32)
    return y, kernel.run(x, packed, y, top, left, threads=threads, together=together, **epilogue)


def error(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@all_forms
@pytest.mark.parametrize("channels, columns", [
    (1, 1), (2, 16), (3, 17), (17, 33), (33, 3), (63, 64), (64, 40), (65, 31), (130, 70),
    (200, 96)])
def test_all_remainders_of_tiles_channels_and_padding(channels, columns, taps, tile):
    w = random_array((columns, channels, taps, taps), seed=1)
    for height, width, top, left in ((1, 1, -1, -1), (2, 3, -1, -1), (7, 9, -1, -1), (12, 5, 0, -2),
                                     (13, 22, -2, 0), (9, 75, -1, -1)):
        size = height - 2 - 2 * top, width - 2 - 2 * left
        x = random_array((3, height, width, channels), seed=height)
        want = convolve64(x, w, top, left, size)
        y, peaks = convolve(x, w, top, left, size, tile=tile, threads=2, together=True)
        assert error(y, want) < BOUNDS[taps, tile], (height, width)
        np.testing.assert_array_equal(peaks, np.abs(y).max(axis=(1, 2, 3)))
        staged = convolve(x, w, top, left, size, tile=tile, threads=2, together=False)
        assert_same_bits((y, peaks), staged, "in one step and in two")


@all_forms
def test_errors_are_below_those_of_bfloat16(taps, tile):
    shapes = {"normal": lambda a: a, "after relu": lambda a: np.maximum(a, 0),
              "mean 3": lambda a: a + 3,
              "uneven channels": lambda a: a * np.exp(2 * random_array(a.shape[-1:], seed=9))}
    for (name, shape), channels in itertools.product(shapes.items(), (64, 256, 512)):
        x = shape(random_array((1, 14, 14, channels), seed=channels)).astype(np.float32)
        w = random_array((48, channels, taps, taps), seed=1) / np.float32(3 * channels ** 0.5)
        want = convolve64(x, w, -1, -1, (14, 14))
        apart = error(convolve(x, w, tile=tile)[0], want)
        print(taps, tile, name, channels, f"{apart:.1e}")
        assert 1e-5 < apart < BOUNDS[taps, tile], name


@all_forms
@pytest.mark.parametrize("spread", ["equal", "spikes", "one", "signs"])
def test_no_distribution_of_values_makes_a_sum_overflow(spread, taps, tile):
    """Values that meet their like in every product reach the bound of Cauchy and Schwarz."""
    channels = 64
    value = {"equal": np.ones(channels), "spikes": np.where(np.arange(channels) % 8, 1e-3, 1.0),
             "one": np.where(np.arange(channels), 0.0, 1.0),
             "signs": np.where(np.arange(channels) % 2, -1.0, 1.0)}[spread].astype(np.float32)
    x = np.broadcast_to(value, (1, 8, 8, channels)).copy()
    w = np.broadcast_to(value[:, None, None], (32, channels, taps, taps)).copy()
    want = convolve64(x, w, -1, -1, (8, 8))
    for scale in (1e-3, 1.0, 1e4):
        y = convolve(x * np.float32(scale), w, tile=tile)[0]
        assert error(y, want * scale) < BOUNDS[taps, tile], scale
    pixels = np.resize(value, (8, 16, 16, 16)).transpose(0, 3, 2, 1).copy()
    gw = sum_weights(pixels, pixels, taps=taps, tile=tile)
    assert error(gw, weights64(pixels, pixels, taps)) < BOUNDS[taps, tile]


@all_forms
def test_threads_batches_and_ways_through_the_work_change_no_bit(taps, tile):
    for channels, columns, size in ((48, 72, (14, 13)), (200, 130, (7, 7))):
        x = random_array((40, *size, channels))
        w = random_array((columns, channels, taps, taps), seed=1)
        want = convolve(x, w, tile=tile)
        for together, threads in itertools.product([None, True, False], [1, 2, 3, 5]):
            got = convolve(x, w, tile=tile, together=together, threads=threads)
            assert_same_bits(want, got, f"together={together}, {threads} threads")
        for n in (0, 7, 39):
            assert_same_bits(convolve(x[n:n + 1], w, tile=tile),
                             (want[0][n:n + 1], want[1][n:n + 1]))


def test_bias_residual_and_activation_come_after_the_sum():
    x, w = random_array((2, 9, 10, 19)), random_array((40, 19, 3, 3), seed=1)
    bias, residual = random_array((40,), seed=2), random_array((2, 9, 10, 40), seed=3)
    plain, peaks = convolve(x, w)
    for b, r in itertools.product([None, bias], [None, residual]):
        y, same = convolve(x, w, bias=b, residual=r, activation=1)
        want = plain + (0 if b is None else b)
        want = np.maximum(want + (0 if r is None else r), 0)
        assert_same_bits((y, same), (want.astype(np.float32), peaks))


@both_kernels
@pytest.mark.parametrize("padding, dilation", [
    (((1, 1), (1, 1)), (1, 1)), (((0, 1), (2, 0)), (1, 1)), (((3, 1), (0, 4)), (3, 2))])
def test_values_and_the_gradient_of_the_input_agree_with_direct_convolution(padding, dilation,
                                                                            taps):
    x, w = random_array((2, 20, 16, 15)), random_array((24, 20, taps, taps), seed=1)
    results = []
    for algorithm in (NAME, "direct"):
        attrs = attributes(padding, dilation=dilation, algorithm=algorithm)
        image = Tensor(x, True)
        with ck.precision("medium"):
            y = apply(Conv, image, w, None, **attrs)
            y.backward(random_array(y.shape, seed=2))
        results.append((y.data, image.grad.data))
    for got, want in zip(*results, strict=True):
        assert 0 < error(got, want) < BOUNDS[taps, 4]


def test_a_sample_has_the_same_bits_alone_and_in_a_batch():
    weight = random_array((24, 20, 3, 3), seed=1)
    with ck.precision("medium"):
        check_batch_invariance(
            lambda batch: apply(Conv, batch, weight, None, **attributes(algorithm=NAME)).data,
            random_array((65, 20, 12, 9)))


def same(taps):
    """Return the padding that keeps an image's size."""
    return ((taps // 2,) * 2,) * 2


def run(x, w, algorithm, backward):
    """Convolve, or give the gradient of the input for `x` as that of the output."""
    image = Tensor(np.zeros_like(x) if backward else x, True)
    with ck.precision("medium"):
        y = apply(Conv, image, w, None, **attributes(same(w.shape[-1]), algorithm=algorithm))
        if not backward:
            return np.ascontiguousarray(y.data)
        y.backward(x)
    return np.ascontiguousarray(image.grad.data)


@both_kernels
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("backward", [False, True])
def test_values_that_integers_cannot_bear_come_out_as_in_direct_convolution(name, backward, taps):
    places, scale = SPECIAL[name]
    x = random_array((3, 16, 12, 11))
    w = random_array((16, 16, taps, taps), seed=1) * np.float32(scale)
    clean = x.copy()
    make_special(x, places)
    y, direct = run(x, w, NAME, backward), run(x, w, "direct", backward)
    assert_same_bits(y[0], direct[0], "the sample with special values")
    assert_same_bits(y[1:], run(clean, w, NAME, backward)[1:], "the other samples")
    assert not np.array_equal(y[1:], direct[1:])


def sum_weights(x, gy, threads=1, *, taps=3, tile=4, **more):
    """Return the gradient of a 3x3 or 5x5 weight, of x padded so that gy has its size."""
    gw = np.full((gy.shape[-1], x.shape[-1], taps, taps), np.nan, np.float32)
    before = -(taps // 2)
    winograd_grad.grad_weight(x, gy, gw, tile, before, before, (1, 1), threads, form="int16",
                              **more)
    return gw


def weights64(x, gy, taps=3):
    """Return the same in float64."""
    x, gy = x.astype(np.float64), gy.astype(np.float64)
    around = (taps // 2,) * 2
    wide = np.pad(x, ((0, 0), around, around, (0, 0)))
    height, width = x.shape[1:3]
    sums = [np.tensordot(gy, wide[:, i:i + height, j:j + width], ((0, 1, 2), (0, 1, 2)))
            for i in range(taps) for j in range(taps)]
    return np.stack(sums, -1).reshape(gy.shape[-1], x.shape[-1], taps, taps)


@all_forms
@pytest.mark.parametrize("channels, columns", [
    (1, 1), (3, 17), (8, 16), (9, 32), (17, 33), (33, 3), (64, 64), (70, 130)])
def test_the_gradient_of_the_weight_with_all_remainders(channels, columns, taps, tile):
    for samples, height, width in ((1, 1, 1), (1, 4, 4), (2, 5, 9), (3, 13, 22), (40, 8, 8)):
        x = random_array((samples, height, width, channels), seed=height)
        gy = random_array((samples, height, width, columns), seed=2)
        got, want = sum_weights(x, gy, 2, taps=taps, tile=tile), weights64(x, gy, taps)
        assert 0 < error(got, want) < BOUNDS[taps, tile], (samples, height, width)


@all_forms
def test_stages_parts_and_threads_of_the_gradient_of_the_weight(taps, tile):
    x, gy = random_array((37, 9, 10, 40)), random_array((37, 9, 10, 72), seed=1)
    want = weights64(x, gy, taps)
    for parts in (None, 1, 4, 100_000):
        alone = sum_weights(x, gy, parts=parts, taps=taps, tile=tile)
        assert error(alone, want) < BOUNDS[taps, tile]
        for threads in (2, 3, 5):
            got = sum_weights(x, gy, threads, parts=parts, taps=taps, tile=tile)
            assert_same_bits(alone, got, f"{parts} parts")


@all_forms
@pytest.mark.parametrize("samples", [1, 30])
def test_blocks_of_a_large_gradient_of_a_weight(samples, taps, tile):
    # Sums of over 16 MB; with 30 samples of tiles of more than one run.
    channels, columns = (261, 259) if taps == 5 and tile == 4 else (350, 370)
    x, gy = (random_array((samples, 7, 6, c), seed=c) for c in (channels, columns))
    alone = sum_weights(x, gy, taps=taps, tile=tile)
    assert 0 < error(alone, weights64(x, gy, taps)) < BOUNDS[taps, tile]
    for threads in (2, 3):
        assert_same_bits(alone, sum_weights(x, gy, threads, taps=taps, tile=tile))


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("where", ["x", "gy"])
@both_kernels
def test_gradients_of_weights_with_such_values_come_out_as_in_direct_convolution(taps, where, name):
    places, _ = SPECIAL[name]
    arrays = {"x": random_array((1, 16, 12, 11)), "gy": random_array((1, 16, 12, 11), seed=1)}
    if isinstance(places, float):
        arrays["x"] *= np.float32(places)
        arrays["gy"] *= np.float32(1e-4)
    else:
        make_special(arrays[where], places)
    gw = []
    for algorithm in (NAME, "direct"):
        w = Tensor(random_array((16, 16, taps, taps), seed=2), True)
        with ck.precision("medium"):
            y = apply(Conv, arrays["x"], w, None, **attributes(same(taps), algorithm=algorithm))
            y.backward(arrays["gy"])
        gw.append(w.grad.data)
    assert_same_bits(*gw)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30, 0.0])
def test_weights_that_transforms_cannot_bear_go_to_direct_convolution(value):
    x, w = random_array((2, 16, 9, 9)), random_array((16, 16, 3, 3), seed=1)
    if value:
        w[3, 2, 1, 1] = value
    else:
        w *= np.float32(1e-12)
    for backward in (False, True):
        assert_same_bits(run(x, w, NAME, backward), run(x, w, "direct", backward))


def test_zeros_give_zeros():
    x, w = np.zeros((2, 16, 9, 9), np.float32), random_array((16, 16, 3, 3))
    assert not run(x, w, NAME, False).any()
    assert not run(w[:, :, :1], np.zeros_like(w), NAME, False).any()


def chosen(before, after, size, precision="medium", task="forward", taps=3, **more):
    return planner.choose(problem((1, before, size, size), (after, before, taps, taps),
                                  taps // 2, precision=precision, **more), task).name


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles multiply more")
def test_what_they_are_taken_for():
    for size, channels in ((56, 64), (28, 128), (14, 256), (7, 512)):
        assert chosen(channels, channels, size) == NAME
        assert chosen(channels, channels, size, task="grad_input") == NAME
        assert chosen(channels, channels, size, "high") == "winograd"
        assert chosen(channels, channels, size, "highest") == "direct"
    assert chosen(64, 64, 56, dilation=(2, 2)) == NAME
    assert chosen(64, 64, 56, task="grad_weight") == NAME
    assert chosen(64, 64, 56, "high", task="grad_weight") == "winograd"
    assert chosen(64, 64, 56, stride=(2, 2)) != NAME
    for channels, size in ((32, 16), (32, 56), (24, 28)):
        assert chosen(channels, channels, size) == NAME
        assert chosen(channels, channels, size, task="grad_input") == NAME
    assert chosen(32, 32, 16, task="grad_weight") == NAME
    assert chosen(16, 16, 32) != NAME, "transforms would cost more than products gain"
    assert chosen(16, 32, 32) != NAME, "pairs of vectors are transformed, half of them zeros"
    assert chosen(32, 16, 28) != NAME, "few tiles are multiplied with one vector of columns"
    assert chosen(3, 64, 224) != NAME
    for task in ("forward", "grad_input", "grad_weight"):
        assert chosen(64, 192, 27, task=task, taps=5) == NAME, task
        assert chosen(32, 64, 14, task=task, taps=5) == NAME, task
        assert chosen(64, 192, 27, "high", task, taps=5) == "winograd"
    assert chosen(16, 32, 28, taps=5) == NAME
    assert chosen(8, 16, 28, taps=5) != NAME


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles multiply more")
def test_batch_norms_moments_are_those_of_what_the_convolution_wrote():
    ck.manual_seed(0)
    conv, norm = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
    x = Tensor(random_array((4, 64, 14, 14)))
    with ck.precision("medium"):
        y = conv(x)
        norm(functional.conv2d(x, conv.weight, padding=1, moments=True))
    mean = y.data.astype(np.float64).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(norm.running_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles multiply more")
def test_programs_take_them_and_recover_single_samples():
    ck.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1))
    net.eval()
    x = random_array((5, 64, 14, 14))
    wild = x.copy()
    wild[2, 3, 4, 5] = np.inf
    exact = ck.compile(net, (1, 64, 14, 14), precision="highest")
    program = ck.compile(net, (1, 64, 14, 14), precision="medium")
    assert [node.algorithm for node in program.profile(x).nodes].count(NAME) == 2
    assert 0 < error(program(x), exact(x)) < BOUND
    got = program(wild)
    assert_same_bits(np.delete(got, 2, 0), np.delete(program(x), 2, 0))
    assert_same_bits(np.isfinite(got[2]), np.isfinite(exact(wild)[2]))
    for threads in (1, 2):
        assert_same_bits(program(x), ck.compile(net, (1, 64, 14, 14), precision="medium",
                                                threads=threads)(x))


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets_do_without(isa):
    run_python("""
        import numpy as np
        from test_winograd import problem
        from convkit._kernels import dispatch, winograd
        from convkit.ops import planner
        assert not dispatch.has_vnni_winograd()
        assert planner.choose(problem((1, 64, 14, 14), (64, 64, 3, 3), precision="medium"),
                              "forward").name != "winograd_int16"
        try:
            winograd.pack(np.zeros((1, 1, 3, 3), "f"), 4, 3, 4, 1, 1, 9, 9, False, "int16", 1)
        except RuntimeError as e:
            assert "no instructions for Winograd's products of int16" in str(e)
        else:
            raise AssertionError("packed all the same")
    """, {"CONVKIT_ISA": isa})


def test_other_forms_have_no_transforms_to_integers():
    with pytest.raises(ValueError, match=r"no transforms to int16 for F\(2x2, 3x3\)"):
        kernel.pack(np.zeros((1, 1, 3, 3), "f"), 2, 3, 2, 1, 1, 9, 9, False, "int16", 1)
