"""From losses to changed weights: gradients of one batch or several, clipped, one step."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import optim
from convkit.autograd import Tensor

__all__ = ["Update"]


class Update:
    """Collects gradients and takes steps of an optimiser.

    Parameters
    ----------
    optimizer : Optimizer
        Whose parameters change.
    accumulate : int
        Batches whose gradients go into one step.
    clip_norm, clip_value : float, optional
        Largest norm of all gradients together, largest absolute value of each element.
    """

    def __init__(self, optimizer: optim.Optimizer, accumulate: int = 1,
                 clip_norm: float | None = None, clip_value: float | None = None):
        if accumulate < 1:
            raise ValueError(f"expected accumulate of at least 1, got {accumulate}")
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None and not value > 0:
                raise ValueError(f"expected {name} above 0, got {value}")
        self.optimizer = optimizer
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self._batches = self._samples = 0

    @property
    def pending(self) -> bool:
        """Whether gradients wait for a step."""
        return self._batches > 0

    @property
    def due(self) -> bool:
        """Whether enough batches have come together."""
        return self._batches >= self.accumulate

    def add(self, loss: Tensor, samples: int) -> None:
        """Add the gradients of one batch's mean loss."""
        if not self._batches:
            self.optimizer.zero_grad()
        # Means over each batch become a mean over all samples of the step in `average`.
        loss.backward(None if self.accumulate == 1 else np.full(loss.shape, samples, loss.dtype))
        self._batches += 1
        self._samples += samples

    def average(self) -> None:
        """Make the gradients those of the mean over all samples that were added."""
        if self.accumulate > 1:
            for parameter in self.parameters():
                parameter.grad.mul_(1 / self._samples)
        self._batches = self._samples = 0

    def take(self) -> None:
        """Clip the gradients and change the weights."""
        if self.clip_norm is not None:
            optim.clip_grad_norm_(self.parameters(), self.clip_norm)
        if self.clip_value is not None:
            optim.clip_grad_value_(self.parameters(), self.clip_value)
        self.optimizer.step()

    def parameters(self) -> list[Any]:
        """Return the optimiser's parameters that have gradients."""
        return [p for group in self.optimizer.param_groups for p in group["params"]
                if p.grad is not None]
