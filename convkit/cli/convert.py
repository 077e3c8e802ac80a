"""``convkit convert``: from ONNX to .ckit and back, in floats or bytes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convkit.cli.calibration import add_arguments, check_arguments, quantized
from convkit.cli.model_files import add_input_shapes, add_precision, is_onnx, load_program
from convkit.cli.options import UsageError

__all__ = ["add_parser", "run"]

SUFFIXES = (".ckit", ".onnx")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "convert", help="turn an ONNX file into a .ckit file, or the other way round",
        description="Read a network from a .onnx or .ckit file, fold and fuse it, and write it as "
                    "the other name's ending says.")
    parser.add_argument("input", metavar="INPUT", help="a .onnx or .ckit file")
    parser.add_argument("output", metavar="OUTPUT", help="where to write: a .ckit or .onnx file")
    parser.add_argument("--weights", choices=("float32", "float16", "bfloat16"), default="float32",
                        help="storage of weights in a .ckit file (default: %(default)s)")
    add_precision(parser)
    parser.add_argument("--compress", action="store_true",
                        help="compress the tensors in a .ckit file without loss (smaller on disk, "
                             "but no longer mapped and shared between processes)")
    parser.add_argument("--opset", type=int, metavar="N",
                        help="version of the operators in an ONNX file, from 21 (default: 21)")
    add_input_shapes(parser)
    add_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert and say what came out."""
    import convkit

    for path in (args.input, args.output):
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: expected a name that ends in .ckit or .onnx")
    if args.input_shapes and not is_onnx(args.input):
        raise UsageError("--input-shape is for ONNX files")
    if is_onnx(args.output) and (args.weights != "float32" or args.compress):
        raise UsageError(f"--{'compress' if args.compress else 'weights'} is for .ckit files")
    if is_onnx(args.output) and args.precision:
        raise UsageError("--precision is for .ckit files")
    if args.opset is not None and not is_onnx(args.output):
        raise UsageError("--opset is for ONNX files")
    check_arguments(args)
    program = load_program(args.input, args.input_shapes)
    folded = program.max_error
    if args.quantize is not None:
        program = quantized(program, args)
    if args.precision:
        program = _with_precision(program, args.precision)
    if is_onnx(args.output):
        from convkit.io import onnx

        onnx.save(program, args.output, **({} if args.opset is None else {"opset": args.opset}))
    else:
        convkit.save(program, args.output, weights=args.weights, compress=args.compress)
    before, after = (Path(p).stat().st_size for p in (args.input, args.output))
    print(f"{program!r}")
    if folded is not None:
        print(f"folding changes outputs by at most {folded.relative:.2g} of the largest")
    print(f"{args.input}: {before:,} bytes -> {args.output}: {after:,} bytes")


def _with_precision(program: Any, precision: str) -> Any:
    """Return a Program whose layers keep a precision of their own."""
    import dataclasses

    from convkit.infer import Program
    from convkit.infer.schema import SCHEMAS

    nodes = tuple(dataclasses.replace(node, attrs={**node.attrs, "precision": precision})
                  if "precision" in SCHEMAS[node.op].attrs else node
                  for node in program.graph.nodes)
    return Program(dataclasses.replace(program.graph, nodes=nodes), program.threads,
                   program.metadata)
