"""``convkit profile``: where the time of a call goes."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from convkit.cli.inputs import add_inputs, random_inputs, read_inputs
from convkit.cli.model_files import add_input_shapes, add_precision, is_onnx, load_program
from convkit.cli.options import UsageError, add_threads, at_least, print_json, set_threads

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "profile", help="measure how long each step of a model takes",
        description="Run a .ckit or .onnx file and print the time, the share of the total, the "
                    "GFLOP/s and the algorithm of every step.")
    parser.add_argument("model", metavar="MODEL", help="a .ckit or .onnx file")
    add_inputs(parser, batch=1)
    parser.add_argument("--repeats", type=at_least(1), default=20, metavar="N",
                        help="how often to run; medians are shown (default: %(default)s)")
    parser.add_argument("--top", type=at_least(1), metavar="N",
                        help="show the N steps that take longest, longest first (default: all, "
                             "in running order)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_precision(parser)
    add_input_shapes(parser)
    add_threads(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if args.input_shapes and not is_onnx(args.model):
        raise UsageError("--input-shape is for ONNX files")
    set_threads(args)
    program = load_program(args.model, args.input_shapes, args.precision)
    inputs = (random_inputs(program, args.batch) if args.input is None
              else read_inputs(program, args.input))
    found = program.profile(tuple(inputs), args.repeats)
    total = found.seconds
    if args.top:
        longest = sorted(found.nodes, key=lambda node: -node.seconds)[:args.top]
        found = dataclasses.replace(found, nodes=tuple(longest))
    if args.json:
        print_json({**dataclasses.asdict(found), "seconds": total})
    else:
        print(found)
        if args.top:
            print(f"all steps: {1e3 * total:.3f} ms")
