"""Looking inside a network in training: anomalies by name, norms, dead units, checks."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import nn, optim, training
from convkit.autograd import watching
from convkit.training import Callback, LayerMonitor, Trainer
from convkit.training.layers import current_place


class Net(nn.Module):
    def __init__(self, fault=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)
        self.fault = fault

    def forward(self, x):
        x = self.stem(x)
        if self.fault is not None:
            x = self.fault(x)
        return self.head(F.relu(x.mean((2, 3))))


@pytest.fixture
def images(rng):
    return ck.Tensor(rng.standard_normal((5, 2, 6, 6)).astype(np.float32))


LABELS = np.array([0, 1, 2, 0, 1])


def test_nothing_wrong_changes_nothing(images):
    ck.manual_seed(0)
    net = Net()
    F.cross_entropy(net(images), LABELS).backward()
    before = [np.array(p.grad.data) for p in net.parameters()]
    net.zero_grad()
    with ck.detect_anomaly():
        F.cross_entropy(net(images), LABELS).backward()
    for p, grad in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad.data, grad)


def test_gradients_of_bfloat16_can_be_looked_at():
    """Under medium, gradients come as bfloat16 from layer to layer."""
    ck.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((8, 1, 28, 28)).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    with ck.precision("medium"), ck.detect_anomaly():
        y = net(x)
        y.mean().backward()
        assert all(np.isfinite(p.grad.data).all() for p in net.parameters())
        gradient = np.ones(y.shape, np.float32)
        gradient[0, 0, 0, 0] = np.nan
        with pytest.raises(ck.AnomalyError, match="the gradient of operation 'max_pool' has NaN"):
            net(x).backward(gradient)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("fault, text", [
    (lambda x: (x - 1e9).sqrt(), r"^Net: operation 'sqrt' gave NaN at 320 of 320 places"),
    (lambda x: (x * 0).log(), r"^Net: operation 'log' gave infinities at 320 of 320 places"),
    (lambda x: (x * 0).sqrt(), r"^Net: the gradient of operation 'sqrt' has .* for its input 0"),
])
def test_the_operation_is_named(images, fault, text):
    ck.manual_seed(0)
    net = Net(fault)
    with pytest.raises(ck.AnomalyError, match=text), ck.detect_anomaly():
        F.cross_entropy(net(images), LABELS).backward()


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_the_layer_is_named(images):
    net = Net()
    with ck.no_grad():
        net.stem[0].weight[0, 0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"^Conv2d 'stem\.0': operation 'conv' got NaN at "
                                                 r"1 of 72 places .* in its parameter 'weight'"):
        with ck.detect_anomaly():
            net(images)
    with pytest.raises(ck.AnomalyError, match=r"^Conv2d 'stem\.0': operation 'conv' got NaN at "
                                              r"1 of 360 places .* in its input 0"):
        with ck.detect_anomaly():
            x = images.data.copy()
            x[0, 0, 0, 0] = np.nan
            Net()(x)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_the_layer_of_a_gradient_is_named(images):
    net = Net(lambda x: x * 100)
    with ck.detect_anomaly():
        scores = net(images)
    with pytest.raises(ck.AnomalyError, match=r"^Linear 'head': the gradient of operation "
                                              r"'linear' has infinities .* for its input \d"):
        scores.backward(np.full(scores.shape, 3e38, np.float32))


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_infinities_may_be_let_pass(images):
    net = Net(lambda x: F.relu((x * 0).log()))
    with ck.detect_anomaly(infinities=False):
        net(images)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_trainer_looks_on_where_asked(images):
    net = Net(lambda x: (x - 1e9).sqrt())
    trainer = Trainer(net, optim.SGD(net.parameters()), detect_anomaly=True, progress=False)
    with pytest.raises(ck.AnomalyError, match="operation 'sqrt'"):
        trainer.fit([(images, LABELS)])


def test_dead_relus(images):
    net = Net()
    with ck.no_grad():
        net.stem[0].bias[:2] = -1e3
    shares = training.dead_relu_share(net, [(images, LABELS)] * 2)
    assert shares["stem.1"] == 0.5 and list(shares) == ["stem.1", ""]
    assert shares[""] >= 0.5 and net.training
    first, second = np.zeros((2, 1, 3), np.float32)
    first[0, 0], second[0, 1] = 1, 1
    assert training.dead_relu_share(nn.ReLU(), [first, second]) == {"": pytest.approx(1 / 3)}

    class Shared(nn.Module):
        def forward(self, x):
            return F.relu(F.relu(x) - 10)

    assert training.dead_relu_share(Shared(), [first]) == {
        "": pytest.approx(2 / 3), " (2)": 1.0}


def test_norms_by_layer(images):
    ck.manual_seed(0)
    net = Net()
    seen = []

    class Keep(Callback):
        def on_gradients(self, trainer):
            seen.append({n: (np.array(p.data, np.float64), np.array(p.grad.data, np.float64))
                         for n, p in net.named_parameters()})

    monitor = LayerMonitor(every_steps=2, relu_data=[(images, LABELS)])
    trainer = Trainer(net, optim.SGD(net.parameters(), 0.1), callbacks=[Keep(), monitor],
                      progress=False)
    history = trainer.fit([(images, LABELS)] * 4)
    assert [r["step"] for r in monitor.records] == [2, 4]
    layers = monitor.records[-1]["layers"]
    assert list(layers) == [name for name, _ in net.named_parameters()]
    for name, (weights, grad) in seen[3].items():
        assert layers[name]["weight_norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-6)
        assert layers[name]["grad_norm"] == pytest.approx(np.linalg.norm(grad), rel=1e-6)
        ratio = 0.1 * np.linalg.norm(grad) / np.linalg.norm(weights)
        assert layers[name]["update_ratio"] == pytest.approx(ratio, rel=1e-3)
    whole = math.sqrt(sum(np.square(g).sum() for _, g in seen[3].values()))
    assert history[0]["grad_norm"] == pytest.approx(whole, rel=1e-6)
    assert history[0]["update_ratio"] > 0 and 0 <= history[0]["dead_relu_share"] <= 1
    assert not [name for name in history[0] if "/" in name]
    monitor = LayerMonitor(every_steps=2, relu_data=[(images, LABELS)], by_layer=True)
    trainer = Trainer(net, optim.SGD(net.parameters(), 0.1), callbacks=[monitor], progress=False)
    record, = trainer.fit([(images, LABELS)] * 3)
    newest = monitor.records[-1]["layers"]
    assert {name: value for name, value in record.items() if "/" in name} == {
        **{f"{figure}/{name}": value for name, figures in newest.items()
           for figure, value in figures.items()},
        **{f"dead_relu_share/{name}": share for name, share in monitor.dead_relus.items()}}
    assert "update_ratio/stem.0.weight" in record
    other = LayerMonitor()
    other.load_state_dict(monitor.state_dict())
    assert other.records == monitor.records


def test_initial_loss(images):
    ck.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(72, 3))
    with ck.no_grad():
        net[2].weight.mul_(0.1)
    before = ck.random.get_state()
    found = training.check_initial_loss(net, (images, LABELS))
    assert found.ok and found.expected == pytest.approx(-math.log(1 / 3)) and "as it should" in \
        str(found)
    assert ck.random.get_state() == before
    with ck.no_grad():
        net[2].weight.mul_(1000)
    found = training.check_initial_loss(net, (images, LABELS))
    assert not found.ok and "the scores are too large" in str(found)
    found = training.check_initial_loss(net, (images, LABELS), lambda y, t: y.sum() * 0)
    assert not found.ok and "less than guessing" in str(found)


def test_overfitting_one_batch(images):
    ck.manual_seed(0)
    net = Net()
    before = np.array(net.head.weight.data)
    found = training.overfit_one_batch(
        net, (images, LABELS), optimizer=lambda p: optim.Adam(p, 0.05), steps=300)
    assert found.ok and found.accuracy == 1 and len(found.losses) < 300, str(found)
    np.testing.assert_array_equal(net.head.weight.data, before)
    same = ck.Tensor(np.ones_like(images.data))  # what cannot be learned
    found = training.overfit_one_batch(net, (same, LABELS), steps=20)
    assert not found.ok and len(found.losses) == 20 and "NOT reached" in str(found)


def _decorated(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(x)


class Inherited(Plain):
    def forward(self, x):
        return super().forward(x) * 2


class Decorated(Plain):
    @_decorated
    def forward(self, x):
        return self.last(x).exp()


def test_places_of_inherited_and_decorated_forwards():
    seen = []

    def watch(op, inputs, attrs, outputs):
        place = current_place()
        seen.append((op.name, place.path, type(place.network)))

    net = nn.Sequential(Inherited(), Decorated())
    with watching(watch):
        net(np.ones((2, 3), np.float32))
    assert seen == [(op, path, nn.Sequential) for op, path in (
        ("linear", "0.last"), ("mul", "0"), ("linear", "1.last"), ("exp", "1"))]
