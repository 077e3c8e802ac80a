"""What a pass over data gave: mean loss, accuracy, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EpochResult", "Tally"]


@dataclass(frozen=True)
class EpochResult:
    """What a pass over data gave.

    Attributes
    ----------
    loss : float
        Mean over the samples.
    accuracy : float or None
        Share of samples (or pixels) whose highest score is at their label, 0 to 1; None where
        targets are no class numbers. In training, each batch counts as it was before its step.
    samples : int
    batches : int
    seconds : float
        Wall-clock time, loading included.
    """

    loss: float
    accuracy: float | None
    samples: int
    batches: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Samples divided by seconds."""
        return self.samples / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.2%}"
        return f"loss {self.loss:.4f}{accuracy}, {self.images_per_second:,.0f} images/s"


class Tally:
    """Running sums over batches, which can be kept and gone on with."""

    def __init__(self):
        self._start = time.perf_counter()
        self._loss = 0.0
        self._right = self._decided = self._samples = self._batches = 0

    def add(self, loss: float, scores: np.ndarray, targets: Any) -> None:
        """Count one batch with its mean loss."""
        self._loss += loss * len(scores)
        right, decided = _count_right(scores, np.asarray(targets))
        self._right += right
        self._decided += decided
        self._samples += len(scores)
        self._batches += 1

    def result(self) -> EpochResult:
        """Return the means so far."""
        return EpochResult(self._loss / max(1, self._samples),
                           self._right / self._decided if self._decided else None,
                           self._samples, self._batches, time.perf_counter() - self._start)

    @classmethod
    def joined(cls, states: Sequence[dict[str, Any]]) -> Tally:
        """Return the sums of several processes over the same time."""
        tally = cls()
        sums = {k: sum(s[k] for s in states) for k in states[0]}
        tally.load_state_dict({**sums, "seconds": max(s["seconds"] for s in states)})
        return tally

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        state = {k[1:]: v for k, v in vars(self).items() if k != "_start"}
        return {**state, "seconds": time.perf_counter() - self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._start = time.perf_counter() - state["seconds"]
        for field in ("loss", "right", "decided", "samples", "batches"):
            setattr(self, f"_{field}", state[field])


def _count_right(scores: np.ndarray, targets: np.ndarray) -> tuple[int, int]:
    """Return how many class numbers are at the highest score, and how many there are."""
    if (targets.dtype.kind not in "iu" or scores.ndim != targets.ndim + 1
            or scores.shape[:1] + scores.shape[2:] != targets.shape):
        return 0, 0
    counted = targets >= 0  # negative ones mark places that count for nothing
    return (int(np.count_nonzero((scores.argmax(axis=1) == targets) & counted)),
            int(np.count_nonzero(counted)))
