"""The learning-rate range test: how the loss goes while the rate grows from batch to batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit import functional as F
from convkit import nn
from convkit.autograd import Tensor
from convkit.optim import Optimizer
from convkit.training.modes import modes_kept, weights_of

__all__ = ["RangeTest", "lr_range_test"]


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes
    ----------
    rates : numpy.ndarray
        The learning rate at each step.
    losses : numpy.ndarray
        The smoothed loss at each step, before the step was taken.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def steepest(self) -> float:
        """The rate, up to that of the lowest loss, at which it falls fastest with the log rate."""
        lowest = int(np.argmin(self.losses))
        if not lowest:
            return float(self.rates[0])
        slopes = np.gradient(self.losses, np.log(self.rates))[:lowest + 1]
        return float(self.rates[int(np.argmin(slopes))])

    @property
    def suggestion(self) -> float:
        """A tenth of the rate of the lowest loss: a safe highest rate for `OneCycleLR`."""
        return float(self.rates[int(np.argmin(self.losses))]) / 10


def lr_range_test(
    model: nn.Module, optimizer: Optimizer, loader: Iterable,
    loss_fn: Callable[[Any, Any], Tensor] = F.cross_entropy, *, start_lr: float = 1e-7,
    end_lr: float = 10.0, steps: int = 100, smoothing: float = 0.95, diverged: float = 4.0,
) -> RangeTest:
    """Train with a rate that grows from step to step and watch the loss.

    The rate of every group goes from `start_lr` to `end_lr` in equal factors. Afterwards the
    model, the optimiser and the modes of all layers are as they were before.

    Parameters
    ----------
    model : Module
        Run in training mode.
    optimizer : Optimizer
        Of the model's parameters; its groups' rates are set apart from what they are.
    loader : iterable of (images, labels)
        Gone through again and again until there are `steps` batches.
    loss_fn : callable
        ``loss_fn(scores, labels)`` returns the batch's mean loss.
    start_lr, end_lr : float
        Rates at the first and the last step, both above 0.
    steps : int
        How many batches at most, at least 2.
    smoothing : float
        Share of the running mean that is kept at each step (corrected for its start).
    diverged : float
        The test ends once the smoothed loss is this many times its lowest, or not finite.

    Returns
    -------
    RangeTest

    Raises
    ------
    ValueError
        When a setting makes no sense, or the loader is empty.

    References
    ----------
    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3; "A
    disciplined approach to neural network hyper-parameters", 2018.
    """
    if not 0 < start_lr < end_lr or steps < 2 or not 0 <= smoothing < 1:
        raise ValueError(f"expected 0 < start_lr < end_lr, at least 2 steps and smoothing from 0 "
                         f"to below 1, got {start_lr}, {end_lr}, {steps} and {smoothing}")
    weights, settings = weights_of(model), copy.deepcopy(optimizer.state_dict())
    with modes_kept(model):
        model.train()
        try:
            return _climb(model, optimizer, _again(loader), loss_fn,
                          np.geomspace(start_lr, end_lr, steps), smoothing, diverged)
        finally:
            model.load_state_dict(weights)
            optimizer.load_state_dict(settings)
            optimizer.zero_grad()


def _again(loader: Iterable) -> Iterator[tuple[Any, Any]]:
    """Yield a loader's batches for ever."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("expected a loader with at least one batch")


def _climb(model: nn.Module, optimizer: Optimizer, batches: Iterator, loss_fn: Callable,
           rates: np.ndarray, smoothing: float, diverged: float) -> RangeTest:
    """Take steps of growing rate until the loss runs away."""
    losses: list[float] = []
    running = 0.0
    for number, rate in enumerate(rates, 1):
        images, labels = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        loss = loss_fn(model(images), labels)
        running = smoothing * running + (1 - smoothing) * loss.item()
        smooth = running / (1 - smoothing ** number)
        if not math.isfinite(smooth):
            break
        losses.append(smooth)
        if smooth > diverged * min(losses):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not losses:
        raise ValueError("the loss is not finite before any step; see detect_anomaly")
    return RangeTest(rates[:len(losses)], np.array(losses))
