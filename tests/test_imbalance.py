"""Class weights, weighted and balanced sampling, and what they do for rare classes."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits

import convkit as ck
from convkit import data, nn, optim

LABELS = np.repeat([0, 1, 2], [900, 90, 10])


def rng(seed=0):
    return np.random.default_rng(seed)


def test_balanced_weights_are_sklearns():
    utils = pytest.importorskip("sklearn.utils.class_weight",
                                reason="scikit-learn is not installed")
    want = utils.compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    got = data.class_weights(LABELS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_weights_by_their_formulas():
    balanced = data.class_weights(LABELS)
    np.testing.assert_allclose(balanced * [900, 90, 10], 1000 / 3, rtol=1e-6)
    np.testing.assert_allclose(data.class_weights(LABELS, scheme="sqrt"), np.sqrt(balanced),
                               rtol=1e-6)
    effective = data.class_weights(LABELS, scheme="effective", beta=0.99)
    counts = np.array([900, 90, 10])
    np.testing.assert_allclose(effective * (1 - 0.99**counts) / effective[0],
                               1 - 0.99**900, rtol=1e-5)
    assert effective @ counts / 1000 == pytest.approx(1)
    np.testing.assert_array_equal(data.class_weights([2, 2, 0], 4), [0.75, 0, 0.375, 0])


@pytest.mark.parametrize(("args", "message"), [
    (([0.5],), "one integer label for each sample"), (([],), "one integer label"),
    (([0, 3], 3), "labels from 0 to 2, got 0 to 3"), (([0, 1], 2, "x"), "'balanced', 'sqrt' or"),
    (([0, 1], 2, "effective", 1.0), "beta from 0 to below 1")])
def test_bad_labels(args, message):
    with pytest.raises(ValueError, match=message):
        data.class_weights(*args)


def test_weighted_sampling_evens_classes_out():
    sampler = data.WeightedRandomSampler(data.class_weights(LABELS)[LABELS], 30_000)
    drawn = np.bincount(LABELS[sampler.draw(rng())], minlength=3) / len(sampler)
    np.testing.assert_allclose(drawn, 1 / 3, atol=0.01)
    assert len(data.WeightedRandomSampler([1, 2, 3])) == 3
    without = data.WeightedRandomSampler([1.0, 2.0, 0.0, 5.0], 3, replacement=False).draw(rng())
    assert sorted(without) == [0, 1, 3]


@pytest.mark.parametrize(("args", "message"), [
    (([-1.0, 2.0],), "not negative"), (([0.0, 0.0],), "not all zero"),
    (([np.nan],), "finite"), (([1.0, 2.0], 0), "num_samples of at least 1, got 0"),
    (([1.0, 0.0], 2, False), "cannot draw 2 samples without replacement from 1")])
def test_bad_weights(args, message):
    with pytest.raises(ValueError, match=message):
        data.WeightedRandomSampler(*args)


@pytest.mark.parametrize("batch_size", [3, 12, 10])
def test_balanced_batches(batch_size):
    sampler = data.BalancedBatchSampler(LABELS, batch_size)
    order = sampler.draw(rng())
    assert len(order) == len(sampler) >= 1000
    for batch in order.reshape(-1, batch_size):
        counts = np.bincount(LABELS[batch], minlength=3)
        assert counts.max() - counts.min() <= (batch_size % 3 > 0)
    often = np.bincount(order, minlength=1000)
    for c in range(3):  # each once before any comes again
        assert np.ptp(often[c == LABELS]) <= 1
    assert np.any(order[:batch_size] != np.sort(order[:batch_size]))


def test_bad_balanced_batches():
    with pytest.raises(ValueError, match="one integer label for each sample"):
        data.BalancedBatchSampler([0.5, 1], 2)
    with pytest.raises(ValueError, match="of at least 1, got 0 and None"):
        data.BalancedBatchSampler([0, 1], 0)


def dataset():
    return data.TensorDataset(np.arange(1000, dtype=np.float32), LABELS)


def test_the_loader_follows_the_sampler_seed_and_epoch():
    sampler = data.BalancedBatchSampler(LABELS, 12, num_batches=5)
    loader = data.DataLoader(dataset(), 12, sampler=sampler, seed=3)
    assert len(loader) == 5
    epochs = [[np.array(y.data) for _, y in loader] for _ in range(2)]
    for batch in epochs[0]:
        np.testing.assert_array_equal(np.bincount(batch), [4, 4, 4])
    values = [[np.array(x.data) for x, _ in data.DataLoader(dataset(), 12, sampler=sampler, seed=3)]
              for _ in range(2)]
    assert_same_bits(values[0], values[1])
    second = data.DataLoader(dataset(), 12, sampler=sampler, seed=3)
    iterator = iter(second)
    next(iterator)
    iterator.close()
    resumed = data.DataLoader(dataset(), 12, sampler=sampler, seed=99)
    resumed.load_state_dict(second.state_dict())
    assert_same_bits([np.array(x.data) for x, _ in resumed], values[0][1:])


def test_the_loader_checks_its_sampler():
    sampler = data.BalancedBatchSampler(LABELS, 12)
    with pytest.raises(ValueError, match="expected shuffle or a sampler, got both"):
        data.DataLoader(dataset(), 12, shuffle=True, sampler=sampler)
    with pytest.raises(ValueError, match="expected batch_size 12 as in the sampler, got 10"):
        data.DataLoader(dataset(), 10, sampler=sampler)


@pytest.mark.parametrize("remedy", ["weights", "batches", "focal"])
def test_remedies_raise_the_recall_of_the_rare_class(remedy):
    """Two overlapping clouds, 20 to 1: plain training gives the rare one up."""
    draw = rng(4)
    labels = np.repeat([0, 1], [1000, 50])
    points = (draw.standard_normal((1050, 2)) + 1.2 * labels[:, None]).astype(np.float32)
    weights = data.class_weights(labels)

    def recall(loss_fn, sampler=None):
        ck.manual_seed(0)
        net = nn.Linear(2, 2)
        optimizer = optim.Adam(net.parameters(), lr=0.05)
        loader = data.DataLoader(data.TensorDataset(points, labels), 50, sampler is None,
                                 sampler=sampler, seed=0)
        for _ in range(4):
            for x, t in loader:
                loss = loss_fn(net(x), t)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with ck.no_grad():
            found = net(ck.Tensor(points)).data.argmax(1)
        return float((found[labels == 1] == 1).mean())

    better = {"weights": (nn.CrossEntropyLoss(weight=weights),),
              "batches": (nn.CrossEntropyLoss(), data.BalancedBatchSampler(labels, 50)),
              "focal": (nn.FocalLoss(gamma=2.0, weight=weights),)}[remedy]
    assert recall(nn.CrossEntropyLoss()) < 0.4
    assert recall(*better) > 0.6
