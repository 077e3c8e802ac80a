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
    parallel : DistributedDataParallel, optional
        Whose processes take each step together.

    Notes
    -----
    Gradients of batches are added in pairs, then pairs of pairs and so on, as processes'
    gradients are: batches cut over processes in runs of a power of two give the same bits.
    """

    def __init__(self, optimizer: optim.Optimizer, accumulate: int = 1,
                 clip_norm: float | None = None, clip_value: float | None = None,
                 parallel: Any = None):
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
        self._reducer = None if parallel is None else parallel.reducer
        # Sums of 2**n batches, the largest first: how many, and each parameter's gradient.
        self._sums: list[tuple[int, dict[int, Any]]] = []
        if self._reducer is not None:
            self._reducer.average = False
            self._reducer.before_send = self._complete

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
        last = self._batches + 1 == self.accumulate
        if self._reducer is not None:
            self._reducer.enabled = last
        # Means over each batch become a mean over all samples of the step in `average`.
        loss.backward(np.full(loss.shape, samples, loss.dtype) if self._weighted else None)
        self._batches += 1
        self._samples += samples
        if not last:
            self._put_aside()

    @property
    def _weighted(self) -> bool:
        return self.accumulate > 1 or self._reducer is not None

    def average(self) -> None:
        """Make the gradients those of the mean over all samples that were added."""
        if self._reducer is not None:
            if self._batches < self.accumulate:
                self._reducer.reduce_now()
            self._samples = self._reducer.total(self._samples)
        else:
            for parameter in self._all():
                self._complete(parameter)
        if self._weighted:
            for parameter in self.parameters():
                parameter.grad.mul_(1 / self._samples)
        self._sums.clear()
        self._batches = self._samples = 0

    def _put_aside(self) -> None:
        """Take the gradients away from the parameters, and add sums of as many batches."""
        count, gradients = 1, {id(p): p.grad for p in self.parameters()}
        for p in self.parameters():
            p.grad = None
        while self._sums and self._sums[-1][0] == count:
            _, before = self._sums.pop()
            for key, gradient in before.items():
                if key in gradients:
                    gradient.add_(gradients.pop(key))
            gradients = {**gradients, **before}
            count *= 2
        self._sums.append((count, gradients))

    def _complete(self, parameter: Any) -> None:
        """Add what was put aside to a parameter's gradient."""
        for _, gradients in reversed(self._sums):
            before = gradients.get(id(parameter))
            if before is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)

    def take(self) -> None:
        """Clip the gradients and change the weights."""
        if self.clip_norm is not None:
            optim.clip_grad_norm_(self.parameters(), self.clip_norm)
        if self.clip_value is not None:
            optim.clip_grad_value_(self.parameters(), self.clip_value)
        self.optimizer.step()

    def parameters(self) -> list[Any]:
        """Return the optimiser's parameters that have gradients."""
        return [p for p in self._all() if p.grad is not None]

    def _all(self) -> list[Any]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]
