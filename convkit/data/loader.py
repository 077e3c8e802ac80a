"""The loader: batches of a data set, in order or shuffled, made ahead by a thread.

Which samples a batch holds, and what a random transform does to them, follows from (seed,
epoch, batch) alone. So the position of a run is three numbers, prefetching changes nothing,
and a resumed run sees what the unbroken one would have seen.
"""

from __future__ import annotations

import contextvars
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from convkit import random
from convkit._kernels import memory
from convkit.autograd import Tensor
from convkit.data.augment import Draws, Transform
from convkit.data.dataset import gather, unit_range
from convkit.errors import ShapeError

__all__ = ["DataLoader"]

# What a seed is combined with, so that orders and transforms draw from different streams.
ORDER, TRANSFORM = 0, 1


class DataLoader:
    """Batches of a data set.

    Parameters
    ----------
    dataset : object with ``__len__`` and ``__getitem__``
        Those of this package are read a batch at a time.
    batch_size : int
    shuffle : bool
        A new order in each epoch, fixed by `seed` and the epoch's number.
    seed : int, optional
        Without it, one is drawn from `convkit.random` when the loader is made, so
        `convkit.manual_seed` fixes it.
    sampler : object with ``len`` and ``draw(rng)``, optional
        Says which samples an epoch has and in which order, instead of `shuffle`: see
        `WeightedRandomSampler` and `BalancedBatchSampler`.
    drop_last : bool
        Leave out the last batch where it is smaller.
    prefetch : int
        How many batches a background thread keeps ready; 0 makes them in the caller's.
    mean, std : float or sequence of float, optional
        For each channel: ``(image - mean) / std``, after scaling to [0, 1].
    preprocess : callable, optional
        ``preprocess(images)`` gets the batch's images as float32 (N, C, H, W), after
        `transform` and after scaling to [0, 1], and returns what the network takes, such as a
        fitted `convkit.data.preprocess.Pipeline`. Instead of `mean` and `std`.
    transform : Transform of `convkit.data.augment`, or callable, optional
        A Transform gets the images (and the labels, which it may make probabilities of), and
        draws by the loader's seed, the epoch and each sample's position in the data set.
        Another callable ``transform(images, rng)`` gets the batch's images, logically
        (N, C, H, W), as the data set holds them (so uint8 for an `ImageDataset`), and a
        `numpy.random.Generator` for this batch; it returns the images to go on with.

    Yields
    ------
    tuple of Tensor
        One for each entry of a sample, or a single Tensor where samples are no tuples.
        uint8 images (N, C, H, W) in the first place come out as float32 with values from 0
        to 1, channels-last in memory, normalised where `mean` and `std` are given.

    Raises
    ------
    ValueError
        When a size is out of range.
    ShapeError
        When `mean` or `std` do not fit the images.

    Notes
    -----
    An error in the thread is raised by the ``for`` loop. Leaving the loop early ends the
    thread; the iterator's ``close()`` does so at once.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False, *,
                 sampler: Any = None, seed: int | None = None, drop_last: bool = False,
                 prefetch: int = 2,
                 mean: float | Sequence[float] | None = None,
                 std: float | Sequence[float] | None = None,
                 transform: Transform | Callable[[np.ndarray, np.random.Generator], np.ndarray]
                 | None = None,
                 preprocess: Callable[[np.ndarray], np.ndarray] | None = None):
        if preprocess is not None and not (mean is None and std is None):
            raise ValueError("expected either preprocess or mean and std, got both")
        self.preprocess = preprocess
        self.dataset = dataset
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.shuffle = bool(shuffle)
        self.sampler = sampler
        if sampler is not None and shuffle:
            raise ValueError("expected shuffle or a sampler, got both")
        if getattr(sampler, "batch_size", batch_size) != batch_size:
            raise ValueError(f"expected batch_size {sampler.batch_size} as in the sampler, "
                             f"got {batch_size}")
        self.drop_last = bool(drop_last)
        self.prefetch = _at_least(0, prefetch, "prefetch")
        if seed is None:
            seed = int(random.generator().integers(2**63))
        self.seed = _at_least(0, seed, "seed")
        self.transform = transform
        self.mean, self.std = _channel_values(mean, "mean"), _channel_values(std, "std")
        if self.std is not None and not (self.std > 0).all():
            raise ValueError(f"expected std above 0, got {std}")
        self._epoch = 0
        self._batch = 0
        self._begun = False  # whether an iterator was made at the epoch's number

    def __len__(self) -> int:
        samples = len(self.dataset if self.sampler is None else self.sampler)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if self._begun:
            self._epoch, self._batch = self._epoch + 1, 0
        self._begun = True
        plan = _Epoch(self, self._epoch)
        return _Batches(self, plan, self._batch, len(self))

    def state_dict(self) -> dict[str, int]:
        """Return the position: what the next batch is, and what it depends on."""
        return {"seed": self.seed, "epoch": self._epoch, "batch": self._batch,
                "batch_size": self.batch_size, "samples": len(self.dataset)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position: the next iterator continues there.

        Parameters
        ----------
        state : dict
            From `state_dict` of a loader over the same data.

        Raises
        ------
        ValueError
            When a field is missing or out of range, or batch size or data set differ.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"expected the fields {sorted(self.state_dict())}, "
                             f"got {sorted(state)}")
        for field, own in (("batch_size", self.batch_size), ("samples", len(self.dataset))):
            if state[field] != own:
                raise ValueError(f"expected {field} {own} as in this loader, got {state[field]}")
        seed, epoch, batch = (_at_least(0, state[k], k) for k in ("seed", "epoch", "batch"))
        if batch > len(self):
            raise ValueError(f"expected batch of at most {len(self)}, got {batch}")
        self.seed, self._epoch, self._batch = seed, epoch, batch
        self._begun = False

    def _delivered(self, epoch: int, batch: int | None) -> None:
        """Note that an iterator gave `batch`, or (None) finished its epoch."""
        if epoch != self._epoch:
            return  # a newer iterator holds the position
        if batch is None:
            self._epoch, self._batch, self._begun = epoch + 1, 0, False
        else:
            self._batch = batch + 1


def _at_least(least: int, value: Any, what: str) -> int:
    """Return an int that is at least `least`, or raise."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"expected {what} as an int, got {value!r}")
    value = value.__index__()
    if value < least:
        raise ValueError(f"expected {what} of at least {least}, got {value}")
    return value


def _channel_values(values: Any, what: str) -> np.ndarray | None:
    """Return a value for each channel as float32 (one value serves all channels)."""
    if values is None:
        return None
    array = np.atleast_1d(np.asarray(values, np.float32))
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"expected {what} as finite numbers, one for each channel, got {values}")
    return array


class _Epoch:
    """How to make any batch of one epoch; knows the loader's settings, not the loader."""

    def __init__(self, loader: DataLoader, epoch: int):
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.transform = loader.transform
        self.preprocess = loader.preprocess
        self.mean, self.std = loader.mean, loader.std
        self.seed = loader.seed
        self.number = epoch
        samples = len(loader.dataset)
        if loader.sampler is not None:
            self.order = loader.sampler.draw(self._rng(ORDER))
        else:
            self.order = (self._rng(ORDER).permutation(samples) if loader.shuffle
                          else np.arange(samples))

        self.ids = (self.order if loader.sampler is None
                    else self.order + samples * _times_before(self.order))

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(
            self.seed, spawn_key=(self.number, *stream)))

    def make(self, batch: int) -> Any:
        """Return one batch."""
        start = batch * self.batch_size
        arrays = gather(self.dataset, self.order[start:start + self.batch_size])
        ids = self.ids[start:start + self.batch_size]
        if not isinstance(arrays, tuple):
            images, _ = self._transformed(arrays, None, ids, batch)
            return self._finish(images)
        images, labels = self._transformed(
            arrays[0], arrays[1] if len(arrays) > 1 else None, ids, batch)
        rest = () if labels is None else (labels, *arrays[2:])
        return self._finish(images), *(Tensor(array) for array in rest)

    def _transformed(self, images: np.ndarray, labels: np.ndarray | None, ids: np.ndarray,
                     batch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Apply the transform to the first array of a batch, and to its labels."""
        if isinstance(self.transform, Transform):
            return self.transform.batch(images, labels, Draws(self.seed, self.number, ids))
        if self.transform is not None:
            images = self.transform(images, self._rng(TRANSFORM, batch))
        return images, labels

    def _finish(self, images: np.ndarray) -> Tensor:
        """Scale and normalise images."""
        if images.dtype == np.uint8 and images.ndim in (4, 5):
            images = unit_range(images, self.mean, self.std)
        elif self.mean is not None or self.std is not None:
            images = _normalise(images, self.mean, self.std)
        return Tensor(images if self.preprocess is None else self.preprocess(images))


def _times_before(values: np.ndarray) -> np.ndarray:
    """Return how often each value stands before its place, so that repeats can be told apart."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.searchsorted(ranked, ranked)
    times = np.empty(len(values), np.int64)
    times[order] = np.arange(len(values)) - first
    return times


def _normalise(images: np.ndarray, mean: np.ndarray | None, std: np.ndarray | None) -> np.ndarray:
    """Return (images - mean) / std in reused memory, channels-last."""
    if images.ndim < 3:
        raise ShapeError(f"expected images of shape (N, C, H, W) to normalise, got {images.shape}")
    last = np.moveaxis(images, -3, -1) if images.ndim > 3 else np.moveaxis(images, 1, -1)
    channels = last.shape[-1]
    out = memory.empty(last.shape, images.dtype if images.dtype.kind == "f" else np.float32)
    # A whole row of pixels at a time: loops over a few channels would be slow.
    width = last.shape[-2]
    source = np.ascontiguousarray(last).reshape(-1, width * channels)
    target = out.reshape(source.shape)
    for values, operation, what in ((mean, np.subtract, "mean"), (std, np.divide, "std")):
        if values is None:
            continue
        if values.size not in (1, channels):
            raise ShapeError(f"expected {what} with 1 or {channels} values, got {values.size}")
        row = values[0] if values.size == 1 else np.tile(values, width)
        source = operation(source, row, out=target, casting="same_kind")
    return np.moveaxis(out, -1, -3 if images.ndim > 3 else 1)


class _Batches:
    """Iterator over one epoch; with prefetch, over what a thread makes ahead."""

    def __init__(self, loader: DataLoader, plan: _Epoch, first: int, count: int):
        self._loader = loader
        self._plan = plan
        self._next = first
        self._count = count
        self._channel: _Channel | None = None
        if loader.prefetch and first < count:
            self._channel = _Channel(loader.prefetch)
            # The thread knows the plan and the channel but not this object, so that
            # dropping it (leaving a loop early) ends the thread. It sees the caller's
            # context, such as its number of threads.
            thread = threading.Thread(
                target=contextvars.copy_context().run, name="convkit-loader", daemon=True,
                args=(_produce, plan, range(first, count), self._channel))
            thread.start()
            self._finalizer = weakref.finalize(self, _stop, self._channel, thread, os.getpid())

    def __iter__(self) -> _Batches:
        return self

    def __len__(self) -> int:
        return self._count - self._next

    def __next__(self) -> Any:
        if self._next >= self._count:
            self.close()
            raise StopIteration
        try:
            batch = (self._plan.make(self._next) if self._channel is None
                     else self._channel.get())
        except BaseException:
            self.close()
            raise
        self._loader._delivered(self._plan.number, self._next)
        self._next += 1
        if self._next == self._count:
            self._loader._delivered(self._plan.number, None)
        return batch

    def close(self) -> None:
        """End the thread; the iterator is exhausted from then on."""
        self._next = self._count
        if self._channel is not None:
            self._finalizer()


class _Channel:
    """A bounded queue between one producer and one consumer that either can end."""

    def __init__(self, limit: int):
        self._limit = limit
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._pid = os.getpid()
        self._changed = threading.Condition()

    def put(self, item: Any) -> bool:
        """Add an item when there is room; False once the channel is closed."""
        with self._changed:
            while len(self._items) >= self._limit and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed

    def fail(self, error: BaseException) -> None:
        """Let the consumer raise `error` once it has taken what is there."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def get(self) -> Any:
        """Take the next item, or raise the producer's error."""
        if os.getpid() != self._pid:
            raise RuntimeError("this iterator was made before a fork and its thread stayed in "
                               "the parent process; make a new one from the loader")
        with self._changed:
            while not self._items:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            self._changed.notify_all()
            return self._items.popleft()

    def close(self) -> None:
        """Drop what is there and let the producer stop."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


def _produce(plan: _Epoch, batches: range, channel: _Channel) -> None:
    """Run in the thread: make batches until there are no more or nobody wants them."""
    try:
        for batch in batches:
            if not channel.put(plan.make(batch)):
                return
    except BaseException as error:
        channel.fail(error)


def _stop(channel: _Channel, thread: threading.Thread, pid: int) -> None:
    """End a thread and wait for it; in a forked child there is none."""
    if os.getpid() != pid:
        return
    channel.close()
    if thread is not threading.current_thread():
        thread.join()
