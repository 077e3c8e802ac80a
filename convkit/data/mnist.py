"""Reader of MNIST's published files and of their format, idx."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convkit.data._files import checked_open, find, read_exactly
from convkit.data.dataset import ImageDataset
from convkit.errors import DataFormatError

__all__ = ["MNIST", "read_idx"]

UBYTE = 0x08


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """Return the array of bytes in an idx file, packed by gzip or not.

    Parameters
    ----------
    path : path-like
    ndim : int
        The number of axes that the file must declare.

    Returns
    -------
    numpy.ndarray of uint8

    Raises
    ------
    DataFormatError
        When the magic number, the element type, the number of axes or the length is wrong.
    OSError
        When the file cannot be read.

    Notes
    -----
    Two zero bytes, the element type (8: unsigned byte), the number of axes, each axis's
    size as a big-endian uint32, then the elements in C order: http://yann.lecun.com/exdb/mnist/.
    """
    path = Path(path)
    with checked_open(path) as (stream, bound):
        magic = bytes(read_exactly(stream, 4, path))
        if magic[:2] != b"\0\0":
            raise DataFormatError(f"{path}: no idx file, it starts with {magic.hex(' ')}")
        if magic[2] != UBYTE or magic[3] != ndim:
            raise DataFormatError(
                f"{path}: expected unsigned bytes (type 8) with {ndim} axes, "
                f"got type {magic[2]} with {magic[3]} axes")
        shape = tuple(int(n) for n in read_exactly(stream, 4 * ndim, path).view(">u4"))
        count = prod(shape)
        if count > bound:
            raise DataFormatError(
                f"{path}: declares {count} bytes of shape {shape}, more than it can hold")
        elements = read_exactly(stream, count, path)
        if stream.read(1):
            raise DataFormatError(f"{path}: has more than the {count} bytes of shape {shape}")
    return elements.reshape(shape)


class MNIST(ImageDataset):
    """MNIST's handwritten digits, read from the four published files.

    Parameters
    ----------
    root : path-like
        The folder with the idx files (``train-images-idx3-ubyte`` and so on), packed by
        gzip or not; ``root/MNIST/raw`` is looked at too. Nothing is downloaded.
    train : bool
        The 60,000 training images, or the 10,000 test images.
    transform : callable, optional
        Applied to the float32 image of an item.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    DataFormatError
        When a file is damaged, or images and labels do not fit each other.

    Notes
    -----
    LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
    Recognition", 1998. Any data set in the same four files can be read, such as
    Fashion-MNIST; classes are named by their numbers.
    """

    def __init__(self, root: str | Path, train: bool = True,
                 transform: Callable[[np.ndarray], Any] | None = None):
        stem = "train" if train else "t10k"
        images_path, labels_path = (
            find(root, (".", "MNIST/raw"), self._names(stem, kind))
            for kind in ("images-idx3", "labels-idx1"))
        images = read_idx(images_path, 3)
        labels = read_idx(labels_path, 1)
        if len(images) != len(labels) or 0 in images.shape:
            raise DataFormatError(f"{images_path}: images of shape {images.shape} "
                                  f"do not fit {len(labels)} labels in {labels_path}")
        if labels.max() > 9:
            raise DataFormatError(
                f"{labels_path}: expected labels from 0 to 9, got {labels.max()}")
        super().__init__(images[:, None], labels, [str(n) for n in range(10)], transform)

    @staticmethod
    def _names(stem: str, kind: str) -> list[str]:
        """List the names under which a file is published."""
        dotted = kind.replace("-idx", ".idx")
        return [f"{stem}-{k}-ubyte{end}" for k in (kind, dotted) for end in ("", ".gz")]
