"""Training on the validation data too, once early stopping has said for how long.

Both functions take up where a run with `EarlyStopping` has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from convkit.training.trainer import Trainer

__all__ = ["Continued", "continue_on_all", "retrain_on_all"]


def retrain_on_all(make_trainer: Callable[[], Trainer], everything: Iterable,
                   steps: int) -> Trainer:
    """Train anew on all data, for as many steps as early stopping found best.

    Parameters
    ----------
    make_trainer : callable
        Returns a trainer with fresh weights, optimiser and schedule, without early stopping.
    everything : iterable of (inputs, targets)
        Training and validation data together.
    steps : int
        ``EarlyStopping.best_step`` of the run before.

    Returns
    -------
    Trainer
        After its run.

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep Learning", 2016, algorithm 7.2.
    """
    if steps < 1:
        raise ValueError(f"expected steps of at least 1, got {steps}")
    trainer = make_trainer()
    trainer.fit(everything, epochs=steps, max_steps=steps)
    return trainer


@dataclass(frozen=True)
class Continued:
    """What `continue_on_all` did.

    Attributes
    ----------
    target : float
        The training loss where early stopping had stopped.
    losses : list of float
        The validation loss at first, and after each epoch.
    """

    target: float
    losses: list[float]

    @property
    def reached(self) -> bool:
        """Whether the validation loss fell to the target."""
        return self.losses[-1] <= self.target


def continue_on_all(trainer: Trainer, train: Iterable, val: Iterable, everything: Iterable, *,
                    max_epochs: int) -> Continued:
    """Train on with all data until the validation loss falls to what the training loss was.

    Parameters
    ----------
    trainer : Trainer
        After a run with `EarlyStopping`, so that the model has its best weights. Its
        schedule goes on, and its callbacks for epochs are not called.
    train, val : iterable of (inputs, targets)
        What that run was trained on and validated with.
    everything : iterable of (inputs, targets)
        Both together.
    max_epochs : int
        The validation loss need never fall so far; stop after so many epochs then.

    Returns
    -------
    Continued

    References
    ----------
    Goodfellow, Bengio and Courville, "Deep Learning", 2016, algorithm 7.3.
    """
    target = trainer.evaluate(train).loss
    losses = [trainer.evaluate(val).loss]
    while losses[-1] > target and len(losses) <= max_epochs:
        trainer.train_epoch(everything)
        losses.append(trainer.evaluate(val).loss)
    return Continued(target, losses)
