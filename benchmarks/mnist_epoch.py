"""Whole epochs of MNIST beside PyTorch: loading, training and the test accuracy reached.

The network is `convnet` of networks.py (what ``convkit train`` trains by default), batch
128, SGD with momentum and a cosine schedule over all epochs, the same on both sides.
convkit loads through its DataLoader; PyTorch indexes a tensor that was normalised before
the clock started, in its faster memory format. Epochs take turns; the ratio is the median
of the epochs' ratios.

    python benchmarks/mnist_epoch.py --root ../shared/data/mnist
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from networks import NETWORKS

import convkit
from convkit import data, functional, nn, optim, training

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
BUILD = NETWORKS["convnet"][0]


def ours(train: Any, test: Any, batch: int, epochs: int) -> tuple[Callable, Callable]:
    """Return convkit's functions that train one epoch and measure the test accuracy."""
    mean, std = train.statistics()
    convkit.manual_seed(0)
    model = BUILD(nn, functional)
    loader = data.DataLoader(train, batch_size=batch, shuffle=True, mean=mean, std=std)
    tests = data.DataLoader(test, batch_size=500, mean=mean, std=std)
    optimizer = optim.SGD(model.parameters(), **SETTINGS)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

    def epoch():
        training.train_epoch(model, loader, optimizer, scheduler=schedule)

    return epoch, lambda: training.evaluate(model, tests).accuracy


def theirs(train: Any, test: Any, batch: int, epochs: int) -> tuple[Callable, Callable]:
    """Return the same in PyTorch, channels-last, from tensors normalised beforehand."""
    torch = common.require_torch()
    mean, std = train.statistics()

    def prepare(part):
        images = (np.asarray(part.images, np.float32) / 255 - mean[0]) / std[0]
        tensor = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        return (tensor.contiguous(memory_format=torch.channels_last),
                torch.from_numpy(np.asarray(part.labels, np.int64)))

    (x, t), (test_x, test_t) = prepare(train), prepare(test)
    torch.manual_seed(0)
    model = BUILD(torch.nn, torch.nn.functional).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    steps = math.ceil(len(x) / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)

    def epoch():
        model.train()
        order = torch.randperm(len(x))
        for first in range(0, len(x), batch):
            chosen = order[first:first + batch]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[chosen]), t[chosen]).backward()
            optimizer.step()
            schedule.step()

    def accuracy():
        model.eval()
        with torch.no_grad():
            right = sum(int((model(test_x[i:i + 500]).argmax(1) == test_t[i:i + 500]).sum())
                        for i in range(0, len(test_x), 500))
        return right / len(test_x)

    return epoch, accuracy


def main() -> None:
    """Run the epochs in turns and print the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=0.0)
    parser.add_argument("--root", type=Path, help="folder of MNIST's published files "
                                                  "(default: the bundled digits)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    common.require_torch()
    common.set_threads(options.threads)
    record = common.machine(options.threads)
    common.print_machine(record)
    if options.root:
        train, test = data.MNIST(options.root, train=True), data.MNIST(options.root, train=False)
    else:
        train, test = data.digits("train"), data.digits("test")
    epochs = 1 if options.quick else options.epochs
    sides = {"convkit": ours(train, test, options.batch, epochs),
             "torch channels_last": theirs(train, test, options.batch, epochs)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(epochs):
        for name in list(sides)[::1 if number % 2 else -1]:
            start = time.perf_counter()
            sides[name][0]()
            seconds[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    results = [{"side": name, "seconds": seconds[name], "accuracy": measure(),
                "images": len(train)} for name, (_, measure) in sides.items()]
    print(f"{epochs} epochs of {len(train):,} images, batch {options.batch}")
    common.print_table(["side", "seconds an epoch", "test accuracy"],
                       [[r["side"], f"{statistics.median(r['seconds']):.2f}",
                         f"{r['accuracy']:.2%}"] for r in results])
    print(f"convkit's epoch takes {statistics.median(ratios):.2f} of PyTorch's "
          f"({', '.join(f'{r:.2f}' for r in ratios)})")
    common.write_results("mnist_epoch", options, record, results)
    apart = abs(results[0]["accuracy"] - results[1]["accuracy"])
    if apart > 0.01 and not options.quick:
        sys.exit(f"THE SIDES DISAGREE: accuracies differ by {apart:.2%}")


if __name__ == "__main__":
    main()
