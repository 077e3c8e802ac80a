"""The cyclical schedule: up and down in straight lines, again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from convkit.optim.lr_scheduler.base import (
    LRScheduler,
    each_group,
    not_negative,
    set_momentum,
)
from convkit.optim.optimizer import Optimizer

__all__ = ["CyclicLR"]

MODES = ("triangular", "triangular2", "exp_range")


class CyclicLR(LRScheduler):
    """Rates that rise from `base_lr` to `max_lr` and fall again, for as long as it is stepped.

    It is stepped after each batch.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    base_lr, max_lr : float or sequence of float
        Between which rates, for all groups or for each.
    step_size_up, step_size_down : int
        Steps of the rise and of the fall (by default as many).
    mode : str
        "triangular"; "triangular2", each cycle half as high; "exp_range", ``gamma**step`` as
        high.
    gamma : float
        For "exp_range", at least 0.
    cycle_momentum : bool
        Whether the momentum (of Adam, the first beta) falls while the rate rises.
    base_momentum, max_momentum : float or sequence of float
        Between which numbers, for all groups or for each.
    last_epoch : int
        See `LRScheduler`.

    Raises
    ------
    ValueError
        When a setting makes no sense.

    References
    ----------
    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.
    """

    def __init__(
        self, optimizer: Optimizer, base_lr: float | Sequence[float],
        max_lr: float | Sequence[float], step_size_up: int = 2000,
        step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        cycle_momentum: bool = True, base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9, last_epoch: int = -1,
    ):
        if mode not in MODES:
            raise ValueError(f"expected mode {', '.join(map(repr, MODES))}, got {mode!r}")
        step_size_down = step_size_up if step_size_down is None else step_size_down
        if step_size_up <= 0 or step_size_down <= 0:
            raise ValueError(f"expected step sizes above 0, got {step_size_up} and "
                             f"{step_size_down}")
        groups = optimizer.param_groups
        if cycle_momentum and not all("momentum" in g or "betas" in g for g in groups):
            raise ValueError("cycle_momentum needs an optimiser with momentum or betas")
        self.max_lrs = each_group(max_lr, groups, "max_lr")
        self.total_size = step_size_up + step_size_down
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma = mode, not_negative(gamma, "gamma")
        self.cycle_momentum = cycle_momentum
        self.base_momentums = each_group(base_momentum, groups, "base_momentum")
        self.max_momentums = each_group(max_momentum, groups, "max_momentum")
        lows = each_group(base_lr, groups, "base_lr")
        if last_epoch == -1:
            for group, low in zip(groups, lows, strict=True):
                group["initial_lr"] = low
        super().__init__(optimizer, last_epoch)

    def _height(self, epoch: int) -> float:
        """Return how far up the rates are, from 0 to 1, after `epoch` steps."""
        cycle = math.floor(1 + epoch / self.total_size)
        x = 1.0 + epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1),
                 "exp_range": self.gamma ** epoch}
        return height * scale[self.mode]

    def set_rates(self, epoch: int) -> None:
        """Set the groups' rates, and momenta if they go along."""
        height = self._height(epoch)
        for i, (group, low) in enumerate(zip(self.optimizer.param_groups, self.base_lrs,
                                             strict=True)):
            group["lr"] = low + (self.max_lrs[i] - low) * height
            if self.cycle_momentum:
                most = self.max_momentums[i]
                set_momentum(group, most - (most - self.base_momentums[i]) * height)
