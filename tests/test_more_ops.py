"""Functions, comparisons, choosing, reductions, picking, quantisation and resizing."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, choice_cases, function_cases, pick_cases, resize_cases
from harness import LAYOUTS, assert_same_bits, check_batch_invariance, check_op, random_array

import convkit as ck
import convkit.functional as F
from convkit import autograd, reference
from convkit.ops import REGISTRY as OPS

RNG = np.random.default_rng(5)
CASES = [*function_cases(RNG, True), *choice_cases(RNG, True), *pick_cases(RNG, True),
         *resize_cases(RNG, True)]


def run(name, *inputs, **attrs):
    result = autograd.apply(OPS[name], *inputs, **attrs)
    return tuple(y.data for y in result) if isinstance(result, tuple) else result.data


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case, torch):
    check_op(case.name, case.inputs, case.attrs, gradcheck=case.name not in ("take", "gather"),
             torch=lambda *xs: case.torch(torch.nn.functional, *xs))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout(layout):
    check_op("erf", [(2, 3, 5, 4)], layouts=[layout])
    check_op("softplus", [(2, 3, 5, 4)], layouts=[layout])
    check_op("maximum", [(2, 3, 5, 4), (3, 1, 1)], layouts=[layout])
    check_op("amax", [(2, 3, 5, 4)], {"dim": (2, 3)}, layouts=[layout])
    check_op("resize", [(2, 3, 5, 4)], {"size": (2, 3, 7, 9), "mode": "cubic"}, layouts=[layout])
    check_op("take", [(2, 3, 5, 4), np.array([2, 0])], {"dim": 1}, layouts=[layout])


# -- booleans ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_comparisons(name, dtype):
    a = np.arange(12).reshape(3, 4).astype(dtype)
    b = np.array([0, 3, 2, 9], dtype)
    got = run(name, a, b)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, getattr(reference, name)(a, b))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name):
    a, b = np.array([[True], [False]]), np.array([True, False])
    np.testing.assert_array_equal(run(name, a, b), getattr(reference, name)(a, b))


def test_questions_about_elements():
    x = np.array([0, -0.0, 1, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(run("isnan", x), reference.isnan(x))
    np.testing.assert_array_equal(run("isinf", x), reference.isinf(x))
    np.testing.assert_array_equal(run("logical_not", x > 0), reference.logical_not(x > 0))


# -- integers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integer_arithmetic(dtype):
    a, b = np.array([7, 100, 3, 0], dtype), np.array([2, 3, 3, 5], dtype)
    for name, want in (("maximum", np.maximum), ("minimum", np.minimum),
                       ("remainder", np.remainder), ("fmod", np.fmod)):
        got = run(name, a, b)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want(a, b))
    assert run("clamp", a, min=-1000.0, max=50).dtype == dtype
    np.testing.assert_array_equal(run("clamp", a, min=-1000.0, max=50), [7, 50, 3, 0])


def test_rounded_quotients_of_integers():
    a = np.array([7, -7, 7, -7, 6, -6], np.int32)
    b = np.array([2, 2, -2, -2, 3, 3], np.int32)
    assert run("div", a, b, rounding_mode="trunc").tolist() == [3, -3, -3, 3, 2, -2]
    assert run("div", a, b, rounding_mode="floor").tolist() == [3, -4, -4, 3, 2, -2]
    assert run("div", a, np.zeros(6, np.int32), rounding_mode="trunc").tolist() == [0] * 6
    with pytest.raises(ValueError, match="rounding_mode"):
        run("div", a, b, rounding_mode="up")


def test_reductions_of_integers_and_of_nothing():
    x = np.array([[3, -1], [2, 5]], np.int32)
    assert run("amax", x, dim=(1,)).tolist() == [3, 5]
    assert run("prod", x, dim=(0,)).tolist() == [6, -5]
    assert run("cumsum", x, dim=0).tolist() == [[3, -1], [5, 4]]
    nothing = np.zeros((2, 0), np.float32)
    assert run("amax", nothing, dim=(1,)).tolist() == [-np.inf] * 2
    assert run("amin", nothing, dim=(1,)).tolist() == [np.inf] * 2
    assert run("prod", nothing, dim=(1,)).tolist() == [1, 1]
    with pytest.raises(ck.ShapeError, match="at least one element"):
        run("argmax", nothing, dim=1)


def test_places_of_extremes(torch):
    x = np.array([[1, 3, 3], [np.nan, 0, np.nan]], np.float32)
    for name in ("argmax", "argmin"):
        for dim in (None, 0, 1):
            want = getattr(torch, name)(torch.from_numpy(x), dim)
            np.testing.assert_array_equal(run(name, x, dim=dim), want.numpy())
    values, places = run("topk", np.array([1, 3, 3, 2], np.float32), k=3)
    assert values.tolist() == [3, 3, 2] and places.tolist() == [1, 2, 3]
    values, places = run("topk", np.array([1, 3, 1, 2], np.uint64), k=2, largest=False)
    assert values.tolist() == [1, 1] and places.tolist() == [0, 2]


def test_padding_of_integers():
    x = np.arange(4)
    assert run("pad", x, padding=((1, 2),), mode="reflect").tolist() == [1, 0, 1, 2, 3, 2, 1]
    assert run("pad", x, padding=((-1, 1),), value=9).tolist() == [1, 2, 3, 9]
    assert run("pad", x, padding=((2, 0),), mode="circular").tolist() == [2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int64", "bool"])
def test_casts(dtype):
    x = random_array((2, 3, 4, 5), layout="channels_last") * 5
    got = run("cast", np.abs(x), dtype=dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, reference.cast(np.abs(x), dtype=dtype))
    t = ck.tensor(np.ones(3, np.float32), requires_grad=True)
    autograd.apply(OPS["cast"], t, dtype="float64").sum().backward()
    assert t.grad.data.dtype == np.float32 and t.grad.tolist() == [1, 1, 1]


# -- indices ----------------------------------------------------------------------------------


def test_indices_count_from_the_end_and_stay_inside():
    x = np.arange(5, dtype=np.float32)
    assert run("take", x, np.array([-1, 0])).tolist() == [4, 0]
    for name in ("take", "gather"):
        for wrong in (5, -6, 2**62):
            with pytest.raises(ck.ShapeError, match=f"index {wrong} is out of range for an axis"):
                run(name, x, np.array([wrong]))
        with pytest.raises(ck.DTypeError, match="indices of integers"):
            run(name, x, np.array([0.5]))


def test_messages():
    x = random_array((2, 3))
    for call, message in (
            (lambda: run("expand", x, shape=(2, 4)), r"cannot expand \(2, 3\) to \(2, 4\)"),
            (lambda: run("topk", x, k=4), "expected k from 0 to 3"),
            (lambda: run("clamp", x), "expected min or max"),
            (lambda: run("resize", x, size=(2,)), "expected size with a value for each of 2 axes"),
            (lambda: run("resize", x, size=(2, 3), scale=(1, -1)), "positive finite scales"),
            (lambda: run("cumsum", x, dim=2), "dim 2 is out of range"),
            (lambda: run("quantize_linear", x, np.ones(4, np.float32)), r"scale of shape \(\) or"),
            (lambda: run("where", x, x, x), "expected condition of bool"),
            (lambda: run("cast", x, dtype="str"), "expected dtype"),
            (lambda: run("resize", x, size=(2, 3), mode="area"), "expected mode")):
        with pytest.raises((ck.ShapeError, ck.DTypeError, ValueError), match=message):
            call()


# -- quantisation -----------------------------------------------------------------------------


@pytest.mark.parametrize("attrs", [{"dtype": "int8"}, {"dtype": "uint8"}, {"dtype": "uint16"},
                                   {"dtype": "int8", "quant_min": -8, "quant_max": 7}])
@pytest.mark.parametrize("form", ["one", "channels", "blocks"])
def test_quantisation(attrs, form):
    x = random_array((2, 5, 3, 4), seed=1) * 20
    shape = {"one": (), "channels": (5,), "blocks": (2, 3, 3, 4)}[form]
    scale = np.random.default_rng(2).uniform(0.1, 0.3, shape).astype(np.float32)
    zero = np.random.default_rng(3).integers(0, 7, shape).astype(attrs["dtype"])
    block = {"block_size": 2 if form == "blocks" else 0}
    q = run("quantize_linear", x, scale, zero, **attrs, **block)
    assert q.dtype == attrs["dtype"]
    np.testing.assert_array_equal(q, reference.quantize_linear(x, scale, zero, **attrs, **block))
    y = run("dequantize_linear", q, scale, zero, **block)
    np.testing.assert_allclose(y, reference.dequantize_linear(q, scale, zero, **block), rtol=1e-6)


def test_quantisation_rounds_halves_to_even_and_saturates():
    x = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    got = run("quantize_linear", x, np.float32(1).reshape(()), dtype="int8")
    assert got.tolist() == [0, 2, 2, 0, 127, -128, 127, -128, 0]


# -- resizing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "asymmetric",
                                         "pytorch_half_pixel", "align_corners",
                                         "tf_crop_and_resize"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_in_every_mode(coordinates, mode):
    for size, scale in (((1, 2, 7, 1), None), ((1, 2, 3, 5), (1.0, 1.0, 0.7, 1.3))):
        for extra in ({}, {"exclude_outside": True}, {"antialias": True}):
            check_op("resize", [(1, 2, 5, 4)], {
                "size": size, "scale": scale, "coordinates": coordinates, "mode": mode, **extra,
                "roi": ((0, 1), (0, 1), (-0.2, 0.9), (0.2, 1.3)), "extrapolation_value": 3.0},
                layouts=["channels_last"], gradcheck=not extra)


@pytest.mark.parametrize("how", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_rounds_as_asked(how):
    check_op("resize", [(1, 1, 4, 6)], {"size": (1, 1, 8, 3), "nearest_mode": how,
                                        "coordinates": "asymmetric"})


def test_resize_of_no_samples():
    x = ck.tensor(np.zeros((0, 2, 3, 4), np.float32), requires_grad=True)
    y = F.interpolate(x, scale_factor=2, mode="bicubic")
    assert y.shape == (0, 2, 6, 8)
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_a_sample_alone_and_in_a_batch():
    x = random_array((5, 3, 7, 6), layout="channels_last")
    check_batch_invariance(lambda x: run("resize", x, size=(len(x), 3, 11, 4), mode="cubic"), x)
    check_batch_invariance(lambda x: run("amax", x, dim=(2, 3)), x)
    check_batch_invariance(lambda x: run("erf", x), x)
    assert_same_bits(run("softplus", x)[1:2], run("softplus", x[1:2]))
