"""Rates that start lower (or higher) for a while: the warm-up."""

from __future__ import annotations

from convkit.optim.lr_scheduler.base import ChainableLR, at_least_one
from convkit.optim.optimizer import Optimizer

__all__ = ["ConstantLR", "LinearLR"]


class LinearLR(ChainableLR):
    """The rate times a factor that goes from one number to another in a straight line.

    With the defaults it warms up; a `SequentialLR` goes on from there.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    start_factor : float
        The factor at first, above 0, at most 1.
    end_factor : float
        The factor from `total_iters` steps on, from 0 to 1.
    total_iters : int
        Steps between the two.
    last_epoch : int
        See `LRScheduler`.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section
    2.2 (gradual warm-up).
    """

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3,
                 end_factor: float = 1.0, total_iters: int = 5, last_epoch: int = -1):
        if not 0 < start_factor <= 1:
            raise ValueError(f"expected start_factor above 0 and at most 1, got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"expected end_factor from 0 to 1, got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = at_least_one(total_iters, "total_iters")
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * (start + (end - start) * share of the steps taken)."""
        share = min(epoch, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * share)


class ConstantLR(ChainableLR):
    """The rate times a factor for the first `total_iters` steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    factor : float
        From 0 to 1.
    total_iters : int
        Steps with the factor.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1):
        if not 0 <= factor <= 1:
            raise ValueError(f"expected factor from 0 to 1, got {factor}")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * factor, and base from `total_iters` steps on."""
        return base * self.factor if epoch < self.total_iters else base
