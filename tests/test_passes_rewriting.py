"""Passes that rewrite what surrounds layers: arithmetic, pooling, concat, padding, axes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from graph_checks import array, check, op_names, outputs, statistics
from harness import check_op

import convkit as ck
import convkit.functional as F
from convkit.autograd import apply
from convkit.infer import PIPELINE, Constant, Program, passes, run_pipeline, trace, verify
from convkit.infer.check import compare
from convkit.ops.op import REGISTRY

W = {"3x3": array(6, 4, 3, 3), "1x1": array(6, 4, 1, 1), "same": array(4, 4, 1, 1),
     "t": array(4, 6, 2, 2), "linear": array(6, 4), "b6": array(6)}
IMAGE = (1, 4, 6, 6)


@cache
def fixed(*shape: int) -> np.ndarray:
    """Return random numbers that are the same each time a model runs."""
    return array(*shape)


def affine(x, channels: int = 4):
    """Scale and shift each channel by its own numbers."""
    return apply(REGISTRY["affine"], x, fixed(channels), fixed(channels))


def pad(x, padding, value=0.0, mode="constant"):
    return apply(REGISTRY["pad"], x, padding=((0, 0), (0, 0), *padding), mode=mode, value=value)


# -- common subexpressions ------------------------------------------------------------------


def test_what_is_computed_twice_is_computed_once():
    def model(x):
        return F.relu(F.conv2d(x, W["3x3"])) + F.sigmoid(F.relu(F.conv2d(x, W["3x3"])))

    check(passes.merge_equal, trace(model, IMAGE), ["conv", "relu", "sigmoid", "add"], 0)


def test_small_constants_of_equal_bytes_are_one():
    graph = trace(lambda x: F.relu(x * 2.0) + F.sigmoid(x * 2.0), (1, 4))
    after = check(passes.merge_equal, graph, ["mul", "relu", "sigmoid", "add"], 0)
    assert len(after.constants) == 1


@pytest.mark.parametrize("model", [
    lambda x: F.leaky_relu(x, 0.1) + F.leaky_relu(x, 0.2),
    lambda x: x * 0.0 + x * -0.0,
    lambda x: F.conv2d(x, W["3x3"]) + F.conv2d(x, W["3x3"] * 2),
])
def test_what_differs_stays(model):
    graph = trace(model, IMAGE)
    check(passes.merge_equal, graph, op_names(graph), 0)


def test_equal_outputs_stay_two_arrays():
    graph = trace(lambda x: (F.relu(x), F.relu(x)), (1, 4))
    after = check(passes.merge_equal, graph, ["relu"], 0)
    a, b = outputs(after)
    assert not np.shares_memory(a, b)


# -- identities -----------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [
    lambda x: x + 0.0, lambda x: 0.0 + x, lambda x: x - 0.0, lambda x: x * 1.0, lambda x: x / 1.0,
    lambda x: x ** 1.0, lambda x: x * np.ones((1, 4, 1, 1), np.float32),
    lambda x: F.max_pool2d(x, 1), lambda x: F.clamp(x, None, math.inf).reshape(x.shape),
])
def test_arithmetic_that_changes_nothing_goes(identity):
    graph = trace(lambda x: F.sigmoid(identity(F.relu(x))), IMAGE)
    after = passes.remove_identities(graph)
    assert compare(outputs(graph), outputs(after)).absolute == 0
    assert len(after.nodes) <= len(graph.nodes) - 1


@pytest.mark.parametrize("change", [
    lambda x: 0.0 - x, lambda x: 1.0 / x, lambda x: x + np.ones((2, 4, 6, 6), np.float32)[:1] * 0.5,
    lambda x: x * np.ones((3, 1, 4, 1, 1), np.float32)])
def test_arithmetic_that_changes_something_stays(change):
    graph = trace(lambda x: F.sigmoid(change(F.relu(x))), IMAGE)
    check(passes.remove_identities, graph, op_names(graph), 0)


# -- activations by their name --------------------------------------------------------------


@pytest.mark.parametrize("model, op", [
    (lambda x: x * F.sigmoid(x), "silu"), (lambda x: F.sigmoid(x) * x, "silu"),
    (lambda x: x * F.hardsigmoid(x), "hardswish"), (lambda x: F.clamp(x, 0, 6), "relu6"),
    (lambda x: F.clamp(x, min=0), "relu"),
    (lambda x: apply(REGISTRY["maximum"], x, np.float32(0)), "relu"),
    (lambda x: F.prelu(x, np.array([0.3], np.float32)), "leaky_relu"),
])
def test_activations_get_their_names(model, op):
    graph = trace(lambda x: F.exp(model(x)) if hasattr(F, "exp") else model(x), IMAGE)
    after = passes.remove_dead(passes.name_activations(graph))
    verify(after)
    assert op in op_names(after)
    assert compare(outputs(graph), outputs(after)).relative <= 1e-6


@pytest.mark.parametrize("model", [
    lambda x: F.relu(x) * F.sigmoid(x), lambda x: F.clamp(x, 0, 5),
    lambda x: F.prelu(x, fixed(4)), lambda x: apply(REGISTRY["maximum"], x, np.float32(0.5))])
def test_other_activations_keep_theirs(model):
    graph = trace(model, IMAGE)
    check(passes.name_activations, graph, op_names(graph), 0)


# -- arithmetic per channel -----------------------------------------------------------------


PER_CHANNEL = [(4, 1, 1), (1, 4, 1, 1), ()]


@pytest.mark.parametrize("shape", PER_CHANNEL)
@pytest.mark.parametrize("step", [
    lambda x, c: x + c, lambda x, c: c + x, lambda x, c: x - c, lambda x, c: c - x,
    lambda x, c: x * c, lambda x, c: x / c])
def test_arithmetic_per_channel_becomes_affine(step, shape):
    c = np.abs(fixed(*shape)) + np.float32(0.5)
    graph = trace(lambda x: F.conv2d(step(x, c), W["3x3"]), IMAGE)
    after = check(passes.arithmetic_to_affine, graph, ["affine", "conv"])
    check(passes.fold_affine_into_next, after, ["conv"], 5e-6)


def test_arithmetic_on_features():
    c = fixed(4)
    graph = trace(lambda x: F.linear(x + c, W["linear"]), (1, 4))
    check(passes.arithmetic_to_affine, graph, ["affine", "linear"])


@pytest.mark.parametrize("model, shape", [
    (lambda x: F.conv2d(x + fixed(6), W["3x3"]), IMAGE),        # along the last axis
    (lambda x: F.conv2d(x / np.float32(0), W["3x3"]), IMAGE),   # no reciprocal
    (lambda x: F.conv2d(2.0 / x, W["3x3"]), IMAGE),
    (lambda x: F.conv2d(x + x, W["3x3"]), IMAGE),
    (lambda x: F.linear(x + 1.0, W["linear"]), (1, 3, 4)),      # a sequence
    (lambda x: F.relu(x) + 1.0, IMAGE),                         # nobody takes it up
    (lambda x: F.conv2d(x[:, :1] * fixed(1, 4, 1, 1), W["3x3"]), IMAGE),  # broadcasts x
])
def test_other_arithmetic_stays(model, shape):
    with np.errstate(divide="ignore", invalid="ignore"):
        graph = trace(model, shape)
        after = passes.arithmetic_to_affine(graph)
    assert op_names(after) == op_names(graph)


def test_affine_folds_into_the_layer_before_with_its_activation():
    def model(x):
        return affine(F.conv2d(x, W["3x3"], W["b6"]), 6)

    graph = passes.fuse_activation(trace(lambda x: F.relu(model(x)), IMAGE))
    assert op_names(graph) == ["conv", "affine"]
    after = check(passes.fold_batch_norm, graph, ["conv"])
    assert after.nodes[0].attrs["activation"] == "relu"
    graph = passes.fuse_activation(
        trace(lambda x: F.relu(affine(F.conv_transpose2d(x, W["t"]), 6)), IMAGE))
    check(passes.fold_batch_norm, graph, ["conv_transpose", "affine"], 0)


def test_affines_in_a_row_become_one():
    graph = trace(lambda x: affine(affine(affine(F.sigmoid(x)))), IMAGE)
    after = check(passes.merge_affines, graph, ["sigmoid", "affine"])
    assert len(after.constants) == 2


def test_the_last_of_merged_affines_keeps_its_activation():
    graph = passes.fuse_activation(trace(lambda x: F.relu(affine(affine(x))), IMAGE))
    after = check(passes.merge_affines, graph, ["affine"])
    assert after.nodes[0].attrs["activation"] == "relu"


@pytest.mark.parametrize("model", [
    lambda x: affine(F.relu(affine(x))),
    lambda x: (lambda y: affine(y) + y)(affine(x)),
    lambda x: (lambda y: (affine(y), y))(affine(x)),
])
def test_affines_apart_stay(model):
    graph = trace(model, IMAGE)
    check(passes.merge_affines, graph, op_names(graph), 0)
    fused = passes.fuse_activation(graph)
    check(passes.merge_affines, fused, op_names(fused), 0)


def test_a_scale_folds_into_a_convolution_that_pads():
    """Zeros that are padded stay zeros under a scale; under a shift they would not."""
    scale, shift, zero = fixed(4), fixed(4), np.zeros(4, np.float32)

    def model(shift):
        return lambda x: F.conv2d(apply(REGISTRY["affine"], x, scale, shift), W["3x3"], padding=1)

    check(passes.fold_affine_into_next, trace(model(zero), IMAGE), ["conv"], 5e-6)
    check(passes.fold_affine_into_next, trace(model(shift), IMAGE), ["affine", "conv"], 0)


def test_a_shift_folds_where_borders_are_reflected():
    graph = trace(lambda x: apply(
        REGISTRY["conv"], affine(x), W["3x3"], stride=(1, 1), padding=((1, 1), (1, 1)),
        dilation=(1, 1), groups=1, padding_mode="reflect"), IMAGE)
    check(passes.fold_affine_into_next, graph, ["conv"], 5e-6)


def test_a_scale_folds_into_a_transposed_convolution():
    scale, zero = fixed(4), np.zeros(4, np.float32)
    for groups in (1, 2):
        w = fixed(4, 6 // groups, 2, 2)
        graph = trace(lambda x, w=w, g=groups: F.conv_transpose2d(
            apply(REGISTRY["affine"], x, scale, zero), w, stride=2, groups=g), IMAGE)
        check(passes.fold_affine_into_next, graph, ["conv_transpose"], 5e-6)


# -- linear ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4), (1, 3, 4)])
def test_products_with_constant_matrices_become_linear(shape):
    w, b = fixed(4, 5), fixed(5)
    graph = trace(lambda x: b + apply(REGISTRY["matmul"], x, w), shape)
    after = check(passes.matmul_to_linear, graph, ["linear"], 5e-6)
    assert after.nodes[0].inputs[2] is not None


def test_products_of_computed_matrices_stay():
    graph = trace(lambda x: apply(REGISTRY["matmul"], x, x.permute(0, 2, 1)), (1, 3, 4))
    check(passes.matmul_to_linear, graph, ["permute", "matmul"], 0)


def test_a_linear_layer_keeps_the_bias_that_it_has():
    graph = trace(lambda x: F.linear(x, W["linear"], W["b6"]) + fixed(6), (1, 3, 4))
    check(passes.matmul_to_linear, graph, ["linear", "add"], 0)


def test_a_linear_layer_read_twice_takes_no_bias():
    b = fixed(6)

    def model(x):
        y = F.linear(x, W["linear"])
        return y + b, y

    check(passes.matmul_to_linear, trace(model, (1, 4)), ["linear", "add"], 0)


# -- before pooling, upsampling, concat ------------------------------------------------------


POOLS = {
    "avg": lambda x: F.avg_pool2d(x, 2),
    "avg_uncounted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 3),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", POOLS)
def test_batch_norm_moves_before_what_averages(name):
    norm = statistics(6)
    graph = trace(lambda x: F.batch_norm(POOLS[name](F.conv2d(x, W["3x3"], padding=1)), **norm),
                  IMAGE)
    after = passes.hoist(graph)
    assert op_names(after)[:2] == ["conv", "batch_norm"]
    check(lambda g: passes.fold_batch_norm(passes.hoist(g)), graph,
          [op_names(graph)[0], op_names(graph)[1]], 5e-6)


def test_batch_norm_moves_before_max_pooling_where_it_does_not_turn_around():
    norm = statistics(6)
    for weight, expected in ((np.abs(norm["weight"]), ["conv", "batch_norm", "max_pool"]),
                             (-np.abs(norm["weight"]), ["conv", "max_pool", "batch_norm"])):
        graph = trace(lambda x, w=weight: F.batch_norm(
            F.max_pool2d(F.conv2d(x, W["3x3"]), 2, padding=1), **{**norm, "weight": w}), IMAGE)
        check(passes.hoist, graph, expected)


@pytest.mark.parametrize("pool", [
    lambda x: F.avg_pool2d(x, 3, 2, 1), lambda x: F.avg_pool2d(x, 2, divisor_override=3)])
def test_batch_norm_stays_behind_pools_that_count_zeros(pool):
    norm = statistics(6)
    graph = trace(lambda x: F.batch_norm(pool(F.conv2d(x, W["3x3"])), **norm), IMAGE)
    check(passes.hoist, graph, op_names(graph), 0)


def test_activations_move_before_max_pooling():
    for act, op in ((F.relu, "relu"), (F.relu6, "relu6"), (lambda x: F.clamp(x, -1, 2), "clamp")):
        graph = trace(lambda x, a=act: a(F.max_pool2d(F.conv2d(x, W["3x3"]), 2)), IMAGE)
        after = check(passes.hoist, graph, ["conv", op, "max_pool"], 0)
        check(passes.fuse_activation, after, ["conv", "max_pool"], 0)


@pytest.mark.parametrize("model", [
    lambda x: F.relu(F.avg_pool2d(F.conv2d(x, W["3x3"]), 2)),
    lambda x: F.leaky_relu(F.max_pool2d(F.conv2d(x, W["3x3"]), 2), -0.5),
    lambda x: F.relu(F.interpolate(F.conv2d(x, W["3x3"]), scale_factor=2, mode="bilinear")),
    lambda x: F.relu(F.max_pool2d(F.sigmoid(x), 2)),
    lambda x: (lambda y: (F.relu(F.max_pool2d(y, 2)), y))(F.conv2d(x, W["3x3"])),
    lambda x: (lambda y: (F.relu(y), y))(F.max_pool2d(F.conv2d(x, W["3x3"]), 2)),
    lambda x: F.relu(F.max_pool2d(F.relu(F.conv2d(x, W["3x3"])), 2)),
])
def test_activations_that_stay(model):
    graph = trace(model, IMAGE)
    check(passes.hoist, graph, op_names(graph), 0)
    fused = passes.fuse_activation(graph)
    check(passes.hoist, fused, op_names(fused), 0)


def test_batch_norm_and_activation_move_into_the_parts_of_a_concat():
    norm = statistics(11)
    w5 = fixed(5, 4, 1, 1)

    def model(x):
        y = F.concat([F.conv2d(x, W["1x1"]), F.conv2d(x, w5)], 1)
        return F.relu(F.batch_norm(y, **norm))

    graph = trace(model, IMAGE)
    assert op_names(graph) == ["conv", "conv", "concat", "batch_norm", "relu"]
    check(run_pipeline, graph, ["conv", "conv", "concat"], 5e-6)


def test_concat_along_the_height():
    norm = statistics(6)
    graph = trace(lambda x: F.batch_norm(
        F.concat([F.conv2d(x, W["1x1"]), F.conv2d(x, W["1x1"] * 2)], 2), **norm), IMAGE)
    check(passes.hoist, graph, ["conv", "conv", "batch_norm", "batch_norm", "concat"], 1e-6)


def test_a_concat_of_what_cannot_take_it_up_keeps_its_batch_norm():
    norm = statistics(10)
    graph = trace(lambda x: F.batch_norm(F.concat([F.conv2d(x, W["1x1"]), F.relu(x)], 1), **norm),
                  IMAGE)
    check(passes.hoist, graph, op_names(graph), 0)


# -- padding --------------------------------------------------------------------------------


def test_padding_merges_into_the_convolution():
    for inner, pairs in ((0, ((1, 1), (2, 0))), (1, ((0, 1), (0, 1))), (0, ((3, 4), (5, 3)))):
        graph = trace(lambda x, p=pairs, i=inner: F.conv2d(pad(x, p), W["3x3"], padding=i), IMAGE)
        after = check(passes.merge_padding, graph, ["conv"], 5e-6)
        assert after.nodes[0].attrs["padding"] == tuple((a + inner, b + inner) for a, b in pairs)


def test_padding_merges_into_pooling():
    even = ((1, 1), (1, 1))
    for pool, value in ((lambda x: F.avg_pool2d(x, 3, 2), 0.0),
                        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), 0.0),
                        (lambda x: F.max_pool2d(x, 3, 2), -math.inf)):
        graph = trace(lambda x, p=pool, v=value: p(pad(x, even, v)), IMAGE)
        check(passes.merge_padding, graph, [op_names(graph)[-1]], 1e-6)
    graph = trace(lambda x: F.max_pool2d(pad(F.relu(x), even), 3, 2), IMAGE)
    check(passes.merge_padding, graph, ["relu", "max_pool"], 0)
    graph = trace(lambda x: F.max_pool2d(pad(F.relu(F.conv2d(x, W["3x3"])), even), 3, 2), IMAGE)
    check(passes.merge_padding, passes.fuse_activation(graph), ["conv", "max_pool"], 0)


@pytest.mark.parametrize("model", [
    lambda x: F.conv2d(pad(x, ((1, 1), (1, 1)), 0.5), W["3x3"]),
    lambda x: F.conv2d(pad(x, ((-1, 1), (1, 1))), W["3x3"]),
    lambda x: F.conv2d(pad(x, ((1, 1), (1, 1)), mode="reflect"), W["3x3"]),
    lambda x: (lambda y: (F.conv2d(y, W["3x3"]), y))(pad(x, ((1, 1), (1, 1)))),
    lambda x: F.max_pool2d(pad(x, ((1, 1), (1, 1))), 3),           # x may be negative
    lambda x: F.max_pool2d(pad(F.relu(x), ((0, 1), (0, 1))), 3),   # one side only
    lambda x: F.max_pool2d(pad(F.relu(x), ((2, 2), (2, 2))), 3),   # more than half a window
    lambda x: F.avg_pool2d(pad(x, ((1, 1), (1, 1))), 3, 2, 1),
    lambda x: F.avg_pool2d(pad(x, ((1, 1), (1, 1))), 3, 2, ceil_mode=True),
    lambda x: F.conv2d(apply(REGISTRY["pad"], x, padding=((0, 0), (1, 1), (0, 0), (0, 0)),
                             mode="constant", value=0.0), fixed(2, 6, 1, 1)),
])
def test_padding_that_stays(model):
    graph = trace(model, IMAGE)
    check(passes.merge_padding, graph, op_names(graph), 0)


# -- axes -----------------------------------------------------------------------------------


LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def test_permutes_in_a_row_cancel_or_merge():
    graph = trace(lambda x: F.relu(x.permute(LAST).permute(FIRST)), IMAGE)
    check(lambda g: passes.remove_dead(passes.cancel_permutes(g)), graph, ["relu"], 0)
    graph = trace(lambda x: F.relu(x.permute(LAST).permute(LAST)), IMAGE)
    after = check(lambda g: passes.remove_dead(passes.cancel_permutes(g)), graph,
                  ["permute", "relu"], 0)
    assert after.nodes[0].attrs["dims"] == FIRST


def test_permutes_cancel_across_elementwise_steps():
    bias = fixed(4)

    def model(x):
        y = F.relu(x.permute(LAST) + bias) * 2.0
        return F.sigmoid((y + F.sigmoid(x).permute(LAST)).permute(FIRST))

    graph = trace(model, IMAGE)
    after = check(lambda g: passes.remove_dead(passes.cancel_permutes(g)), graph,
                  ["add", "relu", "mul", "sigmoid", "add", "sigmoid"], 0)
    assert {c.array.shape for c in after.constants.values()} == {(1, 4, 1, 1), ()}


@pytest.mark.parametrize("model", [
    lambda x: F.relu(x.permute(LAST)).permute(0, 1, 3, 2),
    lambda x: (lambda y: (y.permute(FIRST), y))(F.relu(x.permute(LAST))),
    lambda x: F.softmax(x.permute(LAST), -1).permute(FIRST),
    lambda x: (F.relu(x.permute(LAST)) + x.reshape(x.shape[0], 6, 6, 4)).permute(FIRST),
])
def test_permutes_that_stay(model):
    graph = trace(model, IMAGE)
    check(passes.cancel_permutes, graph, op_names(graph), 0)


def shuffle(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def test_a_channel_shuffle_becomes_take_and_folds_into_weights():
    graph = trace(lambda x: shuffle(F.sigmoid(x), 2), IMAGE)
    after = check(lambda g: passes.remove_dead(passes.shuffle_to_take(g)), graph,
                  ["sigmoid", "take"], 0)
    assert after.array(after.nodes[1].inputs[1]).tolist() == [0, 2, 1, 3]
    graph = trace(lambda x: F.sigmoid(shuffle(F.conv2d(x, W["1x1"], W["b6"]), 3)), IMAGE)
    check(run_pipeline, graph, ["conv", "sigmoid"], 1e-6)
    for channels, groups in ((4, 2), (6, 2), (6, 3)):  # the latter are not their own inverses
        w = fixed(5, channels, 3, 3)
        graph = trace(lambda x, w=w, g=groups: F.conv2d(shuffle(F.sigmoid(x), g), w),
                      (1, channels, 6, 6))
        check(run_pipeline, graph, ["sigmoid", "conv"], 1e-5)


def test_halves_of_a_shuffle_are_taken_apart():
    def model(x):
        y = shuffle(F.sigmoid(x), 2)
        return F.relu(y[:, :2]), F.relu(y[:, 2:])

    def step(g):
        return passes.remove_dead(passes.slice_of_take(passes.shuffle_to_take(g)))

    check(step, trace(model, IMAGE), ["sigmoid", "take", "relu", "take", "relu"], 0)


def test_places_beyond_the_channels_are_left_to_the_run():
    """No shape rule sees them, a file may hold them."""
    graph = trace(lambda x: apply(REGISTRY["take"], F.conv2d(x, W["1x1"]), np.arange(6), dim=1),
                  IMAGE)
    (value,) = (v for v, c in graph.constants.items() if c.array.dtype.kind == "i")
    wrong = replace(graph, constants={
        **graph.constants, value: Constant("places", np.full(6, 6))})
    after = run_pipeline(wrong)
    assert op_names(after) == ["conv", "take"]
    with pytest.raises(ck.ShapeError, match="index 6 is out of range"):
        Program(after)(array(*IMAGE))


@pytest.mark.parametrize("order", [
    [0, 2, 1, 3], [0, 1, 2, 3], [1, 3], [3], [0, 0, 0], [0, 0, 1, 1, 2, 2], [-1, -1], [3, 2, 1, 0],
    [0, 2, 1], [0, 1, 3]])  # no grids
@pytest.mark.parametrize("dim", [1, 2, -1])
def test_programs_take_places(order, dim):
    places = np.array(order)
    graph = trace(lambda x: F.sigmoid(apply(REGISTRY["take"], F.sigmoid(x), places, dim=dim)),
                  IMAGE)
    program = Program(graph)
    x = array(3, *IMAGE[1:])
    half = 1 / (1 + np.exp(-x.astype(np.float64)))
    want = 1 / (1 + np.exp(-half.take(places, dim)))
    np.testing.assert_allclose(program(x), want, rtol=1e-6)
    assert "python" not in program.summary()


@pytest.mark.parametrize("model", [
    lambda x: shuffle(x, 2).reshape(-1, 2, 12, 6),
    lambda x: x.reshape(-1, 2, 2, 6, 6).permute(0, 2, 1, 4, 3).reshape(-1, 4, 6, 6),
    lambda x: x.reshape(-1, 4, 2, 3, 6).permute(0, 2, 1, 3, 4).reshape(-1, 4, 6, 6)])
def test_other_reshapes_are_no_shuffle(model):
    graph = passes.remove_identities(trace(model, IMAGE))
    assert "take" not in op_names(passes.shuffle_to_take(graph))


@pytest.mark.parametrize("model", [
    lambda x: F.conv2d(shuffle(F.sigmoid(x), 2), fixed(4, 2, 1, 1), groups=2),
    lambda x: (lambda y: (shuffle(y, 3), y))(F.conv2d(x, W["1x1"])),
    lambda x: shuffle(F.conv2d(x, fixed(4, 2, 1, 1), groups=2), 2)])
def test_shuffles_that_stay(model):
    after = passes.fold_take(passes.remove_dead(passes.shuffle_to_take(trace(model, IMAGE))))
    assert "take" in op_names(after)


# -- fusion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(-0.5, 0.75), (-math.inf, 0.5), (0.25, math.inf)])
def test_clamp_is_fused(args):
    def clamp(x):
        return F.clamp(x, *(v if math.isfinite(v) else None for v in args))

    for layer in (lambda x: F.conv2d(x, W["3x3"]), lambda x: F.conv2d(x, W["3x3"], padding=1),
                  lambda x: F.conv2d(x, W["1x1"], W["b6"]), affine, lambda x: x + F.sigmoid(x)):
        graph = trace(lambda x, f=layer: clamp(f(x)), IMAGE)
        after = check(passes.fuse_activation, graph, op_names(graph)[:-1], 1e-6)
        assert after.nodes[-1].attrs["activation"] == "clamp"
        assert after.nodes[-1].attrs["activation_args"] == args
    for shape in ((3, 4), (2, 5, 3, 3)):
        check_op("affine", [shape, shape[1:2], shape[1:2]],
                 attrs={"activation": "clamp", "activation_args": args})


def test_hardtanh_is_fused_as_clamp():
    graph = trace(lambda x: F.hardtanh(F.linear(x, W["linear"])), (1, 4))
    after = check(passes.fuse_activation, graph, ["linear"], 1e-6)
    assert after.nodes[0].attrs["activation_args"] == (-1.0, 1.0)


@pytest.mark.parametrize("act", [F.relu, F.relu6, lambda x: F.leaky_relu(x, 0.2)])
def test_an_activation_is_fused_into_an_addition(act):
    graph = trace(lambda x: act(F.sigmoid(x) + F.tanh(x)), IMAGE)
    check(passes.fuse_activation, graph, ["sigmoid", "tanh", "add"], 0)


def test_an_addition_that_broadcasts_takes_no_activation():
    graph = trace(lambda x: F.relu(x + x[:, :1]), IMAGE)
    check(passes.fuse_activation, graph, ["slice", "add", "relu"], 0)


def test_a_fused_addition_checks_its_operands():
    add = REGISTRY["add"]
    attrs = {"activation": "relu"}
    with pytest.raises(ck.ShapeError, match="two arrays of one shape before a fused relu"):
        apply(add, fixed(2, 3), fixed(3), **attrs)
    with pytest.raises(ValueError, match="fused activation has no backward"):
        apply(add, ck.tensor(fixed(2, 3), requires_grad=True), fixed(2, 3), **attrs)


def test_chains_of_additions_fuse_into_layer_after_layer():
    def model(x):
        y = F.sigmoid(x)
        return F.relu((F.conv2d(x, W["same"]) + y) + F.conv2d(y, W["same"] * 2))

    check(run_pipeline, trace(model, IMAGE), ["sigmoid", "conv", "conv"], 1e-5)


# -- all on random graphs -------------------------------------------------------------------


def random_model(seed: int, whole: bool = False):
    """Return a function that builds a random network of branches, and its input's shape.

    It returns two values, or, where `whole` is True, all of them.
    """
    def model(x):
        rng = np.random.default_rng(seed)

        def weight(*shape):
            fan = math.prod(shape[1:])
            return (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

        def norm(v):
            c = v.shape[1]
            return F.batch_norm(v, rng.standard_normal(c).astype(np.float32) * np.float32(0.1),
                                rng.uniform(0.5, 2, c).astype(np.float32),
                                weight=rng.uniform(-1, 2, c).astype(np.float32),
                                bias=weight(c, 1)[:, 0])

        values = [x]
        for _ in range(14):
            v = values[int(rng.integers(max(len(values) - 3, 0), len(values)))]
            c = v.shape[1]
            alike = [u for u in values if u.shape == v.shape]
            wide = [u for u in values if u.shape[2:] == v.shape[2:]]
            choice = int(rng.integers(16))
            if choice < 3:
                k = int(rng.choice([1, 3]))
                edge = int(rng.integers(2)) if k == 3 and v.shape[2] > 4 else k // 2
                v = F.conv2d(v, weight(5, c, k, k), weight(5, 1)[:, 0] if choice else None,
                             padding=edge)
            elif choice < 5:
                v = norm(v)
            elif choice == 5:
                v = (F.relu, F.relu6, F.sigmoid, lambda t: F.leaky_relu(t, 0.1),
                     lambda t: F.clamp(t, -0.5, 0.5))[int(rng.integers(5))](v)
            elif choice == 6:
                v = v + alike[int(rng.integers(len(alike)))]
            elif choice == 7:
                v = F.concat([v, wide[int(rng.integers(len(wide)))]], 1)
            elif choice == 8:
                v = v * weight(c, 1, 1) if rng.integers(2) else v - weight(1, c, 1, 1)
            elif choice == 9:
                v = F.avg_pool2d(v, 3, 1, 1, count_include_pad=bool(rng.integers(2)))
            elif choice == 10:
                v = F.max_pool2d(v, 3, 1, 1)
            elif choice == 11:
                v = pad(v, ((1, 1), (0, 1)))
            elif choice == 12:
                v = shuffle(v, 2 if c % 2 == 0 else c)
            elif choice == 13:
                v = F.relu(v.permute(LAST) + weight(c, 1)[:, 0]).permute(FIRST)
            elif choice == 14:
                v = v * F.sigmoid(F.conv2d(F.adaptive_avg_pool2d(v, 1), weight(c, c, 1, 1)))
            else:
                v = F.interpolate(F.max_pool2d(v, 2), size=v.shape[2:])
            values.append(v)
        return tuple(values[1:]) if whole else (values[-1], values[-3])

    return model, (1, 4, 8, 7)


@pytest.mark.parametrize("seed", range(60))
def test_every_pass_keeps_what_random_graphs_compute(seed):
    model, shape = random_model(seed)
    graph = trace(model, shape)
    before = outputs(graph)
    for step in PIPELINE:
        after = step(graph)
        verify(after)
        error = compare(before, outputs(after))
        assert error.relative <= 2e-5, (step.__name__, error, str(graph), str(after))
        graph = after
    graph = run_pipeline(graph)
    assert str(run_pipeline(graph)) == str(graph), "a second run finds more to do"
    assert compare(before, outputs(graph)).relative <= 2e-5


@pytest.mark.parametrize("seed", range(100, 130))
def test_no_output_is_folded_away(seed):
    """Where everything is an output, everything must still be there."""
    model, shape = random_model(seed, whole=True)
    graph = trace(model, shape)
    after = run_pipeline(graph)
    verify(after)
    for a, b in zip(outputs(graph), outputs(after), strict=True):
        assert compare([a], [b]).relative <= 2e-5


@pytest.mark.parametrize("seed", range(200, 215))
def test_random_graphs_of_open_sizes(seed):
    model, _ = random_model(seed)
    graph = trace(model, (1, 4, (8, 20), (7, 20)))
    after = run_pipeline(graph)
    verify(after)
    for h, w in ((8, 7), (13, 20), (20, 10)):
        before, now = graph.at_size(H=h, W=w), after.at_size(H=h, W=w)
        verify(now)
        assert compare(outputs(before), outputs(now)).relative <= 2e-5
