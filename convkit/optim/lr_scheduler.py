"""Learning-rate schedules: each is a formula for the rate after a number of steps."""

from __future__ import annotations

import math
from typing import Any

from convkit.optim.optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "StepLR"]


class LRScheduler:
    """Base of the schedules; subclasses define ``rate``.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups' "lr" is set: at once, and by every `step`.
    last_epoch : int
        How many steps were taken before; -1 starts afresh.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group["initial_lr"] = group["lr"]
            elif "initial_lr" not in group:
                raise KeyError("resuming a schedule needs 'initial_lr' in every group")
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def rate(self, base: float, epoch: int) -> float:
        """Return the rate of a group after `epoch` steps from its rate at first."""
        raise NotImplementedError

    def step(self) -> None:
        """Count a step (an epoch, as a rule) and set the groups' rates."""
        self.last_epoch += 1
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(base, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """Return the groups' rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, and set the groups' rates."""
        self.__dict__.update(state_dict)
        self.last_epoch -= 1
        self.step()


class StepLR(LRScheduler):
    """The rate times `gamma` after every `step_size` steps.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    step_size : int
        Steps between changes.
    gamma : float
        The factor.
    last_epoch : int
        See `LRScheduler`.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1):
        if step_size < 1:
            raise ValueError(f"expected step_size of at least 1, got {step_size}")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return base * gamma^(epoch // step_size)."""
        return base * self.gamma ** (epoch // self.step_size)


class CosineAnnealingLR(LRScheduler):
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
        if T_max < 1:
            raise ValueError(f"expected T_max of at least 1, got {T_max}")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base: float, epoch: int) -> float:
        """Return eta_min + (base - eta_min) (1 + cos(pi epoch / T_max)) / 2."""
        wave = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return self.eta_min + (base - self.eta_min) * wave
