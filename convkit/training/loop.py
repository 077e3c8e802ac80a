"""One epoch of training, for loops written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from convkit import functional as F
from convkit import nn
from convkit.autograd import Tensor
from convkit.training.callbacks import Callback
from convkit.training.results import EpochResult
from convkit.training.trainer import Trainer

__all__ = ["train_epoch"]


class _Report(Callback):
    """Hands each batch's figures to a function."""

    def __init__(self, progress: Callable[[EpochResult], None]):
        self._progress = progress

    def on_batch_end(self, trainer: Trainer, result: EpochResult) -> None:
        """Report the epoch's means so far."""
        self._progress(result)


def train_epoch(model: nn.Module, loader: Iterable, optimizer: Any,
                loss_fn: Callable[..., Tensor] = F.cross_entropy, *,
                scheduler: Any = None,
                progress: Callable[[EpochResult], None] | None = None) -> EpochResult:
    """Train on every batch of a loader once.

    Parameters
    ----------
    model : Module
        Set to training mode, and left in it.
    loader : iterable of (images, targets)
        Such as a `DataLoader`.
    optimizer : Optimizer
        Of the model's parameters.
    loss_fn : callable
        ``loss_fn(scores, targets)`` returns the batch's mean loss.
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
    callbacks = [] if progress is None else [_Report(progress)]
    trainer = Trainer(model, optimizer, loss_fn, scheduler=scheduler, callbacks=callbacks,
                      progress=False)
    return trainer.train_epoch(loader)
