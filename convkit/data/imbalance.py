"""Weights of classes that are unlike in size."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["class_weights"]


def class_weights(labels: Any, classes: int | None = None, scheme: str = "balanced",
                  beta: float = 0.999) -> np.ndarray:
    """Return a weight for each class: the larger, the rarer the class.

    They go into a loss (``nn.CrossEntropyLoss(weight=...)``, ``nn.FocalLoss(weight=...)``), or
    by sample, as ``class_weights(labels)[labels]``, into a `WeightedRandomSampler`: one of
    the two, not both.

    Parameters
    ----------
    labels : array_like of int
        One for each sample.
    classes : int, optional
        How many there are; the largest label plus one unless given.
    scheme : str
        "balanced": n / (classes * count), as scikit-learn has it; the mean over samples is 1.
        "sqrt": the root of that. "effective": (1 - beta) / (1 - beta^count), over its mean
        over the samples: the gain of one more sample falls as they come to overlap.
    beta : float
        Of "effective", from 0 to below 1.

    Returns
    -------
    numpy.ndarray
        (classes,), float32; 0 for classes without samples.

    Raises
    ------
    ValueError
        When labels are out of range or an argument makes no sense.

    References
    ----------
    King and Zeng, "Logistic Regression in Rare Events Data", 2001 (balanced). Cui et al.,
    "Class-Balanced Loss Based on Effective Number of Samples", 2019 (effective).
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        raise ValueError(f"expected one integer label for each sample, got {labels.dtype} of "
                         f"shape {labels.shape}")
    classes = int(labels.max()) + 1 if classes is None else classes
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to "
                         f"{labels.max()}")
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    if scheme in ("balanced", "sqrt"):
        weights[present] = len(labels) / (classes * counts[present])
        weights = np.sqrt(weights) if scheme == "sqrt" else weights
    elif scheme == "effective":
        if not 0 <= beta < 1:
            raise ValueError(f"expected beta from 0 to below 1, got {beta}")
        weights[present] = (1 - beta) / (1 - beta ** counts[present])
        weights /= (weights * counts).sum() / len(labels)
    else:
        raise ValueError(f"expected scheme of 'balanced', 'sqrt' or 'effective', got {scheme!r}")
    return weights.astype(np.float32)
