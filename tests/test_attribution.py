"""Saliency, Grad-CAM, values of layers and the loss along its gradient, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from harness import random_array

import convkit as ck
from convkit import functional as F
from convkit import nn, training
from convkit.errors import ShapeError


def network() -> nn.Sequential:
    ck.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def conv64(x, w, b, pad):
    """Correlate (N, C, H, W) in float64."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    h, v = x.shape[2] - 2, x.shape[3] - 2
    return b[:, None, None] + sum(
        np.einsum("nchw,oc->nohw", x[:, :, i:i + h, j:j + v], w[:, :, i, j])
        for i in range(3) for j in range(3))


def test_grad_cam_is_what_the_formula_says():
    net, x = network(), random_array((3, 2, 6, 5))
    w = {k: np.asarray(getattr(v, "data", v), np.float64) for k, v in net.state_dict().items()}
    hidden = np.maximum(conv64(x.astype(np.float64), w["0.weight"], w["0.bias"], 1), 0)
    maps = conv64(hidden, w["2.weight"], w["2.bias"], 0)
    classes = np.array([1, 0, 4])
    # After a mean over pixels, a score's gradient is the class's weight over their number.
    weights = w["5.weight"][classes] / maps[0, 0].size
    want = np.maximum((weights[:, :, None, None] * maps).sum(1), 0)
    found = training.grad_cam(net, x, "2", classes)
    assert found.shape == (3, 4, 3)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    scores = net(x).detach().numpy()
    best = training.grad_cam(net, x, "2")
    np.testing.assert_array_equal(best, training.grad_cam(net, x, "2", scores.argmax(1)))


def test_saliency_is_the_largest_gradient_over_the_channels():
    net, x = network(), random_array((2, 2, 6, 5)).astype(np.float64)
    found = training.saliency(net, x, [3, 2])
    assert found.shape == (2, 6, 5)
    step = 1e-2
    for n, label, row, col in [(0, 3, 0, 0), (0, 3, 4, 2), (1, 2, 5, 4), (1, 2, 2, 2)]:
        slopes = []
        for channel in range(2):
            ends = []
            for sign in (1, -1):
                moved = x.copy()
                moved[n, channel, row, col] += sign * step
                ends.append(float(net(moved.astype(np.float32)).detach().numpy()[n, label]))
            slopes.append(abs(ends[0] - ends[1]) / (2 * step))
        assert found[n, row, col] == pytest.approx(max(slopes), rel=0.02, abs=2e-4)


def test_modes_and_gradients_are_left_as_they_were():
    net = network().train()
    net[1].eval()
    F.cross_entropy(net(random_array((2, 2, 6, 5))), np.array([0, 1])).backward()
    before = [np.array(p.grad.numpy()) for p in net.parameters()]
    training.saliency(net, random_array((1, 2, 6, 5)))
    training.grad_cam(net, random_array((1, 2, 6, 5)), "0")
    training.layer_gradients(net, F.cross_entropy, random_array((1, 2, 6, 5)), np.array([1]))
    assert all(np.array_equal(p.grad.numpy(), b)
               for p, b in zip(net.parameters(), before, strict=True))
    assert net.training and net[0].training and not net[1].training
    assert not net[2]._forward_hooks


def test_what_cannot_be_attributed():
    net, x = network(), random_array((1, 2, 6, 5))
    with pytest.raises(KeyError, match="no module 'head'; there are 0, 1, 2, 3, 4, 5"):
        training.grad_cam(net, x, "head")
    with pytest.raises(ShapeError, match=r"expected layer '5' to return maps \(N, C, H, W\), got "
                                         r"shape \(1, 5\)"):
        training.grad_cam(net, x, "5")
    with pytest.raises(ShapeError, match=r"expected scores \(N, classes\), got shape"):
        training.saliency(net[:3], x)
    with pytest.raises(ShapeError, match=r"expected 1 classes, got shape \(2,\)"):
        training.saliency(net, x, [1, 2])


def test_values_and_gradients_of_layers():
    net, x = network(), random_array((2, 2, 6, 5))
    values = training.layer_outputs(net, x)
    assert list(values) == ["0", "1", "2", "3", "4", "5"]
    np.testing.assert_array_equal(values["1"], np.maximum(values["0"], 0))
    np.testing.assert_allclose(values["5"], net(x).detach().numpy(), rtol=1e-6)
    assert list(training.layer_outputs(net, x, ["2"])) == ["2"]
    target = np.array([4, 0])
    grads = training.layer_gradients(net, F.cross_entropy, x, target, ["5", "1", "0"])
    share = np.exp(values["5"].astype(np.float64))
    share /= share.sum(1, keepdims=True)
    share[[0, 1], target] -= 1
    np.testing.assert_allclose(grads["5"], share / 2, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads["0"], grads["1"] * (values["0"] > 0), rtol=1e-6)


def test_loss_along_the_gradient_of_a_parabola():
    # loss = sum of squares of w: gradient 2w, so at rate s the weights are (1 - 2s) w.
    net = nn.Linear(3, 1, bias=False)
    w = np.asarray(net.weight.data, np.float64).ravel()

    def loss(scores, targets):
        return (net.weight * net.weight).sum()

    steps = (0.1, 0.25, 0.5)
    found = training.loss_along_gradient(net, loss, np.ones((1, 3)), None, steps)
    np.testing.assert_allclose(found.losses, [(1 - 2 * s) ** 2 * (w @ w) for s in steps],
                               rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.distances, [4 * s * np.sqrt(w @ w) for s in steps],
                               rtol=1e-5)
    np.testing.assert_array_equal(found.steps, steps)
    np.testing.assert_array_equal(np.asarray(net.weight.data).ravel(), w.astype(np.float32))


def test_loss_along_the_gradient_leaves_estimates_alone():
    ck.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    before = {k: np.array(getattr(v, "data", v)) for k, v in net.state_dict().items()}
    training.loss_along_gradient(net, F.cross_entropy, random_array((4, 1, 4, 4)),
                                 np.array([0, 1, 1, 0]))
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(getattr(value, "data", value), before[key], err_msg=key)
    assert all(p.grad is None for p in net.parameters())
