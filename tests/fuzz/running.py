"""The loop over mutated files, and running the networks that come out of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import convkit as ck
from convkit.infer import Program, run_pipeline, verify
from convkit.infer.cost import flops
from convkit.infer.dims import at_batch
from convkit.infer.graph import Graph

# What a network may take to be run: operations and elements of one sample.
MOST_WORK = 3_000_000
MOST_ELEMENTS = 1_000_000


def run(kind: Any, folder: Path, seed: int, cases: int | None = None,
        seconds: float | None = None) -> tuple[Counter[str], float]:
    """Check mutated files, so many or for so long.

    Parameters
    ----------
    kind : module
        Has `SUFFIX`, `seeds()` (a list of good files) and `mutated(rng, good)` that return bytes,
        and `check(path, rng)`, which reads a file, returns a word for what came of it, and
        raises what is not meant to come out.
    folder : Path
        Where the file at hand is written; it stays there when something is wrong.
    seed : int
    cases, seconds
        When to stop.

    Returns
    -------
    outcomes : Counter
        How often each word was returned.
    slowest : float
        Seconds that the slowest file took to read.
    """
    rng = random.Random(seed)
    good, path = kind.seeds(), folder / f"mutated{kind.SUFFIX}"
    outcomes: Counter[str] = Counter()
    began, slowest = time.perf_counter(), 0.0
    while (cases is None or sum(outcomes.values()) < cases) and (
            seconds is None or time.perf_counter() - began < seconds):
        path.write_bytes(kind.mutated(rng, rng.choice(good)))
        start = time.perf_counter()
        outcomes[kind.check(path, rng)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    return outcomes, slowest


def exercise(graph: Graph, rng: random.Random) -> str:
    """Check an accepted graph, optimise it now and then, and run it where it is small."""
    verify(graph)
    if graph.open_sizes():
        sizes = {s.name: rng.choice((s.low, s.low + s.step)) for s in graph.open_sizes()}
        try:
            graph = graph.at_size(**sizes)
        except ck.ShapeError:
            return "read"
    if rng.random() < 0.3:
        graph = run_pipeline(graph)
        verify(graph)
    if not _small(graph):
        return "read"
    batch = rng.choice((1, 2, 5))
    given = [_numbers(rng, at_batch(graph.shape(p.value), batch), graph.values[p.value].dtype)
             for p in graph.inputs]
    program = Program(graph, rng.choice((1, 2)), None, rng.choice(("highest", "high", "medium")))
    try:
        with np.errstate(all="ignore"):
            program.run(tuple(given))
    except (ck.ConvkitError, IndexError):
        return "refused at run time"  # numbers that no rule about shapes can foresee
    return "run"


def _small(graph: Graph) -> bool:
    """Tell whether a sample takes little memory and time."""
    elements = sum(int(np.prod(at_batch(v.shape, 1), dtype=object)) for v in graph.values.values())
    return elements < MOST_ELEMENTS and sum(flops(graph, n) for n in graph.nodes) < MOST_WORK


def _numbers(rng: random.Random, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an input, at times with what kernels find hard."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    kind = np.dtype(dtype).kind
    if kind == "f":
        x = numbers.standard_normal(shape).astype(dtype)
        if rng.random() < 0.2 and x.size:
            x.reshape(-1)[rng.randrange(x.size)] = rng.choice(
                (np.nan, np.inf, -np.inf, 1e38, 1e-42, 0.0))
        return x
    if kind == "b":
        return numbers.random(shape) < 0.5
    low = 0 if kind == "u" else -4
    return numbers.integers(low, 8, shape).astype(dtype)
