"""Functions beside PyTorch's: arguments in all their forms, unbatched input, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import random_array, run_python
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit.ops import REGISTRY

EXACT = tolerance("forward", "float64")
IMAGE, LINE = (2, 6, 9, 8), (2, 6, 11)


def wide(*shape, seed=0):
    return random_array(shape, np.float64, seed=seed)


def agree(torch, name, arrays, **kwargs):
    """Compare a function with PyTorch's of the same name on arrays (None: left out)."""
    got = getattr(F, name)(*arrays, **kwargs)
    want = getattr(torch.nn.functional, name)(
        *[None if a is None else torch.from_numpy(a) for a in arrays], **kwargs)
    if not isinstance(want, tuple):
        got, want = (got,), (want,)
    for g, w in zip(got, want, strict=True):
        assert_close(g.data, w.numpy(), EXACT, name)


# -- convolution ----------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [
    {}, {"stride": 2}, {"stride": (1, 3), "padding": (2, 0)}, {"padding": "same"},
    {"padding": "valid"}, {"dilation": (2, 1), "padding": 1}, {"padding": "same", "dilation": 3},
])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 1)])
def test_conv2d(torch, kernel, kwargs):
    arrays = wide(*IMAGE), wide(4, 6, *kernel, seed=1), wide(4, seed=2)
    agree(torch, "conv2d", arrays, **kwargs)
    agree(torch, "conv2d", (arrays[0][0], *arrays[1:]), **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"stride": 2, "groups": 3}, {"padding": "same"}])
def test_conv1d(torch, kwargs):
    weight = wide(6, 6 // kwargs.get("groups", 1), 4, seed=1)
    agree(torch, "conv1d", (wide(*LINE), weight, None), **kwargs)
    agree(torch, "conv1d", (wide(*LINE[1:]), weight, wide(6)), **kwargs)


def test_padding_of_each_side():
    x, w = wide(*IMAGE), wide(4, 6, 3, 3, seed=1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)))
    got = F.conv2d(x, w, padding=((1, 2), (0, 3)))
    assert_close(got.data, F.conv2d(padded, w).data, EXACT)


@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
def test_algorithms_can_be_chosen(algorithm):
    x, w = wide(*IMAGE), wide(4, 6, 3, 3, seed=1)
    assert_close(F.conv2d(x, w, algorithm=algorithm).data, F.conv2d(x, w).data, EXACT)


def test_convolve2d_turns_the_kernel():
    from convkit.reference import conv

    x = ck.tensor(wide(*IMAGE))
    w = ck.tensor(wide(4, 6, 3, 2, seed=1), requires_grad=True)
    y = F.convolve2d(x, w, padding=1)
    want = conv(x.data, w.data[..., ::-1, ::-1], stride=(1, 1), padding=((1, 1), (1, 1)),
                dilation=(1, 1), groups=1)
    assert_close(y.data, want, EXACT)
    plain = ck.tensor(w.data[..., ::-1, ::-1].copy(), requires_grad=True)
    F.conv2d(x, plain, padding=1).sum().backward()
    y.sum().backward()
    assert_close(w.grad.data, plain.grad.data[..., ::-1, ::-1], EXACT)


@pytest.mark.parametrize("kwargs", [
    {}, {"stride": 3, "padding": 1, "output_padding": (2, 1)}, {"dilation": 2, "groups": 2},
])
def test_conv_transpose(torch, kwargs):
    weight = wide(6, 4, 3, 2, seed=1)
    agree(torch, "conv_transpose2d", (wide(*IMAGE), weight, None), **kwargs)
    agree(torch, "conv_transpose2d", (wide(*IMAGE[1:]), weight, None), **kwargs)
    if "output_padding" not in kwargs:
        agree(torch, "conv_transpose1d", (wide(*LINE), weight[..., 0], None), **kwargs)


def test_linear(torch):
    agree(torch, "linear", (wide(2, 3, 8), wide(5, 8, seed=1), wide(5, seed=2)))
    agree(torch, "linear", (wide(8), wide(5, 8, seed=1), None))


# -- pooling --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [IMAGE, IMAGE[1:]])
@pytest.mark.parametrize("kwargs", [
    {"kernel_size": 2}, {"kernel_size": (3, 2), "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": (), "ceil_mode": True},
])
def test_pools(torch, shape, kwargs):
    agree(torch, "max_pool2d", (wide(*shape),), **kwargs)
    agree(torch, "avg_pool2d", (wide(*shape),), **kwargs)
    agree(torch, "max_pool2d", (wide(*shape),), return_indices=True, dilation=1, **kwargs)
    one = {k: v[0] if isinstance(v, tuple) and v else v for k, v in kwargs.items()}
    agree(torch, "max_pool1d", (wide(*shape[:-1]),), **one)
    agree(torch, "avg_pool1d", (wide(*shape[:-1]),), **one)


@pytest.mark.parametrize("axes", [1, 2])
def test_max_pools_take_the_padding_that_pytorch_takes(torch, axes):
    """At most half the kernel, whatever its dilation."""
    x = wide(2, 3, *(12,) * axes)
    for kernel, padding, dilation in itertools.product((1, 2, 3, 4), (0, 1, 2, 3), (1, 2, 3)):
        options = {"kernel_size": kernel, "stride": 1, "padding": padding, "dilation": dilation}
        if padding <= kernel // 2:
            agree(torch, f"max_pool{axes}d", (x,), **options)
            continue
        with pytest.raises(RuntimeError, match="half"):
            getattr(torch.nn.functional, f"max_pool{axes}d")(torch.from_numpy(x), **options)
        layer = getattr(nn, f"MaxPool{axes}d")(**options)
        for call in (layer, lambda x, o=options: getattr(F, f"max_pool{axes}d")(x, **o)):
            with pytest.raises(ck.ShapeError, match=rf"expected padding of at most half of "
                               rf"kernel_size \({kernel}, ?{kernel if axes == 2 else ''}\), "
                               rf"without its dilation, got \({padding}"):
                call(x)


@pytest.mark.parametrize("shape", [IMAGE, IMAGE[1:]])
def test_adaptive_pools(torch, shape):
    for size in (1, (3, 5), (None, 2), (9, 8)):
        agree(torch, "adaptive_avg_pool2d", (wide(*shape),), output_size=size)
        agree(torch, "adaptive_max_pool2d", (wide(*shape),), output_size=size,
              return_indices=True)
    agree(torch, "adaptive_avg_pool1d", (wide(*shape[:-1]),), output_size=4)
    agree(torch, "adaptive_max_pool1d", (wide(*shape[:-1]),), output_size=4)


# -- batch norm -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6), LINE, IMAGE])
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_batch_norm_updates_running_estimates_in_place(torch, shape, momentum):
    x = wide(*shape)
    mean, var = wide(6, seed=1), np.abs(wide(6, seed=2)) + 0.1
    their_mean, their_var = torch.tensor(mean), torch.tensor(var)
    ours = ck.Tensor(mean)
    y = F.batch_norm(x, ours, var, training=True, momentum=momentum)
    want = torch.nn.functional.batch_norm(torch.from_numpy(x), their_mean, their_var,
                                          training=True, momentum=momentum)
    assert_close(y.data, want.numpy(), EXACT)
    assert_close(mean, their_mean.numpy(), EXACT)
    assert_close(var, their_var.numpy(), EXACT)
    agree(torch, "batch_norm", (x, mean, var, wide(6, seed=3), wide(6, seed=4)), eps=0.1)


def test_batch_norm_needs_values_to_average():
    x = np.ones((1, 3, 1, 1), np.float32)
    with pytest.raises(ck.ShapeError, match=r"more than 1 value per channel when training, got x "
                       r"of shape \(1, 3, 1, 1\)"):
        F.batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match="expected running_mean and running_var unless training"):
        F.batch_norm(x, None, None)


# -- the others -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kwargs"), [
    ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.3}), ("elu", {"alpha": 0.5}),
    ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("hardswish", {}),
    ("hardsigmoid", {}), ("softmax", {"dim": 1}), ("log_softmax", {"dim": -1}),
    ("pad", {"pad": (1, 2)}), ("pad", {"pad": (1, 2, 0, 3), "value": 2.5}),
    ("pad", {"pad": (2, 1, 0, 3), "mode": "reflect"}),
    ("pad", {"pad": (1, 0, 0, 3), "mode": "replicate"}),
    ("interpolate", {"scale_factor": 2}), ("interpolate", {"size": (4, 17)}),
    ("interpolate", {"scale_factor": (0.7, 1.9), "mode": "bilinear"}),
    ("interpolate", {"size": 5, "mode": "bilinear", "align_corners": True}),
])
def test_functions(torch, name, kwargs):
    agree(torch, name, (wide(*IMAGE),), **kwargs)


def test_prelu_and_one_hot(torch):
    agree(torch, "prelu", (wide(*IMAGE), wide(6, seed=1)))
    indices = np.array([[0, 2], [4, 1]])
    agree(torch, "one_hot", (indices,))
    agree(torch, "one_hot", (indices,), num_classes=7)
    with pytest.raises(ValueError, match="run from 0 to 4, expected 0 to 2"):
        F.one_hot(indices, 3)
    with pytest.raises(ck.DTypeError, match="integer class indices, got float64"):
        F.one_hot(np.ones(3))


def test_losses(torch):
    x, classes = wide(7, 5, 3), np.random.default_rng(0).integers(0, 5, (7, 3))
    for reduction in ("mean", "sum", "none"):
        agree(torch, "cross_entropy", (x, classes), reduction=reduction, label_smoothing=0.2)
        agree(torch, "nll_loss", (x, classes), reduction=reduction, ignore_index=1)
        agree(torch, "mse_loss", (x, wide(7, 5, 3, seed=1)), reduction=reduction)
        agree(torch, "binary_cross_entropy_with_logits", (x, np.abs(np.tanh(x))),
              reduction=reduction)
    agree(torch, "cross_entropy", (wide(5), np.array(2)))
    with pytest.raises(ValueError, match="one of none, mean, sum, got 'average'"):
        F.mse_loss(x, x, reduction="average")


def test_lists_and_foreign_arrays_are_taken(torch):
    assert F.relu([[-1.0, 2.0]]).tolist() == [[0, 2]]
    assert F.relu(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
    assert F.flatten(np.ones((2, 3, 4)), 1).shape == (2, 12)
    assert F.concat([np.ones((1, 2)), np.ones((3, 2))]).shape == (4, 2)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: F.conv2d(wide(2, 3), wide(4, 3, 3, 3)), ck.ShapeError,
     "expected x of shape"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 3)), ck.ShapeError, "weight with 4 axes"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 3, 3), stride=(1, 2, 3)), ck.ShapeError,
     "expected stride as one integer or 2"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 3, 3), padding="same", stride=2), ValueError,
     "not supported for strided"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 3, 3), padding=1.0), TypeError,
     "padding as integers, got 1.0"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 3, 3), padding=((1, 1),)), ck.ShapeError,
     "2 .before, after. pairs"),
    (lambda: F.conv2d(wide(*IMAGE), wide(4, 6, 30, 3)), ck.ShapeError,
     "does not fit the padded input"),
    (lambda: F.conv_transpose2d(wide(*IMAGE), wide(6, 4, 3)), ck.ShapeError, "with 4 axes"),
    (lambda: F.max_pool2d(wide(*IMAGE), (2, 2, 2)), ck.ShapeError, "kernel_size as one integer"),
    (lambda: F.adaptive_avg_pool2d(wide(*IMAGE), (1, 2, 3)), ck.ShapeError, "2 output sizes"),
    (lambda: F.pad(wide(2, 3), (1, 2, 3)), ck.ShapeError, "for at most 2 axes"),
    (lambda: F.interpolate(wide(*IMAGE)), ValueError, "exactly one of size and scale_factor"),
    (lambda: F.interpolate(wide(*IMAGE), 3, 2), ValueError, "exactly one of size"),
    (lambda: F.interpolate(wide(*IMAGE), 3, mode="linear"), ValueError, "does not fit"),
    (lambda: F.interpolate(wide(*IMAGE), 3, align_corners=True), ValueError, "is for the modes"),
    (lambda: F.interpolate(wide(*IMAGE), scale_factor=-1), ValueError, "must be positive"),
    (lambda: F.interpolate(wide(2, 3), 3), ck.ShapeError, "3 or 4 axes"),
])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -- the package ----------------------------------------------------------------------------


def test_every_operation_of_the_table_is_registered():
    names = ("conv conv_transpose linear max_pool avg_pool adaptive_max_pool adaptive_avg_pool "
             "batch_norm batch_norm_train relu relu6 sigmoid tanh silu hardswish hardsigmoid "
             "leaky_relu prelu elu gelu softmax log_softmax add sub mul div neg exp log sqrt abs "
             "pow sum mean matmul reshape flatten permute concat slice pad upsample cross_entropy "
             "nll_loss mse_loss bce_with_logits").split()
    assert not set(names) - set(REGISTRY)


def test_public_names_resolve():
    for name in ck.__all__:
        assert getattr(ck, name) is not None, name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ck.nonsense
    import convkit.nn.functional

    assert convkit.nn.functional is F


def test_import_is_light():
    run_python("""
        import sys, convkit
        heavy = {"scipy", "torch", "PIL", "safetensors", "tqdm", "onnx"}
        late = {"convkit.nn", "convkit.infer", "convkit.io", "convkit.data", "convkit.optim"}
        loaded = [m for m in sys.modules if m.split(".")[0] in heavy or m in late]
        assert not loaded, loaded
    """)
