"""``convkit train``: train a network, measure it, export it, and check the export."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli import augmentation, sources
from convkit.cli.config import add_config
from convkit.cli.optimization import add_optimization, loss_of, optimizer_and_schedule
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
from convkit.cli.settings import add_settings, settings
from convkit.errors import ConvkitError
from convkit.extras import require

__all__ = ["add_parser", "run"]

TEST_BATCH = 500
LOGS = (".jsonl", ".csv")
METRICS = ("average_precision", "f1", "precision", "recall", "roc_auc", "top2", "top3", "top5")

# What many arguments have in common.
COUNT: dict[str, Any] = {"type": at_least(1), "metavar": "N"}
SWITCH: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": False}

# What options need another one.
NEEDS = {"checkpoints FOLDER": ("resume", "save_every", "keep_every"), "keep-every N": ("keep",),
         "validation SHARE": ("metric", "watch", "patience")}

# At most so many images say which ReLUs are dead.
RELU_IMAGES = 1000

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
    add("--grey", **SWITCH, help="folders: read images as grey")
    add("--augment", action="append", metavar="LIST", help=augmentation.HELP)
    add("--whiten", choices=("pca", "zca"),
        help="images, instead of scaling channels; the network in the file does it")
    add_settings(add, "whiten", "eps=0.1, per=channel")
    add("--sampler", choices=("shuffle", "weighted", "balanced"), default="shuffle",
        help="an epoch's images: each once; drawn so that classes are as frequent as each other; "
             "batches with as many of each class")
    add("--validation", type=share, default=0.0, metavar="SHARE",
        help="of the training images, held back to measure each epoch on")


def _add_training(add: Any) -> None:
    add("--model", default="convnet", metavar="NAME", help="convnet, lenet5, resnet20, ...")
    add("--epochs", **COUNT, default=3, help="passes over the images")
    add("--batch-size", **COUNT, default=128, help="images in a batch")
    add("--accumulate", **COUNT, default=1, help="batches in a step")
    add_optimization(add)
    add("--clip-norm", type=positive, metavar="NORM", help="largest norm of all gradients")
    add("--clip-value", type=positive, metavar="VALUE", help="largest element of the gradients")
    add("--ema", type=share, metavar="DECAY",
        help="average the weights over the steps, and export the average")
    add("--precision", choices=("highest", "high", "medium"), help="of products")
    add("--metric", action="append", choices=METRICS,
        help="measure on the validation images (recall is balanced accuracy); may be given again")
    add("--watch", choices=("loss", "accuracy", *METRICS),
        help="the validation figure that --patience, --schedule plateau and the best checkpoint "
             "go by (default: loss)")
    add("--patience", **COUNT,
        help="stop after N epochs without a better --watch figure, and keep the best weights")
    add("--seed", type=at_least(0), default=0, metavar="N",
        help="fixes weights at first and the order of images")


def _add_run(add: Any) -> None:
    add("--checkpoints", metavar="FOLDER", help="keep files to go on from (last, best)")
    add("--save-every", **COUNT,
        help="write them after N steps too, not only after epochs")
    add("--keep-every", **COUNT,
        help="keep a numbered file after N epochs too")
    add("--keep", **COUNT,
        help="of numbered files, the newest (default: all)")
    add("--resume", **SWITCH,
        help="go on from the newest file in --checkpoints, if there is one")
    add("--max-steps", **COUNT, help="stop after N steps of the optimiser")
    add("--time-limit", type=duration, metavar="TIME", help="such as 90s, 10m or 1h30m")
    add("--fast-dev-run", **SWITCH,
        help="try everything out on one batch, and write nothing")
    add("--sync-batch-norm", **SWITCH,
        help="under mpiexec: batch norm over the batches of all processes together")
    add("--detect-anomaly", **SWITCH,
        help="name the layer and operation that gives NaN or infinities; slow")


def _add_results(add: Any) -> None:
    add("--output", default="net.ckit", metavar="FILE", help="where to export to")
    add("--weights", choices=("float32", "float16", "bfloat16"), default="float32",
        help="how weights are stored in the file")
    add("--log", action="append", metavar="FILE",
        help="of each epoch's figures: .jsonl or .csv; may be given again")
    add("--log-every", **COUNT, help="log after N steps too (not .csv)")
    add("--tensorboard", metavar="FOLDER", help="event files for TensorBoard")
    add("--monitor", **COUNT,
        help="log the norms of weights, gradients and updates by layer, measured after every N "
             "steps, and after each epoch the shares of dead ReLUs")
    add("--report", metavar="FILE", help="write a page of HTML about the run")
    add("--quiet", **SWITCH, help="print the results only")


def run(args: argparse.Namespace) -> None:
    """Train, evaluate, export, check."""
    import convkit
    from convkit import models, training

    output = _writable("--output", args.output)
    report = None if args.report is None else _report_file(args.report)
    if args.model not in models.names():
        raise UsageError(f"unknown model {args.model!r}: expected one of "
                         + ", ".join(models.names()))
    _check_options(args)
    set_threads(args)
    first = _join_processes(args)
    convkit.manual_seed(args.seed)
    source = sources.load(args.data, args.image_size, 1 if args.grey else 3, args.seed)
    train, val = source.train, None
    if args.validation:
        train, val = sources.split(train, args.validation, args.seed)
    prepare = _preprocessing(args, train)
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
    if prepare.pipeline is not None:
        model = convkit.nn.Sequential(prepare.pipeline.module(), model)
        prepare = replace(prepare, pipeline=None, mean=[0.0] * prepare.channels,
                          std=[1.0] * prepare.channels)
    tests = prepare.loader(source.test, TEST_BATCH)
    result = training.evaluate(model, tests)
    scores, targets = training.predict_with_targets(model, tests)
    print(f"test    loss {result.loss:.4f}, accuracy {result.accuracy:.2%} "
          f"of {result.samples:,} images, {result.images_per_second:,.0f} images/s")

    program = convkit.compile(
        model, (1, prepare.channels, prepare.height, prepare.width),
        metadata={"model": args.model, "labels": source.train.classes, **prepare.metadata(),
                  "training": _record(args, result)})
    convkit.save(program, output, weights=args.weights)
    print(f"saved   {output}, {output.stat().st_size:,} bytes, weights as {args.weights}")
    _check_export(scores, convkit.load(output), tests, args.weights)
    if report is not None:
        training.write_report(
            report, trainer.history, dataset=source.test, scores=scores, targets=targets,
            program=program, settings=_settings(args),
            monitor=next((c for c in trainer.callbacks
                          if isinstance(c, training.LayerMonitor)), None),
            title=f"{args.model} on {source.name}")
        print(f"report  {report}, {report.stat().st_size:,} bytes")


def _check_options(args: argparse.Namespace) -> None:
    """Raise UsageError where options do not go together."""
    for needed, names in NEEDS.items():
        for name in names:
            if getattr(args, name) and not getattr(args, needed.split()[0].replace("-", "_")):
                raise UsageError(f"--{name.replace('_', '-')} needs --{needed}")
    args.watch = f"val_{args.watch or 'loss'}"


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


def _preprocessing(args: argparse.Namespace, train: Any) -> Any:
    """Return what makes inputs of images in training."""
    from convkit.cli.preprocessing import Preprocessing
    from convkit.data import preprocess

    prepare = Preprocessing.of(train)
    if args.whiten is None:
        return prepare
    kind = getattr(preprocess, f"{args.whiten.upper()}Whitening")
    steps = preprocess.Pipeline([kind(**settings(args, "whiten", kind))])
    return replace(prepare, pipeline=steps.fit(train.images))


def _order(args: argparse.Namespace, train: Any) -> dict[str, Any]:
    """Return how the loader goes through the training images."""
    from convkit import data, distributed

    if distributed.is_initialized():
        if args.sampler != "shuffle":
            raise UsageError(f"--sampler {args.sampler} is for one process")
        return {"sampler": distributed.DistributedSampler(
            train, batch_size=args.batch_size, accumulate=args.accumulate)}
    if args.sampler == "balanced":
        return {"sampler": data.BalancedBatchSampler(train.labels, args.batch_size)}
    if args.sampler == "weighted":
        weights = data.class_weights(train.labels)[train.labels]
        return {"sampler": data.WeightedRandomSampler(weights)}
    return {"shuffle": True}


def _fit(args: argparse.Namespace, model: Any, train: Any, val: Any, prepare: Any,
         say: Any) -> Any:
    """Train as the arguments ask for; the model has the weights to export afterwards."""
    from convkit import data, distributed, random, training
    from convkit.training.trainer import INTERRUPTED

    transform = augmentation.augmentation(args.augment, train)
    network = model
    if distributed.is_initialized():
        network = distributed.DistributedDataParallel(model)
        random.jump(distributed.get_rank())  # dropout is to differ between processes
    loader = prepare.loader(train, args.batch_size, **_order(args, train), seed=args.seed,
                            transform=transform)
    seen = train if val is None else val
    few = data.Subset(seen, range(0, len(seen), -(-len(seen) // RELU_IMAGES)))
    callbacks = _callbacks(args, say, prepare.loader(few, TEST_BATCH))
    if val is not None:
        val = prepare.loader(val, TEST_BATCH)
    steps = args.epochs * -(-len(loader) // args.accumulate)
    optimizer, scheduler = optimizer_and_schedule(args, model, steps)
    checkpoints = None
    if args.checkpoints is not None:
        checkpoints = training.Checkpoints(
            args.checkpoints, every_steps=args.save_every, every_epochs=args.keep_every,
            keep=args.keep, monitor=args.watch)
    trainer = training.Trainer(
        network, optimizer, loss_of(args, train.labels, len(train.classes)),
        scheduler=scheduler, schedule_every=args.schedule_every,
        schedule_monitor=args.watch if args.schedule == "plateau" else None,
        accumulate=args.accumulate, clip_norm=args.clip_norm,
        clip_value=args.clip_value, penalty=_penalty(args.l1), max_norm=args.max_norm,
        weight_noise=args.weight_noise, ema=args.ema, precision=args.precision,
        metrics=_metrics(args), callbacks=callbacks, checkpoints=checkpoints,
        time_limit=args.time_limit, fast_dev_run=args.fast_dev_run,
        detect_anomaly=args.detect_anomaly, progress=False if args.quiet else None)
    trainer.fit(loader, val, args.epochs, max_steps=args.max_steps,
                resume="auto" if args.resume else False)
    if trainer.stopped == INTERRUPTED:
        if checkpoints is not None and trainer.first_process:
            print(f"saved   {checkpoints.last}; --resume goes on from there")
        raise KeyboardInterrupt
    if trainer.stopped is not None and not args.fast_dev_run:
        say(f"stopped {trainer.stopped}")
    if trainer.ema is not None:
        trainer.ema.copy_to(model)
    return trainer


def _metrics(args: argparse.Namespace) -> dict[str, Any]:
    """Return the metrics that the arguments name, by --watch too."""
    from functools import partial

    from convkit.training import metrics

    return {name: partial(metrics.top_k_accuracy, k=int(name[3:])) if name.startswith("top")
            else getattr(metrics, name)
            for name in (*(args.metric or ()), args.watch[4:]) if name in METRICS}


def _penalty(rate: float) -> Any:
    from convkit import nn

    return (lambda model: nn.l1_penalty(model) * rate) if rate else None


def _callbacks(args: argparse.Namespace, say: Any, relu_data: Any) -> list[Any]:
    """Return what the arguments ask for around training; logs come after what they log."""
    from convkit import training

    class Lines(training.Callback):
        first_process_only = True

        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            say(_line(trainer, record))
            sys.stdout.flush()

    callbacks: list[Any] = [Lines()]
    if args.monitor:
        callbacks.append(training.LayerMonitor(args.monitor, relu_data, by_layer=True))
    if args.patience:
        callbacks.append(training.EarlyStopping(args.patience, args.watch))
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
        text += "".join(f", {name} {record[f'val_{name}']:.4f}" for name in trainer.metrics)
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


def _report_file(name: str) -> Path:
    """Return the report's path; what draws it is looked for now as well."""
    path = _writable("--report", name)
    for module in ("matplotlib.figure", "PIL.Image", "sklearn.metrics"):
        require(module, "report", "--report")
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


def _check_export(scores: Any, program: Any, tests: Any, weights: str) -> None:
    """Compare the reloaded file with the network's scores of all test images; say how they fare.

    Raises
    ------
    ConvkitError
        When a float32 export differs by more than rounding.
    """
    from convkit import training

    exported = training.predict(program, tests)
    difference = float(np.abs(scores - exported).max())
    changed = int(np.count_nonzero(scores.argmax(axis=1) != exported.argmax(axis=1)))
    print(f"check   the file read back: largest difference of scores {difference:.2g}, "
          + (f"another class for {changed:,} of {len(scores):,} images" if changed
             else f"same class for all {len(scores):,} images"))
    if weights == "float32" and difference > EXPORT_TOLERANCE * float(np.abs(scores).max()):
        raise ConvkitError("the exported network gives other scores than the trained one")
