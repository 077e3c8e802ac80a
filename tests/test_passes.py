"""Every graph pass by itself: what it changes, what it must leave alone, and the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_checks import array, check, op_names, statistics
from harness import check_batch_invariance, check_op, random_array

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit.autograd import apply
from convkit.infer import Editor, passes, run_pipeline, trace
from convkit.ops.op import REGISTRY

# -- removal --------------------------------------------------------------------------------


def test_dead_nodes_and_their_constants_go():
    w = array(4, 3, 1, 1)

    def model(x):
        F.relu(F.conv2d(x, w))  # leads nowhere
        return F.sigmoid(x)

    graph = trace(model, (1, 3, 4, 4))
    assert op_names(graph) == ["conv", "relu", "sigmoid"]
    after = check(passes.remove_dead, graph, ["sigmoid"], 0)
    assert not after.constants


def test_an_unused_input_stays():
    graph = passes.remove_dead(trace(lambda x, y: F.relu(y), [(1, 3), (1, 2)]))
    assert [p.name for p in graph.inputs] == ["x", "y"]


@pytest.mark.parametrize("identity", [
    lambda x: x.reshape(x.shape),
    lambda x: F.flatten(x, 1, 1),
    lambda x: x.permute(0, 1, -2, -1),
    lambda x: x[:, :, 0:, :],
    lambda x: F.concat([x], 1),
    lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    lambda x: F.flatten(x, 1).reshape(-1, 4, 3, 2).reshape(x.shape),
])
def test_identities_go(identity):
    check(passes.remove_identities,
          trace(lambda x: F.sigmoid(identity(F.relu(x))), (1, 2, 3, 4)), ["relu", "sigmoid"], 0)


@pytest.mark.parametrize("change", [
    lambda x: x.permute(0, 1, 3, 2),
    lambda x: x[:, :, ::2],
    lambda x: x[:, :1],
    lambda x: apply(REGISTRY["slice"], x, starts=(None,) * 4, stops=(None,) * 4,
                    steps=(None, None, -1, 1)),
    lambda x: x.reshape(x.shape[0], -1),
])
def test_what_is_no_identity_stays(change):
    graph = trace(lambda x: F.sigmoid(change(F.relu(x))), (1, 2, 3, 3))
    check(passes.remove_identities, graph, op_names(graph), 0)


def test_of_reshapes_in_a_row_the_last_stays():
    graph = trace(lambda x: F.relu(x.reshape(x.shape[0], 6, 2).reshape(x.shape[0], 2, 6)),
                  (1, 12))
    check(passes.remove_identities, graph, ["reshape", "relu"], 0)


def test_a_reshape_read_twice_stays_for_its_other_reader():
    def model(x):
        y = x.reshape(x.shape[0], 6, 2)
        return F.relu(y), F.sigmoid(y.reshape(x.shape[0], 2, 6))

    check(passes.remove_identities, trace(model, (1, 12)),
          ["reshape", "relu", "reshape", "sigmoid"], 0)


def test_an_identity_that_is_the_output():
    graph = trace(lambda x: x.reshape(x.shape), (1, 3))
    check(passes.remove_identities, graph, [], 0)


# -- constants ------------------------------------------------------------------------------


def test_constants_are_folded_through_chains_and_keep_their_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(array(3, 4))

        def forward(self, x):
            return F.linear(x, self.weight.permute(1, 0)) * (self.weight.sum() * 2.0)

    graph = trace(Net(), (1, 3))
    after = check(passes.fold_constants, graph, ["linear", "mul"], 1e-6)
    assert sum(c.name.startswith("weight") for c in after.constants.values()) >= 1


def test_nothing_is_folded_that_depends_on_an_input():
    graph = trace(lambda x: F.relu(x) + 1.0, (1, 3))
    check(passes.fold_constants, graph, ["relu", "add"], 0)


# -- batch norm -----------------------------------------------------------------------------


LAYERS = {
    "conv": (lambda x: F.conv2d(x, W["conv"], W["b6"], padding=1), (1, 4, 5, 5), 6),
    "conv_no_bias": (lambda x: F.conv2d(x, W["conv"]), (1, 4, 5, 5), 6),
    "conv_groups": (lambda x: F.conv2d(x, W["groups"], W["b6"], groups=2), (1, 4, 5, 5), 6),
    "conv1d": (lambda x: F.conv1d(x, W["conv1d"], W["b6"], stride=2), (1, 4, 9), 6),
    "transpose": (lambda x: F.conv_transpose2d(x, W["t"], W["b6"], stride=2), (1, 4, 5, 5), 6),
    "transpose_groups": (lambda x: F.conv_transpose2d(x, W["tg"], None, groups=2),
                         (1, 4, 5, 5), 6),
    "linear": (lambda x: F.linear(x, W["linear"], W["b6"]), (1, 4), 6),
}
W = {"conv": array(6, 4, 3, 3), "groups": array(6, 2, 3, 3), "conv1d": array(6, 4, 3),
     "t": array(4, 6, 3, 3), "tg": array(4, 3, 2, 2), "linear": array(6, 4), "b6": array(6)}


@pytest.mark.parametrize("name", LAYERS)
def test_batch_norm_folds_into_the_layer_before(name):
    layer, shape, channels = LAYERS[name]
    norm = statistics(channels)
    graph = trace(lambda x: F.relu(F.batch_norm(layer(x), **norm)), shape)
    op = {"conv1d": "conv", "transpose": "conv_transpose"}.get(name, name.split("_")[0])
    op = "conv_transpose" if name.startswith("transpose") else op
    after = check(passes.fold_batch_norm, graph, [op, "relu"])
    assert len(after.constants) == 2


def test_two_batch_norms_in_a_row_fold():
    a, b, w = statistics(6), statistics(6), W["conv"]
    graph = trace(lambda x: F.batch_norm(F.batch_norm(F.conv2d(x, w), **a), **b), (1, 4, 5, 5))
    check(passes.fold_batch_norm, graph, ["conv"])


def test_folding_rounds_once():
    norm = statistics(6)
    graph = trace(lambda x: F.batch_norm(F.conv2d(x, W["conv"]), **norm), (1, 4, 5, 5))
    after = passes.fold_batch_norm(graph)
    scale = norm["weight"].astype(float) / np.sqrt(norm["running_var"].astype(float) + 1e-5)
    weight = (W["conv"].astype(float) * scale[:, None, None, None]).astype(np.float32)
    bias = (norm["bias"] - norm["running_mean"] * scale).astype(np.float32)
    np.testing.assert_array_equal(after.array(after.nodes[0].inputs[1]), weight)
    np.testing.assert_array_equal(after.array(after.nodes[0].inputs[2]), bias)


def test_a_layer_read_twice_keeps_its_weights():
    norm = statistics(6)

    def model(x):
        y = F.conv2d(x, W["conv"])
        return F.batch_norm(y, **norm) + y

    graph = trace(model, (1, 4, 5, 5))
    check(passes.fold_batch_norm, graph, ["conv", "batch_norm", "add"], 0)


def test_a_layer_whose_result_is_an_output_keeps_its_weights():
    norm = statistics(6)

    def model(x):
        y = F.conv2d(x, W["conv"])
        return F.batch_norm(y, **norm), y

    graph = trace(model, (1, 4, 5, 5))
    check(passes.fold_batch_norm, graph, ["conv", "batch_norm"], 0)


def test_shared_weights_fold_separately():
    a, b = statistics(6), statistics(6)

    def model(x):
        return (F.batch_norm(F.conv2d(x, W["conv"]), **a)
                + F.batch_norm(F.conv2d(x * 2, W["conv"]), **b))

    graph = trace(model, (1, 4, 5, 5))
    after = check(passes.fold_batch_norm, graph, ["conv", "mul", "conv", "add"])
    weights = [n.inputs[1] for n in after.nodes if n.op == "conv"]
    assert weights[0] != weights[1]


def test_batch_norm_over_another_axis_than_the_features_stays():
    norm = statistics(6)  # of (N, 6, 6): the channels are axis 1, linear's features axis 2
    graph = trace(lambda x: F.batch_norm(F.linear(x, W["linear"]), **norm), (1, 6, 4))
    check(passes.fold_batch_norm, graph, ["linear", "batch_norm"], 0)


def test_batch_norm_after_an_activation_stays():
    norm = statistics(6)
    graph = trace(lambda x: F.batch_norm(F.relu(F.conv2d(x, W["conv"])), **norm), (1, 4, 5, 5))
    check(passes.fold_batch_norm, graph, ["conv", "relu", "batch_norm"], 0)
    fused = passes.fuse_activation(graph)
    check(passes.fold_batch_norm, fused, ["conv", "batch_norm"], 0)


def test_batch_norm_by_the_batch_stays():
    graph = trace(lambda x: F.batch_norm(F.conv2d(x, W["conv"]), None, None, training=True),
                  (1, 4, 5, 5))
    check(passes.fold_batch_norm, graph, ["conv", "batch_norm_train"], 0)


# -- affine ---------------------------------------------------------------------------------


def test_a_lone_batch_norm_becomes_affine():
    norm = statistics(4)
    for shape in ((1, 4), (1, 4, 5), (1, 4, 5, 5)):
        graph = trace(lambda x: F.batch_norm(F.sigmoid(x), **norm), shape)
        after = check(passes.batch_norm_to_affine, graph, ["sigmoid", "affine"])
        assert len(after.constants) == 2


def test_batch_norm_without_weight_and_bias_becomes_affine():
    norm = statistics(4)
    graph = trace(lambda x: F.batch_norm(x, norm["running_mean"], norm["running_var"]),
                  (1, 4, 5, 5))
    check(passes.batch_norm_to_affine, graph, ["affine"])


@pytest.mark.parametrize("shape", [(3, 4), (2, 17, 5), (3, 1, 4, 7), (2, 40, 9, 9)])
def test_the_affine_operation(shape):
    channels = (shape[1],)
    check_op("affine", [shape, channels, channels])
    for name, args in (("relu", ()), ("relu6", ()), ("leaky_relu", (0.3,))):
        check_op("affine", [shape, channels, channels],
                 attrs={"activation": name, "activation_args": args})
    scale, shift = array(*channels), array(*channels)
    check_batch_invariance(lambda x: apply(REGISTRY["affine"], x, scale, shift),
                           random_array(shape))


@pytest.mark.parametrize("x, scale, shift, message", [
    ((2,), (2,), (2,), r"expected x of shape \(N, C\), .*, got \(2,\)"),
    ((2, 3), (2,), (3,), r"expected scale of shape \(3,\) for x of shape \(2, 3\), got \(2,\)"),
    ((2, 3), (3,), (1, 3), r"expected shift of shape \(3,\)"),
])
def test_wrong_shapes_of_affine(x, scale, shift, message):
    with pytest.raises(ck.ShapeError, match=message):
        apply(REGISTRY["affine"], array(*x), array(*scale), array(*shift))


def affine_then(layer, shape, channels: int = 4):
    norm = statistics(channels)
    return passes.batch_norm_to_affine(
        trace(lambda x: layer(F.batch_norm(x, **norm)), shape))


@pytest.mark.parametrize("layer, shape", [
    (lambda x: F.conv2d(x, W["conv"], W["b6"], stride=2), (1, 4, 5, 5)),
    (lambda x: F.conv2d(x, W["groups"], groups=2), (1, 4, 5, 5)),
    (lambda x: F.conv1d(x, W["conv1d"]), (1, 4, 9)),
    (lambda x: F.linear(x, W["linear"], W["b6"]), (1, 4)),
])
def test_affine_folds_into_the_layer_after(layer, shape):
    graph = affine_then(layer, shape)
    check(passes.fold_affine_into_next, graph, [graph.nodes[-1].op], 5e-6)


@pytest.mark.parametrize("layer, shape", [
    (lambda x: F.conv2d(x, W["conv"], padding=1), (1, 4, 5, 5)),  # zeros are not scaled
    (lambda x: F.conv_transpose2d(x, W["t"]), (1, 4, 5, 5)),
    (lambda x: F.linear(x, W["linear"]), (1, 4, 4)),
    (lambda x: F.conv2d(x, W["conv"]) + x[:, :1, 1:-1, 1:-1], (1, 4, 5, 5)),  # read twice
    (lambda x: F.conv2d(F.relu(x), W["conv"]), (1, 4, 5, 5)),
])
def test_affine_stays_where_folding_would_be_wrong(layer, shape):
    graph = affine_then(layer, shape)
    check(passes.fold_affine_into_next, graph, op_names(graph), 0)
    if op_names(graph)[1] == "relu":
        fused = passes.fuse_activation(graph)
        check(passes.fold_affine_into_next, fused, ["affine", "conv"], 0)


# -- fusion ---------------------------------------------------------------------------------


ACTIVATIONS = {"relu": F.relu, "relu6": lambda x: F.relu6(x),
               "leaky_relu": lambda x: F.leaky_relu(x, 0.2)}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("before", ["conv", "linear", "affine"])
def test_activations_are_fused(name, before):
    if before == "affine":
        graph = affine_then(ACTIVATIONS[name], (1, 4, 5, 5))
    else:
        layer, shape, _ = LAYERS[before]
        graph = trace(lambda x: ACTIVATIONS[name](layer(x) * 3), shape)
        assert op_names(graph) == [before, "mul", name]
        check(passes.fuse_activation, graph, op_names(graph), 0)
        graph = trace(lambda x: ACTIVATIONS[name](layer(x)), shape)
    after = check(passes.fuse_activation, graph, [before])
    assert after.nodes[0].attrs["activation"] == name
    assert after.nodes[0].attrs["activation_args"] == ((0.2,) if name == "leaky_relu" else ())


def test_only_the_first_of_two_activations_is_fused():
    graph = trace(lambda x: F.leaky_relu(F.relu6(F.linear(x, W["linear"]))), (1, 4))
    check(passes.fuse_activation, graph, ["linear", "leaky_relu"])


def test_an_activation_of_a_value_read_twice_is_not_fused():
    def model(x):
        y = F.linear(x, W["linear"])
        return F.relu(y) + y

    check(passes.fuse_activation, trace(model, (1, 4)), ["linear", "relu", "add"], 0)


def test_an_activation_of_an_output_is_not_fused():
    def model(x):
        y = F.linear(x, W["linear"])
        return F.relu(y), y

    check(passes.fuse_activation, trace(model, (1, 4)), ["linear", "relu"], 0)


def test_an_addition_becomes_the_residual_of_the_layer():
    w = array(4, 4, 3, 3)
    for model in (lambda x: F.relu(F.conv2d(x, w, padding=1) + x),
                  lambda x: F.relu(x + F.conv2d(x, w, padding=1))):
        graph = trace(model, (1, 4, 5, 5))
        after = check(passes.fuse_residual, graph, ["conv", "relu"])
        assert after.nodes[0].inputs[2] is None
        assert after.nodes[0].inputs[3] == after.inputs[0].value


def test_of_two_layers_added_the_later_takes_the_other():
    w = array(4, 4, 1, 1)
    graph = trace(lambda x: F.conv2d(x, W["conv"][:4], padding=1) + F.conv2d(x * 2, w),
                  (1, 4, 5, 5))
    after = check(passes.fuse_residual, graph, ["conv", "mul", "conv"])
    assert after.nodes[2].inputs[3] == after.nodes[0].outputs[0]


def test_a_residual_that_is_made_later_than_the_layer():
    w = array(4, 4, 1, 1)

    def model(x):
        y = F.conv2d(x, w)
        return y + F.sigmoid(F.relu(x))

    after = check(passes.fuse_residual, trace(model, (1, 4, 5, 5)), ["relu", "sigmoid", "conv"])
    assert after.nodes[2].inputs[3] == after.nodes[1].outputs[0]


def test_three_operands_fuse_once_per_layer():
    w = array(4, 4, 1, 1)
    graph = trace(lambda x: (F.conv2d(x, w) + x) + F.sigmoid(x), (1, 4, 5, 5))
    check(passes.fuse_residual, graph, ["conv", "sigmoid", "add"])


@pytest.mark.parametrize("model", [
    lambda x: (lambda y: y + y)(F.conv2d(x, W["conv"])),
    lambda x: (lambda y: (y + F.relu(x[:, :1, 1:-1, 1:-1])) * y)(F.conv2d(x, W["conv"])),
    lambda x: F.conv2d(x, W["conv"]) + x[:, :1, 1:-1, 1:-1],  # broadcasts
    lambda x: F.conv2d(x, W["conv"]) + 1.0,
    lambda x: F.relu(F.conv2d(x, W["conv"])) + 1.0,
])
def test_additions_that_must_stay(model):
    graph = trace(model, (1, 4, 5, 5))
    check(passes.fuse_residual, graph, op_names(graph), 0)


def test_a_layer_with_a_fused_activation_takes_no_residual():
    w = array(4, 4, 1, 1)
    graph = passes.fuse_activation(trace(lambda x: F.relu(F.conv2d(x, w)) + x, (1, 4, 5, 5)))
    check(passes.fuse_residual, graph, ["conv", "add"], 0)


# -- all together ---------------------------------------------------------------------------


class Residual(nn.Module):
    """A residual block with a projection, as in ResNets."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.down = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        return F.relu(y)


def randomise(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics of its own."""
    rng = np.random.default_rng(5)
    with ck.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if ".running_var" in f".{name}":
                value.copy_(rng.uniform(0.5, 2, value.shape))
            elif value.ndim == 1 and value.dtype.kind == "f":
                value.copy_(rng.standard_normal(value.shape))
    return model


def test_the_pipeline_on_a_residual_block():
    graph = trace(randomise(Residual()), (1, 4, 9, 9))
    after = check(run_pipeline, graph, ["conv", "conv", "conv"])
    assert {c.name for c in after.constants.values()} == {
        "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "down.0.weight",
        "down.0.bias"}
    assert [n.attrs["activation"] for n in after.nodes] == ["relu", None, "relu"]


def test_the_pipeline_is_idempotent():
    once = run_pipeline(trace(randomise(Residual()), (1, 4, 9, 9)))
    assert str(run_pipeline(once)) == str(once)


def test_every_pass_has_a_row_in_the_guide():
    text = (Path(__file__).parents[1] / "docs" / "graph.md").read_text()
    rows = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert rows == {step.__name__ for step in passes.PIPELINE}


def test_a_broken_fold_is_seen_by_these_tests(monkeypatch):
    """The helper above notices a wrong pass: it is not a check that cannot fail."""
    def wrong(graph):
        editor = Editor(graph)
        node = graph.nodes[0]
        editor.replace(0, node.with_attrs(negative_slope=0.3))
        return editor.finish()

    graph = trace(lambda x: F.leaky_relu(x, 0.2), (1, 4))
    with pytest.raises(AssertionError):
        check(wrong, graph, ["leaky_relu"], 1e-3)
