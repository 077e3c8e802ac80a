"""Convolution, transposed convolution and linear layers: algorithms, forms, errors, bits."""

from __future__ import annotations

import numpy as np
import pytest
from harness import TF, assert_same_bits, check_batch_invariance, check_op, lay_out, random_array

from convkit import runtime
from convkit.autograd import Tensor, _Cached, apply, no_grad
from convkit.errors import DTypeError, ShapeError
from convkit.ops import planner
from convkit.ops.conv import Conv, ConvTranspose
from convkit.ops.conv_algorithms import TASKS
from convkit.ops.conv_problem import forward_problem
from convkit.ops.linear import Linear

PLAIN = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


def conv_attrs(rank=2, stride=1, padding=0, dilation=1, groups=1, **more):
    pads = ((padding, padding),) * rank if isinstance(padding, int) else padding
    return {"stride": (stride,) * rank, "padding": pads, "dilation": (dilation,) * rank,
            "groups": groups, **more}


def torch_conv(attrs):
    """The same convolution in PyTorch, for zero padding."""
    def run(x, w, b):
        flat = [v for pair in reversed(attrs["padding"]) for v in pair]
        function = TF.conv2d if x.ndim == 4 else TF.conv1d
        return function(TF.pad(x, flat), w, b, attrs["stride"], 0, attrs["dilation"],
                        attrs["groups"])
    return run


CASES = {
    "3x3": ((2, 5, 9, 11), (7, 5, 3, 3), conv_attrs(padding=1)),
    "one_channel": ((1, 1, 6, 6), (1, 1, 3, 3), conv_attrs()),
    "17_channels": ((2, 17, 8, 7), (33, 17, 3, 3), conv_attrs(padding=1)),
    "even_kernel": ((2, 3, 8, 9), (4, 3, 2, 4), conv_attrs(padding=((0, 1), (1, 2)))),
    "strided": ((2, 8, 13, 17), (18, 8, 3, 3), conv_attrs(stride=2, padding=1)),
    "stride_over_kernel": ((1, 3, 11, 11), (5, 3, 2, 2), conv_attrs(stride=3)),
    "dilated": ((2, 4, 12, 12), (6, 4, 3, 3), conv_attrs(dilation=2, padding=2)),
    "dilated downwards, few channels": ((2, 3, 12, 11), (6, 3, 3, 3),
                                        {**conv_attrs(padding=1), "dilation": (2, 1)}),
    "dilated sideways, few channels": ((2, 3, 12, 11), (6, 3, 3, 3),
                                       {**conv_attrs(padding=1), "dilation": (1, 2)}),
    "grouped": ((2, 12, 7, 7), (36, 4, 3, 3), conv_attrs(groups=3, padding=1)),
    "depthwise": ((2, 19, 9, 9), (19, 1, 3, 3), conv_attrs(groups=19, padding=1, stride=2)),
    "multiplier": ((2, 6, 7, 7), (18, 1, 3, 3), conv_attrs(groups=6, padding=1)),
    "multiplier_strided": ((3, 17, 9, 8), (34, 1, 4, 3),
                           conv_attrs(groups=17, stride=2, padding=2, dilation=2)),
    "multiplier_signal": ((2, 3, 21), (24, 1, 5), conv_attrs(1, groups=3, padding=2)),
    "multiplier_9": ((2, 3, 5, 6), (27, 1, 3, 3), conv_attrs(groups=3, padding=1)),
    "narrow": ((2, 24, 5, 3), (20, 24, 3, 3), conv_attrs(padding=1, stride=2)),
    "narrow_grouped": ((2, 16, 6, 2), (24, 8, 3, 3), conv_attrs(groups=2, padding=1)),
    "patches": ((2, 3, 16, 20), (40, 3, 4, 4), conv_attrs(stride=4)),
    "few_inputs": ((2, 2, 9, 9), (80, 2, 5, 5), conv_attrs(padding=2)),
    "1x1": ((3, 16, 5, 7), (70, 16, 1, 1), conv_attrs()),
    "1x1_strided": ((2, 9, 8, 8), (20, 9, 1, 1), conv_attrs(stride=2)),
    "first_layer": ((1, 3, 23, 23), (10, 3, 7, 7), conv_attrs(stride=2, padding=3)),
    "row_1x7": ((2, 6, 5, 12), (8, 6, 1, 7), conv_attrs(padding=((0, 0), (3, 3)))),
    "padding_over_kernel": ((1, 2, 3, 3), (3, 2, 2, 2), conv_attrs(padding=4)),
    "signal": ((2, 5, 19), (9, 5, 4), conv_attrs(1, stride=2, padding=1, dilation=2)),
    "one_pixel": ((2, 4, 1, 1), (6, 4, 3, 3), conv_attrs(padding=1)),
}


@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
@pytest.mark.parametrize("name", CASES)
def test_conv_agrees_with_reference_and_pytorch(name, algorithm):
    x, w, attrs = CASES[name]
    check_op("conv", [x, w, (w[0],)], {**attrs, "algorithm": algorithm},
             torch=torch_conv(attrs))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    check_op("conv", [(2, 3, 7, 8), (4, 3, 3, 3), (4,)],
             conv_attrs(padding=((2, 1), (1, 3)), padding_mode=mode))


@pytest.mark.parametrize("name, x, w, attrs", [
    ("plain", (2, 5, 4, 6), (5, 7, 3, 3), {}),
    ("strided", (2, 8, 5, 4), (8, 3, 4, 4), {"stride": 2, "padding": 1}),
    ("output_padding", (1, 3, 5, 5), (3, 6, 3, 3), {"stride": 3, "output_padding": 2}),
    ("gaps", (1, 4, 3, 3), (4, 5, 1, 1), {"stride": 2}),
    ("grouped_dilated", (2, 6, 5, 5), (6, 4, 3, 3), {"groups": 3, "dilation": 2}),
    ("depthwise", (2, 9, 5, 5), (9, 1, 3, 3), {"groups": 9, "stride": 2, "padding": 1}),
    ("signal", (2, 4, 9), (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
])
def test_conv_transpose_agrees_with_reference_and_pytorch(name, x, w, attrs):
    rank = len(x) - 2
    extra = attrs.pop("output_padding", 0) if "output_padding" in attrs else 0
    full = {**conv_attrs(rank, **attrs), "output_padding": (extra,) * rank}

    def in_torch(a, b, c):
        function = TF.conv_transpose2d if rank == 2 else TF.conv_transpose1d
        return function(a, b, c, full["stride"], [p for p, _ in full["padding"]],
                        full["output_padding"], full["groups"], full["dilation"])

    check_op("conv_transpose", [x, w, (w[1] * full["groups"],)], full,
             torch=in_torch)


@pytest.mark.parametrize("x, o", [((1, 5), 3), ((7, 33), 65), ((2, 3, 17), 1), ((130, 64), 10)])
def test_linear_agrees_with_reference_and_pytorch(x, o):
    check_op("linear", [x, (o, x[-1]), (o,)], torch=TF.linear)


@pytest.mark.parametrize("algorithm", ["direct", "im2col"])
@pytest.mark.parametrize("name", ["17_channels", "strided", "depthwise", "1x1", "first_layer"])
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(name, algorithm):
    x, w, attrs = CASES[name]
    weight = random_array(w, seed=1)

    def run(batch):
        return apply(Conv, batch, weight, None, **attrs, algorithm=algorithm).data

    check_batch_invariance(run, random_array((65, *x[1:])))


def test_linear_has_the_same_bits_alone_and_in_a_batch():
    weight, bias = random_array((33, 50), seed=1), random_array((33,), seed=2)
    check_batch_invariance(lambda x: apply(Linear, x, weight, bias).data, random_array((65, 50)))


def test_large_work_has_the_same_bits_on_any_number_of_threads():
    x, w = random_array((4, 48, 30, 30)), random_array((72, 48, 3, 3), seed=1)
    results = []
    for n in (1, 2, 3, 4, 8):
        with runtime.threads(n):
            a, b = Tensor(x, True), Tensor(w, True)
            y = apply(Conv, a, b, None, **conv_attrs(padding=1))
            y.backward(np.ones(y.shape, np.float32))
            results.append((y.data, a.grad.data, b.grad.data))
    for other in results[1:]:
        assert_same_bits(results[0], other)


def test_fused_bias_residual_and_activation_equal_separate_steps():
    x, w, b = random_array((2, 6, 9, 9)), random_array((20, 6, 3, 3), seed=1), random_array((20,))
    z = random_array((2, 20, 9, 9), seed=3)
    attrs = conv_attrs(padding=1)
    plain = apply(Conv, x, w, b, **attrs, algorithm="direct").data + z
    for activation, args, meaning in [
            (None, (), lambda v: v), ("relu", (), lambda v: np.maximum(v, 0)),
            ("relu6", (), lambda v: np.clip(v, 0, 6)),
            ("leaky_relu", (0.1,), lambda v: np.where(v < 0, v * np.float32(0.1), v))]:
        for algorithm in ("direct", "im2col"):
            fused = apply(Conv, x, w, b, z, **attrs, algorithm=algorithm, activation=activation,
                          activation_args=args).data
            np.testing.assert_allclose(fused, meaning(plain), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="fused activation and residual have no backward"):
        apply(Conv, Tensor(x, True), w, b, **attrs, activation="relu")
    with pytest.raises(ValueError, match="expected activation None, 'relu', 'relu6'"):
        apply(Conv, x, w, b, **attrs, activation="swish")


def test_auto_takes_the_first_candidate_that_does_not_decline():
    def problem(x, w, **attrs):
        return forward_problem(x, w, np.dtype(np.float32), **conv_attrs(**attrs))

    plain = problem((1, 64, 9, 9), (8, 64, 3, 3), precision="highest")
    assert planner.choose(plain, "forward").name == "direct"
    separate = problem((1, 8, 9, 9), (8, 1, 3, 3), groups=8)
    assert planner.choose(separate, "forward").name == "depthwise"
    narrow = problem((1, 1, 9, 9), (8, 1, 3, 3), dilation=2, precision="highest")
    assert planner.choose(narrow, "forward").name == "im2col"
    small = problem((1, 64, 3, 3), (8, 64, 3, 3), padding=1, precision="highest")
    assert planner.choose(small, "forward").name == "im2col"
    text = planner.explain(problem((2, 64, 9, 9), (8, 64, 3, 3), padding=1, precision="highest"))
    assert [line for line in text.splitlines() if "16: " not in line] == [
        "forward conv n2 c64 9x9 o8 k3x3 s1 p1 d1 g1 float32 highest",
        "  depthwise: one group",
        "  multiplied: one group",
        "  grouped: one group",
        "  im2col: direct reduces over whole kernel rows without a matrix",
        "  winograd: precision 'highest' asks for plain float32 products",
        "  direct: taken"]


def test_the_choice_does_not_depend_on_the_batch():
    for x, w, attrs in CASES.values():
        for task in TASKS:
            chosen = {planner.choose(
                forward_problem((n, *x[1:]), w, np.dtype(np.float32), **attrs), task).name
                for n in (1, 2, 64)}
            assert len(chosen) == 1


def test_unknown_and_unfit_algorithms_are_refused():
    x, w = random_array((1, 3, 5, 5)), random_array((4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"expected algorithm 'auto', .*'direct'.*, got 'fft'"):
        apply(Conv, x, w, None, **PLAIN, algorithm="fft")
    with pytest.raises(ValueError, match=r"'depthwise' cannot take conv n1 .*: one group"):
        apply(Conv, x, w, None, **PLAIN, algorithm="depthwise")


@pytest.mark.parametrize("x, w, attrs, message", [
    ((8, 3, 32, 32), (4, 64, 3, 3), {}, r"expected 64 input channels, got x of shape \(8, 3, 32"),
    ((3, 8, 8), (4, 3, 3, 3), {}, r"expected a weight with 3 axes for x of shape \(3, 8, 8\)"),
    ((8, 8), (4, 3, 3, 3), {}, r"expected x of shape \(N, C, L\) or \(N, C, H, W\), got \(8, 8\)"),
    ((1, 3, 4, 4), (4, 3, 5, 5), {}, r"kernel of size \(5, 5\) with dilation \(1, 1\) does not "
                                    r"fit the padded input of size \(4, 4\)"),
    ((1, 3, 9, 9), (4, 3, 3, 3), {"stride": 0}, "expected stride of at least 1"),
    ((1, 3, 9, 9), (4, 3, 3, 3), {"dilation": -1}, "expected dilation of at least 1"),
    ((1, 3, 9, 9), (4, 3, 3, 3), {"padding": ((-1, 0), (0, 0))}, "expected padding of at least 0"),
    ((1, 3, 9, 9), (4, 3, 3, 3), {"padding": ((1, 1),)}, r"2 \(before, after\) pairs"),
    ((1, 4, 9, 9), (4, 2, 3, 3), {"groups": 0}, "expected groups of at least 1, got 0"),
    ((1, 4, 9, 9), (5, 2, 3, 3), {"groups": 2}, "expected groups to divide the 5 output channels"),
    ((1, 3, 9, 9), (0, 3, 3, 3), {}, "expected a weight with no empty axis"),
    ((1, 3, 0, 9), (4, 3, 3, 3), {}, "does not fit the padded input"),
])
def test_what_does_not_fit_is_a_shape_error(x, w, attrs, message):
    full = {**PLAIN, **conv_attrs(**attrs)}
    with pytest.raises(ShapeError, match=message):
        apply(Conv, np.zeros(x, np.float32), np.zeros(w, np.float32), None, **full)
    with pytest.raises(ShapeError, match=message):
        Conv.shape(x, w, **full)


def test_transposed_errors():
    def run(x, w, **attrs):
        full = {**conv_attrs(), "output_padding": (0, 0), **attrs}
        return apply(ConvTranspose, np.zeros(x, np.float32), np.zeros(w, np.float32), None, **full)

    with pytest.raises(ShapeError, match="expected 4 input channels"):
        run((1, 3, 5, 5), (4, 3, 3, 3))
    with pytest.raises(ShapeError, match=r"output_padding .* smaller than stride"):
        run((1, 3, 5, 5), (3, 3, 3, 3), output_padding=(1, 1))
    with pytest.raises(ShapeError, match=r"padding .* is too large"):
        run((1, 3, 1, 1), (3, 3, 3, 3), padding=((2, 2), (2, 2)))


def test_types_must_agree():
    x, w = random_array((1, 3, 5, 5)), random_array((4, 3, 3, 3), np.float64)
    with pytest.raises(DTypeError, match="expected weight of float32 like x, got float64"):
        apply(Conv, x, w, None, **PLAIN)
    with pytest.raises(DTypeError, match="expected x of float32 or float64, got int64"):
        apply(Conv, x.astype(np.int64), w, None, **PLAIN)
    with pytest.raises(ShapeError, match=r"expected bias of shape \(4,\), got \(3,\)"):
        apply(Conv, x, w.astype(np.float32), np.zeros(3, np.float32), **PLAIN)


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read_only", "byte_swapped",
                                    "misaligned"])
def test_any_memory_layout_gives_the_same_bits(layout):
    x, w, b = random_array((2, 5, 7, 6)), random_array((4, 5, 3, 3), seed=1), random_array((4,))
    attrs = conv_attrs(padding=1)
    expected = apply(Conv, x, w, b, **attrs).data
    got = apply(Conv, lay_out(x, layout), lay_out(w, layout), lay_out(b, layout), **attrs).data
    assert_same_bits(np.ascontiguousarray(expected), np.ascontiguousarray(got))


def test_an_empty_batch_gives_an_empty_result_and_zero_weight_gradients():
    x = Tensor(np.zeros((0, 3, 5, 5), np.float32), True)
    w = Tensor(random_array((4, 3, 3, 3)), True)
    for algorithm in ("direct", "im2col"):
        y = apply(Conv, x, w, None, **PLAIN, algorithm=algorithm)
        assert y.shape == (0, 4, 3, 3)
        w.grad = None
        y.backward(np.zeros(y.shape, np.float32))
        assert x.grad.shape == x.shape
        assert not w.grad.data.any()


def test_sizes_beyond_memory_are_an_error_not_a_crash():
    x, w = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    for pad in (2**31, 2**40, 2**62, 2**70):
        with pytest.raises((MemoryError, ShapeError)):
            apply(Conv, x, w, None, **conv_attrs(padding=pad))


def test_nan_and_infinity_spread_as_far_as_the_kernel_reaches():
    x, w = np.zeros((1, 2, 7, 7), np.float32), np.ones((3, 2, 3, 3), np.float32)
    x[0, 0, 3, 3] = np.nan
    y = apply(Conv, x, w, None, **conv_attrs(padding=1)).data
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:5] = True
    assert (np.isnan(y) == expected).all()
    x[0, 0, 3, 3] = np.inf
    assert (np.isposinf(apply(Conv, x, w, None, **conv_attrs(padding=1)).data) == expected).all()


def test_packed_weights_follow_the_parameter():
    x, w = random_array((1, 3, 8, 8)), _Cached(random_array((4, 3, 3, 3), seed=1))
    with no_grad():
        before = apply(Conv, x, w, None, **PLAIN).data.copy()
        w.mul_(2)
        after = apply(Conv, x, w, None, **PLAIN).data
    assert_same_bits(np.ascontiguousarray(before * 2), np.ascontiguousarray(after))


def test_what_equals_an_accepted_argument_but_is_none_is_refused_every_time():
    x, w = (1, 4, 8, 8), (4, 4, 3, 3)
    good = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    for _ in range(2):
        assert forward_problem(x, w, np.dtype(np.float32), **good).out_size == (8, 8)
        for bad in ({"stride": (1.0, 1.0)}, {"dilation": (1.0, 1)}, {"groups": True},
                    {"padding": ((1.0, 1), (1, 1))}, {"groups": 1.0}):
            with pytest.raises(ShapeError):
                forward_problem(x, w, np.dtype(np.float32), **{**good, **bad})
