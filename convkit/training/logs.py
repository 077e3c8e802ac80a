"""Logs of a run as JSON lines and CSV; resumed runs go on in the same file, without repeats."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.io.atomic import write_atomically
from convkit.training.callbacks import Callback

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["CSVLog", "JSONLinesLog", "StepLog"]


class StepLog(Callback):
    """Base of logs that take the figures of some steps and of each epoch.

    Parameters
    ----------
    every_steps : int, optional
        Log loss, accuracy (means over the epoch so far) and learning rate after so many
        steps; epochs only by default.
    """

    first_process_only = True

    def __init__(self, every_steps: int | None = None):
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"expected every_steps of at least 1, got {every_steps}")
        self.every_steps = every_steps

    def on_step(self, trainer: Trainer) -> None:
        """Log a step where it is time."""
        if not self.every_steps or trainer.step % self.every_steps:
            return
        result = trainer.tally.result()
        self.write_step({
            "epoch": trainer.epoch + 1, "step": trainer.step, "loss": result.loss,
            "accuracy": result.accuracy, "lr": trainer.lr})

    def write_step(self, record: dict[str, Any]) -> None:
        """Log the figures of a step."""
        raise NotImplementedError


class JSONLinesLog(StepLog):
    """Writes one JSON object on each line: ``"event"`` is "step" or "epoch".

    Parameters
    ----------
    path : path_like
        The file; a run that is not resumed replaces it.
    every_steps : int, optional
        See `StepLog`.

    Notes
    -----
    Numbers that JSON lacks (NaN, infinities) are written as null.
    """

    def __init__(self, path: Any, every_steps: int | None = None):
        super().__init__(every_steps)
        self.path = Path(path)
        self._size = 0  # bytes that belong to the run up to its checkpoint
        self._file: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open the file; drop what a killed run wrote after its checkpoint."""
        self._file = open(self.path, "ab")
        self._file.truncate(min(self._size, os.fstat(self._file.fileno()).st_size))

    def write_step(self, record: dict[str, Any]) -> None:
        """Log the figures of a step."""
        self._write({"event": "step", **record})

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Log the figures of an epoch."""
        self._write({"event": "epoch", **record})

    def _write(self, record: dict[str, Any]) -> None:
        plain = {name: _json_value(value) for name, value in record.items()}
        self._file.write(json.dumps(plain).encode() + b"\n")
        self._file.flush()
        self._size = self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """Return how much of the file belongs to the run so far."""
        return {"size": self._size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._size = state["size"]


def _json_value(value: Any) -> Any:
    """Return a figure as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class CSVLog(Callback):
    """Writes the records of all epochs as a table with a header, anew after each epoch.

    Parameters
    ----------
    path : path_like
        The file.
    """

    first_process_only = True

    def __init__(self, path: Any):
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Write the table."""
        columns = list(dict.fromkeys(name for r in trainer.history for name in r))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(trainer.history)
        write_atomically(self.path, [text.getvalue().encode()])
