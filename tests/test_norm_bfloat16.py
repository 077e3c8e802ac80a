"""Batch norm's passes over activations and gradients that are bfloat16 (uint16 arrays)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from harness import assert_same_bits, run_python

from convkit._kernels import dispatch, norm

SHAPES = [(3, 5, 7, 1), (2, 9, 3), (3, 7, 5, 17), (2, 19, 31, 64), (67, 67), (1, 130), (40, 41, 16)]
# Large enough to be written past the caches; with a shorter row at the end, and without.
FAR = [(262147, 16), (43700, 96)]
SPECIAL = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-30, -0.0, 0.0, 1.0, -1.0]
ALL, RELU, RELU6 = (-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0)


def narrow(x):
    """Return the nearest bfloat16, ties to even; what is finite stays so."""
    bits = x.view(np.uint32).astype(np.uint64)
    size = bits & 0x7fffffff
    half = (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    half = np.where(size >= 0x7f7f8000, bits >> 16, half)
    return np.where(size > 0x7f800000, bits >> 16 | 0x40, half).astype(np.uint16)


def widen(x):
    """Return the numbers of an array, of whichever kind."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x


def random(rng, shape, half=False):
    """Return normal numbers, some of them large."""
    x = rng.standard_normal(shape).astype(np.float32)
    x.flat[1::7] *= 30
    return narrow(x) if half else x


def parameters(rng, channels, count):
    """Return some numbers for each channel."""
    return [rng.standard_normal(channels).astype(np.float32) for _ in range(count)]


def filled(shape, half):
    """Return an array that holds something else."""
    return np.full(shape, 7, np.uint16 if half else np.float32)


def masked(g, x, numbers, y, mask):
    """Return a gradient behind an activation, and what it was decided by, in float64."""
    _, scale, shift = (np.float64(a) for a in numbers)
    v = np.float64(widen(x)) * scale + shift if y is None else np.float64(widen(y))
    with np.errstate(invalid="ignore"):
        return np.where((v <= mask[0]) | (v >= mask[1]), np.float32(0), widen(g)), v


def near(v, mask):
    """Tell where rounding may decide, as the argument is worked out anew."""
    return (np.abs(v - mask[0]) < 1e-4) | (np.abs(v - mask[1]) < 1e-4)


def check_affine(rng, shape, n, ends, fresh, residual, rounds, out_half):
    """One combination of `norm.affine_kept`; `residual`: None, or whether it is bfloat16."""
    numbers = center, scale, shift = parameters(rng, shape[-1], 3)
    x, more = random(rng, shape), residual if residual is None else random(rng, shape, residual)
    kept, out = narrow(x - center), filled(shape, out_half)
    got = filled(shape, True) if fresh else kept.copy()
    if not fresh:
        numbers[0] = np.full_like(center, np.nan)
    norm.affine_kept(x if fresh else None, got, *numbers, ends, out, n, more, rounds=rounds)
    assert_same_bits(got, kept)
    plain = filled(shape, False)
    norm.affine_kept(None, kept, center, scale, shift, ends, plain, 1, more)
    terms = [np.float64(widen(kept)) * scale, np.float64(shift) * np.ones(shape),
             np.zeros(shape) if more is None else np.float64(widen(more))]
    error = 4 * 2.0 ** -24 * sum(np.abs(t) for t in terms)
    assert (np.abs(plain - np.clip(sum(terms), *ends)) <= error).all()
    if out_half:
        assert_same_bits(out, narrow(plain))
    else:
        assert_same_bits(out, widen(narrow(plain)) if rounds else plain)


def check_sums(rng, shape, n, mask, gy_half, kept_value, in_place):
    """One combination of `norm.masked_sums` where the input is bfloat16."""
    numbers = parameters(rng, shape[-1], 3)
    g, x = random(rng, shape, gy_half), random(rng, shape, True)
    y = random(rng, shape, True) if kept_value else None
    wanted, v = masked(g, x, numbers, y, mask)
    gy = g.copy()
    out = (gy if in_place else filled(shape, gy_half)) if kept_value else None
    sums, products = norm.masked_sums(gy, x, mask, *numbers, y, out, n)
    if kept_value:
        assert_same_bits(widen(out), wanted)
    if in_place or not kept_value:
        again = norm.masked_sums(widen(g).copy(), x, mask, *numbers, y,
                                 filled(shape, False) if kept_value else None, 1)
        assert_same_bits(sums, again[0])
        assert_same_bits(products, again[1])
    doubtful = np.abs(widen(g)) * (near(v, mask) & (not kept_value))
    axes = tuple(range(len(shape) - 1))
    for got, of in ((sums, np.ones(shape)), (products, np.float64(widen(x)))):
        bound = (1e-5 * np.abs(wanted * of) + doubtful * np.abs(of)).sum(axes) + 1e-12
        assert (np.abs(got - (wanted * of).sum(axes)) <= bound).all()


def check_input(rng, shape, n, mask, gy_half, out_half, in_place):
    """One combination of `norm.masked_input` where the input is bfloat16."""
    numbers = parameters(rng, shape[-1], 3)
    factor, slope, offset = rest = parameters(rng, shape[-1], 3)
    g, x = random(rng, shape, gy_half), random(rng, shape, True)
    gy, plain = g.copy(), filled(shape, False)
    out = gy if in_place else filled(shape, out_half)
    norm.masked_input(gy, x, mask, *numbers, *rest, out, n)
    norm.masked_input(widen(g).copy(), x, mask, *numbers, *rest, plain, 1)
    assert_same_bits(out, narrow(plain) if out_half else plain)
    through, v = masked(g, x, numbers, None, mask)
    terms = [np.float64(through) * factor, np.float64(widen(x)) * slope,
             np.float64(offset) * np.ones(shape)]
    close = np.abs(plain - sum(terms)) <= 4 * 2.0 ** -24 * sum(np.abs(t) for t in terms)
    assert (close | near(v, mask)).all()


def check_shape(shape, n):
    """Every combination on one shape."""
    rng = np.random.default_rng(sum(shape))
    for ends, fresh, residual, rounds, half in product(
            (ALL, RELU, RELU6), (False, True), (None, False, True), (False, True), (False, True)):
        check_affine(rng, shape, n, ends, fresh, residual, rounds, half)
    for mask, half, kept_value, in_place in product(
            ((np.nan, np.nan), (0.0, np.nan), RELU6), *[(False, True)] * 3):
        check_sums(rng, shape, n, mask, half, kept_value, in_place)
        for out_half in (False, True):
            check_input(rng, shape, n, mask, half, out_half, in_place and half == out_half)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("n", [1, 2])
def test_every_combination(shape, n):
    check_shape(shape, n)


@pytest.mark.parametrize("isa", [i for i in dispatch.supported_isas() if i != dispatch.isa()])
def test_every_instruction_set(isa):
    run_python("""
        import test_norm_bfloat16 as tests
        from convkit._kernels import threads
        threads.set_work_per_thread(0.0)
        for shape in tests.SHAPES:
            tests.check_shape(shape, 2)
        for shape in tests.FAR:
            tests.check_far(shape)
        tests.test_what_is_not_finite()
    """, {"CONVKIT_ISA": isa})


def check_far(shape):
    """Each kind of result that is written past the caches has the bits of one that is not."""
    rng = np.random.default_rng(0)
    numbers, rest = parameters(rng, shape[-1], 3), parameters(rng, shape[-1], 3)
    x, mask, values = random(rng, shape), (0.0, np.nan), [random(rng, shape, True)] * 3
    floats, halves = ([filled(shape, half) for _ in range(4 + half)] for half in (False, True))

    def passes(x, h, gy, y, floats, halves):
        norm.affine_kept(x, halves[0], *numbers, RELU, halves[1], 2)
        norm.affine_kept(None, h, *numbers, RELU, floats[0], 2, y)
        norm.affine_kept(None, h, *numbers, RELU, halves[2], 2, x)
        norm.masked_sums(gy, h, mask, *numbers, y, halves[3], 2)
        norm.masked_sums(x, h, mask, *numbers, y, floats[1], 2)
        norm.masked_input(x, h, mask, *numbers, *rest, halves[4], 2)
        norm.masked_input(x, h, mask, *numbers, *rest, floats[2], 2)
        norm.affine_kept(None, h, *numbers, RELU, floats[3], 2, rounds=True)

    passes(x, *values, floats, halves)
    for part in np.array_split(np.arange(len(x)), 5):
        cut = slice(part[0], part[-1] + 1)
        wanted = [np.empty_like(a[cut]) for a in (*floats, *halves)]
        passes(x[cut], *[a[cut] for a in values], wanted[:4], wanted[4:])
        for got, want in zip((*floats, *halves), wanted, strict=True):
            assert_same_bits(got[cut], want)


@pytest.mark.parametrize("shape", FAR, ids=str)
def test_results_beyond_the_caches(shape):
    check_far(shape)


def test_an_array_that_starts_within_a_line_is_no_different():
    """Where lines cannot be written whole, nothing goes past the caches."""
    shape, rng = FAR[0], np.random.default_rng(1)
    numbers, kept = parameters(rng, shape[-1], 3), random(rng, shape, True)
    whole = np.empty(kept.size + 1, np.uint16)
    out, wanted = whole[1:].reshape(shape), filled(shape, False)
    norm.affine_kept(None, kept, *numbers, RELU, out, 2)
    norm.affine_kept(None, kept, *numbers, RELU, wanted, 2)
    assert_same_bits(out, narrow(wanted))


def test_what_is_not_finite():
    """Infinities and NaN stay so, no finite number becomes one, and a mask stops what it stops."""
    x = np.array(SPECIAL * 7, np.float32).reshape(-1, 5)
    x.view(np.uint32)[3, :3] = 0x7f800001, 0xffffffff, 0x7f7fffff
    one, zero = np.ones(5, np.float32), np.zeros(5, np.float32)
    kept, out = np.empty(x.shape, np.uint16), np.empty(x.shape, np.uint16)
    norm.affine_kept(x, kept, zero, one, zero, ALL, out, 1)
    quiet = narrow(x) | np.where(np.isnan(x), 0x40, 0).astype(np.uint16)
    assert_same_bits(kept, quiet)
    got = widen(out)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(x))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    norm.masked_input(quiet, kept, (np.nan, np.nan), zero, one, zero, one, zero, zero, out, 1)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(widen(out)[finite], widen(quiet)[finite])
    assert not np.isfinite(widen(out)[~finite]).any()
    gy = quiet.copy()
    norm.masked_sums(gy, narrow(np.ones_like(x)), (0.0, np.nan), zero, one, zero,
                     narrow(np.where(finite, 1, -1).astype(np.float32)), gy, 1)
    assert_same_bits(gy, np.where(finite, quiet, 0).astype(np.uint16))


def test_arrays_that_do_not_fit():
    x, half, one = np.ones((4, 3), np.float32), np.ones((4, 3), np.uint16), np.ones(3, np.float32)
    numbers, mask = (one, one, one), (0.0, np.nan)
    double = x.astype(np.float64)

    def affine(out, residual=None, rounded=None):
        norm.affine_kept(None, half.copy(), *numbers, RELU, out, 1, residual, rounded)

    def sums(gy, x, y=None, out=None):
        norm.masked_sums(gy, x, mask, *numbers, y, out, 1)

    def masked_input(gy, x, out):
        norm.masked_input(gy, x, mask, *numbers, *numbers, out, 1)

    for call, arrays in (
            (affine, (double,)), (affine, (half.view(np.int16),)), (affine, (half, double)),
            (affine, (half, None, half.copy())),
            (sums, (half, x)), (sums, (half, half, x, half.copy())),
            (sums, (half, half, half, x)), (sums, (x, half, half, half.copy())),
            (sums, (double, half)),
            (masked_input, (half, x, half.copy())),
            (masked_input, (x, x, half)), (masked_input, (double, half, double))):
        with pytest.raises(TypeError):
            call(*arrays)
    for call, arrays in ((affine, (half.T.copy().T,)), (affine, (half, half[:3])),
                         (sums, (half[:3], half)), (masked_input, (half, half, half[:, :2]))):
        with pytest.raises((TypeError, ValueError)):
            call(*arrays)
    read_only = half.copy()
    read_only.flags.writeable = False
    for call, arrays in ((affine, (read_only,)), (sums, (half, half, half, read_only)),
                         (masked_input, (half, half, read_only))):
        with pytest.raises(ValueError, match="read-only"):
            call(*arrays)
