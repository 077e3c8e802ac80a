"""Which samples an epoch has, and in which order: by weights, or with balanced batches.

A sampler is an object with ``len`` (samples in an epoch) and ``draw(rng)``, which returns that
many indices; `DataLoader` gives it a generator that follows from its seed and the epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BalancedBatchSampler", "WeightedRandomSampler"]


class WeightedRandomSampler:
    """Samples drawn with probabilities in proportion to weights.

    Parameters
    ----------
    weights : array_like
        One for each sample, not negative; they need not add up to 1. For balanced classes:
        ``class_weights(labels)[labels]``.
    num_samples : int, optional
        How many make an epoch; as many as there are weights unless given.
    replacement : bool
        Whether a sample may come more than once.

    Raises
    ------
    ValueError
        When a weight is negative or not finite, all are zero, or without replacement there
        are too few samples of a weight above zero.
    """

    def __init__(self, weights: Any, num_samples: int | None = None, replacement: bool = True):
        weights = np.asarray(weights, np.float64)
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() \
                or not weights.sum() > 0:
            raise ValueError("expected one weight for each sample, finite, not negative, and not "
                             f"all zero; got shape {weights.shape}")
        self._share = weights / weights.sum()
        self._count = len(weights) if num_samples is None else int(num_samples)
        self._replacement = bool(replacement)
        if self._count < 1:
            raise ValueError(f"expected num_samples of at least 1, got {num_samples}")
        possible = int(np.count_nonzero(weights))
        if not replacement and self._count > possible:
            raise ValueError(f"cannot draw {self._count} samples without replacement from "
                             f"{possible} of a weight above zero")

    def __len__(self) -> int:
        return self._count

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of an epoch."""
        return rng.choice(len(self._share), self._count, self._replacement, self._share)


class BalancedBatchSampler:
    """Batches with as many samples of each class as of any other.

    Where the batch's size is no multiple of the number of classes, the classes that get one
    more change from batch to batch. Samples of a class come in random order, each once before
    any comes again.

    Parameters
    ----------
    labels : array_like of int
        One for each sample.
    batch_size : int
        That of the `DataLoader`.
    num_batches : int, optional
        How many make an epoch; enough for as many samples as there are labels unless given.

    Raises
    ------
    ValueError
        When there are no labels, or a size is below 1.
    """

    def __init__(self, labels: Any, batch_size: int, num_batches: int | None = None):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
            raise ValueError(f"expected one integer label for each sample, got {labels.dtype} of "
                             f"shape {labels.shape}")
        if batch_size < 1 or (num_batches is not None and num_batches < 1):
            raise ValueError(f"expected batch_size and num_batches of at least 1, got {batch_size} "
                             f"and {num_batches}")
        self.batch_size = batch_size
        self._members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        self._batches = -(-len(labels) // batch_size) if num_batches is None else num_batches

    def __len__(self) -> int:
        return self._batches * self.batch_size

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of an epoch, batch after batch."""
        classes = len(self._members)
        which = np.arange(len(self)) % classes  # the class of each place, in turn
        order = np.empty(len(self), np.int64)
        for number, members in enumerate(self._members):
            places = np.flatnonzero(which == number)
            rounds = -(-len(places) // len(members))
            order[places] = np.concatenate(
                [rng.permutation(members) for _ in range(rounds)])[:len(places)]
        batches = order.reshape(self._batches, self.batch_size)
        return rng.permuted(batches, axis=1).reshape(-1)
