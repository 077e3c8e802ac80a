"""Bad and odd input: a clear error, whose text is checked, or the right answer. Never a crash."""

from __future__ import annotations

import numpy as np
import pytest
from harness import LAYOUTS, lay_out, random_array
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import DTypeError, ShapeError, nn, reference
from convkit import functional as F


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def gigantic(*shape):
    """Return an array of any shape over four bytes."""
    return np.broadcast_to(np.float32(1), shape)


IMAGE = zeros(2, 4, 8, 8)
KERNEL = zeros(6, 4, 3, 3)
HUGE = 1 << 40

# What is called, the error, and what its text must say.
REFUSED = {
    # ranks
    "conv rank 2": (lambda: F.conv2d(zeros(4, 4), KERNEL), ShapeError,
                    r"expected x of shape \(N, C, L\) or \(N, C, H, W\), got \(4, 4\)"),
    "conv rank 5": (lambda: F.conv2d(zeros(1, 1, 4, 4, 4), KERNEL), ShapeError,
                    r"expected x of shape .* got \(1, 1, 4, 4, 4\)"),
    "conv weight rank": (lambda: F.conv2d(IMAGE, zeros(6, 4, 3)), ShapeError,
                         r"expected a weight with 4 axes, got shape \(6, 4, 3\)"),
    "linear weight rank": (lambda: F.linear(zeros(2, 3), zeros(4, 3, 1)), ShapeError,
                           r"expected a weight of shape \(out, in\), got \(4, 3, 1\)"),
    "linear scalar": (lambda: F.linear(zeros(), zeros(4, 3)), ShapeError,
                      r"expected 3 input features, got x of shape \(\)"),
    "batch norm rank 1": (lambda: F.batch_norm(zeros(4), zeros(4), zeros(4)), ShapeError,
                          r"expected x of shape \(N, C\).*got \(4,\)"),
    "batch norm rank 5": (lambda: F.batch_norm(zeros(1, 2, 3, 3, 3), None, None, training=True),
                          ShapeError, r"expected x of shape \(N, C\).*got \(1, 2, 3, 3, 3\)"),
    "max pool rank": (lambda: F.max_pool2d(zeros(4, 4), 2), ShapeError, r"got .*\(4, 4\)"),
    "avg pool rank": (lambda: F.avg_pool2d(zeros(1, 1, 1, 4, 4), 2), ShapeError,
                      r"got .*\(1, 1, 1, 4, 4\)"),
    "adaptive pool rank": (lambda: F.adaptive_avg_pool2d(zeros(4, 4), 2), ShapeError,
                           r"got .*\(4, 4\)"),
    "interpolate rank": (lambda: F.interpolate(zeros(4, 4), 2), ShapeError, r"got .*\(4, 4\)"),
    "cross entropy rank": (lambda: F.cross_entropy(zeros(), np.array(0)), ShapeError, r"\(\)"),
    # channels and other sizes that must agree
    "conv channels": (lambda: F.conv2d(zeros(8, 3, 32, 32), zeros(8, 64, 3, 3)), ShapeError,
                      r"expected 64 input channels, got x of shape \(8, 3, 32, 32\)"),
    "conv group channels": (lambda: F.conv2d(IMAGE, zeros(6, 4, 3, 3), groups=2), ShapeError,
                            r"expected 8 input channels, got x of shape \(2, 4, 8, 8\)"),
    "conv groups": (lambda: F.conv2d(IMAGE, zeros(6, 1, 3, 3), groups=4), ShapeError,
                    r"expected groups to divide the 6 output channels .* got groups=4"),
    "conv bias": (lambda: F.conv2d(IMAGE, KERNEL, zeros(4)), ShapeError,
                  r"expected bias of shape \(6,\), got \(4,\)"),
    "transpose channels": (lambda: F.conv_transpose2d(IMAGE, zeros(3, 6, 2, 2)), ShapeError,
                           r"expected 3 input channels, got x of shape \(2, 4, 8, 8\)"),
    "linear features": (lambda: F.linear(zeros(5, 4), zeros(3, 7)), ShapeError,
                        r"expected 7 input features, got x of shape \(5, 4\)"),
    "linear bias": (lambda: F.linear(zeros(5, 7), zeros(3, 7), zeros(1)), ShapeError,
                    r"expected bias of shape \(3,\), got \(1,\)"),
    "batch norm statistics": (lambda: F.batch_norm(IMAGE, zeros(3), zeros(3)), ShapeError,
                              r"expected running_mean of shape \(4,\) .* got \(3,\)"),
    "batch norm weight": (lambda: F.batch_norm(IMAGE, None, None, zeros(5), training=True),
                          ShapeError, r"expected weight of shape \(4,\) .* got \(5,\)"),
    "batch norm one value": (lambda: F.batch_norm(zeros(1, 4, 1, 1), None, None, training=True),
                             ShapeError, r"more than 1 value per channel .*\(1, 4, 1, 1\)"),
    "prelu weight": (lambda: F.prelu(IMAGE, zeros(3)), ShapeError,
                     r"expected a weight of shape \(1,\) or \(4,\) .* got shape \(3,\)"),
    "add": (lambda: ck.Tensor(zeros(2, 3)) + zeros(4), ShapeError, r"\(2, 3\).*\(4,\)"),
    "matmul": (lambda: ck.Tensor(zeros(2, 3)) @ zeros(4, 5), ShapeError, r"\(2, 3\).*\(4, 5\)"),
    "concat": (lambda: F.concat([zeros(2, 3), zeros(3, 4)], 1), ShapeError, r"\(3, 4\)"),
    "reshape": (lambda: ck.Tensor(zeros(2, 3)).reshape(4, 2), ShapeError, r"\(2, 3\)"),
    "mse": (lambda: F.mse_loss(zeros(2, 3), zeros(3, 2)), ShapeError, r"\(2, 3\).*\(3, 2\)|"
            r"\(3, 2\).*\(2, 3\)"),
    "cross entropy target": (lambda: F.cross_entropy(zeros(4, 3), np.zeros(5, int)), ShapeError,
                             r"\(5,\)"),
    "cross entropy class": (lambda: F.cross_entropy(zeros(2, 3), np.array([0, 3])),
                            (ValueError, IndexError), r"3"),
    "cross entropy negative class": (lambda: F.cross_entropy(zeros(2, 3), np.array([0, -1])),
                                     (ValueError, IndexError), r"-1"),
    "nll class": (lambda: F.nll_loss(zeros(2, 3), np.array([7, 0])), (ValueError, IndexError),
                  r"7"),
    # element types
    "conv integers": (lambda: F.conv2d(zeros(1, 4, 8, 8, dtype=np.int32), KERNEL), DTypeError,
                      r"expected x of float32 or float64, got int32"),
    "conv half": (lambda: F.conv2d(zeros(1, 4, 8, 8, dtype=np.float16), KERNEL), DTypeError,
                  r"expected x of float32 or float64, got float16"),
    "conv mixed": (lambda: F.conv2d(IMAGE, KERNEL.astype(np.float64)), DTypeError,
                   r"expected weight of float32 like x, got float64"),
    "linear mixed": (lambda: F.linear(zeros(2, 3, dtype=np.float64), zeros(4, 3)), DTypeError,
                     r"expected weight of float64 like x, got float32"),
    "conv text": (lambda: F.conv2d(np.full((1, 4, 8, 8), "a"), KERNEL), DTypeError, r"got <U1"),
    "conv complex": (lambda: F.conv2d(zeros(1, 4, 8, 8, dtype=complex), KERNEL), DTypeError,
                     r"got complex128"),
    "conv objects": (lambda: F.conv2d(np.full((1, 4, 8, 8), None), KERNEL), DTypeError,
                     r"got object"),
    "linear integers": (lambda: F.linear(zeros(2, 3, dtype=np.int64), zeros(4, 3)), DTypeError,
                        r"got int64"),
    "batch norm integers": (lambda: F.batch_norm(zeros(2, 3, dtype=np.uint8), None, None,
                                                 training=True), DTypeError, r"got uint8"),
    "pool integers": (lambda: F.max_pool2d(zeros(1, 1, 4, 4, dtype=np.int16), 2), DTypeError,
                      r"got int16"),
    "relu booleans": (lambda: F.relu(np.array([True])), DTypeError, r"got bool"),
    "softmax integers": (lambda: F.softmax(np.array([1, 2]), 0), DTypeError, r"got int64"),
    "interpolate integers": (lambda: F.interpolate(zeros(1, 1, 2, 2, dtype=np.int8), 4),
                             DTypeError, r"got int8"),
    "cross entropy float target": (lambda: F.cross_entropy(zeros(4, 3), zeros(4)),
                                   (DTypeError, ShapeError), r"target"),
    # sizes that make no sense
    "conv stride 0": (lambda: F.conv2d(IMAGE, KERNEL, stride=0), ShapeError,
                      r"expected stride of at least 1, got \(0, 0\)"),
    "conv stride -1": (lambda: F.conv2d(IMAGE, KERNEL, stride=(1, -1)), ShapeError,
                       r"expected stride of at least 1, got \(1, -1\)"),
    "conv dilation 0": (lambda: F.conv2d(IMAGE, KERNEL, dilation=0), ShapeError,
                        r"expected dilation of at least 1"),
    "conv padding -1": (lambda: F.conv2d(IMAGE, KERNEL, padding=-1), ShapeError,
                        r"expected padding of at least 0"),
    "conv groups 0": (lambda: F.conv2d(IMAGE, KERNEL, groups=0), ShapeError,
                      r"expected groups of at least 1, got 0"),
    "conv groups half": (lambda: F.conv2d(IMAGE, KERNEL, groups=1.5), ShapeError,
                         r"expected groups of at least 1, got 1.5"),
    "conv stride half": (lambda: F.conv2d(IMAGE, KERNEL, stride=1.5), TypeError,
                         r"expected stride as integers, got 1.5"),
    "conv stride three": (lambda: F.conv2d(IMAGE, KERNEL, stride=(1, 1, 1)), ShapeError,
                          r"expected stride as one integer or 2, got \(1, 1, 1\)"),
    "conv empty kernel": (lambda: F.conv2d(IMAGE, zeros(6, 4, 0, 3)), ShapeError,
                          r"expected a weight with no empty axis, got shape \(6, 4, 0, 3\)"),
    "conv large kernel": (lambda: F.conv2d(IMAGE, zeros(6, 4, 11, 3), padding=1), ShapeError,
                          r"kernel of size \(11, 3\) .* does not fit the padded input of size "
                          r"\(10, 10\)"),
    "conv large dilation": (lambda: F.conv2d(IMAGE, KERNEL, dilation=4), ShapeError,
                            r"kernel of size \(3, 3\) with dilation \(4, 4\) does not fit"),
    "conv no pixels": (lambda: F.conv2d(zeros(1, 4, 0, 8), KERNEL), ShapeError,
                       r"does not fit the padded input of size \(0, 8\)"),
    "conv padding mode": (lambda: F.conv2d(IMAGE, KERNEL, padding=1, padding_mode="mirror"),
                          ValueError, r"mirror"),
    "conv padding word": (lambda: F.conv2d(IMAGE, KERNEL, padding="full"), ValueError,
                          r"padding must be a number, 'valid' or 'same', got 'full'"),
    "conv same stride": (lambda: F.conv2d(IMAGE, KERNEL, padding="same", stride=2), ValueError,
                         r"padding='same' is not supported for strided convolutions"),
    "conv algorithm": (lambda: F.conv2d(IMAGE, KERNEL, algorithm="magic"), ValueError,
                       r"expected algorithm 'auto'.* got 'magic'"),
    "conv reflect": (lambda: F.conv2d(IMAGE, KERNEL, padding=8, padding_mode="reflect"),
                     ShapeError, r"8"),
    "transpose output_padding": (lambda: F.conv_transpose2d(IMAGE, zeros(4, 6, 2, 2), stride=2,
                                                            output_padding=2), ShapeError,
                                 r"expected output_padding \(2, 2\) to be smaller than stride"),
    "transpose large padding": (lambda: F.conv_transpose2d(zeros(1, 4, 1, 1), zeros(4, 6, 2, 2),
                                                           padding=1), ShapeError,
                                r"padding .* is too large"),
    "pool kernel 0": (lambda: F.max_pool2d(IMAGE, 0), ShapeError, r"expected kernel_size of at"),
    "pool stride 0": (lambda: F.avg_pool2d(IMAGE, 2, 0), ShapeError, r"expected stride of at"),
    "pool huge stride": (lambda: F.max_pool2d(IMAGE, 2, 1 << 31), ShapeError,
                         r"expected stride of at most 2147483647, got \(2147483648, 2147483648\)"),
    "pool large kernel": (lambda: F.max_pool2d(IMAGE, 9), ShapeError, r"\(9, 9\).*\(8, 8\)"),
    "pool large padding": (lambda: F.max_pool2d(IMAGE, 2, padding=2), ShapeError, r"half"),
    "avg pool divisor 0": (lambda: F.avg_pool2d(IMAGE, 2, divisor_override=0), ValueError,
                           r"divisor"),
    "adaptive -1": (lambda: F.adaptive_avg_pool2d(IMAGE, -1), ShapeError, r"-1"),
    "interpolate 0": (lambda: F.interpolate(IMAGE, 0), ShapeError, r"0"),
    "interpolate cubic 0": (lambda: F.interpolate(IMAGE, (0, 3), mode="bicubic"), ShapeError,
                            r"at least 1, got \(0, 3\)"),
    "interpolate -1": (lambda: F.interpolate(IMAGE, scale_factor=-1.0), ValueError, r"-1"),
    "interpolate nan": (lambda: F.interpolate(IMAGE, scale_factor=float("nan")), ValueError,
                        r"nan"),
    "interpolate both": (lambda: F.interpolate(IMAGE, 4, 2.0), ValueError, r"exactly one"),
    "softmax dim": (lambda: F.softmax(IMAGE, 4), ShapeError, r"4"),
    "flatten dims": (lambda: F.flatten(IMAGE, 2, 1), ShapeError, r"1"),
    "pad too much": (lambda: F.pad(IMAGE, (-9, 0)), ShapeError, r"9"),
    "reflect too much": (lambda: F.pad(IMAGE, (8, 0), "reflect"), ShapeError, r"8"),
    "reduction": (lambda: F.mse_loss(IMAGE, IMAGE, reduction="median"), ValueError, r"median"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        call()


def _layer_errors():
    return {
        "Conv2d 'stem.conv': expected 64 input channels, got x of shape (8, 3, 32, 32)":
            (nn.Sequential, nn.Conv2d(64, 8, 3), zeros(8, 3, 32, 32)),
        "Linear 'stem.conv': expected 10 input features, got x of shape (2, 9)":
            (nn.Sequential, nn.Linear(10, 4), zeros(2, 9)),
        "BatchNorm2d 'stem.conv': expected": (nn.Sequential, nn.BatchNorm2d(5), zeros(2, 4, 3, 3)),
    }


@pytest.mark.parametrize("text", _layer_errors())
def test_errors_name_the_layer(text):
    _, layer, x = _layer_errors()[text]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.ModuleDict({"conv": layer})

        def forward(self, x):
            return self.stem["conv"](x)

    with pytest.raises(ShapeError) as caught:
        Net()(x)
    assert str(caught.value).startswith(text)


# -- sizes beyond all memory ----------------------------------------------------------------

TOO_LARGE = {
    "conv": lambda: F.conv2d(gigantic(HUGE, 4, 64, 64), KERNEL),
    "conv output": lambda: F.conv2d(zeros(1, 1, 4, 4), zeros(1, 1, 1, 1), padding=HUGE),
    "conv overflow": lambda: F.conv2d(zeros(1, 1, 4, 4), zeros(1, 1, 1, 1), padding=1 << 62),
    "conv channels": lambda: F.conv2d(zeros(1, 1, 64, 64), gigantic(HUGE, 1, 1, 1)),
    "transpose": lambda: F.conv_transpose2d(zeros(1, 1, 9, 9), zeros(1, 1, 1, 1), stride=1 << 30),
    "transpose overflow": lambda: F.conv_transpose2d(
        zeros(1, 1, 9, 9), zeros(1, 1, 1, 1), stride=1 << 62),
    "linear": lambda: F.linear(gigantic(HUGE, 64), zeros(64, 64)),
    "relu": lambda: F.relu(gigantic(HUGE, 64, 8)),
    "batch norm": lambda: F.batch_norm(gigantic(HUGE, 4, 64), zeros(4), np.ones(4, np.float32)),
    "max pool": lambda: F.max_pool2d(gigantic(HUGE, 4, 8, 8), 2),
    "pad": lambda: F.pad(zeros(1, 1, 4, 4), (HUGE, HUGE, HUGE, HUGE)),
    "pad overflow": lambda: F.pad(zeros(1, 1, 4, 4), (1 << 62, 1 << 62)),
    "interpolate": lambda: F.interpolate(zeros(1, 1, 4, 4), HUGE),
    "adaptive pool": lambda: F.adaptive_avg_pool2d(zeros(1, 1, 4, 4), HUGE),
    "softmax": lambda: F.softmax(gigantic(HUGE, 64), 1),
    "add": lambda: ck.Tensor(gigantic(HUGE, 1)) + gigantic(1, 1 << 20),
    "matmul": lambda: ck.Tensor(gigantic(HUGE, 8)) @ gigantic(8, 64),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_more_than_there_is_memory(name):
    with pytest.raises((MemoryError, ShapeError, ValueError, OverflowError)) as caught:
        TOO_LARGE[name]()
    assert str(caught.value)


def test_huge_steps_that_fit_give_the_right_answer(rng):
    x = rng.standard_normal((1, 2, 5, 5)).astype(np.float32)
    w = rng.standard_normal((3, 2, 2, 2)).astype(np.float32)
    got = F.conv2d(x, w, stride=1 << 31).numpy()
    assert_close(got, reference.conv(x, w, stride=8), tolerance("forward", np.float32))
    got = F.conv2d(x, w[..., :1, :1], dilation=1 << 31).numpy()
    assert_close(got, reference.conv(x, w[..., :1, :1]), tolerance("forward", np.float32))
    got = F.max_pool2d(x, 2, stride=1 << 30).numpy()
    np.testing.assert_array_equal(got, reference.max_pool(x, kernel_size=2, stride=8).astype("f4"))


# -- empty and odd arrays -------------------------------------------------------------------


def calls(x, w, v, w2):
    """Yield what each kind of operation makes of a batch x (N, 4, 6, 7) and its reference."""
    r = reference
    yield "conv", F.conv2d(x, w, padding=1), r.conv(x, w, padding=1)
    yield "im2col", F.conv2d(x, w, algorithm="im2col"), r.conv(x, w)
    yield "depthwise", F.conv2d(x, w[:4, :1], groups=4), r.conv(x, w[:4, :1], groups=4)
    yield ("transpose", F.conv_transpose2d(x, w2, stride=2), r.conv_transpose(x, w2, stride=2))
    yield "linear", F.linear(x, w2[0, :, 0].repeat(2, 0)[:, :1].repeat(7, 1)), r.linear(
        x, w2[0, :, 0].repeat(2, 0)[:, :1].repeat(7, 1))
    yield "max pool", F.max_pool2d(x, 3, 2, 1), r.max_pool(
        x, kernel_size=3, stride=2, padding=1)
    yield "avg pool", F.avg_pool2d(x, 2), r.avg_pool(x, kernel_size=2)
    yield "adaptive", F.adaptive_avg_pool2d(x, (3, 2)), r.adaptive_avg_pool(x, output_size=(3, 2))
    yield "adaptive max", F.adaptive_max_pool2d(x, (3, 2)), r.adaptive_max_pool(
        x, output_size=(3, 2))
    yield "batch norm", F.batch_norm(x, v, v * v + 1, v, v), r.batch_norm(x, v, v, v, v * v + 1)
    yield "relu", F.relu(x), r.relu(x)
    yield "gelu", F.gelu(x), r.gelu(x)
    yield "prelu", F.prelu(x, v), r.prelu(x, v)
    yield "softmax", F.softmax(x, 1), r.softmax(x, dim=1)
    yield "upsample", F.interpolate(x, (9, 5), mode="bilinear"), r.upsample(
        x, size=(9, 5), mode="bilinear")
    yield "pad", F.pad(x, (1, 2), "reflect"), r.pad(
        x, padding=((0, 0), (0, 0), (0, 0), (1, 2)), mode="reflect")
    yield "add", ck.Tensor(x) + x, r.add(x, x)
    yield "mean", ck.Tensor(x).mean(1), r.mean(x, dim=1)
    yield "flatten", F.flatten(x, 1), x.reshape(len(x), 4 * 6 * 7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_layout_gives_the_right_answer(layout, dtype):
    x, w, v, w2 = (random_array(shape, dtype, layout, seed) for seed, shape in enumerate(
        [(2, 4, 6, 7), (5, 4, 3, 3), (4,), (4, 3, 2, 2)]))
    for name, got, want in calls(x, w, v, w2):
        assert got.dtype == np.dtype(dtype), name
        assert got.data.dtype.isnative, name
        assert_close(got.data, want, tolerance("forward", dtype), f"{name}, {layout}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_empty_batch_gives_an_empty_batch(dtype):
    x = np.zeros((0, 4, 6, 7), dtype)
    w, v, w2 = np.ones((5, 4, 3, 3), dtype), np.ones(4, dtype), np.ones((4, 3, 2, 2), dtype)
    for name, got, want in calls(x, w, v, w2):
        assert got.shape == want.shape, name


def test_gradients_of_an_empty_batch_are_zero():
    x = ck.Tensor(zeros(0, 4, 6, 7), requires_grad=True)
    w = ck.Tensor(np.ones((5, 4, 3, 3), np.float32), requires_grad=True)
    b = ck.Tensor(np.ones(5, np.float32), requires_grad=True)
    y = F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2)
    y.backward(np.zeros(y.shape, np.float32))
    assert x.grad.shape == x.shape
    assert not w.grad.numpy().any() and not b.grad.numpy().any()
    v = ck.Tensor(np.ones((3, 7), np.float32), requires_grad=True)
    y = F.linear(zeros(0, 7), v)
    y.backward(np.zeros(y.shape, np.float32))
    np.testing.assert_array_equal(v.grad.numpy(), np.zeros((3, 7)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_in_any_layout(layout):
    x, w = random_array((2, 4, 6, 7), "float32", "contiguous", 0), random_array(
        (5, 4, 3, 3), "float32", "contiguous", 1)
    gy = random_array((2, 5, 4, 5), "float32", "contiguous", 2)
    tx = ck.Tensor(lay_out(x, layout), requires_grad=True)
    tw = ck.Tensor(lay_out(w, layout), requires_grad=True)
    F.conv2d(tx, tw).backward(lay_out(gy, layout))
    for got, want in zip((tx.grad, tw.grad), reference.conv_grad(gy, x, w), strict=False):
        assert_close(got.numpy(), want, tolerance("gradient", "float32"), layout)


def test_not_a_number_stays_where_it_is(rng):
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    x[0, 1, 4, 4] = np.nan
    y = F.conv2d(x, rng.standard_normal((4, 3, 3, 3)).astype(np.float32)).numpy()
    assert np.isnan(y[0, :, 2:5, 2:5]).all()
    assert not np.isnan(y[1]).any()
    assert np.isnan(y[0]).sum() == 4 * 9
    pooled = F.max_pool2d(x, 2).numpy()
    assert np.isnan(pooled[0, 1, 2, 2]) and np.isnan(pooled).sum() == 1
    assert np.isnan(F.relu(x).numpy()).sum() == 1
