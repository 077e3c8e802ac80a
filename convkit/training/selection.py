"""Choosing models: splits, folds and searches, done by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.data.dataset import Subset
from convkit.extras import require

__all__ = ["RateSearch", "k_folds", "labels_of", "search_learning_rate", "stratified_split",
           "time_ordered_folds"]


def _library() -> Any:
    return require("sklearn.model_selection", "sklearn", "choosing models")


def labels_of(dataset: Any) -> np.ndarray:
    """Return the label of every sample: its last entry, read in one piece where that goes."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[dataset.indices]
    if hasattr(dataset, "labels"):
        return np.asarray(dataset.labels)
    if hasattr(dataset, "arrays"):
        return np.asarray(dataset.arrays[-1])
    return np.asarray([dataset[i][-1] for i in range(len(dataset))])


def stratified_split(dataset: Any, test_size: float | int = 0.2,
                     seed: int = 0) -> tuple[Subset, Subset]:
    """Cut a data set in two at random with the same share of every class in both.

    Parameters
    ----------
    dataset : Dataset
    test_size : float or int
        Share or number of the samples in the second part.
    seed : int
        The same seed gives the same parts.

    Returns
    -------
    train, test : Subset
    """
    train, test = _library().train_test_split(
        np.arange(len(dataset)), test_size=test_size, random_state=seed,
        stratify=labels_of(dataset))
    return Subset(dataset, train), Subset(dataset, test)


def k_folds(dataset: Any, folds: int = 5, seed: int = 0,
            stratified: bool = True) -> Iterator[tuple[Subset, Subset]]:
    """Yield (training, validation) parts for cross-validation, shuffled.

    Parameters
    ----------
    dataset : Dataset
    folds : int
        How many; every sample is in one fold's validation part.
    seed : int
        The same seed gives the same folds.
    stratified : bool
        Whether every fold has the same share of every class.
    """
    library = _library()
    kind = library.StratifiedKFold if stratified else library.KFold
    labels = labels_of(dataset) if stratified else None
    for train, val in kind(folds, shuffle=True, random_state=seed).split(
            np.zeros(len(dataset)), labels):
        yield Subset(dataset, train), Subset(dataset, val)


def time_ordered_folds(dataset: Any, folds: int = 5, gap: int = 0,
                       max_train_size: int | None = None) -> Iterator[tuple[Subset, Subset]]:
    """Yield (training, validation) parts in which validation always comes later.

    Parameters
    ----------
    dataset : Dataset
        In the order of time.
    folds : int
        How many.
    gap : int
        Samples left out between the parts.
    max_train_size : int, optional
        Train on the newest so many samples only.
    """
    splitter = _library().TimeSeriesSplit(folds, gap=gap, max_train_size=max_train_size)
    for train, val in splitter.split(np.zeros(len(dataset))):
        yield Subset(dataset, train), Subset(dataset, val)


@dataclass(frozen=True)
class RateSearch:
    """What `search_learning_rate` found.

    Attributes
    ----------
    best : float
        The learning rate with the highest score.
    score : float
        That score, the mean over the folds.
    rounds : list of RandomizedSearchCV
        The fitted searches, the widest first.
    """

    best: float
    score: float
    rounds: list[Any]


def search_learning_rate(estimator: Any, X: Any, y: Any, low: float = 1e-4, high: float = 1.0,
                         *, rounds: int = 2, candidates: int = 6, cv: Any = 3, seed: int = 0,
                         parameter: str = "learning_rate", scoring: Any = None) -> RateSearch:
    """Search a learning rate from coarse to fine, at random on a logarithmic scale.

    Each round but the first draws from a range a quarter as wide (in decades) around the
    best rate so far.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Such as `convkit.sklearn.ConvNetClassifier`, or a pipeline with one.
    X, y : array_like
        What it is fitted to.
    low, high : float
        The range of the first round.
    rounds, candidates : int
        How many rounds, and rates tried in each.
    cv : int or splitter
        See scikit-learn's ``RandomizedSearchCV``.
    seed : int
        Of the rates drawn.
    parameter : str
        The learning rate's name, such as "net__learning_rate" in a pipeline.
    scoring : str or callable, optional
        See ``RandomizedSearchCV``; the estimator's own score by default.

    Returns
    -------
    RateSearch

    Raises
    ------
    ValueError
        When the range or a number makes no sense.

    References
    ----------
    Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", 2012.
    """
    if not 0 < low < high:
        raise ValueError(f"expected 0 < low < high, got {low} and {high}")
    if rounds < 1 or candidates < 1:
        raise ValueError(f"expected at least 1 round and candidate, got {rounds}, {candidates}")
    loguniform = require("scipy.stats", "sklearn", "a search").loguniform
    searches: list[Any] = []
    best, score, width = float("nan"), -np.inf, high / low
    for number in range(rounds):
        search = _library().RandomizedSearchCV(
            estimator, {parameter: loguniform(low, high)}, n_iter=candidates, cv=cv,
            scoring=scoring, random_state=seed + number, refit=False)
        searches.append(search.fit(X, y))
        if search.best_score_ > score:
            best, score = float(search.best_params_[parameter]), float(search.best_score_)
        width **= 0.25
        low, high = best / width**0.5, best * width**0.5
    return RateSearch(best, score, searches)
