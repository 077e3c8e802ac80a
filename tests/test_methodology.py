"""Splits, folds, searches, metrics and the second use of validation data."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import convkit as ck
from convkit import data, nn, optim, training
from convkit.training import EarlyStopping, Trainer, metrics, reuse, selection

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


@pytest.fixture
def dataset(rng):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    return data.TensorDataset(rng.standard_normal((100, 4)).astype(np.float32), labels)


# -- splits ----------------------------------------------------------------------------------


def test_stratified_split(dataset):
    train, test = selection.stratified_split(dataset, 0.2, seed=4)
    assert np.bincount(selection.labels_of(test)).tolist() == [12, 6, 2]
    assert sorted([*train.indices, *test.indices]) == list(range(100))
    again = selection.stratified_split(dataset, 0.2, seed=4)[1]
    other = selection.stratified_split(dataset, 0.2, seed=5)[1]
    assert again.indices.tolist() == test.indices.tolist() != other.indices.tolist()


def test_folds(dataset):
    folds = list(selection.k_folds(dataset, 5, seed=1))
    assert sorted(i for _, val in folds for i in val.indices) == list(range(100))
    for train, val in folds:
        assert np.bincount(selection.labels_of(val)).tolist() == [12, 6, 2]
        assert not set(train.indices) & set(val.indices)
    plain = list(selection.k_folds(dataset, 5, seed=1, stratified=False))
    assert sorted(i for _, val in plain for i in val.indices) == list(range(100))


def test_folds_in_time(dataset):
    for train, val in selection.time_ordered_folds(dataset, 4, gap=2, max_train_size=30):
        assert train.indices.max() + 2 < val.indices.min() and len(train) <= 30


def test_labels_of_any_data_set(dataset):
    class Plain:
        def __len__(self):
            return 100

        def __getitem__(self, i):
            return dataset[i]

    assert selection.labels_of(Plain()).tolist() == dataset.arrays[1].tolist()
    images = data.digits("test")
    assert selection.labels_of(data.Subset(images, [3, 1])).tolist() == \
        images.labels[[3, 1]].tolist()


# -- metrics ---------------------------------------------------------------------------------


def test_metrics_by_hand():
    targets = np.array([0, 0, 1, 2, 2, 2])
    scores = np.array([[3, 2, 1], [1, 2, 0], [0, 5, 1], [0, 1, 2], [0, 1, 3], [2, 0, 1.0]])
    assert metrics.accuracy(targets, scores) == pytest.approx(4 / 6)
    assert metrics.top_k_accuracy(targets, scores, k=2) == 1
    assert metrics.precision(targets, scores) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert metrics.recall(targets, scores) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert metrics.f1(targets, scores, average="micro") == pytest.approx(4 / 6)
    assert metrics.confusion_matrix(targets, scores).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert metrics.confusion_matrix(targets, scores, "true")[2].tolist() == \
        pytest.approx([1 / 3, 0, 2 / 3])
    assert "support" in metrics.report(targets, scores, ["a", "b", "c"])
    assert 0.5 < metrics.roc_auc(targets, scores) <= 1
    assert 0.5 < metrics.average_precision(targets, scores) <= 1
    for curves in (metrics.roc_curves(targets, scores),
                   metrics.precision_recall_curves(targets, scores)):
        assert len(curves) == 3 and all(len(a) == len(b) for a, b, _ in curves)


def test_metrics_of_two_classes():
    targets, scores = np.array([0, 0, 1, 1]), np.array([[2, 1], [0, 1], [1, 1.5], [0, 3]])
    # Of the 4 pairs of a positive and a negative, 3 are in order.
    assert metrics.roc_auc(targets, scores) == pytest.approx(3 / 4)
    assert metrics.top_k_accuracy(targets, scores, k=1) == metrics.accuracy(targets, scores) \
        == 3 / 4


def test_metrics_of_bad_shapes():
    with pytest.raises(ck.ShapeError, match=r"got \(3,\) and \(2, 2\)"):
        metrics.accuracy(np.zeros(3, int), np.zeros((2, 2)))


def test_metrics_in_a_trainer(dataset):
    model = nn.Linear(4, 3)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), progress=False,
                      metrics={"f1": metrics.f1, "accuracy_again": metrics.accuracy})
    loader = data.DataLoader(dataset, 10)
    record, = trainer.fit(loader, loader)
    assert record["val_accuracy_again"] == pytest.approx(record["val_accuracy"])
    scores, targets = training.predict_with_targets(model, loader)
    assert record["val_f1"] == metrics.f1(targets, scores)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"needs sklearn: pip install 'convkit\[sklearn\]'"):
        metrics.accuracy([0], [[1.0, 0.0]])


# -- the second use of validation data -------------------------------------------------------


@pytest.fixture
def parts(rng):
    """Training, validation and all data of a noisy linear problem."""
    x = rng.standard_normal((90, 8)).astype(np.float32)
    t = (x[:, 0] + rng.standard_normal(90) > 0).astype(np.int64)
    return [data.DataLoader(data.TensorDataset(x[cut], t[cut]), 10)
            for cut in (slice(30), slice(30, 90), slice(90))]


def make(**options):
    ck.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 2))
    return Trainer(model, optim.SGD(model.parameters(), 0.3), progress=False, **options)


def test_a_fresh_run_of_as_many_steps(parts):
    train, val, everything = parts
    stop = EarlyStopping(patience=4)
    make(callbacks=[stop]).fit(train, val, epochs=200)
    assert 0 < stop.best_step < 600
    trainer = reuse.retrain_on_all(make, everything, stop.best_step)
    assert trainer.step == stop.best_step
    with pytest.raises(ValueError, match="expected steps of at least 1, got 0"):
        reuse.retrain_on_all(make, everything, 0)


def test_going_on_until_the_validation_loss_is_low(parts):
    train, val, everything = parts
    trainer = make(callbacks=[EarlyStopping(patience=4)])
    trainer.fit(train, val, epochs=200)
    target = trainer.evaluate(train).loss
    done = reuse.continue_on_all(trainer, train, val, everything, max_epochs=300)
    assert done.target == target and done.reached and done.losses[0] > target
    assert done.losses[-1] <= target < min(done.losses[:-1])
    assert trainer.evaluate(val).loss == done.losses[-1]
    short = make(callbacks=[EarlyStopping(patience=4)])
    short.fit(train, val, epochs=200)
    cut = reuse.continue_on_all(short, train, val, everything, max_epochs=1)
    assert len(cut.losses) == 2 and not cut.reached
