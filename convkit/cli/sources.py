"""Data sets by the names that commands take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convkit import data
from convkit.cli.options import UsageError

__all__ = ["HELP", "Source", "is_data", "load", "split"]

HELP = ("digits (bundled), mnist:FOLDER, cifar10:FOLDER, or a FOLDER with a folder of images "
        "for each class, or with train/ and test/ (or val/) of that kind")

TEST_SHARE = 0.2
TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Source:
    """Training and test images of one data set."""

    name: str
    train: data.ImageDataset
    test: data.ImageDataset

    def __str__(self) -> str:
        size = "x".join(str(n) for n in self.train.images.shape[1:])
        return (f"{self.name}, {len(self.train):,} training and {len(self.test):,} test images "
                f"{size}, {len(self.train.classes)} classes")


def is_data(spec: str) -> bool:
    """Tell whether an argument names a data set rather than a file."""
    return spec == "digits" or spec.startswith(("mnist:", "cifar10:")) or Path(spec).is_dir()


def load(spec: str, size: tuple[int, int] | None = None, channels: int = 3,
         seed: int = 0) -> Source:
    """Read a data set.

    Parameters
    ----------
    spec : str
        As `HELP` says.
    size : (height, width), optional
        For folders: what images are scaled and cut to.
    channels : {3, 1}
        For folders: colour or grey.
    seed : int
        For folders without a test part: decides which images are held back.

    Raises
    ------
    UsageError
        When the name is unknown.
    OSError, ConvkitError
        When the data cannot be read.
    """
    kind, _, root = spec.partition(":")
    if spec == "digits":
        return Source(spec, data.digits("train"), data.digits("test"))
    if kind == "mnist":
        return Source(spec, data.MNIST(root), data.MNIST(root, train=False))
    if kind == "cifar10":
        return Source(spec, data.CIFAR10(root), data.CIFAR10(root, train=False))
    if not Path(spec).is_dir():
        raise UsageError(f"unknown data {spec!r}: expected {HELP}")
    return _folder(Path(spec), size, channels, seed)


def _folder(root: Path, size: tuple[int, int] | None, channels: int, seed: int) -> Source:
    """Read a folder's own split, or hold part of the images back for testing."""
    tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if (root / "train").is_dir() and tests:
        train, test = (data.ImageFolder(part, size, channels) for part in
                       (root / "train", tests[0]))
        if train.classes != test.classes:
            raise UsageError(f"expected the same class folders in {root / 'train'} and "
                             f"{tests[0]}, got {train.classes} and {test.classes}")
        if train.images.shape[1:] != test.images.shape[1:]:
            raise UsageError(f"expected images of one size in {root / 'train'} and {tests[0]}; "
                             "--image-size scales them")
        return Source(str(root), train, test)
    full = data.ImageFolder(root, size, channels)
    train, test = split(full, TEST_SHARE, seed)
    return Source(str(root), train, test)


def split(images: data.ImageDataset, share: float,
          seed: int) -> tuple[data.ImageDataset, data.ImageDataset]:
    """Cut images in two at random, with `share` of them (at least one) in the second part.

    Raises
    ------
    UsageError
        When there would be none in the first part.
    """
    held_back = max(1, round(len(images) * share))
    if held_back >= len(images):
        raise UsageError(f"expected at least 2 images to hold some back, got {len(images)}")
    first, second = (
        data.ImageDataset(images.images[part.indices], images.labels[part.indices],
                          images.classes)
        for part in data.random_split(images, [len(images) - held_back, held_back], seed))
    return first, second
