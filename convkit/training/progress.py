"""Progress bars: one for each epoch, where somebody watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from convkit.extras import require
from convkit.training.callbacks import Callback
from convkit.training.results import EpochResult

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["ProgressBar", "progress_callbacks"]


class ProgressBar(Callback):
    """Draws a bar for each epoch on the error stream, with tqdm.

    Raises
    ------
    ImportError
        When tqdm is not installed.
    """

    first_process_only = True

    def __init__(self):
        self._tqdm = require("tqdm", "train", "a progress bar").tqdm
        self._bar: Any = None

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Begin a bar."""
        self._bar = self._tqdm(total=trainer.batches_per_epoch, initial=trainer.batch,
                               desc=f"epoch {trainer.epoch + 1}/{trainer.epochs}",
                               unit="batch", leave=False)

    def on_batch_end(self, trainer: Trainer, result: EpochResult) -> None:
        """Move the bar."""
        self._bar.set_postfix_str(str(result), refresh=False)
        self._bar.update(result.batches - self._bar.n)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def progress_callbacks(wanted: bool | None) -> list[Callback]:
    """Return a bar where it is wanted; None: where a terminal and tqdm are there."""
    if wanted is None:
        if not sys.stderr.isatty():
            return []
        try:
            return [ProgressBar()]
        except ImportError:
            return []
    return [ProgressBar()] if wanted else []
