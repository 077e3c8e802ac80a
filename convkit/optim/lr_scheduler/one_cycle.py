"""The one-cycle schedule: up, and down to far below, with the momentum going the other way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from convkit.optim.lr_scheduler.base import LRScheduler, each_group, set_momentum
from convkit.optim.optimizer import Optimizer

__all__ = ["OneCycleLR"]


class _Phase(NamedTuple):
    """One leg: its last step, and from which to which rate and momentum it goes."""

    end: float
    rates: tuple[str, str]
    momenta: tuple[str, str]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _straight(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


ANNEAL = {"cos": _cosine, "linear": _straight}


class OneCycleLR(LRScheduler):
    """One rise of the rate to `max_lr` and one fall to far below where it began.

    It is stepped after each batch. The rates start at ``max_lr / div_factor`` and end at that
    over ``final_div_factor``.

    Parameters
    ----------
    optimizer : Optimizer
        See `LRScheduler`.
    max_lr : float or sequence of float
        Highest rate, for all groups or for each; `convkit.training.lr_range_test` finds it.
    total_steps : int, optional
        Steps of the cycle; else ``epochs * steps_per_epoch``.
    epochs, steps_per_epoch : int, optional
        See `total_steps`.
    pct_start : float
        Share of the steps that the rise takes.
    anneal_strategy : str
        "cos" or "linear".
    cycle_momentum : bool
        Whether the momentum (of Adam, the first beta) falls while the rate rises.
    base_momentum, max_momentum : float
        Between which numbers.
    div_factor, final_div_factor : float
        As above.
    three_phase : bool
        Fall as long as the rise, and only then to the last rate.
    last_epoch : int
        See `LRScheduler`.

    Raises
    ------
    ValueError
        When a setting makes no sense, or after the last step.

    References
    ----------
    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", 2018. Smith, "A disciplined approach to neural network hyper-parameters",
    2018.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float],
        total_steps: int | None = None, epochs: int | None = None,
        steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
        max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ):
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if total_steps is None or total_steps < 1:
            raise ValueError("expected total_steps, or epochs and steps_per_epoch, above 0")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"expected pct_start from 0 to 1, got {pct_start}")
        if anneal_strategy not in ANNEAL:
            raise ValueError(f"expected anneal_strategy of 'cos' or 'linear', "
                             f"got {anneal_strategy!r}")
        groups = optimizer.param_groups
        max_lrs = each_group(max_lr, groups, "max_lr")
        if cycle_momentum and not all("momentum" in g or "betas" in g for g in groups):
            raise ValueError("cycle_momentum needs an optimiser with momentum or betas")
        self.total_steps = total_steps
        self.max_lrs = max_lrs
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.cycle_momentum = cycle_momentum
        self.base_momentum = base_momentum
        self.max_momentum = max_momentum
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.three_phase = three_phase
        if last_epoch == -1:
            for group, high in zip(groups, max_lrs, strict=True):
                group["initial_lr"] = high / div_factor
        super().__init__(optimizer, last_epoch)

    def _phases(self) -> list[_Phase]:
        """Return the legs of the cycle."""
        top = self.pct_start * self.total_steps - 1
        last = float(self.total_steps - 1)
        down, up = ("max", "base"), ("base", "max")
        if not self.three_phase:
            return [_Phase(top, ("initial", "max"), down), _Phase(last, ("max", "min"), up)]
        return [_Phase(top, ("initial", "max"), down),
                _Phase(2 * self.pct_start * self.total_steps - 2, ("max", "initial"), up),
                _Phase(last, ("initial", "min"), ("max", "max"))]

    def set_rates(self, epoch: int) -> None:
        """Set the groups' rates, and momenta if they go along."""
        if epoch > self.total_steps:
            raise ValueError(f"expected at most {self.total_steps} steps, got {epoch}")
        phases, start = self._phases(), 0.0
        for number, phase in enumerate(phases):
            if epoch <= phase.end or number == len(phases) - 1:
                break
            start = phase.end
        share = (epoch - start) / (phase.end - start) if phase.end != start else 1.0
        anneal = ANNEAL[self.anneal_strategy]
        momenta = {"base": self.base_momentum, "max": self.max_momentum}
        for group, low, high in zip(self.optimizer.param_groups, self.base_lrs, self.max_lrs,
                                    strict=True):
            rates = {"initial": low, "max": high, "min": low / self.final_div_factor}
            group["lr"] = anneal(*(rates[name] for name in phase.rates), share)
            if self.cycle_momentum:
                set_momentum(group, anneal(*(momenta[name] for name in phase.momenta), share))
