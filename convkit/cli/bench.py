"""``convkit bench``: how fast a model file runs here, beside plain float32."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from convkit.cli.inputs import random_inputs
from convkit.cli.model_files import PRECISIONS, add_input_shapes, is_onnx, load_program
from convkit.cli.options import UsageError, at_least, list_of, positive, print_json

__all__ = ["add_parser", "run"]

PLAIN = "highest"
PERCENTILES = (50, 90, 99)
LEAST_RUNS = 5


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "bench", help="measure a model's latency and throughput",
        description="Run a .ckit or .onnx file on random numbers and print percentiles of the "
                    "latency and the throughput. Every precision is run in turns with plain "
                    "float32 arithmetic (highest), so that what else the machine does falls on "
                    "both.")
    parser.add_argument("model", metavar="MODEL", help="a .ckit or .onnx file")
    parser.add_argument("--beside", metavar="FILE",
                        help="another file to run in turns with the first, such as the float32 "
                             "form of a quantised network")
    parser.add_argument("--batch", type=list_of(at_least(1)), default=[1], metavar="N,...",
                        help="batch sizes (default: 1)")
    parser.add_argument("--threads", type=list_of(at_least(1)), metavar="N,...",
                        help="numbers of threads (default: the CPUs this process may use)")
    parser.add_argument("--precision", type=list_of(_precision), default=["high"],
                        metavar="WORD,...", help="highest, high or medium (default: high)")
    parser.add_argument("--seconds", type=positive, default=2.0, metavar="X",
                        help="how long to measure each row (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_input_shapes(parser)
    return parser


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(PRECISIONS)}, got {text}")
    return text


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from convkit import runtime

    if args.input_shapes and not is_onnx(args.model):
        raise UsageError("--input-shape is for ONNX files")
    sides = _sides(args)
    rows = []
    threads = args.threads or [runtime.get_num_threads()]
    cases = [(t, b) for t in threads for b in args.batch]
    with _progress(len(cases)) as step:
        for count, batch in cases:
            step(f"batch {batch}, {count} threads")
            rows += _measure(sides, count, batch, args.seconds)
    if args.json:
        print_json({"model": args.model, "config": runtime.config(), "notes": _notes(args),
                    "rows": rows})
        return
    print(f"{args.model}: {next(iter(sides.values()))!r}")
    for note in _notes(args):
        print(f"note: {note}")
    print(_table(rows))


def _sides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the Programs to run in turns, by the name of their row; plain float32 first."""
    words = dict.fromkeys((PLAIN, *args.precision))
    sides = {word: load_program(args.model, args.input_shapes, word) for word in words}
    if args.beside:
        other = load_program(args.beside, args.input_shapes if is_onnx(args.beside) else (),
                             args.precision[0])
        first = next(iter(sides.values()))
        if list(other.input_shapes.values()) != list(first.input_shapes.values()):
            raise UsageError(f"{args.beside}: takes inputs of shapes "
                             f"{list(other.input_shapes.values())}, expected "
                             f"{list(first.input_shapes.values())}")
        sides["beside"] = other
    return sides


def _measure(sides: dict[str, Any], threads: int, batch: int,
             seconds: float) -> list[dict[str, Any]]:
    """Return a row for each side; they run in turns."""
    inputs = tuple(random_inputs(next(iter(sides.values())), batch))
    samples = len(inputs[0])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for program in sides.values():
        program.threads = threads
        program.run(inputs)
    end = time.perf_counter() + seconds * len(sides)
    while len(times[PLAIN]) < LEAST_RUNS or time.perf_counter() < end:
        for name, program in sides.items():
            start = time.perf_counter()
            program.run(inputs)
            times[name].append(time.perf_counter() - start)
    plain = float(np.median(times[PLAIN]))
    return [_row(name, threads, samples, found, plain) for name, found in times.items()]


def _row(name: str, threads: int, batch: int, times: list[float], plain: float) -> dict[str, Any]:
    median = float(np.median(times))
    return {"precision": name, "threads": threads, "batch": batch, "runs": len(times),
            "min_ms": 1e3 * min(times),
            **{f"p{p}_ms": 1e3 * float(np.percentile(times, p)) for p in PERCENTILES},
            "samples_per_second": batch / median, "times_float32": plain / median}


def _notes(args: argparse.Namespace) -> list[str]:
    """Say which precisions this CPU has no instructions for."""
    from convkit._kernels import dispatch

    notes = []
    if "medium" in args.precision and not (dispatch.has_bfloat16() or dispatch.has_halves()):
        notes.append("this CPU has no 16-bit products that convkit uses (AMX, AVX512-FP16, AMD's "
                     "AVX512-BF16): medium runs in float32, no faster than high")
    if not (dispatch.has_vnni() or dispatch.has_tiles()):
        notes.append("this CPU has no instructions for products of bytes (AVX-512 VNNI, AMX): "
                     "quantised networks emulate them")
    return notes


def _table(rows: list[dict[str, Any]]) -> str:
    from convkit.infer.graph import table

    cells = [("precision", "threads", "batch", "runs", "p50 ms", "p90 ms", "p99 ms", "samples/s",
              "x float32")]
    cells += [(r["precision"] + (" (float32)" if r["precision"] == PLAIN else ""),
               str(r["threads"]), str(r["batch"]), str(r["runs"]),
               *(f"{r[f'p{p}_ms']:.3f}" for p in PERCENTILES),
               f"{r['samples_per_second']:,.1f}", f"{r['times_float32']:.2f}") for r in rows]
    return table(cells, right=range(1, 9))


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Give a function that shows what is being measured, where somebody watches."""
    watched, done, width = sys.stderr.isatty(), 0, 0

    def step(text: str) -> None:
        nonlocal done, width
        done += 1
        if watched:
            line = f"{done}/{total}  {text}"
            width = max(width, len(line))
            print(f"\r{line:{width}}", end="", file=sys.stderr, flush=True)

    try:
        yield step
    finally:
        if watched:
            print(f"\r{' ' * width}\r", end="", file=sys.stderr, flush=True)
