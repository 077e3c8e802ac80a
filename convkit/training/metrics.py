"""Metrics of classifiers: scikit-learn's, called with class numbers and scores.

Every function takes ``(targets, scores)`` as `predict_with_targets` returns them turned
around, and as the `metrics` of a `Trainer` are called: class numbers (N,), and scores (N, C)
of any scale whose highest is the prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.errors import ShapeError
from convkit.extras import require

__all__ = ["accuracy", "average_precision", "confusion_matrix", "f1", "precision",
           "precision_recall_curves", "recall", "report", "roc_auc", "roc_curves",
           "top_k_accuracy"]


def _library() -> Any:
    return require("sklearn.metrics", "sklearn", "a metric")


def _checked(targets: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    targets, scores = np.asarray(targets), np.asarray(scores)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ShapeError("expected targets of shape (N,) and scores of shape (N, C), got "
                         f"{targets.shape} and {scores.shape}")
    return targets, scores


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of scores in float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def accuracy(targets: Any, scores: Any) -> float:
    """Return the share of samples whose highest score is at their target."""
    targets, scores = _checked(targets, scores)
    return float(_library().accuracy_score(targets, scores.argmax(axis=1)))


def top_k_accuracy(targets: Any, scores: Any, k: int = 5) -> float:
    """Return the share of samples whose target is among the `k` highest scores."""
    targets, scores = _checked(targets, scores)
    classes = scores.shape[1]
    if classes == 2:  # scikit-learn wants one score then
        scores = scores[:, 1] - scores[:, 0] + 0.5
    return float(_library().top_k_accuracy_score(targets, scores, k=k, labels=range(classes)))


def precision(targets: Any, scores: Any, average: str = "macro") -> float:
    """Return the share of a class's predictions that are right, averaged over the classes."""
    return _by_class("precision_score", targets, scores, average)


def recall(targets: Any, scores: Any, average: str = "macro") -> float:
    """Return the share of a class's samples that are found, averaged over the classes."""
    return _by_class("recall_score", targets, scores, average)


def f1(targets: Any, scores: Any, average: str = "macro") -> float:
    """Return the harmonic mean of precision and recall, averaged over the classes."""
    return _by_class("f1_score", targets, scores, average)


def _by_class(name: str, targets: Any, scores: Any, average: str) -> float:
    targets, scores = _checked(targets, scores)
    return float(getattr(_library(), name)(
        targets, scores.argmax(axis=1), labels=range(scores.shape[1]), average=average,
        zero_division=0))


def confusion_matrix(targets: Any, scores: Any, normalize: str | None = None) -> np.ndarray:
    """Return how often each class (rows) was taken for each class (columns), shape (C, C).

    Parameters
    ----------
    targets, scores : array_like
        Class numbers (N,) and scores (N, C).
    normalize : {"true", "pred", "all"}, optional
        What the counts are divided by: their row's sum, their column's, or N.
    """
    targets, scores = _checked(targets, scores)
    return _library().confusion_matrix(targets, scores.argmax(axis=1),
                                       labels=range(scores.shape[1]), normalize=normalize)


def report(targets: Any, scores: Any, names: Any = None) -> str:
    """Return a table with precision, recall, F1 and count of every class.

    Parameters
    ----------
    targets, scores : array_like
        Class numbers (N,) and scores (N, C).
    names : sequence of str, optional
        The classes' names.
    """
    targets, scores = _checked(targets, scores)
    return _library().classification_report(
        targets, scores.argmax(axis=1), labels=range(scores.shape[1]), target_names=names,
        zero_division=0)


def roc_auc(targets: Any, scores: Any, average: str = "macro") -> float:
    """Return the area under the ROC curve; of more than two classes, each against the rest.

    Raises
    ------
    ValueError
        When a class has no sample.
    """
    targets, scores = _checked(targets, scores)
    if scores.shape[1] == 2:
        return float(_library().roc_auc_score(targets, scores[:, 1] - scores[:, 0]))
    return float(_library().roc_auc_score(targets, _probabilities(scores), average=average,
                                          multi_class="ovr", labels=range(scores.shape[1])))


def average_precision(targets: Any, scores: Any, average: str = "macro") -> float:
    """Return the area under the precision-recall curve, each class against the rest."""
    targets, scores = _checked(targets, scores)
    member = targets[:, None] == np.arange(scores.shape[1])
    return float(_library().average_precision_score(member, _probabilities(scores),
                                                    average=average))


def roc_curves(targets: Any, scores: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return each class's ROC curve against the rest.

    Returns
    -------
    list of (false positive rate, true positive rate, threshold)
        One for each class.
    """
    return _curves("roc_curve", targets, scores)


def precision_recall_curves(
    targets: Any, scores: Any
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return each class's precision-recall curve against the rest.

    Returns
    -------
    list of (precision, recall, threshold)
        One for each class.
    """
    return _curves("precision_recall_curve", targets, scores)


def _curves(name: str, targets: Any, scores: Any) -> list[tuple]:
    targets, scores = _checked(targets, scores)
    probabilities = _probabilities(scores)
    return [getattr(_library(), name)(targets == c, probabilities[:, c])
            for c in range(scores.shape[1])]
