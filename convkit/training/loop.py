"""One epoch of training, and evaluation, for networks that give class scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit import functional as F
from convkit import nn
from convkit.autograd import Tensor, no_grad

__all__ = ["EpochResult", "evaluate", "predict", "train_epoch"]


@dataclass(frozen=True)
class EpochResult:
    """What a pass over data gave.

    Attributes
    ----------
    loss : float
        Mean over the samples.
    accuracy : float
        Share of samples whose highest score is at their label, 0 to 1. In training, each
        batch counts as it was before its step.
    samples : int
    batches : int
    seconds : float
        Wall-clock time, loading included.
    """

    loss: float
    accuracy: float
    samples: int
    batches: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Samples divided by seconds."""
        return self.samples / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return (f"loss {self.loss:.4f}, accuracy {self.accuracy:.2%}, "
                f"{self.images_per_second:,.0f} images/s")


class _Tally:
    """Running sums over batches."""

    def __init__(self):
        self._start = time.perf_counter()
        self._loss = 0.0
        self._right = self._samples = self._batches = 0

    def add(self, loss: float, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count one batch."""
        count = len(scores)
        self._loss += loss * count
        self._right += int(np.count_nonzero(scores.argmax(axis=1) == labels))
        self._samples += count
        self._batches += 1

    def result(self) -> EpochResult:
        """Return the means so far."""
        samples = max(1, self._samples)
        return EpochResult(self._loss / samples, self._right / samples, self._samples,
                           self._batches, time.perf_counter() - self._start)


Progress = Callable[[EpochResult], None]


def train_epoch(model: nn.Module, loader: Iterable, optimizer: Any,
                loss_fn: Callable[[Any, Any], Tensor] = F.cross_entropy, *,
                scheduler: Any = None, progress: Progress | None = None) -> EpochResult:
    """Train on every batch of a loader once.

    Parameters
    ----------
    model : Module
        Set to training mode, and left in it. Gives scores of shape (N, classes).
    loader : iterable of (images, labels)
        Such as a `DataLoader`.
    optimizer : Optimizer
        Of the model's parameters.
    loss_fn : callable
        ``loss_fn(scores, labels)`` returns the batch's mean loss.
    scheduler : object with ``step()``, optional
        Learning-rate schedule that is stepped after each batch.
    progress : callable, optional
        Called after each batch with the `EpochResult` so far.

    Returns
    -------
    EpochResult

    Raises
    ------
    FloatingPointError
        When the loss is NaN or infinite; the weights are those before that batch's step.
    """
    model.train()
    tally = _Tally()
    with _batches(loader) as batches:
        for number, (images, labels) in enumerate(batches, 1):
            scores = model(images)
            loss = loss_fn(scores, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss became {value} at batch {number}; a lower learning rate may help")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            tally.add(value, scores.data, np.asarray(labels))
            if progress is not None:
                progress(tally.result())
    return tally.result()


def evaluate(model: Any, loader: Iterable,
             loss_fn: Callable[[Any, Any], Tensor] = F.cross_entropy, *,
             progress: Progress | None = None) -> EpochResult:
    """Measure loss and accuracy without training.

    Parameters
    ----------
    model : Module or Program
        A Module is run in evaluation mode; all its modes are as before afterwards.
    loader : iterable of (images, labels)
    loss_fn : callable
        ``loss_fn(scores, labels)`` returns the batch's mean loss.
    progress : callable, optional
        Called after each batch with the `EpochResult` so far.

    Returns
    -------
    EpochResult
    """
    tally = _Tally()

    def count(scores: np.ndarray, labels: Any) -> None:
        tally.add(float(loss_fn(Tensor(scores), labels).item()), scores, np.asarray(labels))
        if progress is not None:
            progress(tally.result())

    _score(model, loader, count)
    return tally.result()


def predict(model: Any, loader: Iterable) -> np.ndarray:
    """Return the scores, shape (N, classes), of all samples in the loader's order.

    Parameters
    ----------
    model : Module or Program
        A Module is run in evaluation mode; all its modes are as before afterwards.
    loader : iterable of (images, labels)
    """
    parts: list[np.ndarray] = []
    _score(model, loader, lambda scores, labels: parts.append(scores))
    return np.concatenate(parts)


def _score(model: Any, loader: Iterable, each: Callable[[np.ndarray, Any], None]) -> None:
    """Call ``each(scores, labels)`` for every batch."""
    with _evaluating(model), no_grad(), _batches(loader) as batches:
        for images, labels in batches:
            each(np.asarray(model(images)), labels)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a Module into evaluation mode, and each of its parts back into its own."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _batches(loader: Iterable) -> Iterator[Iterator]:
    """Iterate over a loader; its thread, where it has one, ends with the block."""
    iterator = iter(loader)
    if not hasattr(iterator, "close"):
        yield iterator
        return
    with closing(iterator):
        yield iterator
