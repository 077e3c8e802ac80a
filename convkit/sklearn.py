"""Networks as scikit-learn estimators.

They go wherever scikit-learn's own do: pipelines, ``cross_val_score``, grid and random
search, ``clone``, pickle. Training is done by `convkit.training.Trainer`.

Examples
--------
>>> from convkit.sklearn import ConvNetClassifier
>>> from sklearn.model_selection import cross_val_score
>>> cross_val_score(ConvNetClassifier("lenet5", epochs=3, random_state=0), images, labels)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit import data, models, nn, optim, random, training
from convkit import functional as F
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.extras import require
from convkit.training.trainer import INTERRUPTED

require("sklearn", "sklearn", "convkit.sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets  # noqa: E402
from sklearn.utils.validation import (  # noqa: E402
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

__all__ = ["ConvNetClassifier", "ConvNetRegressor"]

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}
HIDDEN = 64  # units of the network for plain features
PREDICT_BATCH = 256

def _features_net(outputs: int, features: int) -> nn.Module:
    """Return the network for plain features."""
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class _ConvNet(BaseEstimator):
    """What classifier and regressor share; they define targets, outputs and loss."""

    def __init__(self, model: Any = None, *, input_shape: tuple[int, ...] | None = None,
                 epochs: int = 20, batch_size: int = 32, optimizer: Any = "adam",
                 learning_rate: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.9,
                 schedule: str = "constant", normalize: bool = True,
                 early_stopping: bool = False, validation_fraction: float = 0.1,
                 n_iter_no_change: int = 5, random_state: Any = None, verbose: bool = False):
        self.model = model
        self.input_shape = input_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.schedule = schedule
        self.normalize = normalize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose

    # -- what subclasses define ---------------------------------------------------------

    def _learn_targets(self, y: np.ndarray, classes: Any = None) -> int:
        """Note what the targets are, and return the number of outputs."""
        raise NotImplementedError

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        """Return targets as the network is trained on."""
        raise NotImplementedError

    def _loss(self, scores: Tensor, targets: Any) -> Tensor:
        """Return one loss for each sample."""
        raise NotImplementedError

    # -- fitting ------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> _ConvNet:
        """Train a fresh network.

        Parameters
        ----------
        X : array_like, shape (N, features), (N, C, H, W), or another with samples first
            uint8 values are divided by 255.
        y : array_like, shape (N,)
            Labels, or numbers; (N, K) numbers for a regressor with K outputs.
        sample_weight : array_like, shape (N,), optional
            Factor of each sample's loss.

        Returns
        -------
        object
            The estimator.
        """
        X, y = self._validated(X, y, reset=True)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        outputs = self._learn_targets(y)
        self._draw_seed()
        with random.fork_rng(self._seed):
            self._build(X, outputs)
            self._train(X, y, weights)
        return self

    def _draw_seed(self) -> None:
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> _ConvNet:
        first = not hasattr(self, "model_")
        X, y = self._validated(X, y, reset=first)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if first:
            self._draw_seed()
            outputs = self._learn_targets(y, classes)
            with random.fork_rng(self._seed):
                self._build(X, outputs)
        seed = self._seed + self.n_iter_ + 1
        with random.fork_rng(seed):
            self._train_parts(self._loader(X, y, weights, seed), None, 1, None)
        return self

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        return validate_data(self, X, y, reset=reset, allow_nd=True, ensure_min_samples=1,
                             multi_output=self.__sklearn_tags__().target_tags.multi_output)

    def _build(self, X: np.ndarray, outputs: int) -> None:
        """Make network and optimiser for data like X."""
        images = self._shaped(X)
        self.sample_shape_ = images.shape[1:]
        if self.normalize:
            axes = (0, *range(2, images.ndim))
            values = images.astype(np.float64)
            self._mean = values.mean(axis=axes).astype(np.float32)
            std = values.std(axis=axes)
            self._std = np.where(std > 1e-6 * np.abs(self._mean) + 1e-12, std, 1).astype(np.float32)
        self.model_ = self._network(outputs)
        if callable(self.optimizer):
            self._optimizer = self.optimizer(list(self.model_.parameters()),
                                             lr=self.learning_rate)
        elif self.optimizer in OPTIMIZERS:
            options = {"momentum": self.momentum} if self.optimizer == "sgd" else {}
            self._optimizer = OPTIMIZERS[self.optimizer](
                optim.param_groups_no_decay(self.model_, self.weight_decay),
                lr=self.learning_rate, **options)
        else:
            raise ValueError(f"expected optimizer as one of {sorted(OPTIMIZERS)} or a callable, "
                             f"got {self.optimizer!r}")
        self.history_: list[dict[str, Any]] = []
        self.n_iter_ = 0

    def _network(self, outputs: int) -> nn.Module:
        shape = self.sample_shape_
        if callable(self.model):
            return self._made(outputs)
        if self.model is None and len(shape) == 1:
            return _features_net(outputs, shape[0])
        if len(shape) != 3:
            raise ValueError(f"Reshape your data: expected images of shape (C, H, W), or a "
                             f"callable as model, got samples of shape {shape}")
        return models.create(self.model or "convnet", outputs, shape[0])

    def _made(self, outputs: int) -> nn.Module:
        """Return the network that a function as `model` makes."""
        if isinstance(self.model, nn.Module):
            raise TypeError("expected model as a name, or a function of (outputs, sample_shape) "
                            "that returns a fresh network, got a network")
        made = self.model(outputs, self.sample_shape_)
        if not isinstance(made, nn.Module):
            raise TypeError(f"expected model to return a Module, got {type(made).__name__}")
        return made

    def _train(self, X: np.ndarray, y: np.ndarray, weights: Any) -> None:
        """Run the epochs of `fit`, with part of the data held back where that is asked for."""
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"expected schedule 'constant' or 'cosine', got {self.schedule!r}")
        val = None
        if self.early_stopping:
            classifying = isinstance(self, ClassifierMixin)
            keep, held = train_test_split(
                np.arange(len(X)), test_size=self.validation_fraction, random_state=self._seed,
                stratify=y if classifying else None)
            part = None if weights is None else weights[held]
            val = self._loader(X[held], y[held], part, self._seed, shuffle=False)
            X, y = X[keep], y[keep]
            weights = None if weights is None else weights[keep]
        loader = self._loader(X, y, weights, self._seed)
        scheduler = None
        if self.schedule == "cosine":
            scheduler = optim.lr_scheduler.CosineAnnealingLR(self._optimizer,
                                                             self.epochs * len(loader))
        self._train_parts(loader, val, self.epochs, scheduler)

    def _train_parts(self, loader: Any, val: Any, epochs: int, scheduler: Any) -> None:
        callbacks = [training.EarlyStopping(self.n_iter_no_change)] if val is not None else []
        trainer = training.Trainer(
            self.model_, self._optimizer, self._weighted_loss, scheduler=scheduler,
            callbacks=callbacks, progress=bool(self.verbose))
        self.history_ += trainer.fit(loader, val, epochs)
        self.n_iter_ += trainer.epoch
        if trainer.stopped == INTERRUPTED:
            raise KeyboardInterrupt

    def _loader(self, X: np.ndarray, y: np.ndarray, weights: Any, seed: int,
                shuffle: bool = True) -> data.DataLoader:
        columns = [self._prepared(X), self._encoded(y)]
        if weights is not None:
            columns.append(np.asarray(weights, np.float32))
        return data.DataLoader(data.TensorDataset(*columns), self.batch_size, shuffle, seed=seed,
                               prefetch=0)

    def _weighted_loss(self, scores: Tensor, targets: Any, weights: Any = None) -> Tensor:
        """Return the mean of the samples' losses by their weights."""
        losses = self._loss(scores, targets)
        if weights is None:
            return losses.mean()
        total = float(np.asarray(weights).sum())
        return (losses * weights).sum() * (1 / total if total else 0.0)

    # -- data ---------------------------------------------------------------------------

    def _shaped(self, X: np.ndarray) -> np.ndarray:
        """Return X with samples of the shape that the network gets, uint8 from 0 to 1."""
        if X.ndim == 2 and self.input_shape is not None:
            if math.prod(self.input_shape) != X.shape[1]:
                raise ShapeError(f"expected {math.prod(self.input_shape)} features, which make "
                                 f"samples of shape {tuple(self.input_shape)}, got {X.shape[1]}")
            X = X.reshape(len(X), *self.input_shape)
        if X.dtype == np.uint8:
            return X.astype(np.float32) / np.float32(255)
        return X

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        """Return X as the network gets it."""
        x = self._shaped(X)
        if x.shape[1:] != self.sample_shape_:
            raise ShapeError(f"expected samples of shape {self.sample_shape_}, got {x.shape[1:]}")
        if self.normalize:
            by_channel = (-1, *(1,) * (x.ndim - 2))
            x = (x - self._mean.reshape(by_channel)) / self._std.reshape(by_channel)
        return x.astype(np.float32)

    def _scores(self, X: Any) -> np.ndarray:
        """Return the network's outputs in float64, shape (N, outputs)."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, allow_nd=True)
        loader = data.DataLoader(data.TensorDataset(self._prepared(X)), PREDICT_BATCH, seed=0,
                                 prefetch=0)
        return training.predict(self.model_, loader).astype(np.float64)


class ConvNetClassifier(ClassifierMixin, _ConvNet):
    """A network that learns classes, as a scikit-learn classifier.

    Parameters
    ----------
    model : str or callable, optional
        A name that `convkit.models.create` knows, or ``model(outputs, sample_shape)``, which
        returns a fresh Module. By default "convnet" for images, and one hidden layer of 64
        units for plain features.
    input_shape : tuple of int, optional
        Shape (C, H, W) that the rows of a two-dimensional X have as images.
    epochs : int
        Passes over the data.
    batch_size : int
        Samples in a step.
    optimizer : {"adam", "adamw", "sgd"} or callable
        A callable gets the parameters and ``lr``.
    learning_rate : float
        Of the optimiser.
    weight_decay : float
        Of the optimiser; biases and norm parameters do not decay.
    momentum : float
        Of "sgd".
    schedule : {"constant", "cosine"}
        Of the learning rate over the epochs of `fit`.
    normalize : bool
        Whether inputs are brought to mean 0 and variance 1, by channel, with the figures of
        the data that `fit` saw.
    early_stopping : bool
        Whether part of the data is held back, training stops when its loss does not get
        better, and the best weights are kept.
    validation_fraction : float
        Share of the data held back.
    n_iter_no_change : int
        After how many epochs without improvement training stops.
    random_state : int, RandomState or None
        Of weights, order, dropout and the data held back.
    verbose : bool
        Whether to draw a progress bar.

    Attributes
    ----------
    model_ : Module
        The trained network.
    history_ : list of dict
        Each epoch's figures, see `Trainer`.
    n_iter_ : int
        Epochs done.
    n_features_in_ : int
        Features, or channels of images.
    sample_shape_ : tuple of int
        Shape of one sample as the network gets it.
    classes_ : numpy.ndarray
        The labels, sorted.
    """

    def _learn_targets(self, y: np.ndarray, classes: Any = None) -> int:
        check_classification_targets(y)
        self.classes_ = np.unique(y if classes is None else classes)
        return len(self.classes_)

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self.classes_, y).clip(0, len(self.classes_) - 1)
        if not np.array_equal(self.classes_[places], y):
            raise ValueError(f"expected labels among {self.classes_.tolist()}, "
                             f"got {np.setdiff1d(y, self.classes_).tolist()} too")
        return places.astype(np.int64)

    def _loss(self, scores: Tensor, targets: Any) -> Tensor:
        if scores.shape[1:] != self.classes_.shape:
            raise ShapeError(f"expected {len(self.classes_)} outputs of the model, one for each "
                             f"class, got scores of shape {scores.shape}")
        return F.cross_entropy(scores, targets, reduction="none")

    def partial_fit(self, X: Any, y: Any, classes: Any = None,
                    sample_weight: Any = None) -> ConvNetClassifier:
        """Train on with one pass over some data; the first call makes the network.

        Parameters
        ----------
        X, y, sample_weight
            See `fit`.
        classes : array_like, optional
            All labels that will come, for the first call; those in `y` by default.

        Returns
        -------
        ConvNetClassifier
        """
        self._partial_fit(X, y, sample_weight, classes)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, shape (N, classes), in their order."""
        scores = self._scores(X)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`, exact for small probabilities too."""
        scores = self._scores(X)
        scores -= scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each sample, shape (N,)."""
        places = self._scores(X).argmax(axis=1)
        return self.classes_[places]


class ConvNetRegressor(RegressorMixin, _ConvNet):
    """A network that learns numbers, as a scikit-learn regressor.

    Its parameters and attributes are those of `ConvNetClassifier`, but for the labels; its
    loss is the squared difference, and `normalize` is of the targets too.

    Attributes
    ----------
    n_outputs_ : int
        Numbers for each sample.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _learn_targets(self, y: np.ndarray, classes: Any = None) -> int:
        columns = y.reshape(len(y), -1).astype(np.float64)
        self._flat = y.ndim == 1
        self.n_outputs_ = columns.shape[1]
        if self.normalize:
            self._y_mean, std = columns.mean(axis=0), columns.std(axis=0)
            self._y_std = np.where(std > 0, std, 1)
        else:
            self._y_mean, self._y_std = np.zeros(self.n_outputs_), np.ones(self.n_outputs_)
        return self.n_outputs_

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        columns = y.reshape(len(y), -1)
        if columns.shape[1] != self.n_outputs_:
            raise ShapeError(f"expected {self.n_outputs_} numbers for each sample, "
                             f"got {columns.shape[1]}")
        return ((columns - self._y_mean) / self._y_std).astype(np.float32)

    @staticmethod
    def _loss(scores: Tensor, targets: Any) -> Tensor:
        return F.mse_loss(scores, targets, reduction="none").mean(1)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> ConvNetRegressor:
        """Train on with one pass over some data; the first call makes the network.

        Parameters
        ----------
        X, y, sample_weight
            See `fit`.

        Returns
        -------
        ConvNetRegressor
        """
        self._partial_fit(X, y, sample_weight, None)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the numbers of each sample, shape (N,), or (N, K) as in `fit`."""
        values = self._scores(X) * self._y_std + self._y_mean
        return values[:, 0] if self._flat else values
