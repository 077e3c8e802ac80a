"""The choice of an algorithm for every convolution and linear layer, and its reasons.

The candidates of `conv_algorithms.CANDIDATES` are asked in order; the first that neither
refuses nor declines does the work. The choice is made apart for the forward pass and each
gradient, from the layer alone: never from the batch size or the number of threads, so that a
sample's result depends on neither.

``CONVKIT_VERBOSE=dispatch`` prints one line to stderr when a problem is first met: the task,
the problem's name, who was taken, why those before declined, and the milliseconds of that
first call, packing of weights included.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from convkit.ops import autotune
from convkit.ops.conv_algorithms import BY_NAME, CANDIDATES, Algorithm, Task, known_call
from convkit.ops.conv_problem import ConvProblem
from convkit.ops.kept import HALF, Kept, Rounded, restored

__all__ = ["choose", "explain", "prepared", "run", "steps", "sum_weights"]

_verbose = "dispatch" in os.environ.get("CONVKIT_VERBOSE", "").split(",")
_printed: set[tuple[Task, str]] = set()
# Lines printed at most: a process that meets ever new shapes must not grow without bound.
MOST_LINES = 10_000


def choose(problem: ConvProblem, task: Task, algorithm: str = "auto") -> type[Algorithm]:
    """Return the algorithm asked for, or the first candidate that takes the task.

    An algorithm that was asked for by name does every task that it can; where it cannot do
    a gradient, the candidates are asked as for "auto".

    Raises
    ------
    ValueError
        When `algorithm` is neither "auto" nor the name of a candidate, or cannot do the
        forward pass of this problem; the text says why.
    """
    if algorithm != "auto":
        if algorithm not in BY_NAME:
            raise ValueError(f"expected algorithm 'auto', {', '.join(map(repr, BY_NAME))}, "
                             f"got {algorithm!r}")
        chosen = BY_NAME[algorithm]
        reason = chosen.refuses(problem, task)
        if reason is None:
            return chosen
        if task == "forward":
            raise ValueError(f"algorithm {algorithm!r} cannot take {problem}: {reason}")
    if autotune.enabled():
        return BY_NAME[autotune.fastest(problem, task)]
    # Problems are kept (`conv_problem`), and each keeps the answers that are its own for ever.
    chosen = problem.plans.get(task)
    if chosen is None:
        chosen = next(a for a in CANDIDATES if why_not(a, problem, task) is None)
        problem.plans[task] = chosen
    return chosen


def why_not(candidate: type[Algorithm], problem: ConvProblem, task: Task) -> str | None:
    """Return why a candidate does not take a task, or None where it would."""
    return candidate.refuses(problem, task) or candidate.declines(problem, task)


def run(task: Task, problem: ConvProblem, algorithm: str, *arrays: Any, **more: Any) -> None:
    """Do a task by the algorithm that `choose` returns; arguments as for `Algorithm`'s method."""
    prepared(task, problem, algorithm)[1](*arrays, **more)


def sum_weights(problem: ConvProblem, algorithm: str, x: np.ndarray | Kept, gy: np.ndarray,
                gw: np.ndarray, threads: int) -> None:
    """Write the gradient of the weight into `gw`, `x` being what `kept.keep_input` has kept.

    `gy` may also be bfloat16 (uint16): it is widened where the algorithm does not read that.
    """
    chosen, call = prepared("grad_weight", problem, algorithm)
    if isinstance(x, Kept) and not chosen.reads_kept(problem, x):
        x = restored(x, problem.x_last, threads)
    if gy.dtype is HALF and not chosen.narrows:
        gy = Rounded(gy).array(threads)
    call(x, gy, gw, threads)


def prepared(task: Task, problem: ConvProblem, algorithm: str
             ) -> tuple[type[Algorithm], Callable[..., None]]:
    """Return the algorithm that `choose` returns, and what does the task (`Algorithm.call`)."""
    known = problem.calls.get(task)
    if known is not None and algorithm == "auto" and not autotune.enabled():
        return known
    chosen = choose(problem, task, algorithm)
    key = task if chosen is problem.plans.get(task) else (task, chosen)
    if key not in problem.calls:
        call = known_call(chosen, problem, task)
        problem.calls[key] = chosen, _Told(task, problem, chosen, call) if _verbose else call
    return problem.calls[key]


class _Told:
    """A call that says on stderr what it is, the first time."""

    def __init__(self, task: Task, problem: ConvProblem, chosen: type[Algorithm], call: Callable):
        self._what, self._call = (task, problem, chosen), call

    def __call__(self, *arrays: Any, **more: Any) -> None:
        start = time.perf_counter()
        self._call(*arrays, **more)
        spent = time.perf_counter() - start
        _tell(*self._what, spent)


def _tell(task: Task, problem: ConvProblem, chosen: type[Algorithm], seconds: float) -> None:
    """Print a choice, unless that was done before."""
    key = (task, str(problem))
    if key not in _printed and len(_printed) < MOST_LINES:
        _printed.add(key)
        print(_line(task, problem, chosen, seconds), file=sys.stderr)


def steps(b: Any, task: Task, problem: ConvProblem, chosen: type[Algorithm], weight: Any,
          **more: Any) -> list[Any] | None:
    """Return a task's compiled steps, by the algorithm that `choose` has returned.

    Parameters
    ----------
    b : Lowering
        Is told which algorithm it is.
    weight : Operand
        A constant.
    more
        residual, x_pixel, y_pixel, activation, alpha and beta, as for `Algorithm.steps`.

    Returns
    -------
    list of Step or None
        None where the algorithm has none for the task.
    """
    start = time.perf_counter()
    made = chosen.steps(problem, task, Taps(weight), b.cache(weight), b.threads, **more)
    b.algorithm = chosen.name
    if _verbose:
        _tell(task, problem, chosen, time.perf_counter() - start)
    return made


class Taps:
    """A constant weight with two spatial axes, read when a form of it is packed.

    For what wants an array, it is one (`numpy.asarray`); what packs from the first row on takes
    `parts`, which of weights in a file are never in memory all at once.
    """

    def __init__(self, weight: Any):
        shape = weight.shape
        self.shape = (*shape[:2], *[1] * (4 - len(shape)), *shape[2:])
        self.dtype, self.itemsize = weight.dtype, weight.dtype.itemsize
        self._constant = weight.block.constant

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.ascontiguousarray(self._constant.array).reshape(self.shape)

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, rows from there on) of multiples of `rows` rows.

        A part is overwritten by the next one.
        """
        for first, part in self._constant.parts(rows):
            yield first, part.reshape(-1, *self.shape[1:])


def _line(task: Task, problem: ConvProblem, chosen: type[Algorithm], seconds: float) -> str:
    """Return what ``CONVKIT_VERBOSE=dispatch`` prints."""
    before = []
    for candidate in CANDIDATES:
        if candidate is chosen:
            break
        before.append(f"{candidate.name}: {why_not(candidate, problem, task) or 'not asked'}")
    return (f"convkit,dispatch,{task},{problem},{chosen.name},{'; '.join(before) or 'first'},"
            f"{1e3 * seconds:.3f} ms")


def explain(problem: ConvProblem, task: Task = "forward") -> str:
    """Return the candidates in order, each with the reason why it declines or is taken."""
    lines = [f"{task} {problem}"]
    for candidate in CANDIDATES:
        reason = why_not(candidate, problem, task)
        lines.append(f"  {candidate.name}: {'taken' if reason is None else reason}")
        if reason is None:
            break
    return "\n".join(lines)
