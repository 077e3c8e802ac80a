"""Model files of either kind, told apart by their names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PRECISIONS", "add_input_shapes", "add_precision", "is_onnx", "load_program"]

PRECISIONS = ("highest", "high", "medium")


def is_onnx(path: str) -> bool:
    """Tell whether a path names an ONNX file."""
    return Path(path).suffix.lower() == ".onnx"


def load_program(path: str, input_shapes: Sequence[tuple[str, tuple]] = (),
                 precision: str | None = None) -> Any:
    """Return the Program of a .ckit or .onnx file."""
    import convkit

    if not is_onnx(path):
        return convkit.load(path, precision=precision)
    from convkit.io import onnx

    return convkit.compile(onnx.load(path, dict(input_shapes)), precision=precision,
                           metadata=onnx.read_metadata(path))


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``."""
    parser.add_argument(
        "--precision", choices=PRECISIONS,
        help="how convolutions and linear layers multiply: highest (plain float32), high (as "
             "exact to 1e-5), medium (bfloat16 products) (default: high)")


def add_input_shapes(parser: argparse.ArgumentParser) -> None:
    """Add ``--input-shape``."""
    parser.add_argument(
        "--input-shape", dest="input_shapes", type=_input_shape, action="append", default=[],
        metavar="NAME=SIZES",
        help="the shape of an input of an ONNX file, such as x=N,3,224,224 with N for the batch, "
             "where the file leaves it open or fixes it otherwise; a range of sizes is 32-512, "
             "or 32-512/32 in steps; once per input")


def _input_shape(text: str) -> tuple[str, tuple[Any, ...]]:
    """Parse NAME=N,3,224,224, where a size may be a range, 32-512 or 32-512/32."""
    name, _, sizes = text.rpartition("=")
    parts = [re.fullmatch(r"N|(\d+)(?:-(\d+)(?:/(\d+))?)?", p) for p in sizes.split(",")]
    if not name or None in parts or any(p[0] == "N" for p in parts[1:]):
        raise argparse.ArgumentTypeError(f"expected NAME=SIZES such as x=N,3,224,224, got {text}")
    return name, tuple(_size(p) for p in parts)


def _size(part: re.Match) -> str | int | tuple[int, ...]:
    """Return the batch, a size, or a range."""
    numbers = tuple(int(n) for n in part.groups() if n is not None)
    return part[0] if not numbers else numbers[0] if len(numbers) == 1 else numbers
