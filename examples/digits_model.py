"""The file that the embedding examples serve: a small network trained on the bundled digits.

``python examples/digits_model.py digits.ckit`` writes it in a few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import convkit as ck
from convkit import data, nn, optim, training

__all__ = ["as_input", "ensure", "write_images"]

SIZE = 28


def ensure(path: Path) -> Path:
    """Return `path`, after training a network and saving it there if nothing is."""
    path = Path(path)
    if not path.exists():
        ck.manual_seed(0)
        train = data.digits("train")
        mean, std = train.statistics()
        loader = data.DataLoader(train, batch_size=50, shuffle=True, mean=mean, std=std)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
            nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))
        optimizer = optim.Adam(net.parameters(), lr=0.003)
        for _ in range(2):
            training.train_epoch(net, loader, optimizer)
        ck.save(net, path, input_shape=(1, 1, SIZE, SIZE), metadata={
            "labels": [str(digit) for digit in range(10)],
            "pixels": {"mean": float(mean[0]), "std": float(std[0])}})
    return path


def as_input(program: ck.Program, images: np.ndarray) -> np.ndarray:
    """Return grey images (N, 28, 28) of bytes as the network's input (N, 1, 28, 28)."""
    pixels = program.metadata["pixels"]
    scaled = (np.asarray(images, np.float32) / 255 - pixels["mean"]) / pixels["std"]
    return scaled[:, None]


def write_images(folder: Path, count: int) -> list[Path]:
    """Write some of the bundled test digits as PNG files, for examples that read images."""
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    test = data.digits("test")
    paths = []
    for i in range(count):
        paths.append(folder / f"{i:04d}-{test.labels[i]}.png")
        Image.fromarray(test.images[i, 0]).save(paths[-1])
    return paths


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1] if len(sys.argv) > 1 else "digits.ckit")))
