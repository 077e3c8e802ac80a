"""Penalties, bounds, dropout in its forms, noise, and several predictions instead of one."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, check_gradients, random_array

import convkit as ck
from convkit import functional as F
from convkit import nn, optim
from convkit.data.augment import TenCrop
from convkit.errors import ShapeError
from convkit.training import CropAverage, Ensemble, bootstrap, monte_carlo_dropout, weight_noise


@pytest.fixture(autouse=True)
def _seed():
    ck.manual_seed(0)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4),
                         nn.Linear(8, 3))


# -- penalties ------------------------------------------------------------------------------


def test_penalties_are_their_formulas():
    net = network()
    w, v = net[0].weight.data, net[4].weight.data
    l1 = np.abs(w).sum() + np.abs(v).sum()
    l2 = (np.square(w).sum() + np.square(v).sum()) / 2
    assert nn.l1_penalty(net).item() == pytest.approx(l1, rel=1e-6)
    assert nn.l2_penalty(net).item() == pytest.approx(l2, rel=1e-6)
    assert nn.elastic_net_penalty(net, 0.1, 0.3).item() == pytest.approx(0.1 * l1 + 0.3 * l2)
    assert nn.l1_penalty([]).item() == 0
    assert nn.l1_penalty([net[0].bias]).item() == pytest.approx(np.abs(net[0].bias.data).sum())


def test_gradients_of_the_penalties():
    net = network()
    nn.elastic_net_penalty(net, 0.5, 2.0).backward()
    w = net[0].weight
    np.testing.assert_allclose(w.grad.data, 0.5 * np.sign(w.data) + 2 * w.data, rtol=1e-6)
    assert net[0].bias.grad is None and net[1].weight.grad is None


def test_the_l2_penalty_is_weight_decay():
    x, t = ck.Tensor(random_array((9, 6))), np.arange(9) % 3
    weights = []
    for decay, penalty in ((0.1, 0.0), (0.0, 0.1)):
        ck.manual_seed(4)
        net = nn.Linear(6, 3, bias=False)
        optimizer = optim.SGD(net.parameters(), lr=0.2, weight_decay=decay)
        for _ in range(3):
            loss = F.cross_entropy(net(x), t) + nn.l2_penalty(net) * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append(net.weight.data)
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5)


def test_max_norm_bounds_each_unit_and_leaves_the_rest():
    net = nn.Conv2d(3, 5, 3)
    with ck.no_grad():
        net.weight.mul_(np.array([0.1, 1, 10, 100, 0], np.float32).reshape(5, 1, 1, 1))
    before = net.weight.data.copy()
    nn.max_norm_(net, 1.5)
    norms = np.sqrt(np.square(net.weight.data).sum((1, 2, 3)))
    assert norms.max() <= 1.5 * (1 + 1e-6)
    small = np.sqrt(np.square(before).sum((1, 2, 3))) <= 1.5
    assert small.any() and not small.all()
    assert_same_bits(net.weight.data[small], before[small])
    cosine = (net.weight.data * before).sum((1, 2, 3))[~small] / (
        norms * np.sqrt(np.square(before).sum((1, 2, 3))))[~small]
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    with pytest.raises(ValueError, match="max_norm above 0, got 0"):
        nn.max_norm_(net, 0)


@pytest.mark.parametrize("groups", [1, 2])
def test_max_norm_of_transposed_convolutions_is_by_output_channel(groups):
    net = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    w = net.weight.data.reshape(groups, 4 // groups, 6 // groups, 3, 3).copy()
    norms = np.sqrt(np.square(w).sum((1, 3, 4)))
    bound = float(np.median(norms))
    nn.max_norm_(net, bound)
    got = net.weight.data.reshape(w.shape)
    np.testing.assert_allclose(np.sqrt(np.square(got).sum((1, 3, 4))), np.minimum(norms, bound),
                               rtol=1e-5)
    np.testing.assert_allclose(got, w * np.minimum(1, bound / norms)[:, None, :, None, None],
                               rtol=1e-5)


# -- dropout ----------------------------------------------------------------------------------


def test_both_forms_of_dropout_have_the_same_mean():
    x = np.ones((400, 500), np.float32)
    inverted, classic = F.dropout(x, 0.3).data, F.classic_dropout(x, 0.3).data
    assert set(np.unique(classic)) == {0.0, 1.0}
    np.testing.assert_allclose(np.unique(inverted), [0, 1 / 0.7], rtol=1e-6)
    assert inverted.mean() == pytest.approx(1, abs=0.01)
    assert classic.mean() == pytest.approx(F.classic_dropout(x, 0.3, False).data.mean(), abs=0.01)
    layer = nn.ClassicDropout(0.3).eval()
    np.testing.assert_allclose(layer(ck.Tensor(x)).data, 0.7, rtol=1e-6)


@pytest.mark.parametrize("name, shape, whole", [
    ("dropout", (30, 40), 0), ("dropout1d", (20, 30, 5), 1), ("dropout2d", (20, 30, 3, 4), 2)])
def test_dropout_is_pytorchs_but_for_the_numbers_drawn(torch, name, shape, whole):
    def ours(x, p, training):
        return getattr(F, name)(x, p, training)

    layer = {"dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d}[name]
    their_layer = getattr(torch.nn, layer.__name__)
    assert layer().p == their_layer().p and layer().training
    for p in (0.0, 0.25, 1.0):
        x = ck.Tensor(random_array(shape), requires_grad=True)
        tx = torch.from_numpy(np.array(x.data)).requires_grad_()
        found = []
        for values, y in ((x, ours(x, p, True)),
                          (tx, getattr(torch.nn.functional, name)(tx, p, True))):
            y.sum().backward()
            grad = np.asarray(values.grad)
            data = np.asarray(y.detach())
            np.testing.assert_allclose(data, grad * np.asarray(values.detach()), rtol=1e-6)
            spatial = tuple(range(len(shape) - whole, len(shape)))
            assert (np.ptp(grad, axis=spatial) == 0).all()
            assert (grad == 0).mean() == pytest.approx(p, abs=0.1)
            found.append(np.unique(grad))
        np.testing.assert_allclose(*found, rtol=1e-6)
        assert_same_bits(ours(x, p, False).data, x.data)


def test_channels_and_samples_drop_as_wholes():
    x = np.ones((50, 20, 9), np.float32)
    y = F.dropout1d(x, 0.4).data
    assert ((y == 0).all(axis=2) | (y != 0).all(axis=2)).all()
    assert 0.3 < (y == 0).mean() < 0.5
    rows = F.stochastic_depth(x, 0.4).data
    assert (np.ptp(rows, axis=(1, 2)) == 0).all()
    assert 5 < (rows[:, 0, 0] == 0).sum() < 35
    np.testing.assert_allclose(rows[rows > 0], 1 / 0.6, rtol=1e-6)
    whole = {float(F.stochastic_depth(x, 0.5, "batch").data.max()) for _ in range(20)}
    assert whole == {0.0, 2.0}
    layer = nn.StochasticDepth(0.5).eval()
    assert_same_bits(layer(ck.Tensor(x)).data, x)
    with pytest.raises(ShapeError, match="expected x with 3 axes"):
        F.dropout1d(x[0], 0.5)
    with pytest.raises(ValueError, match="'row' or 'batch', got 'x'"):
        nn.StochasticDepth(0.5, "x")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("drop", [
    lambda x, training: F.classic_dropout(x, 0.3, training),
    lambda x, training: F.stochastic_depth(x, 0.3, "row", training),
    lambda x, training: F.stochastic_depth(x, 0.3, "batch", training)],
    ids=["classic", "by row", "by batch"])
def test_gradients_go_where_values_were_kept(drop, training):
    """The functions are linear but for the numbers drawn: the gradient is what they multiply by."""
    x = ck.Tensor(random_array((40, 3, 5), np.float64), requires_grad=True)
    y = drop(x, training)
    gy = random_array(y.shape, np.float64, seed=1)
    y.backward(gy)
    np.testing.assert_allclose(x.grad.data, gy * (y.data / x.data), rtol=1e-12)
    check_gradients(lambda x: drop(x, training), x.data)


def test_noise_has_its_deviation_and_no_gradient_of_its_own():
    x = ck.Tensor(np.ones((300, 300), np.float32), requires_grad=True)
    y = F.gaussian_noise(x, 0.5)
    assert y.data.mean() == pytest.approx(1, abs=0.01)
    assert y.data.std() == pytest.approx(0.5, rel=0.02)
    y.sum().backward()
    assert (x.grad.data == 1).all()
    assert nn.GaussianNoise(0.5).eval()(x) is x
    with pytest.raises(ValueError, match="deviation of at least 0, got -1"):
        nn.GaussianNoise(-1)


RANDOM = [lambda x: F.dropout(x, 0.3), lambda x: F.classic_dropout(x, 0.3),
          lambda x: F.stochastic_depth(x, 0.3), lambda x: F.gaussian_noise(x, 0.3),
          lambda x: nn.DropConnectLinear(7, 5)(x)]


@pytest.mark.parametrize("layer", RANDOM)
def test_the_seed_alone_decides(layer):
    x = ck.Tensor(random_array((40, 7)))
    results = []
    for threads in (1, 2, 3):
        ck.manual_seed(11)
        with ck.threads(threads):
            results.append(layer(x).data)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    assert not np.array_equal(layer(x).data, results[0])


def test_noise_is_the_same_for_every_order_in_memory():
    """Numbers are drawn in the order of memory; a channels-last array stays one."""
    x = random_array((4, 3, 5, 6), layout="channels_last")
    assert F.gaussian_noise(x, 1.0).data.strides == x.strides


# -- DropConnect ------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
def test_drop_connect_drops_weights(per_sample):
    layer = nn.DropConnectLinear(200, 30, p=0.25, activation="identity", bias=False,
                                 per_sample=per_sample)
    with ck.no_grad():
        layer.weight.fill_(1.0)
    y = layer(ck.Tensor(np.ones((64, 200), np.float32)))
    assert y.data.mean() == pytest.approx(150, rel=0.02)
    assert (y.data.std(axis=0).max() > 0) == per_sample
    y.sum().backward()
    assert layer.weight.grad.data.mean() == pytest.approx(64 * 0.75, rel=0.03)


@pytest.mark.parametrize("activation", ["relu", "identity", F.relu, F.tanh])
def test_drop_connect_infers_the_mean_over_masks(activation):
    """Moment matching against the mean over many masks (Wan et al., 2013, section 3.2)."""
    layer = nn.DropConnectLinear(150, 20, p=0.5, activation=activation, samples=4000)
    x = ck.Tensor(random_array((3, 150), seed=2))
    with ck.no_grad():
        over_masks = np.mean([layer(x).data for _ in range(4000)], axis=0)
        inferred = layer.eval()(x).data
    np.testing.assert_allclose(inferred, over_masks, atol=0.05)
    if activation == "relu":  # what the mean of the sums alone would give is further off
        plain = np.maximum(x.data @ layer.weight.data.T * 0.5 + layer.bias.data, 0)
        assert np.abs(inferred - over_masks).max() < 0.3 * np.abs(plain - over_masks).max()


def test_drop_connect_in_evaluation_is_fixed_and_compiles():
    layer = nn.DropConnectLinear(12, 5).eval()
    x = random_array((4, 12))
    np.testing.assert_allclose(ck.compile(layer, (1, 12))(x), layer(ck.Tensor(x)).data, rtol=1e-5,
                               atol=1e-6)
    for message, kwargs in (("from 0 to 1, got 2", {"p": 2}), ("a function", {"activation": "x"}),
                            ("at least 1 sample", {"samples": 0})):
        with pytest.raises(ValueError, match=message):
            nn.DropConnectLinear(2, 2, **kwargs)


# -- weights with noise, several predictions -----------------------------------------------------


def test_weight_noise_is_gone_after_the_block():
    net = network()
    before = [p.data.copy() for p in net.parameters()]
    x = ck.Tensor(random_array((5, 6)))
    with weight_noise(net, 0.1):
        moved = [not np.array_equal(p.data, b) for p, b in zip(net.parameters(), before,
                                                               strict=True)]
        assert moved == [p.ndim > 1 for p in net.parameters()]
        net(x).sum().backward()
    assert_same_bits([p.data for p in net.parameters()], before)
    assert all(p.grad is not None for p in net.parameters())


def test_monte_carlo_dropout_leaves_everything_else_in_evaluation():
    net = network().eval()
    net[3].train()
    running = net[1].running_mean.data.copy()
    x = random_array((4, 6))
    first = monte_carlo_dropout(net, x, 200, lambda y: F.softmax(y, 1))
    np.testing.assert_allclose(first.mean.sum(axis=1), 1, rtol=1e-6)
    assert (first.variance > 0).all()
    assert_same_bits(net[1].running_mean.data, running)
    assert [m.training for m in net] == [False, False, False, True, False]
    ck.manual_seed(0)
    again = monte_carlo_dropout(net, x, 3)
    ck.manual_seed(0)
    assert_same_bits(again, monte_carlo_dropout(net, x, 3))
    net[3].p = 0.0
    assert (monte_carlo_dropout(net, x, 3).variance == 0).all()


def test_ensembles_average_probabilities():
    members = [network().eval() for _ in range(3)]
    x = ck.Tensor(random_array((4, 6)))
    ensemble = Ensemble(members).eval()
    want = np.mean([F.softmax(m(x), 1).data for m in members], axis=0)
    np.testing.assert_allclose(np.exp(ensemble(x).data), want, rtol=1e-5)
    np.testing.assert_allclose(ensemble.spread(x).mean, want, rtol=1e-6)
    scores = Ensemble(members, "scores")(x).data
    np.testing.assert_allclose(scores, np.mean([m(x).data for m in members], axis=0), rtol=1e-5,
                               atol=1e-6)
    np.testing.assert_allclose(ck.compile(ensemble, (1, 6))(x.data), ensemble(x).data, rtol=1e-4,
                               atol=1e-5)
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])


@pytest.mark.parametrize("average", ["probabilities", "scores"])
def test_crops_are_averaged_by_image(average):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 4)).eval()
    images = random_array((5, 3, 10, 11))
    crops = TenCrop(8)(np.clip(images, 0, 1))
    assert crops.shape == (5, 10, 3, 8, 8)
    single = np.stack([net(ck.Tensor(np.ascontiguousarray(crops[:, i]))).data for i in range(10)])
    if average == "probabilities":
        want = np.log(np.mean([F.softmax(s, 1).data for s in single], axis=0))
    else:
        want = single.mean(axis=0)
    got = CropAverage(net, average)(crops)
    np.testing.assert_allclose(got.data, want, rtol=1e-5, atol=1e-6)
    program = ck.compile(CropAverage(net, average), crops.shape)
    np.testing.assert_allclose(program(np.ascontiguousarray(crops)), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match=r"\(N, crops, C, H, W\), got \(5, 3, 10, 11\)"):
        CropAverage(net)(images)
    with pytest.raises(ValueError, match="'probabilities' or 'scores', got 'mean'"):
        CropAverage(net, "mean")


def test_bootstrap_draws_with_replacement():
    sets = list(bootstrap(2000, 3, seed=5))
    for drawn, rest in sets:
        assert len(drawn) == 2000 and set(drawn) | set(rest) == set(range(2000))
        assert not set(drawn) & set(rest)
        assert len(rest) / 2000 == pytest.approx(np.exp(-1), abs=0.03)
    assert not np.array_equal(sets[0][0], sets[1][0])
    assert_same_bits([d for d, _ in sets], [d for d, _ in bootstrap(2000, 3, seed=5)])
