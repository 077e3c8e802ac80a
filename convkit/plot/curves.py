"""Lines: training curves, schedules, range tests, the loss along its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convkit.plot.canvas import axes, panels
from convkit.training.landscape import Landscape
from convkit.training.range_test import RangeTest

__all__ = ["curves", "loss_landscape", "range_test", "schedule"]


def curves(history: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("loss", "val_loss"),
           ax: Any = None) -> Any:
    """Draw figures of a run by epoch.

    Parameters
    ----------
    history : sequence of mapping
        What `Trainer.fit` returns, or records of a log.
    keys : sequence of str
        Those to draw; epochs without one are left out.
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    KeyError
        When no epoch has one of them.
    """
    ax = axes(ax)
    for key in keys:
        points = [(record.get("epoch", i), record[key])
                  for i, record in enumerate(history, 1) if record.get(key) is not None]
        if not points:
            known = sorted({k for record in history for k in record})
            raise KeyError(f"no epoch has {key!r}; there are {', '.join(known)}")
        ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=key)
    ax.set(xlabel="epoch")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax


def schedule(scheduler: Any, steps: int, ax: Any = None) -> Any:
    """Draw the learning rates of a schedule's next steps, by parameter group.

    Parameters
    ----------
    scheduler : LRScheduler
        Of `convkit.optim.lr_scheduler`; it and its optimiser's rates are as before afterwards.
    steps : int
    ax : matplotlib.axes.Axes, optional
    """
    ax = axes(ax)
    groups = scheduler.optimizer.param_groups
    before, settings = scheduler.state_dict(), [dict(group) for group in groups]
    rates = []
    try:
        for _ in range(steps):
            rates.append([group["lr"] for group in groups])
            scheduler.step()
    finally:
        scheduler.load_state_dict(before)
        for group, setting in zip(groups, settings, strict=True):
            group.update({k: v for k, v in setting.items() if k != "params"})
    for i in range(len(groups)):
        ax.plot(range(steps), [row[i] for row in rates],
                label=f"group {i}" if len(groups) > 1 else None)
    ax.set(xlabel="step", ylabel="learning rate")
    ax.grid(alpha=0.25)
    if len(groups) > 1:
        ax.legend(frameon=False)
    return ax


def range_test(result: RangeTest, ax: Any = None) -> Any:
    """Draw the loss by learning rate of `convkit.training.lr_range_test`, and its suggestion."""
    ax = axes(ax)
    ax.semilogx(result.rates, result.losses)
    ax.axvline(result.suggestion, color="C1", linestyle="--",
               label=f"suggestion {result.suggestion:.2g}")
    ax.axvline(result.steepest, color="C2", linestyle=":", label=f"steepest {result.steepest:.2g}")
    ax.set(xlabel="learning rate", ylabel="loss")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax


def loss_landscape(landscapes: Mapping[str, Sequence[Landscape]], figure: Any = None) -> Any:
    """Draw the ranges of loss and of gradient along the gradient, over training.

    The picture of Santurkar et al. 2018 (figure 4): a narrow band means that steps meet what
    the gradient promised.

    Parameters
    ----------
    landscapes : mapping of str to sequence of Landscape
        By name of the network (with and without batch norm, say): what
        `convkit.training.loss_along_gradient` gave at some steps of training.
    figure : matplotlib.figure.Figure, optional

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, ((left, right),) = panels(figure, 1, 2, 4.2, 3.2)
    parts: tuple[tuple[Any, Callable, str], ...] = (
        (left, lambda scape: scape.losses, "loss"),
        (right, lambda scape: scape.distances, "distance of the gradients"))
    for ax, values, label in parts:
        for number, (name, scapes) in enumerate(landscapes.items()):
            low, high = ([f(values(s)) for s in scapes] for f in (min, max))
            ax.fill_between(range(len(scapes)), low, high, alpha=0.4, color=f"C{number}",
                            label=name)
        ax.set(xlabel="point of training", ylabel=label, yscale="log")
        ax.grid(alpha=0.25)
    left.legend(frameon=False)
    return figure
