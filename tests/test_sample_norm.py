"""Layer, group, instance and local response norm: values, gradients, layouts, layers, errors."""

from __future__ import annotations

import numpy as np
import pytest
from harness import check_batch_invariance, check_op, random_array, run_python
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import functional as F
from convkit import nn, reference
from convkit.autograd import Tensor, apply, no_grad
from convkit.errors import DTypeError, ShapeError
from convkit.ops.op import REGISTRY

ODD_LAYOUTS = ("fortran", "strided", "reversed", "read_only", "byte_swapped", "misaligned")
OPS = [
    ("group_norm", (3, 6, 5, 7), 2, {"num_groups": 3}),
    ("instance_norm", (3, 6, 5, 7), 2, {}),
    ("layer_norm", (3, 6, 5, 7), 2, {"normalized_shape": (7,)}),
    ("layer_norm", (3, 6, 5, 7), 2, {"normalized_shape": (6, 5, 7)}),
    ("local_response_norm", (3, 6, 5, 7), 0, {"size": 5, "alpha": 0.1}),
]


def parameters(name, shape, count, attrs):
    """Return weight and bias of an operation's shape."""
    own = attrs.get("normalized_shape", shape[1:2])
    return [random_array(own, np.float64, seed=20 + i) for i in range(count)]


@pytest.mark.parametrize(("name", "shape", "count", "attrs"), OPS)
def test_every_order_of_memory(name, shape, count, attrs):
    check_op(name, [shape, *parameters(name, shape, count, attrs)], attrs, gradcheck=False,
             layouts=ODD_LAYOUTS)


@pytest.mark.parametrize(("name", "shape", "attrs"), [
    ("group_norm", (2, 24, 45, 41), {"num_groups": 4}),
    ("instance_norm", (2, 3, 90, 61), {}),
    ("layer_norm", (700, 130), {"normalized_shape": (130,)}),
    ("layer_norm", (3, 20_000), {"normalized_shape": (20_000,)}),
    ("local_response_norm", (1, 96, 27, 27), {"size": 5, "alpha": 5e-4, "k": 2.0}),
])
def test_over_many_blocks(name, shape, attrs):
    count = 0 if name == "local_response_norm" else 2
    check_op(name, [shape, *parameters(name, shape, count, attrs)], attrs, gradcheck=False,
             threads=(1, 2, 3))


@pytest.mark.parametrize(("name", "shape", "attrs"), [
    ("group_norm", (4, 6, 20, 20), {"num_groups": 2}),
    ("instance_norm", (4, 6, 20, 20), {}),
    ("layer_norm", (40, 500), {"normalized_shape": (500,)}),
])
def test_mean_far_from_zero(name, shape, attrs):
    """With mean 1e4 and deviation 1, float32 holds the values to 1e-3 but loses no more."""
    x = (np.random.default_rng(6).standard_normal(shape) + 1e4).astype(np.float32)
    gy = random_array(shape, seed=7)
    t = Tensor(x, requires_grad=True)
    y = apply(REGISTRY[name], t, None, None, **attrs)
    y.backward(gy)
    np.testing.assert_allclose(y.data, getattr(reference, name)(x, **attrs), atol=4e-6)
    (want, _, _) = getattr(reference, name + "_grad")(gy, x, None, None, **attrs)
    np.testing.assert_allclose(t.grad.data, want, atol=4e-6)


def test_layer_norm_keeps_channels_last_images_so():
    x = random_array((2, 5, 4, 3), layout="channels_last")
    weight = random_array((5, 4, 3), seed=1)
    y = F.layer_norm(x, (5, 4, 3), weight)
    assert y.data.strides == x.strides
    assert_close(y.data, reference.layer_norm(x, weight, normalized_shape=(5, 4, 3)),
                 tolerance("forward", "float32"))


def test_the_same_at_every_scale():
    """Without eps, the norms of a sample do not depend on its scale or offset."""
    x = random_array((2, 6, 5, 4), np.float64)
    for name, attrs in (("group_norm", {"num_groups": 2}), ("instance_norm", {}),
                        ("layer_norm", {"normalized_shape": (6, 5, 4)})):
        y, moved = (apply(REGISTRY[name], a, None, None, **attrs, eps=0.0).data
                    for a in (x, 3.7 * x - 2))
        np.testing.assert_allclose(y, moved, atol=1e-12)


def test_group_norm_joins_layer_and_instance_norm():
    x = random_array((3, 6, 5, 4), np.float64)
    one = F.group_norm(x, 1).data
    np.testing.assert_allclose(one, F.layer_norm(x, (6, 5, 4)).data, atol=1e-12)
    np.testing.assert_array_equal(F.group_norm(x, 6).data, F.instance_norm(x).data)


def test_nan_stays_in_its_sample():
    x = random_array((3, 4, 5, 5))
    x[1, 1, 2, 2] = np.nan
    for y in (F.group_norm(x, 2), F.instance_norm(x), F.layer_norm(x, (4, 5, 5)),
              F.local_response_norm(x, 3)):
        assert np.isfinite(y.data[[0, 2]]).all()
        assert np.isnan(y.data[1, 1, 2, 2])
    assert np.isnan(F.group_norm(x, 2).data[1, :2]).all()
    assert np.isfinite(F.group_norm(x, 2).data[1, 2:]).all()


def test_empty_batches():
    x = np.zeros((0, 4, 3, 3), np.float32)
    for y in (F.group_norm(x, 2), F.instance_norm(x), F.layer_norm(x, (3, 3)),
              F.local_response_norm(x, 3)):
        assert y.shape == x.shape


@pytest.mark.parametrize(("ours", "shape"), [
    (lambda m: m.LayerNorm(7), (3, 4, 7)), (lambda m: m.LayerNorm((4, 7), 1e-3), (3, 4, 7)),
    (lambda m: m.LayerNorm(7, bias=False), (2, 7)),
    (lambda m: m.LayerNorm(7, elementwise_affine=False), (2, 7)),
    (lambda m: m.GroupNorm(2, 6), (3, 6, 5, 4)),
    (lambda m: m.GroupNorm(3, 6, affine=False), (3, 6)),
    (lambda m: m.InstanceNorm1d(3), (2, 3, 8)), (lambda m: m.InstanceNorm1d(3), (3, 8)),
    (lambda m: m.InstanceNorm2d(3, affine=True), (2, 3, 5, 4)),
    (lambda m: m.InstanceNorm2d(3, momentum=0.3, track_running_stats=True), (2, 3, 5, 4)),
    (lambda m: m.LocalResponseNorm(5, 1e-2, 0.6, 2.0), (2, 7, 4, 3)),
])
def test_layers_are_pytorchs(torch, ours, shape):
    mine, theirs = ours(nn), ours(torch.nn)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for training in (True, True, False):
        mine.train(training)
        theirs.train(training)
        x = random_array(shape, seed=int(training)) + np.float32(0.5)
        got, want = mine(ck.Tensor(x)), theirs(torch.from_numpy(x))
        assert_close(got.data, want.detach().numpy(), tolerance("forward", "float32"))
    for name, value in theirs.state_dict().items():
        if name != "num_batches_tracked":
            assert_close(mine.state_dict()[name].data, value.numpy(),
                         tolerance("forward", "float32"), name)


def test_networks_with_them_compile():
    ck.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.InstanceNorm2d(8),
                        nn.LocalResponseNorm(3), nn.Flatten(), nn.LayerNorm(8 * 36)).eval()
    program = ck.compile(net, (1, 3, 8, 8))
    x = random_array((5, 3, 8, 8))
    with no_grad():
        assert_close(program(x), net(ck.Tensor(x)).data, tolerance("forward", "float32"))
    check_batch_invariance(program, x)


def test_errors_say_what_was_expected():
    x = np.zeros((2, 6, 4, 4), np.float32)
    with pytest.raises(ShapeError, match=r"expected num_groups that divides 6 channels, got 4 "
                                         r"for x of shape \(2, 6, 4, 4\)"):
        F.group_norm(x, 4)
    with pytest.raises(ValueError, match="num_groups that divides 6 channels, got 4"):
        nn.GroupNorm(4, 6)
    with pytest.raises(ShapeError, match=r"expected weight of shape \(6,\) .* got \(5,\)"):
        F.group_norm(x, 2, np.ones(5, np.float32))
    with pytest.raises(ShapeError, match=r"expected more than 1 value per group"):
        F.group_norm(np.zeros((1, 6), np.float32), 6)
    with pytest.raises(ShapeError, match=r"expected more than 1 spatial element"):
        F.instance_norm(np.zeros((4, 6, 1), np.float32))
    with pytest.raises(ShapeError, match=r"expected more than 1 spatial element"):
        F.instance_norm(np.zeros((4, 6), np.float32))
    with pytest.raises(ShapeError, match=r"expected x whose last axes are \(5,\), got x of "
                                         r"shape \(2, 6, 4, 4\)"):
        F.layer_norm(x, 5)
    with pytest.raises(ShapeError, match=r"expected bias of shape \(4, 4\), got \(4,\)"):
        F.layer_norm(x, (4, 4), None, np.zeros(4, np.float32))
    with pytest.raises(DTypeError, match="expected weight of float32 like x, got float64"):
        F.layer_norm(x, 4, np.ones(4))
    with pytest.raises(ShapeError, match="window of at least 1 channel, got size=0"):
        F.local_response_norm(x, 0)
    with pytest.raises(ShapeError, match=r"GroupNorm: expected 5 channels, got x of shape"):
        nn.GroupNorm(1, 5)(ck.Tensor(x))
    with pytest.raises(ShapeError, match=r"expected x with 3 or 4 axes, got x of shape \(6,\)"):
        nn.InstanceNorm2d(6)(ck.Tensor(np.zeros(6, np.float32)))


def test_a_window_wider_than_the_channels_is_all_of_them():
    x = random_array((2, 5, 3, 3), np.float64)
    y = F.local_response_norm(x, 10**6, alpha=1e6, beta=1.0, k=0.0).data
    np.testing.assert_allclose(y, x / (x**2).sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    from convkit._kernels import dispatch

    if isa not in dispatch.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    run_python("""
        from harness import check_op
        from test_sample_norm import OPS, parameters
        for name, shape, count, attrs in OPS:
            for wide in (shape, (2, 18, *shape[2:])):
                own = dict(attrs)
                if len(attrs.get("normalized_shape", ())) == 3:
                    own["normalized_shape"] = wide[1:]
                check_op(name, [wide, *parameters(name, wide, count, own)], own)
        """, {"CONVKIT_ISA": isa})
