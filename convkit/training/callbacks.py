"""Callbacks: what else happens around the steps of a `Trainer`; early stopping is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.training.modes import weights_of
from convkit.training.results import EpochResult

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["Callback", "EarlyStopping", "Watched"]


class Callback:
    """Base of what is called around training; subclasses define the calls they want.

    Where several processes train together (`convkit.distributed`), those with
    `first_process_only` are called on the first alone; others must do the same on all.

    A callback with state that matters when a run is resumed returns it from `state_dict`:
    nested dictionaries and lists of arrays, numbers and strings.
    """

    first_process_only = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Be called when `fit` starts, after a checkpoint was loaded."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Be called before an epoch's first batch (also when it is gone on with)."""

    def on_gradients(self, trainer: Trainer) -> None:
        """Be called when the gradients of a step are there, before they are clipped."""

    def on_step(self, trainer: Trainer) -> None:
        """Be called after every step of the optimiser and the schedule."""

    def on_batch_end(self, trainer: Trainer, result: EpochResult) -> None:
        """Be called after every batch with the epoch's means so far."""

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Be called with the epoch's figures, to which entries may be added."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Be called before `fit` returns, unless it ends by an error."""

    def close(self) -> None:
        """Let go of files and the like; called last, however `fit` ends."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class Watched:
    """Whether a figure of the epochs' records got better.

    Parameters
    ----------
    monitor : str
        The entry, such as "val_loss" or "val_accuracy".
    mode : {"min", "max"}, optional
        Whether less or more is better; without it, more is better for names that hold
        "accuracy", "top", "f1", "precision", "recall", "auc" or "r2".
    min_delta : float
        By how much it must be better.
    """

    MORE_IS_BETTER = ("accuracy", "top", "f1", "precision", "recall", "auc", "r2")

    def __init__(self, monitor: str, mode: str | None = None, min_delta: float = 0.0):
        if mode not in ("min", "max", None):
            raise ValueError(f"expected mode 'min' or 'max', got {mode!r}")
        if not min_delta >= 0:
            raise ValueError(f"expected min_delta of at least 0, got {min_delta}")
        self.monitor = monitor
        self.mode = mode or ("max" if any(w in monitor for w in self.MORE_IS_BETTER) else "min")
        self.min_delta = min_delta
        self.best: float | None = None

    def improved(self, record: dict[str, Any]) -> bool:
        """Note the figure of an epoch; tell whether it is the best so far.

        Raises
        ------
        KeyError
            When the record has no such entry.
        """
        value = record.get(self.monitor)
        if value is None:
            known = ", ".join(k for k, v in record.items() if isinstance(v, float))
            raise KeyError(f"expected {self.monitor!r} among an epoch's figures ({known}); "
                           "val_ figures need validation data")
        sign = 1 if self.mode == "min" else -1
        if self.best is None:
            better = not np.isnan(value)
        else:
            better = sign * value < sign * self.best - self.min_delta
        if better:
            self.best = float(value)
        return better


class EarlyStopping(Callback):
    """Stops training when a figure no longer gets better, and keeps the best weights.

    Parameters
    ----------
    patience : int
        After how many epochs without improvement training stops.
    monitor, mode, min_delta
        See `Watched`.
    restore_best : bool
        Whether the model gets the weights of its best epoch when `fit` ends, however it ends
        (where the trainer averages weights, those are the averaged ones).

    Attributes
    ----------
    best : float or None
        The best figure.
    best_epoch, best_step : int
        Epochs and optimiser steps done when it was reached.
    best_weights : dict of str to numpy.ndarray
        The weights then.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep Learning", 2016, algorithm 7.1.
    """

    def __init__(self, patience: int = 5, monitor: str = "val_loss", *, mode: str | None = None,
                 min_delta: float = 0.0, restore_best: bool = True):
        if patience < 1:
            raise ValueError(f"expected patience of at least 1, got {patience}")
        self.patience = patience
        self.restore_best = restore_best
        self._watched = Watched(monitor, mode, min_delta)
        self.best_epoch = self.best_step = self.waited = 0
        self.best_weights: dict[str, np.ndarray] = {}

    @property
    def best(self) -> float | None:
        """The best figure so far."""
        return self._watched.best

    def on_fit_start(self, trainer: Trainer) -> None:
        """Stop at once where a resumed run had been stopped."""
        self._stop_if_due(trainer)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Keep the weights of a better epoch, or count one more that was not."""
        if self._watched.improved(record):
            self.best_epoch, self.best_step, self.waited = trainer.epoch, trainer.step, 0
            with trainer.averaged_weights():
                self.best_weights = weights_of(trainer.model)
        else:
            self.waited += 1
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self.waited >= self.patience:
            trainer.stop(f"{self._watched.monitor} did not improve for {self.waited} epochs")

    def on_fit_end(self, trainer: Trainer) -> None:
        """Give the model its best weights."""
        if self.restore_best and self.best_weights:
            trainer.model.load_state_dict(self.best_weights)
            if trainer.ema is not None:
                trainer.ema.restart()

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights and the counts."""
        return {"best": self.best, "best_epoch": self.best_epoch, "best_step": self.best_step,
                "waited": self.waited, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._watched.best = state["best"]
        for field in ("best_epoch", "best_step", "waited"):
            setattr(self, field, state[field])
        self.best_weights = {name: np.array(a) for name, a in state["best_weights"].items()}
