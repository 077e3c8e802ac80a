"""Quantisation with images from a folder, for ``convkit convert --quantize``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli.options import UsageError, at_least, list_of, positive
from convkit.data.preprocess import KEY

__all__ = ["add_arguments", "check_arguments", "quantized"]

BATCH = 32
# Options that say something about the calibration alone, by their names in the namespace.
ONLY_WITH = ("method", "percentile", "calibration_images", "max_error", "skip", "mean", "std")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--quantize`` and what goes with it."""
    group = parser.add_argument_group("quantisation")
    group.add_argument(
        "--quantize", metavar="FOLDER",
        help="make layers multiply bytes (int8), with ranges found on the images of a folder, at "
             "any depth, prepared as the file's metadata says; or on the arrays of an .npy or "
             ".npz file, as the network takes them. Images in folders named like the file's "
             "labels also give the accuracy before and after")
    group.add_argument("--method", choices=("minmax", "percentile", "mse"),
                       help="how ranges are chosen: all that was seen, all but a share at the "
                            "ends, or with the least squared error (default: minmax)")
    group.add_argument("--percentile", type=positive, metavar="P",
                       help="for --method percentile: how many percent of the numbers ranges hold "
                            "(default: 99.99)")
    group.add_argument("--calibration-images", type=at_least(1), metavar="N",
                       help="how many of the images to use, spread over all (default: 256)")
    group.add_argument("--max-error", type=positive, metavar="E",
                       help="leave the most sensitive layers in floats until the output's relative "
                            "error is at most this")
    group.add_argument("--skip", action="append", metavar="LAYER",
                       help="a layer that stays in floats, by its name in the report; once each")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(f"--{name}", type=list_of(float, unique=False), metavar="R,G,B",
                           help=f"the {what} of each channel, of values from 0 to 1, where the "
                                "file does not say how images are prepared")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError where options do not go together."""
    for name in ONLY_WITH if args.quantize is None else ():
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for --quantize")
    if args.percentile is not None and args.method != "percentile":
        raise UsageError("--percentile is for --method percentile")


def quantized(program: Any, args: argparse.Namespace) -> Any:
    """Return the quantised Program, after printing its report."""
    import convkit

    path = Path(args.quantize)
    labels = None
    if path.is_dir():
        program, data, labels = _images(program, path, args)
    else:
        from convkit.cli.inputs import read_inputs

        data = tuple(read_inputs(program, args.quantize))
    more = {} if args.percentile is None else {"percentile": args.percentile}
    made = convkit.quantize(program, data, method=args.method or "minmax", skip=args.skip or (),
                            max_error=args.max_error, labels=labels, **more)
    print(made.quantization)
    return made


def _images(program: Any, folder: Path, args: argparse.Namespace) -> tuple[Any, list, Any]:
    """Return the Program with what its metadata should say, batches of inputs, and labels."""
    from convkit.cli.predict import image_files
    from convkit.cli.preprocessing import Preprocessing

    prepare = Preprocessing.from_program(program)
    if args.mean is not None or args.std is not None:
        program, prepare = _with_statistics(program, prepare, args)
    elif KEY not in program.metadata and program.image_layout is None:
        print("the file does not say how images are prepared: values from 0 to 1 are taken "
              "(--mean, --std)", file=sys.stderr)
    paths = list(image_files([str(folder)]))
    count = min(len(paths), args.calibration_images or 256)
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    return program, list(_batches(prepare, chosen)), _labels(program, chosen)


def _with_statistics(program: Any, prepare: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    """Return a Program, and its preparation of images, with the mean and deviation asked for."""
    from convkit.cli.preprocessing import Preprocessing

    if KEY in program.metadata or program.image_layout is not None:
        raise UsageError("--mean and --std are for files that do not say how images are prepared")
    for name, values in (("mean", args.mean), ("std", args.std)):
        if values is not None and len(values) != prepare.channels:
            raise UsageError(f"--{name}: expected {prepare.channels} numbers, got {len(values)}")
    fields = {"mean": args.mean or prepare.mean, "std": args.std or prepare.std}
    program.metadata[KEY] = prepare.metadata()[KEY] | fields
    return program, Preprocessing.from_program(program)


def _batches(prepare: Any, paths: list[Path]) -> Iterator[np.ndarray]:
    """Yield the network's input of images, some at a time."""
    for begin in range(0, len(paths), BATCH):
        yield prepare.apply(np.stack([prepare.read(path) for path in paths[begin:begin + BATCH]]))


def _labels(program: Any, paths: list[Path]) -> np.ndarray | None:
    """Return the classes of images that lie in folders named like the labels, else None."""
    numbers = {str(name): i for i, name in enumerate(program.labels or ())}
    found = [numbers.get(path.parent.name) for path in paths]
    return None if None in found else np.array(found)
