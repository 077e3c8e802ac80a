"""``convkit verify``: whether two files hold the same network."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from convkit.cli.inputs import add_inputs, random_inputs, read_inputs
from convkit.cli.model_files import add_input_shapes, load_program
from convkit.cli.options import (
    add_threads,
    at_least,
    not_negative,
    print_json,
    set_threads,
)

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "verify", help="compare two model files on the same inputs",
        description="Run two .ckit or .onnx files on the same inputs and print the largest "
                    "difference of every output. The exit status is 1 where one is above the "
                    "tolerance.")
    parser.add_argument("first", metavar="FIRST", help="a .ckit or .onnx file")
    parser.add_argument("second", metavar="SECOND", help="another one")
    add_inputs(parser, batch=4)
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N",
                        help="of the random numbers (default: %(default)s)")
    parser.add_argument("--tolerance", type=not_negative, default=1e-4, metavar="X",
                        help="largest difference allowed, as a part of an output's largest value "
                             "(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_input_shapes(parser)
    add_threads(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Compare; raise where the files differ."""
    from convkit.errors import ConvkitError
    from convkit.infer.check import compare

    set_threads(args)
    programs = [load_program(path, args.input_shapes if path.lower().endswith(".onnx") else ())
                for path in (args.first, args.second)]
    _same_form(*programs)
    inputs = (random_inputs(programs[0], args.batch, args.seed) if args.input is None
              else read_inputs(programs[0], args.input))
    results = [_outputs(program, inputs) for program in programs]
    rows = []
    for name, a, b in zip(programs[0].output_shapes, *results, strict=True):
        error = compare([a], [b]) if a.shape == b.shape else None
        rows.append({"output": name, "shape": list(a.shape),
                     "absolute": float("inf") if error is None else error.absolute,
                     "relative": float("inf") if error is None else error.relative})
    worst = max(row["relative"] for row in rows)
    if args.json:
        print_json({"outputs": rows, "tolerance": args.tolerance, "same": worst <= args.tolerance})
    else:
        for row in rows:
            print(f"{row['output']} {tuple(row['shape'])}: largest difference "
                  f"{row['absolute']:.3g}, {row['relative']:.3g} of the largest value")
    if not worst <= args.tolerance:
        raise ConvkitError(f"the files differ by {worst:.3g} of an output's largest value, more "
                           f"than {args.tolerance:g}")


def _same_form(first: Any, second: Any) -> None:
    """Raise ShapeError unless two Programs take and give as much."""
    from convkit.errors import ShapeError

    taken, given = ([list(getattr(p, what).values()) for p in (first, second)]
                    for what in ("input_shapes", "output_shapes"))
    if [s[1:] for s in taken[0]] != [s[1:] for s in taken[1]]:
        raise ShapeError(f"the files take inputs of shapes {taken[0]} and {taken[1]}")
    if len(given[0]) != len(given[1]):
        raise ShapeError(f"the files give {len(given[0])} and {len(given[1])} outputs")


def _outputs(program: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run a Program; return its outputs in order."""
    results = program.run(tuple(inputs))
    if isinstance(results, dict):
        return list(results.values())
    return list(results) if isinstance(results, tuple) else [results]
