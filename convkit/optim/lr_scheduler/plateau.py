"""Rates that fall when a figure has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from convkit.optim.optimizer import Optimizer

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau:
    """The rate times `factor` when a figure has not got better for `patience` steps.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups' "lr" is set.
    mode : str
        "min" where less is better, "max" where more is.
    factor : float
        Below 1.
    patience : int
        How many steps without improvement are borne.
    threshold : float
        What counts as better.
    threshold_mode : str
        "rel": better than best * (1 -+ threshold); "abs": than best -+ threshold.
    cooldown : int
        Steps after a change during which nothing is counted.
    min_lr : float or sequence of float
        Lowest rate, for all groups or for each.
    eps : float
        Changes smaller than this are not made.

    Raises
    ------
    ValueError
        When a setting makes no sense.
    """

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel",
                 cooldown: int = 0, min_lr: float | Sequence[float] = 0.0, eps: float = 1e-8):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"expected an Optimizer, got {type(optimizer).__name__}")
        if factor >= 1:
            raise ValueError(f"expected a factor below 1, got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"expected mode of 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"expected threshold_mode of 'rel' or 'abs', got {threshold_mode!r}")
        groups = len(optimizer.param_groups)
        lows = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * groups
        if len(lows) != groups:
            raise ValueError(f"expected {groups} values of min_lr, got {len(lows)}")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = lows
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0

    def _better(self, figure: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        bound = self.best * (1 + sign * self.threshold) if self.threshold_mode == "rel" \
            else self.best + sign * self.threshold
        return figure < bound if self.mode == "min" else figure > bound

    def step(self, metrics: float) -> None:
        """Take the figure of another epoch, and lower the rates if patience is at an end."""
        figure = float(metrics)
        self.last_epoch += 1
        if self._better(figure):
            self.best = figure
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _reduce(self) -> None:
        for group, low in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
            rate = max(group["lr"] * self.factor, low)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """Return the groups' rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser (whose state has the rates)."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.__dict__.update(state_dict)
