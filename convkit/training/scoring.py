"""Running a network or a program over data without training it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor, no_grad
from convkit.training.modes import evaluating
from convkit.training.results import EpochResult, Tally

__all__ = ["evaluate", "iterate", "predict", "predict_with_targets", "score"]

NO_BATCH = "expected a loader with at least one batch, got none"

Progress = Callable[[EpochResult], None]
Each = Callable[[np.ndarray, tuple], None]


def evaluate(model: Any, loader: Iterable,
             loss_fn: Callable[..., Tensor] = F.cross_entropy, *,
             progress: Progress | None = None, each: Each | None = None) -> EpochResult:
    """Measure loss and accuracy without training.

    Parameters
    ----------
    model : Module or Program
        A Module is run in evaluation mode; all its modes are as before afterwards.
    loader : iterable of (images, targets)
        A batch with more entries hands them all to the loss.
    loss_fn : callable
        ``loss_fn(scores, targets)`` returns the batch's mean loss.
    progress : callable, optional
        Called after each batch with the `EpochResult` so far.
    each : callable, optional
        Called after each batch with its scores and the tuple of its targets.

    Returns
    -------
    EpochResult

    Raises
    ------
    ValueError
        When the loader gives no batch.
    """
    tally = Tally()

    def count(scores: np.ndarray, targets: tuple) -> None:
        tally.add(float(loss_fn(Tensor(scores), *targets).item()), scores, targets[0])
        if each is not None:
            each(scores, targets)
        if progress is not None:
            progress(tally.result())

    score(model, loader, count)
    result = tally.result()
    if not result.batches:
        raise ValueError(NO_BATCH)
    return result


def predict(model: Any, loader: Iterable) -> np.ndarray:
    """Return the scores, shape (N, classes), of all samples in the loader's order.

    Parameters
    ----------
    model : Module or Program
        A Module is run in evaluation mode; all its modes are as before afterwards.
    loader : iterable
        Of batches (images, ...), or of images.
    """
    parts: list[np.ndarray] = []
    score(model, loader, lambda scores, targets: parts.append(scores))
    return _joined(parts)


def predict_with_targets(model: Any, loader: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """Return (scores, targets) of all samples in the loader's order.

    Parameters
    ----------
    model : Module or Program
        A Module is run in evaluation mode; all its modes are as before afterwards.
    loader : iterable of (images, targets)

    Returns
    -------
    scores : numpy.ndarray, shape (N, classes)
    targets : numpy.ndarray, shape (N,) as a rule
    """
    scores: list[np.ndarray] = []
    targets: list[np.ndarray] = []

    def keep(batch_scores: np.ndarray, batch_targets: tuple) -> None:
        scores.append(batch_scores)
        targets.append(np.asarray(batch_targets[0]))

    score(model, loader, keep)
    return _joined(scores), _joined(targets)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if not parts:
        raise ValueError(NO_BATCH)
    return np.concatenate(parts)


def score(model: Any, loader: Iterable, each: Each) -> None:
    """Call ``each(scores, targets)`` for every batch, with the tuple of its targets."""
    with evaluating(model), no_grad(), iterate(loader) as batches:
        for batch in batches:
            images, *targets = batch if isinstance(batch, (tuple, list)) else (batch,)
            each(np.asarray(model(images)), tuple(targets))


@contextmanager
def iterate(loader: Iterable) -> Iterator[Iterator]:
    """Iterate over a loader; its thread, where it has one, ends with the block."""
    iterator = iter(loader)
    if not hasattr(iterator, "close"):
        yield iterator
        return
    with closing(iterator):
        yield iterator
