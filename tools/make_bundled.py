"""Rebuild convkit/data/bundled/digits.npz from MNIST's published files.

Usage: python tools/make_bundled.py PATH_TO_MNIST

The choice is seeded and takes the same number of images of every digit, from the published
training set for training and from the published test set for testing, in the files' order.
The same MNIST files give the same archive up to the version of zlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from convkit import data
from convkit.data.bundled import DIGITS

SEED = 1998
PER_CLASS = {"train": 400, "test": 100}


def balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted positions of `per_class` random samples of each label."""
    chosen = [rng.choice(np.flatnonzero(labels == label), per_class, replace=False)
              for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Choose the images and write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder with the four idx files")
    root = parser.parse_args().root
    rng = np.random.default_rng(SEED)
    arrays = {}
    for split, per_class in PER_CLASS.items():
        full = data.MNIST(root, train=split == "train")
        chosen = balanced(full.labels, per_class, rng)
        arrays[f"{split}_images"] = full.images[chosen, 0]
        arrays[f"{split}_labels"] = full.labels[chosen].astype(np.uint8)
    np.savez_compressed(DIGITS, **arrays)
    print(f"{DIGITS}: {DIGITS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
