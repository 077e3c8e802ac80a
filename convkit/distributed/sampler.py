"""Which samples a process gets."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.distributed.group import get_rank, get_world_size

__all__ = ["DistributedSampler"]


class DistributedSampler:
    """The share of one process in every epoch, for `convkit.data.DataLoader`.

    All processes draw the same order (their loaders need the same seed) and take turns in it:
    as in PyTorch a sample at a time, or `accumulate` batches of `batch_size` at a time. Then a
    step of all processes together reads what a step of one process with ``accumulate *
    num_replicas`` batches reads, cut into the same batches.

    Parameters
    ----------
    dataset : object with ``len``
    num_replicas, rank : int, optional
        How many processes there are and which one this is; the group's by default.
    shuffle : bool
        A new order in each epoch.
    drop_last : bool
        Leave out samples at the end that do not give every process the same number; without
        it the first ones come again instead.
    batch_size : int
        Samples that go to one process together; that of the loader, or 1.
    accumulate : int
        Batches in a row that go to one process: those of one step.

    Raises
    ------
    ValueError
        When a number is out of range.
    """

    def __init__(self, dataset: Any, num_replicas: int | None = None, rank: int | None = None,
                 shuffle: bool = True, *, drop_last: bool = False, batch_size: int = 1,
                 accumulate: int = 1):
        self.num_replicas = get_world_size() if num_replicas is None else num_replicas
        self.rank = get_rank() if rank is None else rank
        if self.num_replicas < 1 or not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"expected a rank from 0 to {self.num_replicas - 1}, "
                             f"got {self.rank}")
        if batch_size < 1 or accumulate < 1:
            raise ValueError("expected batch_size and accumulate of at least 1, "
                             f"got {batch_size} and {accumulate}")
        self.shuffle = shuffle
        self._samples = len(dataset)
        self._chunk = batch_size * accumulate
        self._count = self._samples // self.num_replicas
        if not drop_last and self._samples % self.num_replicas:
            self._count += 1
        if self._count < 1:
            raise ValueError(f"expected at least one sample for each of {self.num_replicas} "
                             f"processes, got {self._samples}")

    def __len__(self) -> int:
        return self._count

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return this process's samples of an epoch, in order."""
        order = rng.permutation(self._samples) if self.shuffle else np.arange(self._samples)
        order = np.resize(order, self._count * self.num_replicas)  # longer: from the start again
        step = self._chunk * self.num_replicas
        whole = len(order) // step * step
        shares = order[:whole].reshape(-1, self.num_replicas, self._chunk)[:, self.rank]
        rest = order[whole:].reshape(self.num_replicas, -1)[self.rank]
        return np.concatenate([shares.reshape(-1), rest])
