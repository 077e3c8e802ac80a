"""Event files for TensorBoard, written by tensorboardX."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.extras import require
from convkit.training.logs import StepLog

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["TensorBoardLog"]


class TensorBoardLog(StepLog):
    """Writes every figure of the records as a scalar, against the steps of the optimiser.

    Parameters
    ----------
    folder : path_like
        Where the event files go.
    every_steps : int, optional
        See `StepLog`.

    Raises
    ------
    ImportError
        When tensorboardX is not installed.
    """

    def __init__(self, folder: Any, every_steps: int | None = None):
        super().__init__(every_steps)
        self._library = require("tensorboardX", "tensorboard", "a log for TensorBoard")
        self.folder = Path(folder)
        self._writer: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open an event file; steps after a checkpoint gone on from are shown once."""
        self._writer = self._library.SummaryWriter(
            str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def write_step(self, record: dict[str, Any]) -> None:
        """Log the figures of a step."""
        self._write("step", record)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Log the figures of an epoch."""
        self._write("epoch", record)
        self._writer.flush()

    def _write(self, group: str, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, Real):
                self._writer.add_scalar(f"{group}/{name}", value, record["step"])

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
