"""What all benchmarks share: the machine's record, fair timing, agreement, tables, JSON.

Timing: the sides take turns, many rounds, each round in another order. A turn begins with a
short sleep, in which the other side's idle threads stop spinning, and a few calls that do
not count, in which this side's threads and caches wake up; then calls are timed one by one.
A side's figure is the median over all its calls; a ratio is the median over rounds of the
ratio of medians within the round, so that a slow spell of the machine strikes both sides.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convkit
from convkit import runtime
from convkit._kernels import bench

__all__ = [
    "Agreement",
    "arguments",
    "find_torch",
    "interleave",
    "machine",
    "peak",
    "print_machine",
    "print_table",
    "require_torch",
    "write_results",
]

RESULTS = Path(__file__).parent / "results"
# Before a turn the process sleeps so many seconds at a time, until its threads use less than this
# share of them: those of ONNX Runtime spin for 70 ms after its last call, on a core that the next
# side wants. At most so many seconds in all.
SETTLE, SETTLED, LONGEST_SETTLE = 0.005, 0.1, 0.5
# Seconds of a turn at least: the first calls after another side's find the caches full of that
# side's weights, threads asleep and units of the processor at rest.
LEAST_TURN = 0.05


def find_torch() -> Any:
    """Return PyTorch, or None: loaded here, for seconds that not every side has to wait."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def require_torch() -> Any:
    """Return PyTorch, or end with a message that says how to get it."""
    torch = find_torch()
    if torch is None:
        sys.exit("this benchmark compares with PyTorch: pip install torch")
    return torch


def arguments(description: str, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=runtime.get_num_threads(),
                        help="threads of every side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=seconds,
                        help="time for one line of the table (default: %(default)s)")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--quick", action="store_true",
                        help="a few calls each: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, default=None,
                        help="JSON file for the results (default: one in benchmarks/results "
                             "named by benchmark and date; none with --quick)")
    return parser


def set_threads(threads: int) -> None:
    """Set the number of threads of every side."""
    convkit.set_num_threads(threads)
    torch = find_torch()
    if torch is not None:
        torch.set_num_threads(threads)


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers depend on: CPU, instruction set, threads, versions, load."""
    record = dict(runtime.config())
    record["threads"] = threads
    record["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record["load average"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    torch = find_torch()
    if torch is not None:
        record["torch"] = torch.__version__
        record["torch cpu capability"] = torch.backends.cpu.get_cpu_capability()
    record["fma peak gflops"] = round(bench.fma_gflops(threads, 0.3), 1)
    tiles = bench.tile_gflops(threads, 0.3)
    record["tile peak gflops"] = None if tiles is None else round(tiles, 1)
    record["copy gbs, 1 MB"] = round(bench.copy_gbs(threads, 1 << 20, 0.2), 1)
    record["copy gbs, 64 MB"] = round(bench.copy_gbs(threads, 64 << 20, 0.3), 1)
    return record


def print_machine(record: dict[str, Any]) -> None:
    """Print the machine's record, and a warning when something else runs on it."""
    for key, value in record.items():
        print(f"  {key:24} {' '.join(value) if isinstance(value, list) else value}")
    load = record["load average"]
    if load is not None and load > 0.5:
        print(f"  WARNING: load average {load}: other work disturbs these numbers")
    print()


def peak(threads: int) -> float:
    """Return the float32 multiply-add peak of right now, in GFLOP/s."""
    return bench.fma_gflops(threads, 0.03)


def tile_peak(threads: int) -> float | None:
    """Return the bfloat16 tile products' peak of right now, in GFLOP/s; None without tiles."""
    return bench.tile_gflops(threads, 0.03)


def on_threads(run: Callable[[], Any], threads: int) -> Callable[[], Any]:
    """Return a function that uses so many threads."""
    def call():
        with convkit.threads(threads):
            return run()
    return call


def second_core() -> float:
    """Return how many times the multiply-adds of one thread two of them do now.

    It is the mean over half milliseconds: where a host lays two processors of a guest on one core
    for part of the time, nothing can be twice as fast.
    """
    def rate(threads: int) -> float:
        return sum(bench.fma_gflops(threads, 5e-4) for _ in range(200))

    return rate(2) / rate(1)


def interleave(sides: dict[str, Callable[[], Any]], seconds: float, quick: bool = False,
               rate: Callable[[], float] | None = None) -> dict[str, dict[str, float]]:
    """Time functions in turns; return for each its median and its ratio to the first.

    Parameters
    ----------
    sides : dict of callables
        The first is the one that the others are compared with.
    seconds : float
        For all together, about; at least three rounds are run.
    quick : bool
        One round of one call.
    rate : callable, optional
        Measures what the machine can do (a peak, say); called once a round.

    Returns
    -------
    dict
        Per side ``seconds`` (median), ``best``, ``calls`` and ``ratio``: how many times as
        long as the first side it takes. With `rate` also ``rate``, its median, and
        ``per rate``: the median over rounds of 1 / (seconds * rate).
    """
    names = list(sides)
    once = {}
    for name, call in sides.items():
        call()
        start = time.perf_counter()
        call()
        once[name] = time.perf_counter() - start
    # A turn of about a tenth of a side's share, so that there are some ten rounds.
    share = max(seconds / len(sides) / 10, LEAST_TURN)
    calls = {name: 1 if quick else max(1, min(1000, int(share / max(once[name], 1e-6))))
             for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds: list[dict[str, float]] = []
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while not rounds or (not quick and (len(rounds) < 3 or time.perf_counter() < end)):
        shift = len(rounds) % len(names)
        current = {}
        rates.append(rate() if rate else 1.0)
        for name in names[shift:] + names[:shift]:
            taken = _turn(sides[name], calls[name])
            times[name] += taken
            current[name] = statistics.median(taken)
        rounds.append(current)
    first = names[0]
    return {name: {"seconds": statistics.median(times[name]), "best": min(times[name]),
                   "calls": len(times[name]),
                   "ratio": statistics.median(r[name] / r[first] for r in rounds),
                   "rate": statistics.median(rates),
                   "per rate": statistics.median(
                       1 / (r[name] * top) for r, top in zip(rounds, rates, strict=True))}
            for name in names}


def _settle() -> None:
    """Sleep until the threads of the side before have stopped spinning."""
    end = time.perf_counter() + LONGEST_SETTLE
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(SETTLE)
        if time.process_time() - before < SETTLED * SETTLE:
            return


def _turn(call: Callable[[], Any], count: int) -> list[float]:
    """Let the others' threads settle, warm up, and time `count` calls."""
    _settle()
    for _ in range(max(1, count // 5)):
        call()
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


class Agreement:
    """Checks that sides computed the same thing, and remembers where they did not.

    Parameters
    ----------
    bound : float
        Largest accepted difference, relative to the largest element.
    """

    def __init__(self, bound: float):
        self.bound = bound
        self.failures: list[str] = []

    def check(self, what: str, ours: Any, theirs: Any, bound: float | None = None) -> float:
        """Return the largest difference relative to the largest element of `theirs`.

        `bound` is what holds for this one instead.
        """
        bound = self.bound if bound is None else bound
        ours = np.asarray(ours, dtype=np.float64)
        theirs = np.asarray(theirs, dtype=np.float64)
        if ours.shape != theirs.shape:
            self.failures.append(f"{what}: shapes {ours.shape} and {theirs.shape}")
            return float("inf")
        scale = np.abs(theirs).max() if theirs.size else 0.0
        error = float(np.abs(ours - theirs).max() / (scale or 1.0)) if ours.size else 0.0
        if not error <= bound:  # NaN fails too
            self.failures.append(f"{what}: differs by {error:.2g}, allowed {bound:.2g}")
        return error

    def finish(self) -> None:
        """End the program with status 1 when anything differed."""
        if self.failures:
            sys.exit("THE SIDES DISAGREE\n  " + "\n  ".join(self.failures))


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns: the first to the left, the others to the right."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for number, row in enumerate(cells):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                        for i, (c, w) in enumerate(zip(row, widths, strict=True))))
        if number == 0:
            print("  ".join("-" * w for w in widths))
    print()


def write_results(name: str, options: argparse.Namespace, record: dict[str, Any],
                  results: list[dict[str, Any]]) -> None:
    """Write the machine's record, the command and the results as JSON."""
    path = options.output
    if path is None:
        if options.quick:
            return
        stamp = record["date"][:16].replace(":", "").replace("T", "-")
        path = RESULTS / f"{name}-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    path.write_text(json.dumps({"benchmark": name, "command": command, "machine": record,
                                "results": results}, indent=1) + "\n")
    print(f"written: {path}")
