"""Rates that fall: in steps, at milestones, exponentially, as a polynomial."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from convkit.optim.lr_scheduler.base import ChainableLR, at_least_one, not_negative
from convkit.optim.optimizer import Optimizer

__all__ = ["ExponentialLR", "MultiStepLR", "PolynomialLR", "StepLR"]


class StepLR(ChainableLR):
    """The rate times `gamma` after every `step_size` steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    step_size : int
        Steps between changes.
    gamma : float
        The factor, at least 0.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1):
        self.step_size = at_least_one(step_size, "step_size")
        self.gamma = not_negative(gamma, "gamma")
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * gamma^(epoch // step_size)."""
        return base * self.gamma ** (epoch // self.step_size)


class MultiStepLR(ChainableLR):
    """The rate times `gamma` at every milestone.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    milestones : iterable of int
        Numbers of steps; one that comes twice counts twice.
    gamma : float
        The factor, at least 0.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1):
        self.milestones = sorted(milestones)
        self.gamma = not_negative(gamma, "gamma")
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * gamma^(number of milestones reached)."""
        return base * self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(ChainableLR):
    """The rate times `gamma` after every step.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    gamma : float
        The factor, at least 0.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = not_negative(gamma, "gamma")
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * gamma^epoch."""
        return base * self.gamma ** epoch


class PolynomialLR(ChainableLR):
    """The rate down to 0 in `total_iters` steps, as a power of what is left.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    total_iters : int
        Steps until the rate is 0.
    power : float
        At least 0; 1 is a straight line.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0,
                 last_epoch: int = -1):
        self.total_iters = at_least_one(total_iters, "total_iters")
        self.power = not_negative(power, "power")
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * (1 - epoch / total_iters)^power."""
        return base * (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power
