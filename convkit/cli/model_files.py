"""Model files of either kind, told apart by their names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_input_shapes", "is_onnx", "load_program"]


def is_onnx(path: str) -> bool:
    """Tell whether a path names an ONNX file."""
    return Path(path).suffix.lower() == ".onnx"


def load_program(path: str, input_shapes: Sequence[tuple[str, tuple]] = ()) -> Any:
    """Return the Program of a .ckit or .onnx file."""
    import convkit

    if not is_onnx(path):
        return convkit.load(path)
    from convkit.io import onnx

    return convkit.compile(onnx.load(path, dict(input_shapes)), metadata=onnx.read_metadata(path))


def add_input_shapes(parser: argparse.ArgumentParser) -> None:
    """Add ``--input-shape``."""
    parser.add_argument(
        "--input-shape", dest="input_shapes", type=_input_shape, action="append", default=[],
        metavar="NAME=SIZES",
        help="the shape of an input of an ONNX file, such as x=N,3,224,224 with N for the batch, "
             "where the file leaves it open or fixes it otherwise; once per input")


def _input_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """Parse NAME=N,3,224,224."""
    name, _, sizes = text.rpartition("=")
    parts = sizes.split(",")
    if not name or not all(p == "N" or p.isdecimal() for p in parts) or "N" in parts[1:]:
        raise argparse.ArgumentTypeError(f"expected NAME=SIZES such as x=N,3,224,224, got {text}")
    return name, tuple(p if p == "N" else int(p) for p in parts)
