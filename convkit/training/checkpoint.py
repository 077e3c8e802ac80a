"""Checkpoints: which files a run keeps, and reading weights from one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit import nn
from convkit.errors import ModelFormatError
from convkit.training.callbacks import Watched
from convkit.training.state_file import read_state, write_state

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["Checkpoints", "load_weights", "read_checkpoint"]

KIND = "convkit training checkpoint 1"

# The temporary files of `io.atomic`.
HALF_WRITTEN = re.compile(r"\.(last|best|epoch-\d{4,})\.safetensors\.[0-9a-f]{16}\.tmp")


def read_checkpoint(path: Any) -> dict[str, Any]:
    """Return the state in a checkpoint; arrays are read-only views of the file.

    Raises
    ------
    OSError
        When the file cannot be opened.
    ModelFormatError
        When it is no checkpoint, or is malformed.
    """
    return read_state(path, KIND)


def load_weights(model: nn.Module, path: Any, averaged: bool = True) -> None:
    """Give a model the weights in a checkpoint.

    Parameters
    ----------
    model : Module
        Of the checkpoint's shape.
    path : path_like
        The checkpoint.
    averaged : bool
        Whether to take the averaged weights where the run kept an average.

    Raises
    ------
    OSError, ModelFormatError
        When the file cannot be opened, or is no checkpoint.
    RuntimeError
        When the weights do not fit the model.
    """
    state = read_checkpoint(path)
    try:
        ema = state["ema"] if averaged else None
        weights = ema["average"] if ema else state["model"]
    except (KeyError, TypeError):
        raise ModelFormatError(f"{path}: the checkpoint holds no weights") from None
    model.load_state_dict(weights)


class Checkpoints:
    """Keeps the files of a run in a folder; each is written whole or not at all.

    ``last.safetensors`` is where to resume; ``best.safetensors`` is the epoch with the best
    figure; ``epoch-0003.safetensors`` and so on where `every_epochs` asks for them.

    Parameters
    ----------
    folder : path_like
        Made if it is not there.
    every_steps : int, optional
        Write ``last`` after so many steps of the optimiser too, not only after epochs.
    every_epochs : int, optional
        Keep a file of its own after so many epochs.
    keep : int, optional
        How many of those are kept, the newest; all by default.
    monitor, mode
        What the best epoch is judged by, see `Watched`; without validation data, "loss".
    """

    def __init__(self, folder: Any, *, every_steps: int | None = None,
                 every_epochs: int | None = None, keep: int | None = None,
                 monitor: str = "val_loss", mode: str | None = None):
        for name, value in (("every_steps", every_steps), ("every_epochs", every_epochs),
                            ("keep", keep)):
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        self.folder = Path(folder)
        self.every_steps = every_steps
        self.every_epochs = every_epochs
        self.keep = keep
        self._watched = Watched(monitor, mode)

    @property
    def last(self) -> Path:
        """Where the newest state is."""
        return self.folder / "last.safetensors"

    @property
    def best(self) -> Path:
        """Where the best epoch's state is."""
        return self.folder / "best.safetensors"

    def prepare(self) -> None:
        """Make the folder; find out now, not after an epoch, that it cannot be.

        What a killed process left half-written is deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if HALF_WRITTEN.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(13, "the folder cannot be written to", str(self.folder))

    def after_step(self, trainer: Trainer) -> None:
        """Write ``last`` where it is time."""
        if self.every_steps and trainer.step % self.every_steps == 0:
            self.save_last(trainer)

    def after_epoch(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Write what the epoch's end calls for."""
        if self._watched.monitor == "val_loss" and "val_loss" not in record:
            self._watched.monitor = "loss"
        improved = self._watched.improved(record)
        state = trainer.state_dict()
        if improved:
            write_state(self.best, state, KIND)
        if self.every_epochs and trainer.epoch % self.every_epochs == 0:
            write_state(self.folder / f"epoch-{trainer.epoch:04d}.safetensors", state, KIND)
            self._drop_old()
        write_state(self.last, state, KIND)

    def save_last(self, trainer: Trainer) -> None:
        """Write ``last`` now."""
        write_state(self.last, trainer.state_dict(), KIND)

    def _drop_old(self) -> None:
        """Delete numbered files beyond those to keep."""
        if self.keep is None:
            return
        numbered = [path for path in self.folder.iterdir()
                    if re.fullmatch(r"epoch-\d{4,}\.safetensors", path.name)]
        numbered.sort(key=lambda path: int(path.stem.partition("-")[2]))
        for path in numbered[:-self.keep]:
            path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure so far."""
        return {"monitor": self._watched.monitor, "best": self._watched.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._watched.monitor, self._watched.best = state["monitor"], state["best"]
