"""Batch norm against group norm at batch sizes from 2 to 128, on part of CIFAR-10.

Wu and He, "Group Normalization", 2018, figure 5: batch norm's error grows as batches shrink,
group norm's does not. The learning rate goes with the batch (Goyal et al. 2017).

    python benchmarks/experiments/batch_size.py --epochs 20
"""

from __future__ import annotations

import numpy as np
from runner import Run, arguments, cifar10, cifar10_files, loaders, print_table, save_curves, sgd

from convkit import data, nn

SIZES = (2, 4, 8, 32, 128)
SAMPLES = 10_000


def network(norm: str) -> nn.Module:
    """Return a small network with one kind of norm."""
    def layers(before: int, after: int, stride: int) -> list[nn.Module]:
        made = nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(8, after)
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), made, nn.ReLU()]

    return nn.Sequential(*layers(3, 32, 1), *layers(32, 32, 2), *layers(32, 64, 1),
                         *layers(64, 64, 2), *layers(64, 128, 1), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(128, 10))


def main() -> None:
    """Run what has not been run, and print the table."""
    options = arguments(__doc__.splitlines()[0], epochs=20).parse_args()
    train, test = cifar10(options.quick)
    pick = np.random.default_rng(0).permutation(len(train))[:SAMPLES]
    part = data.ImageDataset(train.images[pick], train.labels[pick], train.classes)
    statistics = part.statistics()
    found = {}
    for norm in ("batch", "group"):
        for size in SIZES:
            if not options.only.search(f"{norm}-{size}"):
                continue
            run = Run("batch-size", f"{norm}-{size}", options, {
                "batch": size, "lr": 0.05 * size / 32, "samples": len(part),
                "data": cifar10_files()})
            found[norm, size] = run.train(
                lambda norm=norm: network(norm), sgd(0.05 * size / 32, 5e-4),
                loaders(part, test, statistics, size, options.seed, drop_last=True))
    save_curves(options.picture, {f"{norm}, {size}": r for (norm, size), r in found.items()})
    sizes = [size for size in SIZES if any(key[1] == size for key in found)]
    print_table(["norm", *[f"batch {size}" for size in sizes]],
                [[norm, *[f"{found[norm, size]['test_accuracy']:.2%}" for size in sizes]]
                 for norm in ("batch", "group") if all((norm, size) in found for size in sizes)])


if __name__ == "__main__":
    main()
