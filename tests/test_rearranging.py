"""Unpooling, blurring before downsampling, and shuffles of pixels and channels."""

from __future__ import annotations

import numpy as np
import pytest
from harness import random_array

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit.errors import DTypeError, ShapeError


@pytest.mark.parametrize(("axes", "shape", "kernel", "stride", "padding"), [
    (2, (2, 3, 8, 6), 2, None, 0), (2, (2, 3, 7, 9), 3, 2, 1), (2, (3, 6, 6), 2, None, 0),
    (2, (2, 3, 6, 7), 3, 1, 1), (1, (2, 3, 9), 3, None, 0), (1, (3, 8), 2, 2, 0),
    (1, (2, 3, 9), 3, 1, 1)])
def test_unpooling_is_pytorchs(torch, axes, shape, kernel, stride, padding):
    x = random_array(shape, np.float64)
    pool, unpool = {1: ("max_pool1d", "max_unpool1d"), 2: ("max_pool2d", "max_unpool2d")}[axes]
    mine = ck.Tensor(x, requires_grad=True)
    y, at = getattr(F, pool)(mine, kernel, stride, padding, return_indices=True)
    back = getattr(F, unpool)(y, at, kernel, stride, padding, shape)
    weight = random_array(shape, np.float64, seed=1)
    (back * weight).sum().backward()
    theirs = torch.tensor(x, requires_grad=True)
    ty, tat = getattr(torch.nn.functional, pool)(theirs, kernel, stride, padding,
                                                 return_indices=True)
    want = getattr(torch.nn.functional, unpool)(ty, tat, kernel, stride, padding,
                                                shape[-axes:])
    np.testing.assert_array_equal(back.data, want.detach().numpy())
    (want * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(mine.grad.data, theirs.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_gradients_of_unpooling_count_windows(kernel, stride):
    """Each window is handed the gradient at its place, as in PyTorch, also where places are shared.

    So the gradient of pooling and unpooling is the derivative times the number of windows.
    """
    x = random_array((2, 3, 9, 8), np.float64)

    def there_and_back(x):
        y, at = F.max_pool2d(x, kernel, stride, return_indices=True)
        return F.max_unpool2d(y, at, kernel, stride, output_size=x.shape)

    at = F.max_pool2d(x, kernel, stride, return_indices=True)[1].data.reshape(6, -1)
    windows = np.array([np.bincount(places, minlength=72) for places in at]).reshape(x.shape)
    assert (windows.max() > 1) == (kernel > stride)
    mine = ck.Tensor(x, requires_grad=True)
    gy = random_array(x.shape, np.float64, seed=1)
    there_and_back(mine).backward(gy)
    np.testing.assert_allclose(mine.grad.data, windows * gy, rtol=1e-12)
    # The derivative is that of a sum in which each maximum stands once.
    step = 1e-6 * random_array(x.shape, np.float64, seed=2)
    moved = [float((there_and_back(x + s * step).data * gy).sum()) for s in (1, -1)]
    np.testing.assert_allclose((moved[0] - moved[1]) / 2, ((windows > 0) * gy * step).sum(),
                               rtol=1e-6)


def test_an_encoder_and_decoder_compile():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

        def forward(self, x):
            y, at = self.pool(self.conv(x))
            return self.unpool(y, at)

    net = Net().eval()
    x = random_array((3, 3, 8, 6))
    program = ck.compile(net, (1, 3, 8, 6))
    with ck.no_grad():
        np.testing.assert_allclose(program(x), net(ck.Tensor(x)).data, atol=1e-6)


@pytest.mark.parametrize("name, shape", [("1d", (2, 3, 10)), ("2d", (2, 3, 9, 10))])
def test_layers_that_unpool_are_pytorchs(torch, name, shape):
    x = random_array(shape)
    y, at = getattr(nn, f"MaxPool{name}")(3, 2, return_indices=True)(ck.Tensor(x))
    layers = {"1d": nn.MaxUnpool1d, "2d": nn.MaxUnpool2d}
    want = getattr(torch.nn, layers[name].__name__)(3, 2)(
        torch.from_numpy(np.array(y.data)), torch.from_numpy(np.array(at.data)), shape)
    np.testing.assert_array_equal(layers[name](3, 2)(y, at, shape).data, want.numpy())


def test_unpooling_checks_its_indices():
    x, at = np.zeros((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 16)
    with pytest.raises(ShapeError, match=r"indices from 0 to 15 for an output of spatial size "
                                         r"\(4, 4\), got 16 to 16"):
        F.max_unpool2d(x, at, 2)
    with pytest.raises(ShapeError, match="indices from 0 to 15"):
        F.max_unpool2d(x, -at, 2)
    with pytest.raises(ShapeError, match=r"output_size within \(2, 2\) of \(4, 4\), got \(6, 4\)"):
        F.max_unpool2d(x, at, 2, output_size=(6, 4))
    with pytest.raises(ShapeError, match=r"expected indices of shape \(1, 1, 2, 2\) like x"):
        F.max_unpool2d(x, at[..., :1], 2)
    with pytest.raises(DTypeError, match="indices of an integer type, got float32"):
        F.max_unpool2d(x, x, 2)


@pytest.mark.parametrize(("name", "argument", "shape"), [
    ("pixel_shuffle", 2, (2, 12, 3, 5)), ("pixel_shuffle", 3, (9, 2, 2)),
    ("pixel_unshuffle", 2, (2, 3, 4, 6)), ("pixel_unshuffle", 3, (2, 3, 3)),
    ("channel_shuffle", 3, (2, 6, 4, 5)), ("channel_shuffle", 2, (2, 6, 4))])
def test_shuffles_are_pytorchs(torch, name, argument, shape):
    x = random_array(shape, np.float64)
    mine, theirs = ck.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = getattr(F, name)(mine, argument)
    want = getattr(torch.nn.functional, name)(theirs, argument)
    np.testing.assert_array_equal(y.data, want.detach().numpy())
    gy = random_array(y.shape, np.float64, seed=1)
    y.backward(gy)
    want.backward(torch.tensor(gy))
    np.testing.assert_array_equal(mine.grad.data, theirs.grad.numpy())


def test_shuffle_layers_undo_each_other_and_compile():
    x = random_array((2, 3, 4, 6))
    net = nn.Sequential(nn.PixelUnshuffle(2), nn.ChannelShuffle(4), nn.ChannelShuffle(3),
                        nn.PixelShuffle(2)).eval()
    np.testing.assert_array_equal(net(ck.Tensor(x)).data, x)
    np.testing.assert_array_equal(ck.compile(net, (1, 3, 4, 6))(x), x)
    for call in (lambda: F.pixel_shuffle(x, 2), lambda: F.pixel_unshuffle(x, 5),
                 lambda: F.channel_shuffle(x, 2)):
        with pytest.raises(ShapeError, match="divides, got"):
            call()


def test_blur_is_a_binomial_average():
    x = np.zeros((1, 2, 9, 9), np.float32)
    x[..., 4, 4] = 16
    y = F.blur_pool2d(x, 3, 1).data
    np.testing.assert_array_equal(y[0, 1, 3:6, 3:6], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    constant = np.full((3, 7, 5), 2.5, np.float32)
    for size in (1, 2, 3, 4, 5):
        np.testing.assert_allclose(F.blur_pool2d(constant, size).data, 2.5, rtol=1e-6)
    assert nn.BlurPool2d()(ck.Tensor(x)).shape == (1, 2, 5, 5)
    assert F.blur_pool2d(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 1, 4, 4)


def test_blur_keeps_stripes_from_turning_into_others():
    """Every second column of stripes of width one is a flat picture; blurred, it is grey."""
    stripes = np.tile(np.array([1.0, -1.0], np.float32), 8) * np.ones((1, 1, 16, 1), np.float32)
    assert np.abs(stripes[..., ::2, ::2] - 1).max() == 0
    assert np.abs(F.blur_pool2d(stripes, padding_mode="circular").data).max() < 1e-6


def test_blur_makes_pooling_shift_less():
    """A shift of the picture by one pixel changes the pooled one less (Zhang, 2019)."""
    x = random_array((8, 4, 33, 33))
    moved = np.roll(x, 1, axis=3)

    def change(pool):
        return float(np.square(pool(x).data - pool(moved).data)[..., 2:-2, 2:-2].mean())

    plain = change(lambda a: F.max_pool2d(a, 2, 2))
    blurred = change(lambda a: F.blur_pool2d(F.max_pool2d(a, 2, 1)))
    assert blurred < 0.5 * plain


@pytest.mark.parametrize("name", ["cat", "concat", "stack"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_joining_is_pytorchs(torch, name, dim):
    parts = [random_array((2, 3, 4), np.float64, seed=i) for i in range(3)]
    mine = [ck.Tensor(p, requires_grad=True) for p in parts]
    theirs = [torch.from_numpy(p).requires_grad_() for p in parts]
    got, want = getattr(ck, name)(mine, dim), getattr(torch, name)(theirs, dim)
    np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
    factor = random_array(got.shape, np.float64, seed=9)
    (got * factor).sum().backward()
    (want * torch.from_numpy(factor)).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_what_cannot_be_stacked():
    a, b = np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)
    for tensors, dim, text in (([a, b], 0, r"of one shape to stack, got \(2, 3\), \(3, 2\)"),
                               ([], 0, "got none"), ([a], 3, "dim from -3 to 2, got 3")):
        with pytest.raises(ShapeError, match=text):
            F.stack(tensors, dim)
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    np.testing.assert_array_equal(ck.flatten(ck.Tensor(x), 1).data, x.reshape(1, 6))
