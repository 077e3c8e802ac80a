"""Data sets: what can be indexed, and gathered into batches.

Anything with ``__len__`` and ``__getitem__`` is a data set, as in PyTorch. Those of this
package also have ``gather(indices)``, which returns a batch in one piece; the loader uses it
where it is there and stacks single items where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit._kernels import memory
from convkit.errors import DTypeError, ShapeError

__all__ = ["Dataset", "ImageDataset", "Subset", "TensorDataset", "gather", "random_split",
           "unit_range"]


def _position(index: Any, length: int) -> int:
    """Return an index from 0 to length - 1; negative ones count from the end."""
    position = index.__index__()
    if position < 0:
        position += length
    if not 0 <= position < length:
        raise IndexError(f"index {index} is out of range for {length} samples")
    return position


def _take(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return ``array[indices]`` in reused memory; `indices` are known to be in range."""
    out = memory.empty((len(indices), *array.shape[1:]), array.dtype)
    return np.take(array, indices, axis=0, out=out, mode="clip")


def unit_range(images: np.ndarray, mean: np.ndarray | None = None,
               std: np.ndarray | None = None) -> np.ndarray:
    """Return uint8 values divided by 255 and normalised, as float32 in reused memory.

    Parameters
    ----------
    images : numpy.ndarray of uint8, logical shape (..., C, H, W)
        Channels-last in memory, or not.
    mean, std : numpy.ndarray of float32, shape (1,) or (C,), optional
        ``(value / 255 - mean) / std``.

    Returns
    -------
    numpy.ndarray of float32
        Channels-last in memory.

    Raises
    ------
    ShapeError
        When `mean` or `std` do not fit the images.
    """
    last = np.ascontiguousarray(np.moveaxis(images, -3, -1))
    channels = last.shape[-1]
    # There are 256 values in each channel: what they become is computed once.
    values = np.tile(np.arange(256, dtype=np.float32) / np.float32(255), (channels, 1))
    for numbers, operation, what in ((mean, np.subtract, "mean"), (std, np.divide, "std")):
        if numbers is None:
            continue
        if numbers.size not in (1, channels):
            raise ShapeError(f"expected {what} with 1 or {channels} values, got {numbers.size}")
        values = operation(values, numbers[:, None])
    out = memory.empty(last.shape, np.float32)
    shape = (-1, *last.shape[-3:])
    kernels.look_up(last.reshape(shape), out.reshape(shape), values, runtime.get_num_threads())
    return np.moveaxis(out, -1, -3)


class Dataset:
    """Base class of data sets that are indexed by position.

    A subclass defines ``__len__`` and ``__getitem__``, which returns one sample as a tuple
    such as (image, label).
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")


class TensorDataset(Dataset):
    """Samples cut from arrays of the same length.

    Parameters
    ----------
    *arrays : array_like
        Each of shape (N, ...); sample `i` is the tuple of their `i`-th entries.

    Attributes
    ----------
    arrays : tuple of numpy.ndarray

    Raises
    ------
    ShapeError
        When there is no array, one has no axis, or their lengths differ.
    """

    def __init__(self, *arrays: Any):
        if not arrays:
            raise ShapeError("expected at least one array, got none")
        self.arrays = tuple(np.asarray(a) for a in arrays)
        if any(a.ndim == 0 for a in self.arrays) or len({len(a) for a in self.arrays}) != 1:
            raise ShapeError("expected arrays with the same number of samples, got shapes "
                             + ", ".join(str(a.shape) for a in self.arrays))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple:
        position = _position(index, len(self))
        return tuple(a[position] for a in self.arrays)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the samples at `indices` as one tuple of batches."""
        return tuple(_gather_logical(a, indices) for a in self.arrays)


def _gather_logical(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Gather samples so that images (rank 4) keep or get channels-last memory."""
    if array.ndim != 4:
        return _take(array, indices)
    return np.moveaxis(_take(np.moveaxis(array, 1, -1), indices), -1, 1)


class ImageDataset(Dataset):
    """Labelled images in memory, one byte for each channel of a pixel.

    Parameters
    ----------
    images : array_like of uint8, shape (N, C, H, W)
        Kept channels-last in memory; an array that already is, is not copied.
    labels : array_like of int, shape (N,)
        Positions in `classes`.
    classes : sequence of str
        The classes' names.
    transform : callable, optional
        Applied to the float32 image of an item before it is returned.

    Attributes
    ----------
    images : numpy.ndarray of uint8, shape (N, C, H, W)
    labels : numpy.ndarray of int64, shape (N,)
    classes : list of str
    transform : callable or None

    Raises
    ------
    DTypeError
        When images are not uint8 or labels no integers.
    ShapeError
        When the shapes do not fit.
    ValueError
        When a label is out of range.

    Notes
    -----
    An item is (image, label): a float32 array (C, H, W) with values from 0 to 1, which is
    what torchvision's ``ToTensor`` gives, and an int.
    """

    def __init__(self, images: Any, labels: Any, classes: Sequence[str],
                 transform: Callable[[np.ndarray], Any] | None = None):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            raise DTypeError("expected images of uint8 and integer labels, "
                             f"got {images.dtype} and {labels.dtype}")
        if images.ndim != 4 or 0 in images.shape[1:] or labels.shape != images.shape[:1]:
            raise ShapeError("expected images of shape (N, C, H, W) and labels of shape (N,), "
                             f"got {images.shape} and {labels.shape}")
        self.classes = [str(name) for name in classes]
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f"expected labels from 0 to {len(self.classes) - 1}, "
                             f"got {labels.min()} to {labels.max()}")
        self._last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.images = self._last.transpose(0, 3, 1, 2)
        self.labels = labels.astype(np.int64)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        position = _position(index, len(self))
        image = unit_range(self.images[position])
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.labels[position])

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.images.shape[1:])
        return f"{type(self).__name__}({len(self)} images {size}, {len(self.classes)} classes)"

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return (uint8 images, labels) at `indices`, without scaling or transform."""
        return _take(self._last, indices).transpose(0, 3, 1, 2), self.labels[indices]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return each channel's mean and standard deviation, with values from 0 to 1.

        Returns
        -------
        mean, std : list of float
            What `DataLoader` takes to normalise images.
        """
        channels = self._last.shape[3]
        counts = np.zeros((channels, 256), np.int64)
        for start in range(0, len(self), 256):
            part = self._last[start:start + 256]
            for c in range(channels):
                counts[c] += np.bincount(part[..., c].ravel(), minlength=256)
        values = np.arange(256) / 255.0
        total = max(1, len(self) * self._last.shape[1] * self._last.shape[2])
        mean = counts @ values / total
        variance = counts @ values**2 / total - mean**2
        return mean.tolist(), np.sqrt(np.maximum(variance, 0)).tolist()


class Subset(Dataset):
    """Some of a data set's samples.

    Parameters
    ----------
    dataset : Dataset
    indices : sequence of int
        Positions in `dataset`, in the order wanted.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        length = len(dataset)
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < length:
            raise IndexError(f"indices {self.indices.min()} to {self.indices.max()} "
                             f"are out of range for {length} samples")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[_position(index, len(self))])]


def gather(dataset: Any, indices: np.ndarray) -> Any:
    """Return the samples at `indices` as a batch: a tuple of arrays, or one array.

    Parameters
    ----------
    dataset : object with ``__len__`` and ``__getitem__``
        Its samples are stacked one by one, unless it has a ``gather`` method of its own and
        no transform for single items.
    indices : numpy.ndarray of int64
        Positions in range.

    Raises
    ------
    ShapeError
        When samples have different shapes or numbers of entries.
    DTypeError
        When a sample holds anything but arrays and numbers.
    """
    if isinstance(dataset, Subset):
        return gather(dataset.dataset, dataset.indices[indices])
    if hasattr(dataset, "gather") and getattr(dataset, "transform", None) is None:
        return dataset.gather(indices)
    samples = [dataset[int(i)] for i in indices]
    if not isinstance(samples[0], (tuple, list)):
        return _stack(samples)
    if len({len(sample) for sample in samples}) != 1:
        raise ShapeError("expected samples with the same number of entries, got "
                         f"{sorted({len(sample) for sample in samples})}")
    return tuple(_stack(column) for column in zip(*samples, strict=True))


def _stack(values: Sequence[Any]) -> np.ndarray:
    """Stack one entry of each sample; images (rank 3) are laid out channels-last."""
    arrays = [np.asarray(value) for value in values]
    if any(a.dtype.kind not in "biuf" for a in arrays):
        raise DTypeError("expected samples of arrays and numbers, "
                         f"got {sorted({type(value).__name__ for value in values})}")
    if len({a.shape for a in arrays}) != 1:
        raise ShapeError("expected samples of one shape, got "
                         f"{sorted({a.shape for a in arrays})}")
    if arrays[0].ndim != 3:
        return np.stack(arrays)
    last = [np.moveaxis(a, 0, -1) for a in arrays]
    out = memory.empty((len(last), *last[0].shape), np.result_type(*last))
    return np.moveaxis(np.stack(last, out=out), -1, 1)


def random_split(dataset: Any, lengths: Sequence[int | float], seed: int = 0) -> list[Subset]:
    """Cut a data set at random into parts that do not overlap.

    Parameters
    ----------
    dataset : Dataset
    lengths : sequence of int or of float
        Number of samples of each part, or fractions that sum to 1 (the rounding's
        remainder goes to the first parts, one sample each).
    seed : int
        The same seed gives the same parts.

    Returns
    -------
    list of Subset

    Raises
    ------
    ValueError
        When the lengths do not sum to the data set's length.
    """
    total = len(dataset)
    counts = list(lengths)
    if any(n < 0 for n in counts):
        raise ValueError(f"expected lengths of at least 0, got {counts}")
    if abs(sum(counts) - 1) < 1e-9 and any(isinstance(n, float) for n in counts):
        counts = [int(total * n) for n in counts]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
    if sum(counts) != total:
        raise ValueError(f"expected lengths that sum to {total}, got {counts}")
    order = np.random.default_rng(seed).permutation(total)
    ends = np.cumsum(counts)
    return [Subset(dataset, order[end - count:end])
            for count, end in zip(counts, ends, strict=True)]
