"""Reader of CIFAR-10's published binary files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convkit.data._files import find
from convkit.data.dataset import ImageDataset
from convkit.errors import DataFormatError

__all__ = ["CIFAR10"]

CLASSES = ["airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck"]
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32


def _read_records(path: Path) -> np.ndarray:
    """Return a file's records, shape (N, 3073): a label and the three planes of a pixel."""
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise DataFormatError(
            f"{path}: expected a multiple of {RECORD} bytes (a label and a 3x32x32 image each), "
            f"got {size} bytes")
    records = np.fromfile(path, np.uint8, count=size)
    if records.size != size:
        raise DataFormatError(f"{path}: expected {size} bytes, got {records.size}")
    records = records.reshape(-1, RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise DataFormatError(
            f"{path}: expected labels from 0 to 9, got {records[:, 0].max()}")
    return records


class CIFAR10(ImageDataset):
    """CIFAR-10's small colour photographs, read from the published binary version.

    Parameters
    ----------
    root : path-like
        The folder ``cifar-10-batches-bin`` or the one that contains it. Nothing is
        downloaded. The version in Python pickles is not read: unpickling a file runs
        whatever code is in it.
    train : bool
        The 50,000 training images (``data_batch_1.bin`` to ``data_batch_5.bin``), or the
        10,000 of ``test_batch.bin``.
    transform : callable, optional
        Applied to the float32 image of an item.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    DataFormatError
        When a file is damaged.

    Notes
    -----
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
    https://www.cs.toronto.edu/~kriz/cifar.html describes the layout.
    """

    def __init__(self, root: str | Path, train: bool = True,
                 transform: Callable[[np.ndarray], Any] | None = None):
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
        parts = [_read_records(find(root, (".", "cifar-10-batches-bin"), [name]))
                 for name in names]
        records = parts[0] if len(parts) == 1 else np.concatenate(parts)
        images = records[:, 1:].reshape(-1, *SHAPE)
        super().__init__(images, records[:, 0], CLASSES, transform)
