"""How good a classifier is: confusions, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.plot.canvas import axes
from convkit.training import metrics

__all__ = ["confusion_matrix", "precision_recall", "roc"]

# Numbers are written into the cells up to so many classes.
MOST_WRITTEN = 20


def confusion_matrix(targets: Any, scores: Any, names: Sequence[str] | None = None,
                     normalize: str | None = "true", ax: Any = None) -> Any:
    """Draw how often each class (rows) was taken for each class (columns).

    Parameters
    ----------
    targets : array_like of int, shape (N,)
    scores : array_like, shape (N, C)
    names : sequence of str, optional
        Of the classes.
    normalize : {"true", "pred", "all"}, optional
        As for `convkit.training.metrics.confusion_matrix`; None for counts.
    ax : matplotlib.axes.Axes, optional
    """
    matrix = metrics.confusion_matrix(targets, scores, normalize)
    count = len(matrix)
    ax = axes(ax, 1.5 + 0.4 * min(count, 24), 1.2 + 0.4 * min(count, 24))
    ax.imshow(matrix, cmap="Blues", vmin=0)
    if count <= MOST_WRITTEN:
        dark = matrix.max() / 2
        for i, j in np.ndindex(matrix.shape):
            if matrix[i, j]:
                text = f"{matrix[i, j]:.2f}" if normalize else f"{matrix[i, j]:.0f}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7,
                        color="white" if matrix[i, j] > dark else "black")
    labels = list(names) if names is not None else [str(i) for i in range(count)]
    ax.set_xticks(range(count), labels, rotation=0 if max(map(len, labels)) < 3 else 60,
                  fontsize=8)
    ax.set_yticks(range(count), labels, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true")
    return ax


def _by_class(curves: list[tuple], labels: list[str], ax: Any) -> None:
    for (x, y), label in zip(curves, labels, strict=True):
        ax.plot(x, y, linewidth=1.2, label=label)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.grid(alpha=0.25)
    if len(labels) <= MOST_WRITTEN:
        ax.legend(frameon=False, fontsize=7)


def roc(targets: Any, scores: Any, names: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Draw each class's ROC curve against the rest, with the area under it.

    Parameters as for `confusion_matrix`.
    """
    found = metrics.roc_curves(targets, scores)
    ax = axes(ax, 4.2, 4.2)
    labels = [f"{name}: {np.trapezoid(y, x):.3f}"
              for name, (x, y, _) in zip(_names(names, found), found, strict=True)]
    _by_class([(x, y) for x, y, _ in found], labels, ax)
    ax.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    return ax


def precision_recall(targets: Any, scores: Any, names: Sequence[str] | None = None,
                     ax: Any = None) -> Any:
    """Draw each class's precision over its recall, against the rest.

    Parameters as for `confusion_matrix`.
    """
    found = metrics.precision_recall_curves(targets, scores)
    ax = axes(ax, 4.2, 4.2)
    _by_class([(recall, precision) for precision, recall, _ in found], _names(names, found), ax)
    ax.set(xlabel="recall", ylabel="precision")
    return ax


def _names(names: Sequence[str] | None, found: list) -> list[str]:
    return list(names) if names is not None else [str(i) for i in range(len(found))]
