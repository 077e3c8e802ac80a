"""Convolution and cross-correlation, their duality in the gradient, and shared weights."""

from __future__ import annotations

import numpy as np
import pytest
from harness import check_gradients, random_array

import convkit as ck
from convkit import functional as F


def tensors(*shapes):
    return [ck.Tensor(random_array(s, np.float64, seed=i), requires_grad=True)
            for i, s in enumerate(shapes)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_1d_is_numpys(length, mode):
    x, w = random_array((1, 1, 9), np.float64), random_array((1, 1, length), np.float64, seed=1)
    got = F.convolve1d(x, w, padding=mode).data[0, 0]
    np.testing.assert_allclose(got, np.convolve(x[0, 0], w[0, 0], mode), atol=1e-13)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4), (5, 2)])
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_2d_is_scipys(kernel, mode):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, w = random_array((1, 1, 8, 7), np.float64), random_array((1, 1, *kernel), np.float64, seed=1)
    got = F.convolve2d(x, w, padding=mode).data[0, 0]
    np.testing.assert_allclose(got, signal.convolve2d(x[0, 0], w[0, 0], mode), atol=1e-13)


def test_the_kernel_is_turned():
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 2, 2] = 1
    w = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    np.testing.assert_array_equal(F.convolve2d(x, w, padding="same").data[0, 0, 1:4, 1:4], w[0, 0])
    np.testing.assert_array_equal(F.conv2d(x, w, padding="same").data[0, 0, 1:4, 1:4],
                                  w[0, 0, ::-1, ::-1])


@pytest.mark.parametrize("kernel", [(3, 3), (5, 3)])
def test_the_periodic_convolution_is_a_product_of_spectra(kernel):
    x, w = random_array((8, 6), np.float64), random_array(kernel, np.float64, seed=1)
    got = F.convolve2d(x[None, None], w[None, None], padding="same", padding_mode="circular")
    spectra = np.fft.fft2(x) * np.fft.fft2(w, x.shape)
    centred = np.roll(np.fft.ifft2(spectra).real, [-(k // 2) for k in kernel], axis=(0, 1))
    np.testing.assert_allclose(got.data[0, 0], centred, atol=1e-12)


def test_convolution_commutes_and_correlation_does_not():
    a, b = random_array((1, 1, 6), np.float64), random_array((1, 1, 4), np.float64, seed=1)
    np.testing.assert_allclose(F.convolve1d(a, b, padding="full").data,
                               F.convolve1d(b, a, padding="full").data, atol=1e-13)
    correlated = [F.conv1d(p, q, padding=q.shape[2] - 1).data for p, q in ((a, b), (b, a))]
    assert not np.allclose(*correlated)
    np.testing.assert_allclose(correlated[0], correlated[1][..., ::-1], atol=1e-13)


@pytest.mark.parametrize(("here", "there"), [(F.conv2d, F.convolve2d), (F.convolve2d, F.conv2d)])
def test_the_gradient_of_the_one_is_the_other(here, there):
    """d/dx of a correlation is the full convolution of the output's gradient, and the other
    way round; channels in and out change places."""
    x, w = tensors((2, 3, 7, 6), (4, 3, 3, 2))
    y = here(x, w)
    gy = random_array(y.shape, np.float64, seed=5)
    y.backward(gy)
    exchanged = w.data.transpose(1, 0, 2, 3)
    want = there(gy, exchanged, padding=((2, 2), (1, 1)))
    np.testing.assert_allclose(x.grad.data, want.data, atol=1e-12)


@pytest.mark.parametrize("options", [
    {}, {"padding": "full"}, {"padding": "same"}, {"padding": "same", "padding_mode": "circular"},
    {"padding": 2, "stride": 2, "dilation": 2}], ids=str)
@pytest.mark.parametrize("axes", [1, 2])
def test_gradients_of_the_convolution_are_central_differences(axes, options):
    convolve = (F.convolve1d, F.convolve2d)[axes - 1]
    arrays = [random_array(shape, np.float64, seed=i) for i, shape in enumerate(
        ((2, 3, *(9, 7)[:axes]), (4, 3, *(3, 2)[:axes]), (4,)))]
    check_gradients(lambda x, w, b: convolve(x, w, b, **options), *arrays)


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular", "zeros"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (5, (1, 3))])
def test_gradients_of_the_blur_are_central_differences(size, stride, padding_mode):
    check_gradients(lambda x: F.blur_pool2d(x, size, stride, padding_mode),
                    random_array((2, 3, 9, 8), np.float64))


def test_the_gradient_of_a_shared_weight_is_the_sum_over_its_edges():
    """Each tap joins many pairs of pixels, its edges in the network's graph.

    With a weight of its own for every edge (a locally connected layer, written as sums of
    products), the gradient of the shared weight is the sum of the edges' gradients.
    """
    x, w = tensors((2, 3, 6, 5), (4, 3, 3, 2))
    y = F.conv2d(x, w)
    gy = random_array(y.shape, np.float64, seed=5)
    y.backward(gy)
    height, width = y.shape[2:]
    edges = ck.Tensor(np.broadcast_to(w.data[:, :, :, :, None, None],
                                      (*w.shape, height, width)).copy(), requires_grad=True)
    total = None
    for i in range(3):
        for j in range(2):
            window = x.data[:, None, :, i:i + height, j:j + width]
            term = (edges[:, :, i, j] * window).sum(2)
            total = term if total is None else total + term
    np.testing.assert_allclose(total.data, y.data, atol=1e-12)
    total.backward(gy)
    assert edges.grad.shape == (4, 3, 3, 2, height, width)
    np.testing.assert_allclose(w.grad.data, edges.grad.data.sum((4, 5)), atol=1e-11)


def test_convolution_moves_with_the_picture():
    """A shift of the input shifts the output (circular edges): equivariance."""
    x, w = random_array((1, 3, 8, 8)), random_array((2, 3, 3, 3), seed=1)
    y = F.convolve2d(x, w, padding="same", padding_mode="circular").data
    moved = F.convolve2d(np.roll(x, (2, 3), (2, 3)), w, padding="same",
                         padding_mode="circular").data
    np.testing.assert_allclose(moved, np.roll(y, (2, 3), (2, 3)), atol=1e-5)


def folds(spectrum):
    """Return the four parts of a picture's spectrum that every second pixel lays on each other."""
    n, m = (s // 2 for s in spectrum.shape)
    return spectrum.reshape(2, n, 2, m).transpose(0, 2, 1, 3).reshape(4, n, m) / 4


def bands(spectrum):
    """Return the part of a spectrum that every second pixel can hold, and the rest."""
    low = np.abs(np.fft.fftfreq(len(spectrum))) < 0.25
    low = np.logical_and.outer(low, low)
    return spectrum * low, spectrum * ~low


@pytest.mark.parametrize("size", [1, 3, 5])
def test_blurring_before_sampling_takes_away_what_would_alias(size):
    """Sampling adds up the folds of a spectrum; the blur multiplies it by cos(pi f)^(size - 1).

    All that a picture without low frequencies leaves on the coarse grid is aliases.
    """
    noise = np.fft.fft2(random_array((32, 32), np.float64))
    response = np.cos(np.pi * np.fft.fftfreq(32)) ** (size - 1)
    energies = []
    for spectrum in bands(noise):
        x = np.fft.ifft2(spectrum).real
        y = F.blur_pool2d(x[None, None], size, 2, "circular").data[0, 0]
        expected = folds(spectrum * np.outer(response, response)).sum(0)
        np.testing.assert_allclose(np.fft.fft2(y), expected, atol=1e-12)
        energies.append(np.square(y).sum() / np.square(x[::2, ::2]).sum())
    kept, aliased = energies
    if size == 1:  # no blur
        assert kept == aliased == 1
    else:
        assert aliased < {3: 0.05, 5: 0.01}[size] and kept > 0.3


def test_bad_arguments():
    x, w = random_array((1, 3, 8, 8)), random_array((2, 3, 3, 3))
    with pytest.raises(ValueError, match="'same' is not supported for strided"):
        F.convolve2d(x, w, stride=2, padding="same")
    with pytest.raises(ck.ShapeError, match="a weight with 3 axes, got shape"):
        F.convolve1d(x, w)
