"""``convkit train``: train a network, measure it, export it, and check the export."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli import sources
from convkit.cli.options import (
    HelpFormatter,
    UsageError,
    add_threads,
    at_least,
    image_size,
    not_negative,
    positive,
    set_threads,
)
from convkit.errors import ConvkitError

__all__ = ["add_parser", "run"]

# What --lr and --weight-decay are without a word: they belong together with the optimiser.
RATES = {"sgd": 0.1, "adam": 0.002, "adamw": 0.002}
DECAYS = {"sgd": 5e-4, "adam": 0.0, "adamw": 1e-2}

TEST_BATCH = 500

# Largest difference, as a share of the largest score, that rounding explains between a
# network and its float32 export with batch norms folded.
EXPORT_TOLERANCE = 1e-3


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train", help="train a network and export it",
        description="Train a network on images, measure it on test images, and export it.",
        formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--data", default="digits", metavar="DATA", help=sources.HELP)
    add("--image-size", type=image_size, metavar="HxW",
        help="folders: scale images to cover this size and cut out its centre")
    add("--grey", action="store_true", help="folders: read images as grey")
    add("--model", default="convnet", metavar="NAME", help="convnet, lenet5, resnet20, ...")
    add("--epochs", type=at_least(1), default=3, metavar="N", help="passes over the images")
    add("--batch-size", type=at_least(1), default=128, metavar="N", help="images in a step")
    add("--optimizer", choices=sorted(RATES), default="sgd", help="how weights are updated")
    add("--lr", type=positive, metavar="RATE", help=f"learning rate (default: {_each(RATES)})")
    add("--momentum", type=not_negative, default=0.9, metavar="SHARE", help="for sgd")
    add("--weight-decay", type=not_negative, metavar="RATE",
        help=f"pull of the weights towards 0 (default: {_each(DECAYS)})")
    add("--schedule", choices=("cosine", "none"), default="cosine",
        help="of the learning rate: down to 0 along a cosine, or constant")
    add("--seed", type=at_least(0), default=0, metavar="N",
        help="fixes weights at first and the order of images")
    add("--output", default="net.ckit", metavar="FILE", help="where to export to")
    add("--weights", choices=("float32", "float16", "bfloat16"), default="float32",
        help="how weights are stored in the file")
    add("--quiet", action="store_true", help="print the results only")
    add_threads(parser)
    return parser


def _each(values: dict[str, float]) -> str:
    return ", ".join(f"{value:g} for {name}" for name, value in values.items())


def run(args: argparse.Namespace) -> None:
    """Train, evaluate, export, check."""
    import convkit
    from convkit import models, training
    from convkit.cli.preprocessing import Preprocessing

    output = _writable(args.output)
    if args.model not in models.names():
        raise UsageError(f"unknown model {args.model!r}: expected one of "
                         + ", ".join(models.names()))
    set_threads(args)
    convkit.manual_seed(args.seed)
    source = sources.load(args.data, args.image_size, 1 if args.grey else 3, args.seed)
    prepare = Preprocessing.of(source.train)
    model = models.create(args.model, len(source.train.classes), prepare.channels)
    say = (lambda *_: None) if args.quiet else print
    say(f"data    {source}")
    say(f"model   {args.model}, {sum(p.numel() for p in model.parameters()):,} parameters")

    _fit(args, model, prepare.loader(source.train, args.batch_size, shuffle=True, seed=args.seed),
         say)
    tests = prepare.loader(source.test, TEST_BATCH)
    result = training.evaluate(model, tests)
    print(f"test    loss {result.loss:.4f}, accuracy {result.accuracy:.2%} "
          f"of {result.samples:,} images, {result.images_per_second:,.0f} images/s")

    program = convkit.compile(
        model, (1, prepare.channels, prepare.height, prepare.width),
        metadata={"model": args.model, "labels": source.train.classes, **prepare.metadata(),
                  "training": _record(args, result)})
    convkit.save(program, output, weights=args.weights)
    print(f"saved   {output}, {output.stat().st_size:,} bytes, weights as {args.weights}")
    _check_export(model, convkit.load(output), tests, args.weights)


def _fit(args: argparse.Namespace, model: Any, loader: Any, say: Any) -> None:
    """Train for the epochs asked for."""
    from convkit import training

    optimizer, scheduler = _optimizer(args, model, args.epochs * len(loader))
    for epoch in range(1, args.epochs + 1):
        name = f"epoch {epoch}/{args.epochs}"
        with _bar(name, len(loader), args.quiet) as show:
            result = training.train_epoch(model, loader, optimizer, scheduler=scheduler,
                                          progress=show)
        say(f"{name}  loss {result.loss:.4f}, accuracy {result.accuracy:.2%}, "
            f"{result.images_per_second:,.0f} images/s, {result.seconds:.1f} s")
        sys.stdout.flush()


def _optimizer(args: argparse.Namespace, model: Any, steps: int) -> tuple[Any, Any]:
    """Return the optimiser and the schedule (or None) that the arguments ask for."""
    from convkit import optim

    rate = args.lr if args.lr is not None else RATES[args.optimizer]
    decay = args.weight_decay if args.weight_decay is not None else DECAYS[args.optimizer]
    if args.optimizer == "sgd":
        optimizer = optim.SGD(model.parameters(), rate, momentum=args.momentum,
                              weight_decay=decay)
    else:
        make = {"adam": optim.Adam, "adamw": optim.AdamW}[args.optimizer]
        optimizer = make(model.parameters(), rate, weight_decay=decay)
    if args.schedule == "none":
        return optimizer, None
    return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


@contextmanager
def _bar(name: str, steps: int, quiet: bool) -> Iterator[Any]:
    """Give a progress callback that draws a bar, or None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=steps, desc=name, unit="batch", leave=False) as bar:
        def show(result: Any) -> None:
            bar.set_postfix_str(f"loss {result.loss:.4f}, accuracy {result.accuracy:.2%}, "
                                f"{result.images_per_second:,.0f} images/s", refresh=False)
            bar.update(result.batches - bar.n)
        yield show


def _writable(name: str) -> Path:
    """Return the output's path; find out now, not after training, that it cannot be."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"--output {name}: is a folder, expected the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"--output {name}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--output {name}: the folder {folder} cannot be written to")
    return path


def _record(args: argparse.Namespace, result: Any) -> dict[str, Any]:
    """Return what the file says about its training."""
    return {"data": args.data, "epochs": args.epochs, "batch_size": args.batch_size,
            "optimizer": args.optimizer, "seed": args.seed, "test_accuracy": result.accuracy}


def _check_export(model: Any, program: Any, tests: Any, weights: str) -> None:
    """Compare the reloaded file with the network on all test images, and say how they fare.

    Raises
    ------
    ConvkitError
        When a float32 export differs by more than rounding.
    """
    from convkit import training

    scores, exported = training.predict(model, tests), training.predict(program, tests)
    difference = float(np.abs(scores - exported).max())
    changed = int(np.count_nonzero(scores.argmax(axis=1) != exported.argmax(axis=1)))
    print(f"check   the file read back: largest difference of scores {difference:.2g}, "
          + (f"another class for {changed:,} of {len(scores):,} images" if changed
             else f"same class for all {len(scores):,} images"))
    if weights == "float32" and difference > EXPORT_TOLERANCE * float(np.abs(scores).max()):
        raise ConvkitError("the exported network gives other scores than the trained one")
