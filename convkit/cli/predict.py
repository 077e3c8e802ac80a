"""``convkit predict``: classes of an image, an array or a whole data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli import sources
from convkit.cli.options import add_threads, at_least, print_json, set_threads

__all__ = ["add_parser", "run"]

BATCH = 256


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "predict", help="classify an image, an array or a data set",
        description="Classify images with a .ckit file. For a data set, print the accuracy on "
                    "its test images.")
    parser.add_argument("model", metavar="MODEL", help="a .ckit file")
    parser.add_argument(
        "input", metavar="INPUT",
        help="an image file; an .npy array (H, W), (C, H, W) or (N, C, H, W) of uint8, or of "
             f"floats from 0 to 1; or a data set: {sources.HELP}")
    parser.add_argument("--top", type=at_least(1), default=3, metavar="N",
                        help="how many classes to print for an image (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_threads(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Predict and print."""
    import convkit
    from convkit.cli.preprocessing import Preprocessing

    set_threads(args)
    program = convkit.load(args.model)
    prepare = Preprocessing.from_program(program)
    if sources.is_data(args.input):
        _accuracy(args, program, prepare)
        return
    images = _read(Path(args.input), prepare)
    scores = np.concatenate([_scores(program, prepare.apply(images[i:i + BATCH]))
                             for i in range(0, len(images), BATCH)])
    _print(args, program, _probabilities(scores))


def _accuracy(args: argparse.Namespace, program: Any, prepare: Any) -> None:
    """Print accuracy and speed on a data set's test images."""
    from convkit import training

    source = sources.load(args.input, (prepare.height, prepare.width), prepare.channels)
    result = training.evaluate(program, prepare.loader(source.test, BATCH))
    if args.json:
        print_json({"data": source.name, "images": result.samples, "accuracy": result.accuracy,
                    "loss": result.loss, "images_per_second": result.images_per_second})
    else:
        print(f"{source.name}: accuracy {result.accuracy:.2%} of {result.samples:,} test images, "
              f"loss {result.loss:.4f}, {result.images_per_second:,.0f} images/s")


def _read(path: Path, prepare: Any) -> np.ndarray:
    """Return the images of a file, shape (N, C, H, W)."""
    from convkit import data
    from convkit.errors import DataFormatError, ShapeError

    if path.suffix.lower() != ".npy":
        size = (prepare.height, prepare.width)
        return data.load_image(path, size, prepare.channels)[None]
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataFormatError(f"{path}: cannot be read as an array ({error})") from error
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataFormatError(f"{path}: expected uint8, or floats from 0 to 1, got {array.dtype}")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 3:
        array = array[None]
    shape = (prepare.channels, prepare.height, prepare.width)
    if array.ndim != 4 or array.shape[1:] != shape or len(array) == 0:
        raise ShapeError(f"{path}: expected images of shape {shape}, got an array of shape "
                         f"{array.shape}")
    return array


def _scores(program: Any, images: np.ndarray) -> np.ndarray:
    """Run the network; raise where its output is no table of scores."""
    from convkit.errors import ShapeError

    scores = program(images)
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        raise ShapeError("expected a network with one output (N, classes)")
    return scores


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of each row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _print(args: argparse.Namespace, program: Any, probabilities: np.ndarray) -> None:
    """Print the most likely classes of each image."""
    count = probabilities.shape[1]
    labels = program.labels
    names = [str(n) for n in (labels if labels and len(labels) == count else range(count))]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :args.top]
    rows = [[(names[c], float(row[c])) for c in best]
            for row, best in zip(probabilities, order, strict=True)]
    if args.json:
        print_json([[{"label": n, "probability": p} for n, p in row] for row in rows])
        return
    for i, row in enumerate(rows):
        prefix = f"{i}: " if len(rows) > 1 else ""
        print(prefix + ", ".join(f"{name} {p:.2%}" for name, p in row))
