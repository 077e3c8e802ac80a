"""``convkit predict``: classes of images, of an array or of a whole data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cli import sources
from convkit.cli.inputs import read_arrays
from convkit.cli.options import UsageError, add_threads, at_least, print_json, set_threads

__all__ = ["add_parser", "image_files", "run"]

BATCH = 256


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "predict", help="classify images, an array or a data set",
        description="Classify images with a .ckit file. Images are scaled, cut and normalised as "
                    "the file says; labels are the file's. For a data set, print the accuracy on "
                    "its test images.")
    parser.add_argument("model", metavar="MODEL", help="a .ckit file")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+",
        help="image files and folders of them, at any depth; or an .npy array (H, W), (C, H, W) "
             "or (N, C, H, W) of uint8, or of floats from 0 to 1; or a data set: "
             f"{sources.HELP}")
    parser.add_argument("--images", action="store_true",
                        help="classify every image of a folder that could also be a data set")
    parser.add_argument("--top", type=at_least(1), default=3, metavar="N",
                        help="how many classes to print for each image (default: %(default)s)")
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
    if len(args.inputs) == 1 and not args.images and _is_data(args.inputs[0]):
        _accuracy(args, program, prepare)
    elif len(args.inputs) == 1 and Path(args.inputs[0]).suffix.lower() == ".npy":
        images = _read_array(Path(args.inputs[0]), prepare)
        _print(args, program, _classify(program, prepare, images))
    else:
        _predict_files(args, program, prepare)


def _is_data(spec: str) -> bool:
    """Tell whether an input is a data set; a folder is one where it has folders of classes."""
    path = Path(spec)
    return sources.is_data(spec) and (
        not path.is_dir() or any(p.is_dir() and not p.name.startswith(".")
                                 for p in path.iterdir()))


def _accuracy(args: argparse.Namespace, program: Any, prepare: Any) -> None:
    """Print accuracy and speed on a data set's test images."""
    from convkit import training

    source = sources.load(args.inputs[0], (prepare.height, prepare.width), prepare.channels)
    result = training.evaluate(program, prepare.loader(source.test, BATCH))
    if args.json:
        print_json({"data": source.name, "images": result.samples, "accuracy": result.accuracy,
                    "loss": result.loss, "images_per_second": result.images_per_second})
    else:
        print(f"{source.name}: accuracy {result.accuracy:.2%} of {result.samples:,} test images, "
              f"loss {result.loss:.4f}, {result.images_per_second:,.0f} images/s")


def _predict_files(args: argparse.Namespace, program: Any, prepare: Any) -> None:
    """Classify image files, a batch at a time."""
    paths = list(image_files(args.inputs))
    found = []
    for begin in range(0, len(paths), BATCH):
        batch = paths[begin:begin + BATCH]
        images = np.stack([prepare.read(path) for path in batch])
        found.append(_classify(program, prepare, images))
    _print(args, program, np.concatenate(found), paths)


def image_files(names: list[str]) -> Iterator[Path]:
    """Yield the files that arguments name, those in folders in alphabetical order."""
    from convkit.data.folder import EXTENSIONS

    for name in names:
        path = Path(name)
        if path.suffix.lower() == ".npy":
            raise UsageError(f"{name}: an array can only be given alone")
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*")
                       if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found:
            raise FileNotFoundError(f"expected images ({' '.join(EXTENSIONS)}) in {name}, found "
                                    "none")
        yield from found


def _read_array(path: Path, prepare: Any) -> np.ndarray:
    """Return the images of an .npy file, shape (N, C, H, W)."""
    from convkit.errors import DataFormatError, ShapeError

    array = read_arrays(path)
    if isinstance(array, dict):
        raise DataFormatError(f"{path}: expected a single array, got an archive of "
                              f"{len(array)}")
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


def _classify(program: Any, prepare: Any, images: np.ndarray) -> np.ndarray:
    """Return the probabilities of the classes of each image."""
    scores = np.concatenate([_scores(program, prepare.apply(images[i:i + BATCH]))
                             for i in range(0, len(images), BATCH)])
    last = program.graph.nodes[-1]
    if last.op == "softmax" and program.graph.outputs[0].value in last.outputs:
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _scores(program: Any, images: np.ndarray) -> np.ndarray:
    """Run the network; raise where its output is no table of scores."""
    from convkit.errors import ShapeError

    scores = program(images)
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        raise ShapeError("expected a network with one output (N, classes)")
    return scores


def _print(args: argparse.Namespace, program: Any, probabilities: np.ndarray,
           paths: list[Path] | None = None) -> None:
    """Print the most likely classes of each image."""
    count = probabilities.shape[1]
    labels = program.labels
    names = [str(n) for n in (labels if labels and len(labels) == count else range(count))]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :args.top]
    rows = [[(names[c], float(row[c])) for c in best]
            for row, best in zip(probabilities, order, strict=True)]
    if args.json:
        classes = [[{"label": n, "probability": p} for n, p in row] for row in rows]
        print_json(classes if paths is None else
                   [{"file": str(path), "classes": row}
                    for path, row in zip(paths, classes, strict=True)])
        return
    for i, row in enumerate(rows):
        prefix = f"{i if paths is None else paths[i]}: " if len(rows) > 1 else ""
        print(prefix + ", ".join(f"{name} {p:.2%}" for name, p in row))
