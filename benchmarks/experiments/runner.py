"""What the experiments share: data, resumable runs, records, tables.

A run is named by its experiment and its settings. Its checkpoints lie in the folder given by
``--work``, so that a run that was killed goes on where it was; its record, with a line for
each epoch, goes to ``--results`` when it has finished, and is not run again.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convkit as ck
from convkit import data, nn, optim, runtime, training
from convkit import functional as F
from convkit.data import augment

__all__ = ["Run", "arguments", "cifar10", "cifar10_files", "flips_and_crops", "loaders", "mnist",
           "one_cycle", "print_table", "save_curves", "sgd", "shared"]

# What most pictures show: titles, and the keys of a record's history.
CURVES = {"training loss": "loss", "test accuracy": "val_accuracy"}
RESULTS = Path(__file__).resolve().parents[1] / "results" / "experiments"
PRECISIONS = ("highest", "high", "medium")
# MD5 of the files in the archive that Krizhevsky publishes (cifar-10-binary.tar.gz).
PUBLISHED_CIFAR10 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"}


def arguments(description: str, epochs: int, precision: str = "high") -> argparse.ArgumentParser:
    """Return a parser with the options of every experiment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=re.compile, default="", metavar="REGEX",
                        help="only runs in whose name this is found")
    parser.add_argument("--work", type=Path, default=Path("experiment-runs"),
                        help="folder of checkpoints (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=runtime.get_num_threads())
    parser.add_argument("--precision", default=precision, choices=PRECISIONS,
                        help="(default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file for a picture (needs matplotlib)")
    parser.add_argument("--quick", action="store_true",
                        help="a few images and one epoch: shows that it runs, teaches nothing")
    return parser


def shared(name: str) -> Path:
    """Return a folder of the shared data, or end with a word on where it is looked for."""
    root = Path(os.environ.get("CONVKIT_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    for folder in (root / "data" / name, root / name):
        if folder.exists():
            return folder
    sys.exit(f"no {name} in {root}: set CONVKIT_SHARED to a folder with {name}/ in it")


def cifar10(quick: bool = False) -> tuple[data.ImageDataset, data.ImageDataset]:
    """Return CIFAR-10's training and test images."""
    return _some(quick, *[data.CIFAR10(shared("cifar10"), train=train) for train in (True, False)])


@functools.cache
def cifar10_files() -> str:
    """Return whether CIFAR-10's files are the published ones, for a record."""
    (folder,) = {path.parent for path in shared("cifar10").rglob("test_batch.bin")}
    same = all(hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() == md5
               for name, md5 in PUBLISHED_CIFAR10.items())
    return "published" if same else "other pixels than the published ones"


def mnist(quick: bool = False) -> tuple[data.ImageDataset, data.ImageDataset]:
    """Return MNIST's training and test images."""
    return _some(quick, *[data.MNIST(shared("mnist"), train=train) for train in (True, False)])


def _some(quick: bool, *sets: data.ImageDataset) -> tuple[data.ImageDataset, ...]:
    if not quick:
        return sets
    rng = np.random.default_rng(0)
    picks = [rng.permutation(len(s))[:256] for s in sets]
    return tuple(data.ImageDataset(s.images[p], s.labels[p], s.classes)
                 for s, p in zip(sets, picks, strict=True))


def loaders(train: data.ImageDataset, test: data.ImageDataset,
            statistics: tuple[list[float], list[float]], batch: int, seed: int,
            **more: Any) -> tuple[data.DataLoader, data.DataLoader]:
    """Return loaders of shuffled training images and of test images, both normalised.

    Parameters
    ----------
    statistics : mean and deviation of each channel
        As ``train.statistics()`` gives them.
    batch, seed
        Of the training images.
    more
        For their `DataLoader`.
    """
    mean, std = statistics
    return (data.DataLoader(train, batch, shuffle=True, seed=seed, mean=mean, std=std, **more),
            data.DataLoader(test, 500, mean=mean, std=std))


def flips_and_crops() -> augment.Compose:
    """Return the augmentation of He et al. 2016: mirror images, and shifts by up to 4 pixels."""
    return augment.Compose([augment.RandomHorizontalFlip(), augment.RandomCrop(32, padding=4)])


class Run:
    """One training run of an experiment.

    Parameters
    ----------
    experiment, name : str
    options : Namespace
        Of `arguments`.
    settings : dict
        What the record says about the run.
    """

    def __init__(self, experiment: str, name: str, options: argparse.Namespace,
                 settings: dict[str, Any]):
        self.name, self.options = name, options
        self.settings = {"epochs": options.epochs, "seed": options.seed,
                         "precision": options.precision, **settings}
        stem = f"{experiment}-{name}-e{options.epochs}-s{options.seed}"
        if options.precision != "high":
            stem += f"-{options.precision}"
        self.path = None if options.quick else options.results / f"{stem}.json"
        self.work = None if options.quick else options.work / stem

    def record(self) -> dict[str, Any] | None:
        """Return what the run gave, if it has finished before."""
        if self.path is None or not self.path.exists():
            return None
        return json.loads(self.path.read_text())

    def train(self, build: Callable[[], nn.Module],
              optimise: Callable[[nn.Module, int], tuple[Any, Any]],
              loaders: tuple[data.DataLoader, data.DataLoader], *,
              callbacks: Sequence[Any] = (),
              extra: Callable[[training.Trainer], dict[str, Any]] | None = None,
              **more: Any) -> dict[str, Any]:
        """Train, or go on, or return what was found before.

        Parameters
        ----------
        build : callable
            Makes the network.
        optimise : callable
            From the network and the number of steps to its optimiser and schedule.
        loaders : training and test loader
        extra : callable, optional
            Gets the trainer at the end, with the weights it ends with; what it returns goes into
            the record, in place of what is there by that name.
        callbacks, more
            For the `Trainer`.
        """
        found = self.record()
        if found is not None:
            return found
        ck.set_num_threads(self.options.threads)
        ck.set_precision(self.options.precision)
        ck.manual_seed(self.options.seed)
        model = build()
        epochs = 1 if self.options.quick else self.options.epochs
        optimizer, scheduler = optimise(model, epochs * len(loaders[0]))
        keep = None if self.work is None else training.Checkpoints(self.work, every_steps=200)
        trainer = training.Trainer(model, optimizer, more.pop("loss", F.cross_entropy),
                                   scheduler=scheduler, checkpoints=keep,
                                   callbacks=list(callbacks), **more)
        trainer.fit(*loaders, epochs=epochs, resume="auto" if keep else False)
        if trainer.stopped == "interrupted":
            sys.exit(130)
        return self._write(model, trainer, extra(trainer) if extra else {})

    def _write(self, model: nn.Module, trainer: training.Trainer,
               extra: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a finished run, and keep it."""
        history = trainer.history
        result = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "stopped": trainer.stopped,
            "history": [{k: r.get(k) for k in ("epoch", "loss", "accuracy", "val_loss",
                                               "val_accuracy", "seconds")} for r in history],
            **extra}
        return self.keep(result)

    def keep(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write and return the record of a finished run, from its history and what else it gave."""
        history = result["history"]
        result = {
            "name": self.name, "settings": self.settings,
            "seconds": sum(r["seconds"] for r in history),
            "train_accuracy": history[-1]["accuracy"], "test_accuracy": history[-1]["val_accuracy"],
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": runtime.config(), **result}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(result, indent=1, default=str) + "\n")
        print(f"{self.name}: train {result['train_accuracy']:.2%}, "
              f"test {result['test_accuracy']:.2%}, {result['seconds']:.0f} s", flush=True)
        return result


def sgd(lr: float, weight_decay: float = 0.0, momentum: float = 0.9, nesterov: bool = False,
        last_rate: float | None = None) -> Callable[[nn.Module, int], tuple[Any, Any]]:
    """Return a way to optimise: SGD, the rate by a cosine, or by a factor a step to a share."""
    def make(model: nn.Module, steps: int) -> tuple[Any, Any]:
        optimizer = optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=nesterov,
                              weight_decay=weight_decay)
        if last_rate is None:
            return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return optimizer, optim.lr_scheduler.ExponentialLR(optimizer, last_rate ** (1 / steps))

    return make


def one_cycle(lr: float, decay: float) -> Callable[[nn.Module, int], tuple[Any, Any]]:
    """Return a way to optimise: Nesterov momentum, the rate up and down again once."""
    def make(model: nn.Module, steps: int) -> tuple[Any, Any]:
        optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True,
                              weight_decay=decay)
        return optimizer, optim.lr_scheduler.OneCycleLR(optimizer, lr, steps,
                                                        cycle_momentum=False)

    return make


def save_curves(path: Path | None, records: Mapping[str, dict[str, Any]],
                panels: Mapping[str, str] = CURVES) -> None:
    """Draw runs by epoch, if a path is given.

    Parameters
    ----------
    path : Path or None
    records : mapping of name to record
        As `Run.train` returns them.
    panels : mapping of title to key
        Of a record's history, one picture beside the other.
    """
    if path is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="tight")
    for axes, (title, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                  panels.items(), strict=True):
        for name, record in records.items():
            history = record["history"]
            axes.plot([h["epoch"] for h in history], [h[key] for h in history], label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(str(c) for c in row) + " |")
