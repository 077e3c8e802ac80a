"""Checks before a long run: whether the first loss is right, and one batch can be learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convkit import functional as F
from convkit import nn, optim, random
from convkit.autograd import Tensor, no_grad
from convkit.training.callbacks import Callback
from convkit.training.results import EpochResult

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["InitialLoss", "Overfit", "check_initial_loss", "overfit_one_batch"]


@dataclass(frozen=True)
class InitialLoss:
    """What `check_initial_loss` found.

    Attributes
    ----------
    loss : float
        Of the network as it is.
    expected : float
        ``-log(1 / classes)``.
    tolerance : float
        The share of `expected` by which `loss` may differ.
    """

    loss: float
    expected: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the loss is as expected."""
        return abs(self.loss - self.expected) <= self.tolerance * self.expected

    def __str__(self) -> str:
        if self.ok:
            return f"initial loss {self.loss:.3f}, expected about {self.expected:.3f}: as it should"
        why = ("the scores are too large: look at the input's scale and the last layer's weights"
               if self.loss > self.expected else
               "less than guessing gives: is the network trained already, or the label an input?")
        return f"initial loss {self.loss:.3f}, expected about {self.expected:.3f}: {why}"


def check_initial_loss(model: nn.Module, batch: Any,
                       loss: Callable[..., Tensor] = F.cross_entropy, *,
                       tolerance: float = 0.3) -> InitialLoss:
    """Compare a fresh network's cross entropy with that of guessing, -log(1 / classes).

    Parameters
    ----------
    model : Module
        With scores (N, classes, ...); a copy of it is run, in training mode.
    batch : tuple of (images, labels)
    loss : callable
        ``loss(scores, labels)``, cross entropy or one like it.
    tolerance : float
        See `InitialLoss`.

    Returns
    -------
    InitialLoss

    References
    ----------
    Karpathy, "A Recipe for Training Neural Networks", 2019.
    """
    inputs, *targets = batch
    with random.fork_rng(), no_grad():
        scores = copy.deepcopy(model).train()(inputs)
        value = loss(scores, *targets).item()
    return InitialLoss(value, math.log(scores.shape[1]), tolerance)


@dataclass(frozen=True)
class Overfit:
    """What `overfit_one_batch` found.

    Attributes
    ----------
    losses : list of float
        Before each step.
    accuracy : float or None
        Before the last step, 0 to 1.
    target : float
        The loss that was to be reached.
    """

    losses: list[float]
    accuracy: float | None
    target: float

    @property
    def ok(self) -> bool:
        """Whether the loss came down to the target."""
        return self.losses[-1] <= self.target

    def __str__(self) -> str:
        verdict = ("reached" if self.ok else
                   "NOT reached: look at the loss, the gradients, the labels, the learning rate")
        return (f"one batch: loss {self.losses[0]:.3f} to {self.losses[-1]:.4f} in "
                f"{len(self.losses)} steps, target {self.target:g} {verdict}")


def overfit_one_batch(model: nn.Module, batch: Any,
                      loss: Callable[..., Tensor] = F.cross_entropy, *,
                      optimizer: Callable[[list], optim.Optimizer] | None = None,
                      steps: int = 200, target: float = 0.05) -> Overfit:
    """Train a copy of a network on one batch, which a sound network learns by heart.

    Parameters
    ----------
    model : Module
        Left as it is. Dropout keeps the loss up; leave it out for this check.
    batch : tuple of (images, targets)
    loss : callable
        ``loss(scores, targets)``.
    optimizer : callable, optional
        Makes the optimiser from a list of parameters; Adam with rate 1e-3 by default.
    steps : int
        At most so many.
    target : float
        Stop when the loss is down there.

    Returns
    -------
    Overfit
    """
    from convkit.training.trainer import INTERRUPTED, Trainer

    model = copy.deepcopy(model)
    make = optimizer or (lambda parameters: optim.Adam(parameters, lr=1e-3))
    watch = _UntilTarget(target)
    with random.fork_rng():
        trainer = Trainer(model, make(list(model.parameters())), loss, callbacks=[watch],
                          progress=False)
        trainer.fit([batch], epochs=steps)
    if trainer.stopped == INTERRUPTED:
        raise KeyboardInterrupt
    return Overfit(watch.losses, watch.accuracy, target)


class _UntilTarget(Callback):
    """Keeps the losses, and stops the run when one is low enough."""

    def __init__(self, target: float):
        self.target = target
        self.losses: list[float] = []
        self.accuracy: float | None = None

    def on_batch_end(self, trainer: Trainer, result: EpochResult) -> None:
        """Look at one step's loss."""
        self.losses.append(result.loss)
        self.accuracy = result.accuracy
        if result.loss <= self.target:
            trainer.stop("the target is reached")
