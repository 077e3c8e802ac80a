"""``convkit train``: train a network, measure it, export it, and check the export."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli import augmentation, sources
from convkit.cli.config import add_config
from convkit.cli.optimization import add_optimization, optimizer_and_schedule
from convkit.cli.options import (
    HelpFormatter,
    UsageError,
    add_threads,
    at_least,
    duration,
    image_size,
    positive,
    set_threads,
    share,
)
from convkit.errors import ConvkitError

__all__ = ["add_parser", "run"]

TEST_BATCH = 500
LOGS = (".jsonl", ".csv")
SWITCH = argparse.BooleanOptionalAction

# Largest difference, as a share of the largest score, that rounding explains between a
# network and its float32 export with batch norms folded.
EXPORT_TOLERANCE = 1e-3


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "train", help="train a network and export it",
        description="Train a network on images, measure it on test images, and export it.",
        formatter_class=HelpFormatter)
    add_config(parser)
    _add_data(parser.add_argument_group("data").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_run(parser.add_argument_group("the run").add_argument)
    _add_results(parser.add_argument_group("results").add_argument)
    add_threads(parser)
    return parser


def _add_data(add: Any) -> None:
    add("--data", default="digits", metavar="DATA", help=sources.HELP)
    add("--image-size", type=image_size, metavar="HxW",
        help="folders: scale images to cover this size and cut out its centre")
    add("--grey", action=SWITCH, default=False, help="folders: read images as grey")
    add("--augment", action="append", metavar="LIST", help=augmentation.HELP)
    add("--validation", type=share, default=0.0, metavar="SHARE",
        help="of the training images, held back to measure each epoch on")


def _add_training(add: Any) -> None:
    add("--model", default="convnet", metavar="NAME", help="convnet, lenet5, resnet20, ...")
    add("--epochs", type=at_least(1), default=3, metavar="N", help="passes over the images")
    add("--batch-size", type=at_least(1), default=128, metavar="N", help="images in a batch")
    add("--accumulate", type=at_least(1), default=1, metavar="N", help="batches in a step")
    add_optimization(add)
    add("--clip-norm", type=positive, metavar="NORM", help="largest norm of all gradients")
    add("--clip-value", type=positive, metavar="VALUE", help="largest element of the gradients")
    add("--label-smoothing", type=share, default=0.0, metavar="SHARE",
        help="of each target, spread over all classes")
    add("--ema", type=share, metavar="DECAY",
        help="average the weights over the steps, and export the average")
    add("--precision", choices=("highest", "high", "medium"), help="of products")
    add("--patience", type=at_least(1), metavar="N",
        help="stop after N epochs without a lower validation loss, and keep the best weights")
    add("--seed", type=at_least(0), default=0, metavar="N",
        help="fixes weights at first and the order of images")


def _add_run(add: Any) -> None:
    add("--checkpoints", metavar="FOLDER", help="keep files to go on from (last, best)")
    add("--save-every", type=at_least(1), metavar="N",
        help="write them after N steps too, not only after epochs")
    add("--resume", action=SWITCH, default=False,
        help="go on from the newest file in --checkpoints, if there is one")
    add("--time-limit", type=duration, metavar="TIME", help="such as 90s, 10m or 1h30m")
    add("--fast-dev-run", action=SWITCH, default=False,
        help="try everything out on one batch, and write nothing")
    add("--sync-batch-norm", action=SWITCH, default=False,
        help="under mpiexec: batch norm over the batches of all processes together")
    add("--detect-anomaly", action=SWITCH, default=False,
        help="name the layer and operation that gives NaN or infinities; slow")


def _add_results(add: Any) -> None:
    add("--output", default="net.ckit", metavar="FILE", help="where to export to")
    add("--weights", choices=("float32", "float16", "bfloat16"), default="float32",
        help="how weights are stored in the file")
    add("--log", action="append", metavar="FILE",
        help="of each epoch's figures: .jsonl or .csv; may be given again")
    add("--log-every", type=at_least(1), metavar="N", help="log after N steps too (not .csv)")
    add("--tensorboard", metavar="FOLDER", help="event files for TensorBoard")
    add("--monitor", type=at_least(1), metavar="N",
        help="log the norms of weights, gradients and updates by layer, measured after every N "
             "steps")
    add("--report", metavar="FILE", help="write a page of HTML about the run")
    add("--quiet", action=SWITCH, default=False, help="print the results only")


def run(args: argparse.Namespace) -> None:
    """Train, evaluate, export, check."""
    import convkit
    from convkit import models, training
    from convkit.cli.preprocessing import Preprocessing

    output = _writable("--output", args.output)
    report = None if args.report is None else _writable("--report", args.report)
    if args.model not in models.names():
        raise UsageError(f"unknown model {args.model!r}: expected one of "
                         + ", ".join(models.names()))
    if args.patience and not args.validation:
        raise UsageError("--patience needs --validation SHARE")
    if (args.resume or args.save_every) and args.checkpoints is None:
        raise UsageError("--resume and --save-every need --checkpoints FOLDER")
    set_threads(args)
    first = _join_processes(args)
    convkit.manual_seed(args.seed)
    source = sources.load(args.data, args.image_size, 1 if args.grey else 3, args.seed)
    train, val = source.train, None
    if args.validation:
        train, val = sources.split(train, args.validation, args.seed)
    prepare = Preprocessing.of(train)
    model = models.create(args.model, len(source.train.classes), prepare.channels)
    if args.sync_batch_norm:
        model = convkit.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    say = print if first and not args.quiet else lambda *_: None
    say(f"data    {source}")
    say(f"model   {args.model}, {sum(p.numel() for p in model.parameters()):,} parameters")

    trainer = _fit(args, model, train, val, prepare, say)
    if not first:
        return
    if args.fast_dev_run:
        print("trial   one batch went through training and validation; nothing was written")
        return
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
    if report is not None:
        scores, targets = training.predict_with_targets(model, tests)
        training.write_report(
            report, trainer.history, dataset=source.test, scores=scores, targets=targets,
            program=program, settings=_settings(args),
            monitor=next((c for c in trainer.callbacks
                          if isinstance(c, training.LayerMonitor)), None),
            title=f"{args.model} on {source.name}")
        print(f"report  {report}, {report.stat().st_size:,} bytes")


def _join_processes(args: argparse.Namespace) -> bool:
    """Join the processes that mpiexec started; tell whether this one is to print and export."""
    import convkit
    from convkit import distributed

    if not distributed.is_launched():
        return True
    distributed.init_process_group()
    if args.threads is None:
        together = distributed.default_group().neighbours()
        convkit.set_num_threads(max(1, convkit.get_num_threads() // together))
    return distributed.get_rank() == 0


def _fit(args: argparse.Namespace, model: Any, train: Any, val: Any, prepare: Any,
         say: Any) -> Any:
    """Train as the arguments ask for; the model has the weights to export afterwards."""
    from functools import partial

    from convkit import distributed, random, training
    from convkit import functional as F
    from convkit.training.trainer import INTERRUPTED

    transform = augmentation.augmentation(args.augment, train)
    order: dict[str, Any] = {"shuffle": True}
    network = model
    if distributed.is_initialized():
        network = distributed.DistributedDataParallel(model)
        random.jump(distributed.get_rank())  # dropout is to differ between processes
        order = {"sampler": distributed.DistributedSampler(
            train, batch_size=args.batch_size, accumulate=args.accumulate)}
    loader = prepare.loader(train, args.batch_size, **order, seed=args.seed,
                            transform=transform)
    if val is not None:
        val = prepare.loader(val, TEST_BATCH)
    steps = args.epochs * -(-len(loader) // args.accumulate)
    optimizer, scheduler = optimizer_and_schedule(args, model, steps)
    checkpoints = None
    if args.checkpoints is not None:
        checkpoints = training.Checkpoints(args.checkpoints, every_steps=args.save_every)
    trainer = training.Trainer(
        network, optimizer, partial(F.cross_entropy, label_smoothing=args.label_smoothing),
        scheduler=scheduler, accumulate=args.accumulate, clip_norm=args.clip_norm,
        clip_value=args.clip_value, penalty=_penalty(args.l1), max_norm=args.max_norm,
        weight_noise=args.weight_noise, ema=args.ema, precision=args.precision,
        callbacks=_callbacks(args, say), checkpoints=checkpoints, time_limit=args.time_limit,
        fast_dev_run=args.fast_dev_run, detect_anomaly=args.detect_anomaly,
        progress=False if args.quiet else None)
    trainer.fit(loader, val, args.epochs, resume="auto" if args.resume else False)
    if trainer.stopped == INTERRUPTED:
        if checkpoints is not None and trainer.first_process:
            print(f"saved   {checkpoints.last}; --resume goes on from there")
        raise KeyboardInterrupt
    if trainer.stopped is not None and not args.fast_dev_run:
        say(f"stopped {trainer.stopped}")
    if trainer.ema is not None:
        trainer.ema.copy_to(model)
    return trainer


def _penalty(rate: float) -> Any:
    from convkit import nn

    return (lambda model: nn.l1_penalty(model) * rate) if rate else None


def _callbacks(args: argparse.Namespace, say: Any) -> list[Any]:
    """Return what the arguments ask for around training; logs come after what they log."""
    from convkit import training

    class Lines(training.Callback):
        first_process_only = True

        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            say(_line(trainer, record))
            sys.stdout.flush()

    callbacks: list[Any] = [Lines()]
    if args.monitor:
        callbacks.append(training.LayerMonitor(args.monitor, by_layer=True))
    if args.patience:
        callbacks.append(training.EarlyStopping(args.patience))
    if args.fast_dev_run:
        return callbacks
    for name in args.log or ():
        path = _writable("--log", name)
        if path.suffix not in LOGS:
            raise UsageError(f"--log {name}: expected a name that ends in .jsonl or .csv")
        callbacks.append(training.CSVLog(path) if path.suffix == ".csv"
                         else training.JSONLinesLog(path, args.log_every))
    if args.tensorboard is not None:
        callbacks.append(training.TensorBoardLog(args.tensorboard, args.log_every))
    return callbacks


def _line(trainer: Any, record: dict[str, Any]) -> str:
    """Return an epoch's figures in words."""
    text = f"epoch {record['epoch']}/{trainer.epochs}  loss {record['loss']:.4f}"
    if record["accuracy"] is not None:
        text += f", accuracy {record['accuracy']:.2%}"
    if "val_loss" in record:
        text += f", validation {record['val_loss']:.4f}, {record['val_accuracy']:.2%}"
    return text + f", {record['images_per_second']:,.0f} images/s, {record['seconds']:.1f} s"


def _writable(option: str, name: str) -> Path:
    """Return a result's path; find out now, not after training, that it cannot be."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{option} {name}: is a folder, expected the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{option} {name}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {name}: the folder {folder} cannot be written to")
    return path


def _record(args: argparse.Namespace, result: Any) -> dict[str, Any]:
    """Return what the file says about its training."""
    return {"data": args.data, "epochs": args.epochs, "batch_size": args.batch_size,
            "optimizer": args.optimizer, "seed": args.seed, "test_accuracy": result.accuracy}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options in use, for the report."""
    values = {name.replace("_", "-"): ", ".join(value) if isinstance(value, list) else value
              for name, value in vars(args).items() if name not in ("prog", "config", "debug")}
    return {name: value for name, value in values.items()
            if isinstance(value, (str, int, float)) and value is not False}


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
