"""ResNet-20 on CIFAR-10 from three seeds, in convkit's precisions and in PyTorch.

All sides start from the same weights and see the same augmented batches in the same order, so
that what differs is the arithmetic: their test accuracies should lie within each other's
spread over the seeds.

    python benchmarks/experiments/seeds.py --epochs 10 --picture seeds.png
    python benchmarks/experiments/seeds.py --only torch-0     # one side, one seed
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from runner import (
    Run,
    arguments,
    cifar10,
    cifar10_files,
    flips_and_crops,
    loaders,
    one_cycle,
    print_table,
)

import convkit as ck
from convkit import functional, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from networks import NETWORKS

SIDES, SEEDS = ("high", "highest", "torch"), (0, 1, 2)
LR, DECAY = 0.2, 5e-4
BUILD = NETWORKS["resnet20"][0]


def network() -> nn.Module:
    """Return ResNet-20 with He's initialisation, of convkit's next random numbers."""
    model = BUILD(nn, functional)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def with_torch(run: Run, train: Any, test: Any) -> dict[str, Any]:
    """Train in PyTorch what the other sides train, or return what was found before."""
    found = run.record()
    if found is not None:
        return found
    import torch

    torch.set_num_threads(run.options.threads)
    ck.manual_seed(run.options.seed)
    ck.set_num_threads(run.options.threads)
    model = BUILD(torch.nn, torch.nn.functional)
    model.load_state_dict({k: torch.from_numpy(np.array(v))
                           for k, v in network().state_dict().items()})
    model = model.to(memory_format=torch.channels_last)
    epochs = 1 if run.options.quick else run.options.epochs
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True,
                                weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=epochs * len(train), cycle_momentum=False)

    def scored(x: Any, target: Any) -> tuple[Any, int]:
        scores = model(torch.from_numpy(x.numpy()).contiguous(memory_format=torch.channels_last))
        labels = torch.from_numpy(np.asarray(target.numpy(), np.int64))
        return (torch.nn.functional.cross_entropy(scores, labels),
                int((scores.argmax(1) == labels).sum()))

    def step(x: Any, target: Any) -> tuple[float, int]:
        optimizer.zero_grad()
        loss, right = scored(x, target)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item(), right

    def check(x: Any, target: Any) -> tuple[float, int]:
        with torch.no_grad():
            loss, right = scored(x, target)
        return loss.item(), right

    history = []
    for epoch in range(epochs):
        start = time.perf_counter()
        model.train()
        loss, accuracy = _means(step, train)
        seconds = time.perf_counter() - start
        model.eval()
        val_loss, val_accuracy = _means(check, test)
        history.append({"epoch": epoch + 1, "loss": loss, "accuracy": accuracy,
                        "val_loss": val_loss, "val_accuracy": val_accuracy, "seconds": seconds})
    return run.keep({"history": history, "torch": torch.__version__,
                     "parameters": sum(p.numel() for p in model.parameters())})


def _means(call: Callable[[Any, Any], tuple[float, int]], loader: Any) -> tuple[float, float]:
    """Return the mean loss and the share of right answers over a loader's samples."""
    loss = right = count = 0
    for x, target in loader:
        one, more = call(x, target)
        loss, right, count = loss + one * len(x), right + more, count + len(x)
    return loss / count, right / count


def picture(found: dict[tuple[str, int], dict[str, Any]]) -> Any:
    """Return a figure of test accuracy by epoch: each side's mean, and its seeds' range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for side in SIDES:
        curves = np.array([[h["val_accuracy"] for h in r["history"]]
                           for (name, _), r in found.items() if name == side])
        if len(curves):
            epochs = np.arange(1, curves.shape[1] + 1)
            axes.plot(epochs, curves.mean(0), label={"torch": "PyTorch"}.get(side, side))
            axes.fill_between(epochs, curves.min(0), curves.max(0), alpha=0.2)
    axes.set(xlabel="epoch", ylabel="test accuracy", title="ResNet-20, three seeds a side")
    axes.legend()
    return figure


def main() -> None:
    """Run what has not been run, and print the table."""
    options = arguments(__doc__.splitlines()[0], epochs=10).parse_args()
    train, test = cifar10(options.quick)
    statistics = train.statistics()
    found = {}
    for seed in SEEDS:
        for side in SIDES:
            if not options.only.search(f"{side}-{seed}"):
                continue
            options.seed = seed
            batches = loaders(train, test, statistics, 128, seed, transform=flips_and_crops())
            run = Run("seeds", side, options,
                      {"lr": LR, "weight_decay": DECAY, "data": cifar10_files(),
                       "precision": "float32" if side == "torch" else side})
            found[side, seed] = with_torch(run, *batches) if side == "torch" else run.train(
                network, one_cycle(LR, DECAY), batches, precision=side)
    rows = []
    for side in SIDES:
        scores = [r["test_accuracy"] for (name, _), r in found.items() if name == side]
        if scores:
            rows.append([side, *[f"{s:.2%}" for s in scores], f"{np.mean(scores):.2%}"])
    print_table(["side", *[f"seed {s}" for s in sorted({s for _, s in found})], "mean"], rows)
    if options.picture:
        picture(found).savefig(options.picture, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
