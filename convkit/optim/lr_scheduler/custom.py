"""Rates by a function of one's own, and schedules one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from convkit.optim.lr_scheduler.base import ChainableLR, LRScheduler
from convkit.optim.optimizer import Optimizer

__all__ = ["LambdaLR", "MultiplicativeLR", "SequentialLR"]


class LambdaLR(LRScheduler):
    """The rate times a function of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    lr_lambda : callable or sequence of callable
        ``factor = lr_lambda(epoch)``; one for all groups or one each. It is not part of
        `state_dict`.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable],
                 last_epoch: int = -1):
        groups = len(optimizer.param_groups)
        lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(lambdas) != groups:
            raise ValueError(f"expected {groups} functions, one for each group, "
                             f"got {len(lambdas)}")
        self.lr_lambdas = lambdas
        super().__init__(optimizer, last_epoch)

    def rates(self, epoch: int) -> list[float]:
        """Return base * lr_lambda(epoch) for each group."""
        return [base * factor(epoch)
                for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser and the functions."""
        return {k: v for k, v in super().state_dict().items() if k != "lr_lambdas"}


class MultiplicativeLR(ChainableLR, LambdaLR):
    """The rate, again and again times a function of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    lr_lambda : callable or sequence of callable
        By what step ``epoch`` (from 1 on) multiplies the rate; one for all groups or one each.
        It is not part of `state_dict`.
    last_epoch : int
        See `LRScheduler`.
    """

    def rates(self, epoch: int) -> list[float]:
        """Return base * lr_lambda(1) * ... * lr_lambda(epoch) for each group."""
        rates = []
        for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True):
            for step in range(1, epoch + 1):
                base *= factor(step)
            rates.append(base)
        return rates


class SequentialLR(LRScheduler):
    """One schedule after the other, each counting from where it begins.

    Parameters
    ----------
    optimizer : Optimizer
        That of all schedules.
    schedulers : sequence of LRScheduler
        In order. All start from the groups' rates at first.
    milestones : sequence of int
        Numbers of steps at which the next begins: one fewer than schedules, rising.
    last_epoch : int
        See `LRScheduler`.

    Raises
    ------
    ValueError
        When the numbers do not fit, or a schedule is of another optimiser or follows figures
        (`ReduceLROnPlateau`).
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1):
        if len(schedulers) < 1 or len(milestones) != len(schedulers) - 1:
            raise ValueError(f"expected one milestone fewer than schedules, got "
                             f"{len(milestones)} and {len(schedulers)}")
        if list(milestones) != sorted(milestones):
            raise ValueError(f"expected rising milestones, got {list(milestones)}")
        for scheduler in schedulers:
            if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
                raise ValueError("expected schedules of this optimiser that need no figures, "
                                 f"got {type(scheduler).__name__}")
        self.schedulers = list(schedulers)
        self.milestones = list(milestones)
        super().__init__(optimizer, last_epoch)

    def set_rates(self, epoch: int) -> None:
        """Have the schedule that is on set the groups' rates."""
        number = bisect_right(self.milestones, epoch)
        scheduler = self.schedulers[number]
        scheduler.last_epoch = epoch - (self.milestones[number - 1] if number else 0)
        scheduler.set_rates(scheduler.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser, with the state of each schedule."""
        return {**super().state_dict(), "schedulers": [s.state_dict() for s in self.schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, and set the groups' rates."""
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "schedulers"})
