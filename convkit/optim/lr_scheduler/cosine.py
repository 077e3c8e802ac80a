"""Rates that fall along half a cosine wave, once or again and again."""

from __future__ import annotations

import math

from convkit.optim.lr_scheduler.base import ChainableLR, LRScheduler, at_least_one
from convkit.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "CosineAnnealingWarmRestarts"]


def _wave(high: float, low: float, share: float) -> float:
    """Return the height after a share of half a wave from high to low."""
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


class CosineAnnealingLR(ChainableLR):
    """Half a cosine wave from the rate at first down to `eta_min` in `T_max` steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    T_max : int
        Steps until the lowest rate.
    eta_min : float
        The lowest rate.
    last_epoch : int
        See `LRScheduler`.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1):
        self.T_max = at_least_one(T_max, "T_max")
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return eta_min + (base - eta_min) (1 + cos(pi epoch / T_max)) / 2."""
        return _wave(base, self.eta_min, epoch / self.T_max)

    @property
    def low(self) -> float:
        """The rate above which rates keep their proportion."""
        return self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine wave down to `eta_min`, then from the top again, in ever longer runs.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    T_0 : int
        Steps of the first run.
    T_mult : int
        Each run is this many times as long as the one before.
    eta_min : float
        The lowest rate.
    last_epoch : int
        See `LRScheduler`.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
                 last_epoch: int = -1):
        self.T_0 = at_least_one(T_0, "T_0")
        self.T_mult = at_least_one(T_mult, "T_mult")
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Count a step, or go to an epoch, which may have a fraction."""
        if epoch is None:
            super().step()
            return
        if epoch < 0:
            raise ValueError(f"expected an epoch of at least 0, got {epoch}")
        self.last_epoch = epoch
        self.set_rates(epoch)

    def rate(self, base: float, epoch: float) -> float:
        """Return the height of the wave at this place of the run that `epoch` lies in."""
        length = self.T_0
        if self.T_mult == 1:
            epoch %= length
        while epoch >= length:
            epoch -= length
            length *= self.T_mult
        return _wave(base, self.eta_min, epoch / length)
