"""ConvNetClassifier and ConvNetRegressor among scikit-learn's tools."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn 1.6 is not installed")

from sklearn.base import clone
from sklearn.datasets import make_blobs, make_regression
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import convkit as ck
from convkit import data, nn, optim
from convkit.sklearn import ConvNetClassifier, ConvNetRegressor
from convkit.training import selection

# Training goes by mini-batches, whose make-up changes when samples are removed or repeated;
# scikit-learn's own SGDClassifier and MLPClassifier are exempt from this check too.
EXEMPT = {"check_sample_weight_equivalence_on_dense_data":
          "mini-batches differ when samples are removed or repeated"}


@parametrize_with_checks([ConvNetClassifier(random_state=0), ConvNetRegressor(random_state=0)],
                         expected_failed_checks=lambda estimator: EXEMPT)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    images = data.digits("train")
    return images.images[:600], images.labels[:600]


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(120, 5, centers=3, random_state=0)


def tiny(outputs, shape):
    """A network of one convolution."""
    return nn.Sequential(nn.Conv2d(shape[0], 8, 5, stride=2), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 12 * 12, outputs))


def test_images(digits):
    images, labels = digits
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
                      "nine"])[labels]
    net = ConvNetClassifier(tiny, epochs=8, random_state=0, schedule="cosine")
    net.fit(images[:500], names[:500])
    assert net.score(images[500:], names[500:]) > 0.8
    assert net.sample_shape_ == (1, 28, 28) and net.n_iter_ == 8 and len(net.history_) == 8
    chances = net.predict_proba(images[500:])
    np.testing.assert_allclose(chances.sum(1), 1)
    np.testing.assert_allclose(np.exp(net.predict_log_proba(images[500:])), chances, rtol=1e-12)
    assert (net.classes_[chances.argmax(1)] == net.predict(images[500:])).all()
    flat = clone(net).set_params(input_shape=(1, 28, 28))
    flat.fit(images[:500].reshape(500, -1), names[:500])
    np.testing.assert_array_equal(flat.predict_proba(images[500:].reshape(100, -1)), chances)
    with pytest.raises(ck.ShapeError, match=r"expected samples of shape \(1, 28, 28\), got"):
        net.predict(images[:2, :, :20])
    with pytest.raises(ck.ShapeError, match="expected 784 features"):
        flat.set_params(input_shape=(1, 28, 28)).fit(images[:, 0, 0], names)


@pytest.mark.parametrize(("model", "error", "message"), [
    (nn.Linear(4, 3), TypeError, "expected model as a name, or a function .* got a network"),
    (lambda outputs, shape: None, TypeError, "expected model to return a Module, got NoneType"),
    (lambda outputs, shape: nn.Linear(4, outputs + 1), ck.ShapeError,
     r"expected 3 outputs of the model, one for each class, got scores of shape \(\d+, 4\)")])
def test_models_that_do_not_fit(model, error, message):
    X, y = make_blobs(30, 4, centers=3, random_state=0)
    with pytest.raises(error, match=message):
        ConvNetClassifier(model, epochs=1, random_state=0).fit(X, y)


def test_models_by_name(digits):
    images, labels = digits
    net = ConvNetClassifier(epochs=1, random_state=0).fit(images[:64], labels[:64])
    assert type(net.model_).__name__ == "ConvNet"
    net = ConvNetClassifier("lenet5", epochs=1, random_state=0).fit(images[:64], labels[:64])
    assert type(net.model_).__name__ == "LeNet5"
    with pytest.raises(ValueError, match="unknown model 'lenet'"):
        ConvNetClassifier("lenet").fit(images[:64], labels[:64])


def test_cross_validation_search_and_pipeline(blobs):
    X, y = blobs
    net = make_pipeline(StandardScaler(), ConvNetClassifier(epochs=10, random_state=0))
    assert cross_val_score(net, X, y, cv=3).min() > 0.9
    grid = GridSearchCV(net, {"convnetclassifier__learning_rate": [1e-6, 1e-2]}, cv=3).fit(X, y)
    assert grid.best_params_ == {"convnetclassifier__learning_rate": 1e-2}
    chance = RandomizedSearchCV(net, {"convnetclassifier__batch_size": [8, 16, 32]}, n_iter=2,
                                cv=2, random_state=0).fit(X, y)
    assert chance.score(X, y) > 0.9
    assert len(cross_val_score(net, X, y, cv=TimeSeriesSplit(3))) == 3


def test_bagging_and_voting(blobs):
    X, y = blobs
    net = ConvNetClassifier(epochs=10, learning_rate=0.01)
    bag = BaggingClassifier(net, n_estimators=3, oob_score=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three members leave some samples out of no bag
        bag.fit(X, y)
    assert bag.score(X, y) > 0.9
    first, second = (member.predict_proba(X) for member in bag.estimators_[:2])
    assert (first != second).any()
    np.testing.assert_allclose(
        bag.predict_proba(X), np.mean([m.predict_proba(X) for m in bag.estimators_], axis=0))
    vote = VotingClassifier([("a", net), ("b", clone(net))], voting="soft").fit(X, y)
    assert vote.score(X, y) > 0.9


def test_biases_do_not_decay(blobs):
    X, y = blobs
    net = ConvNetClassifier(epochs=1, weight_decay=0.1, random_state=0).fit(X, y)
    assert [g["weight_decay"] for g in net._optimizer.param_groups] == [0.1, 0.0]


def test_coarse_to_fine_search(blobs):
    X, y = blobs
    net = ConvNetClassifier(epochs=2, random_state=0)
    found = selection.search_learning_rate(net, X, y, 1e-6, 1e-1, candidates=4, rounds=2, seed=1)
    first, second = ([p["learning_rate"] for p in r.cv_results_["params"]] for r in found.rounds)
    assert max(second) / min(second) < max(first) / min(first)
    assert found.score >= max(r.best_score_ for r in found.rounds) and found.best > 1e-4
    with pytest.raises(ValueError, match=r"expected 0 < low < high, got 1 and 0\.1"):
        selection.search_learning_rate(net, X, y, 1, 0.1)


def test_same_state_same_bits_and_the_generator_is_left_alone(blobs):
    X, y = blobs
    before = ck.random.get_state()
    fits = [ConvNetClassifier(epochs=2, random_state=s).fit(X, y) for s in (1, 1, 2)]
    chances = [net.predict_proba(X) for net in fits]
    np.testing.assert_array_equal(chances[0], chances[1])
    assert (chances[0] != chances[2]).any() and ck.random.get_state() == before


def test_partial_fit_goes_on_after_pickling(blobs):
    X, y = blobs
    net = ConvNetClassifier(random_state=0).partial_fit(X[:40], y[:40], classes=[0, 1, 2])
    copy = pickle.loads(pickle.dumps(net))
    for part in (slice(40, 80), slice(80, 120)):
        net.partial_fit(X[part], y[part])
        copy.partial_fit(X[part], y[part])
    assert net.n_iter_ == 3
    np.testing.assert_array_equal(net.predict_proba(X), copy.predict_proba(X))
    with pytest.raises(ValueError, match=r"expected labels among \[0, 1, 2\], got \[7\] too"):
        net.partial_fit(X[:2], [0, 7])
    numbers = ConvNetRegressor(random_state=0)
    for _ in range(60):
        numbers.partial_fit(X, y.astype(float))
    assert numbers.score(X, y) > 0.5


def test_weights_of_samples(blobs):
    X, y = blobs
    weights = np.where(y == 2, 0.0, 1.0)
    net = ConvNetClassifier(epochs=10, random_state=0).fit(X, y, sample_weight=weights)
    assert not (net.predict(X) == 2).any()
    same = ConvNetClassifier(epochs=2, random_state=0).fit(X, y, sample_weight=np.full(120, 3.0))
    plain = ConvNetClassifier(epochs=2, random_state=0).fit(X, y)
    np.testing.assert_allclose(same.predict_proba(X), plain.predict_proba(X), atol=1e-4)


def test_early_stopping(blobs):
    X, y = blobs
    net = ConvNetClassifier(epochs=500, learning_rate=0.05, early_stopping=True,
                            n_iter_no_change=3, validation_fraction=0.25, random_state=0)
    net.fit(X, y, sample_weight=np.ones(120))
    assert net.n_iter_ < 500 and "val_loss" in net.history_[0] and net.score(X, y) > 0.9


def test_regression():
    X, y = make_regression(200, 6, n_targets=2, random_state=0)
    net = ConvNetRegressor(epochs=60, learning_rate=1e-2, random_state=0, early_stopping=True)
    assert net.fit(X, 1000 * y).score(X, 1000 * y) > 0.95
    assert net.predict(X).shape == (200, 2) and net.n_outputs_ == 2
    one = ConvNetRegressor(optimizer="sgd", epochs=2, random_state=0).fit(X, y[:, 0])
    assert one.predict(X).shape == (200,)
    with pytest.raises(ck.ShapeError, match="expected 2 numbers for each sample, got 1"):
        net.partial_fit(X, y[:, 0])


def test_own_optimizer_and_wrong_settings(blobs):
    X, y = blobs

    def nesterov(parameters, lr):
        return optim.SGD(parameters, lr, momentum=0.9, nesterov=True)

    assert ConvNetClassifier(optimizer=nesterov, learning_rate=0.05).fit(X, y).score(X, y) > 0.9
    for options, text in (({"optimizer": "lbfgs"}, "expected optimizer as one of"),
                          ({"schedule": "up"}, "expected schedule 'constant' or 'cosine'")):
        with pytest.raises(ValueError, match=text):
            ConvNetClassifier(**options).fit(X, y)
    with pytest.raises(NotFittedError):
        ConvNetClassifier().predict(X)


def test_a_missing_library_names_the_extra():
    code = ("import sys; sys.modules['sklearn'] = None\n"
            "try:\n    import convkit.sklearn\nexcept ImportError as error:\n    print(error)")
    env = os.environ | {"PYTHONPATH": str(Path(ck.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env=env)
    assert done.stdout.strip() == "convkit.sklearn needs sklearn: pip install 'convkit[sklearn]'"
