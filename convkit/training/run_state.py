"""All that the rest of a run depends on: taken out of a Trainer, and put into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convkit import random
from convkit.distributed import get_rank
from convkit.errors import ModelFormatError
from convkit.training.records import pack_records, unpack_records

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["capture", "restore"]

FIELDS = ("model", "optimizer", "scheduler", "ema", "rng", "loaders", "position", "history",
          "callbacks", "checkpoints")
OPTIONAL_PARTS = ("scheduler", "ema")


def capture(trainer: Trainer) -> dict[str, Any]:
    """Return the state of a run between two steps."""
    def of(part: Any) -> Any:
        return None if part is None else part.state_dict()

    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": of(trainer.scheduler),
        "ema": of(trainer.ema),
        "rng": random.get_state(),
        "streams": trainer.streams,
        "loaders": {name: loader.state_dict() for name, loader in trainer.loaders.items()
                    if hasattr(loader, "state_dict")},
        "position": {"epoch": trainer.epoch, "step": trainer.step, "batch": trainer.batch,
                     "lr": trainer.lr, "seconds": trainer.seconds,
                     "tally": trainer.tally.state_dict()},
        "history": pack_records(trainer.history),
        "callbacks": [[type(c).__name__, c.state_dict()] for c in trainer.callbacks],
        "checkpoints": of(trainer.checkpoints),
    }


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put a state into a trainer with the same parts.

    Raises
    ------
    ValueError, RuntimeError
        When it does not fit the trainer's parts.
    ModelFormatError
        When it is no state of a run.
    """
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise ModelFormatError(f"the checkpoint lacks {', '.join(missing)}")
    for name in OPTIONAL_PARTS:
        if (state[name] is None) != (getattr(trainer, name) is None):
            with_it, without = (("the checkpoint", "this trainer") if state[name] is not None
                                else ("this trainer", "the checkpoint"))
            raise ValueError(f"{with_it} has {name}, {without} has none")
    try:
        _restore(trainer, state)
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise ModelFormatError(f"the checkpoint is malformed: {error!r}") from error


def _restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    for name in (*OPTIONAL_PARTS, "checkpoints"):
        part = getattr(trainer, name)
        if part is not None and state[name] is not None:
            part.load_state_dict(state[name])
    for name, loader in trainer.loaders.items():
        if name in state["loaders"] and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(state["loaders"][name])
    rank = 0 if trainer.parallel is None else get_rank()
    go_on_with(state.get("streams") or [state["rng"]], rank)
    trainer.go_to(**state["position"])
    trainer.history[:] = unpack_records(state["history"])
    _restore_callbacks(trainer.callbacks, state["callbacks"])


def go_on_with(streams: Sequence[Mapping[str, Any]], rank: int) -> None:
    """Go on with a process's random numbers; more processes than there were have their own too."""
    again, which = divmod(rank, len(streams))
    random.set_state(streams[which])
    random.jump(again * len(streams))  # each stream was a jump from the one before


def _restore_callbacks(callbacks: Sequence, saved: Sequence) -> None:
    """Give each callback the state of the first saved one of its type not yet given."""
    rest = [(name, state) for name, state in saved if state]
    for callback in callbacks:
        for entry in rest:
            if entry[0] == type(callback).__name__:
                callback.load_state_dict(entry[1])
                rest.remove(entry)
                break
    if rest:
        raise ValueError("the checkpoint has the state of callbacks that this trainer lacks: "
                         + ", ".join(name for name, _ in rest))
