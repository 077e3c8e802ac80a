"""The real images that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convkit.data.dataset import ImageDataset

__all__ = ["DIGITS", "digits"]

DIGITS = Path(__file__).with_name("digits.npz")


def digits(split: str = "train") -> ImageDataset:
    """Return the bundled handwritten digits, a class-balanced part of MNIST.

    Parameters
    ----------
    split : {"train", "test"}
        4,000 images from MNIST's training set or 1,000 from its test set.

    Returns
    -------
    ImageDataset
        uint8 images of logical shape (N, 1, 28, 28), labels 0 to 9.

    Raises
    ------
    ValueError
        When `split` is neither.

    Notes
    -----
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998. Licence
    CC BY-SA 3.0, stated in full beside the file.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test', got {split!r}")
    with np.load(DIGITS, allow_pickle=False) as archive:
        images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
    return ImageDataset(images[:, None], labels, [str(digit) for digit in range(10)])
