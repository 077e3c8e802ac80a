"""The base of schedules that are formulas for the rate after a number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convkit.optim.optimizer import Optimizer

__all__ = ["ChainableLR", "LRScheduler", "at_least_one", "each_group", "not_negative",
           "set_momentum"]


class LRScheduler:
    """Base of the schedules; subclasses define ``rate``.

    The rates follow from the rates at first and the number of steps alone, so a schedule that
    is put back to a step gives the same bits as one that went there. Of two such schedules that
    are stepped in turn the last one holds, unless it goes on from the other's rates
    (`ChainableLR`).

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
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError("resuming a schedule needs 'initial_lr' in every group")
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._begin()

    def _begin(self) -> None:
        """Count the step that a schedule takes when it is made."""
        self.step()

    def rate(self, base: float, epoch: int) -> float:
        """Return the rate of a group after `epoch` steps from its rate at first."""
        raise NotImplementedError

    def step(self) -> None:
        """Count a step (an epoch, as a rule) and set the groups' rates."""
        self.last_epoch += 1
        self.set_rates(self.last_epoch)

    def rates(self, epoch: int) -> list[float]:
        """Return the groups' rates after `epoch` steps of this schedule alone."""
        return [self.rate(base, epoch) for base in self.base_lrs]

    def set_rates(self, epoch: int) -> None:
        """Set the groups' rates to those after `epoch` steps of this schedule alone."""
        for group, rate in zip(self.optimizer.param_groups, self.rates(epoch), strict=True):
            group["lr"] = rate

    def get_last_lr(self) -> list[float]:
        """Return the groups' rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, and set the groups' rates."""
        self.__dict__.update(state_dict)
        self.set_rates(self.last_epoch)


class ChainableLR(LRScheduler):
    """Base of the schedules that go on from what others make of the rates.

    Alone, such a schedule sets the rates that its formula gives. Where the rate is another one
    than it left (another schedule was stepped in between, or "lr" was set), a step multiplies it
    by what the formula's rate changes by, as PyTorch's chainable forms do: a warm-up and
    `ReduceLROnPlateau`, or two falls, are made one after the other and stepped in turn.

    Attributes
    ----------
    low : float
        The rate above which rates keep their proportion.
    """

    low = 0.0

    def _begin(self) -> None:
        resumed = self.last_epoch != -1
        self.last_epoch += 1
        if resumed:
            self.set_rates(self.last_epoch)
        else:
            self._go_on(self.base_lrs)

    def step(self) -> None:
        """Count a step (an epoch, as a rule) and change the groups' rates."""
        before = self.rates(self.last_epoch)
        self.last_epoch += 1
        self._go_on(before)

    def _go_on(self, before: list[float]) -> None:
        """Take the groups from the rates before a step to those after it."""
        for group, old, new in zip(self.optimizer.param_groups, before,
                                   self.rates(self.last_epoch), strict=True):
            group["lr"] = new if group["lr"] == old else self._follow(group["lr"], old, new)

    def _follow(self, rate: float, old: float, new: float) -> float:
        """Return a rate that others have changed, changed as this schedule goes from old to new."""
        if old == self.low:
            return rate + new - old
        return self.low + (rate - self.low) * ((new - self.low) / (old - self.low))

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimiser, with the groups' rates."""
        return {**super().state_dict(), "lrs": self.get_last_lr()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, and the groups' rates of then."""
        state = dict(state_dict)
        lrs = state.pop("lrs", None)
        super().load_state_dict(state)
        if lrs is not None:     # states that were saved before chaining have none
            for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr


def each_group(value: float | Sequence[float], groups: list[dict], what: str) -> list[float]:
    """Return a setting for each group, given one for all or one each; else raise ValueError."""
    values = list(value) if isinstance(value, Sequence) else [value] * len(groups)
    if len(values) != len(groups):
        raise ValueError(f"expected {len(groups)} values of {what}, got {len(values)}")
    return values


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set a group's momentum, or its first beta."""
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def at_least_one(value: int, what: str) -> int:
    """Return a number of steps; raise ValueError unless it is at least 1."""
    if value < 1:
        raise ValueError(f"expected {what} of at least 1, got {value}")
    return value


def not_negative(value: float, what: str) -> float:
    """Return a number; raise ValueError where it would make rates negative, or is no number."""
    if not value >= 0:
        raise ValueError(f"expected {what} of at least 0, got {value}")
    return value
