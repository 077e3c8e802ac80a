"""Convolution on float16 vectors (AVX512-FP16): precision "medium" on CPUs without tiles."""

from __future__ import annotations

import numpy as np
import pytest
import test_conv
import test_gathered_moments as gathered
from harness import assert_same_bits, check_batch_invariance, random_array, run_op, run_python
from program_checks import check_bits, strided_branches

from convkit import Tensor, nn, no_grad, optim, precision, reference
from convkit import functional as F
from convkit._kernels import dispatch
from convkit.autograd import apply
from convkit.infer import Program, run_pipeline, trace
from convkit.infer.lowering import Lowering
from convkit.ops import planner
from convkit.ops.conv import Conv
from convkit.ops.conv_algorithms.float16 import Float16
from convkit.ops.conv_problem import forward_problem
from convkit.ops.op import REGISTRY

pytestmark = pytest.mark.skipif(not dispatch.has_halves(),
                                reason="no AVX512-FP16 in this CPU, or not in use")

# Rounding bfloat16 alone costs 2.2e-3; the promise of "medium" is 1e-2.
BOUND = 2.2e-3
EXTRA = {
    "60 channels": ((2, 60, 9, 8), (40, 60, 3, 3), test_conv.conv_attrs(padding=1)),
    "one row": ((1, 33, 1, 70), (48, 33, 1, 3), test_conv.conv_attrs()),
    "rows of two strips": ((1, 16, 40, 5), (17, 16, 3, 3), test_conv.conv_attrs(padding=1)),
    "stride 3, dilated": ((1, 20, 23, 24), (16, 20, 3, 3),
                          test_conv.conv_attrs(stride=3, dilation=2, padding=2)),
    "three chains": ((1, 300, 5, 7), (33, 300, 1, 1), test_conv.PLAIN),
}


def error(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def convolve(x, w, b=None, z=None, attrs=test_conv.PLAIN, **more):
    return apply(Conv, x, w, b, z, **attrs, algorithm="fp16", **more).data


@pytest.mark.parametrize("name", [*test_conv.CASES, *EXTRA])
def test_values_gradients_and_threads(name):
    xs, ws, attrs = {**test_conv.CASES, **EXTRA}[name]
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s).astype("f") for s in (xs, ws, (ws[0],)))
    want = reference.conv(x, w, b, **attrs)
    gy = random_array(want.shape, seed=5)
    grads = reference.conv_grad(gy, x, w, b, **attrs)
    one, two = (run_op(REGISTRY["conv"], [x, w, b], {**attrs, "algorithm": "fp16"}, [0, 1, 2], gy,
                       n) for n in (1, 2))
    assert_same_bits(one, two, name)
    for got, right in ((one.outputs[0], want), (one.grads[0], grads[0])):
        assert got.dtype == np.float32
        assert error(got, right) < BOUND


def test_it_really_is_float16():
    x, w = random_array((1, 64, 9, 9)), random_array((32, 64, 1, 1), seed=1)
    assert error(convolve(x, w), reference.conv(x, w, **test_conv.PLAIN)) > 1e-4


@pytest.mark.parametrize("name", ["3x3", "1x1", "strided", "first_layer", "grouped"])
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(name):
    xs, ws, attrs = test_conv.CASES[name]
    w = random_array(ws, seed=1)
    x = random_array((9, *xs[1:])) * np.logspace(-30, 30, 9, dtype=np.float32)[:, None, None, None]
    check_batch_invariance(lambda part: convolve(part, w, attrs=attrs), x)


@pytest.mark.parametrize("channels", [3, 5, 64])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_are_as_in_float32(channels, value):
    attrs = test_conv.conv_attrs(padding=1)
    w = random_array((17, channels, 3, 3), seed=1)
    w[0, :, 0] = 1e-12      # too small for float16 beside the others: no zero may meet infinity
    w[1, :, 0] = 0
    plain = random_array((1, channels, 9, 9))
    x = plain.copy()
    x[0, channels - 1, 4, 4] = value
    got, calm = convolve(x, w, attrs=attrs), convolve(plain, w, attrs=attrs)
    want = apply(Conv, x, w, None, **attrs, algorithm="direct").data
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got) * np.sign(got), np.isinf(want) * np.sign(want))
    kept = np.isfinite(got)
    assert_same_bits(got[kept], calm[kept], "outputs that see no infinity")


def test_infinite_weights_are_as_in_float32():
    w, x = random_array((8, 16, 3, 3), seed=1), random_array((1, 16, 7, 7))
    w[3, 2, 1, 1], w[5, 0, 0, 0] = np.inf, np.nan
    attrs = test_conv.conv_attrs(padding=1)
    want = apply(Conv, x, w, None, **attrs, algorithm="direct").data
    assert_same_bits(convolve(x, w, attrs=attrs), want)


@pytest.mark.parametrize("x_scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("w_scale", [1e-6, 1.0, 1e6])
def test_scales_come_from_the_values(x_scale, w_scale):
    x = random_array((2, 40, 5, 5)) * np.float32(x_scale)
    w = random_array((33, 40, 1, 1), seed=1) * np.float32(w_scale)
    assert error(convolve(x, w).astype("d"), reference.conv(x, w, **test_conv.PLAIN)) < BOUND


def test_the_ends_of_the_range():
    channels = 5
    huge = np.full((1, channels, 3, 3), 3.4e38, np.float32)
    small = np.full((4, channels, 1, 1), 1e-36 / channels, np.float32)
    assert abs(convolve(huge, small) / 340.0 - 1).max() < BOUND
    ones = np.ones((2, 8, 1, 1), np.float32)
    x = np.zeros((1, 8, 2, 2), np.float32)
    assert (convolve(x, ones) == 0).all() and (convolve(x + 1, ones * 0) == 0).all()
    x[0, 0] = 3.4028235e38
    assert abs(convolve(x, ones) / np.float32(3.4028235e38) - 1).max() < BOUND
    x[0, 0] = 1e-42
    assert (convolve(x, ones) == 0).all()


def test_equal_products_stay_within_the_promise():
    # What rounds alike every time adds up; and the largest products there are do not overflow.
    rng = np.random.default_rng(7)
    for value in (15.999, 31.999, *rng.uniform(1, 4, 30)):
        x, w = np.full((1, 640, 4, 4), value, "f"), np.full((8, 640, 1, 1), 31.999, "f")
        assert error(convolve(x, w), reference.conv(x, w, **test_conv.PLAIN)) < 1e-2


def test_bias_residual_and_activation():
    x, w, b = random_array((2, 6, 9, 9)), random_array((20, 6, 3, 3), seed=1), random_array((20,))
    z, attrs = random_array((2, 20, 9, 9), seed=3), test_conv.conv_attrs(padding=1)
    sums = convolve(x, w, attrs=attrs) + b[:, None, None] + z
    for activation, meaning in (("relu", lambda v: np.maximum(v, 0)),
                                ("relu6", lambda v: np.clip(v, 0, 6)), (None, lambda v: v)):
        got = convolve(x, w, b, z, attrs, activation=activation)
        assert_same_bits(got, meaning(sums), str(activation))


def chosen(level, task="forward", channels=(256, 256), size=14, kernel=1, **attrs):
    problem = forward_problem(
        (1, channels[0], size, size), (channels[1], channels[0], kernel, kernel),
        np.dtype(np.float32), **test_conv.conv_attrs(padding=kernel // 2, **attrs),
        precision=level)
    return planner.choose(problem, task).name


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles are taken where there are any")
def test_the_planner_takes_it_where_it_pays():
    assert chosen("medium") == chosen("medium", "grad_input") == "fp16"
    assert "fp16" not in (chosen("high"), chosen("highest"), chosen("medium", "grad_weight"))
    assert chosen("medium", kernel=3) == "winograd"
    assert chosen("medium", kernel=3, stride=2) == "fp16"
    assert chosen("medium", channels=(16, 16)) == chosen("medium", size=1) == "direct"


def test_the_environment_turns_it_off():
    code = """
    import numpy as np
    import test_float16
    print(test_float16.chosen("medium"))
    """
    assert run_python(code, {"CONVKIT_FLOAT16": "0", "CONVKIT_ISA": "avx512"}).stdout.split() == [
        "direct"]


def test_float64_and_weight_gradients_are_refused():
    with pytest.raises(ValueError, match=r"'fp16' cannot take .*: 16-bit numbers stand for"):
        convolve(random_array((1, 4, 5, 5), dtype="float64"),
                 random_array((4, 4, 1, 1), dtype="float64"))


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles are taken where there are any")
def test_programs_give_the_bits_of_single_operations():
    graph = run_pipeline(trace(lambda x: strided_branches(x, 128, 128), (1, 96, 14, 14)))
    program = Program(graph, precision="medium", threads=2)
    check_bits(program, graph, "medium")
    assert "fp16" in program._lowered.algorithms.values()
    assert not program._lowered.python


@pytest.mark.skipif(dispatch.has_tiles(), reason="tiles are taken where there are any")
def test_residuals_are_added_where_they_lie():
    weight = random_array((512, 512, 1, 1)) / np.float32(23)

    def blocks(x):
        x = F.relu(F.conv2d(x, weight))
        for _ in range(2):
            x = F.relu(F.conv2d(F.conv2d(x, weight), weight) + x)
        return F.avg_pool2d(x, 7)

    # 49 pixels make blocks of rows that overlap: these must be written, and added to, once.
    graph = run_pipeline(trace(blocks, (1, 512, 7, 7)))
    lowering = Lowering(graph, "medium", 1)
    assert set(lowering.run().algorithms.values()) == {"fp16"}
    places = [e.operands for e in lowering._emitted if len(e.operands) == 4]
    assert sum(p[2] is p[3] for p in places) == 2
    check_bits(Program(graph, precision="medium", threads=2), graph, "medium")


def test_moments_are_gathered_strip_by_strip():
    for _, shape, outputs, more in gathered.PROBLEMS:
        attrs = gathered.attributes(**more)
        if attrs["groups"] * 4 > shape[1] and shape[1] > 1:
            continue
        x, weight = gathered.make("", shape, outputs, attrs, "float32")
        y, alone = gathered.convolve(x, weight, attrs, algorithm="fp16")
        gathered.check_moments(y, alone, gathered.BOUND["float32"], f"fp16 {shape}")
        _, together = gathered.convolve(x, weight, attrs, 3, algorithm="fp16")
        assert_same_bits(alone, together)


def test_training_goes_as_in_float32():
    def losses(level):
        rng = np.random.default_rng(3)
        net = nn.Sequential(nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
                            nn.Conv2d(128, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten(), nn.Linear(128, 5))
        with no_grad():
            for p in net.parameters():
                p.copy_(rng.standard_normal(p.shape).astype("f") * (0.1 if p.ndim > 1 else 1.0))
        step = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        x, y = random_array((16, 64, 8, 8)), rng.integers(0, 5, 16)
        found = []
        for _ in range(12):
            with precision(level):
                loss = F.cross_entropy(net(Tensor(x)), y)
                step.zero_grad()
                loss.backward()
            step.step()
            found.append(loss.item())
        return np.array(found)

    plain, short = losses("highest"), losses("medium")
    assert plain[-1] < 0.6 * plain[0]
    np.testing.assert_allclose(short, plain, rtol=0.05, atol=0.01)


def test_reasons_name_the_estimate():
    problem = forward_problem((1, 32, 9, 9), (32, 32, 1, 1), np.dtype(np.float32),
                              **test_conv.PLAIN, precision="medium")
    assert "times as fast as direct" in Float16.declines(problem, "forward")
