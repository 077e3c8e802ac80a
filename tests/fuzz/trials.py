"""Random trials: cases drawn by seed, judged, and made smaller where they fail.

A subject is a module with

- ``draw(seed)``, which returns a case; its ``str`` describes it in a line or a few;
- ``judge(case)``, which raises `Failure` (or anything else) where convkit is wrong, and `SetAside`
  where nothing can be said;
- ``NEEDS``, the packages it compares with.

A case may have ``smaller()``, cases with less in them, smallest first. Everything random hangs on
the seed, so ``python tests/fuzz/SUBJECT.py --seeds 17 18`` shows a failure again.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tolerances import NORMWISE

import convkit as ck

__all__ = ["Failure", "Report", "SetAside", "allowed", "close", "error", "main", "missing", "same",
           "search"]

SHRINKING = 20.0  # seconds

class Failure(AssertionError):
    """What came out is wrong."""


class SetAside(Exception):
    """The case says nothing: no finite numbers, or a limit that is known and documented."""


@dataclass
class Report:
    """How many cases were judged, the seeds of others by reason, and texts of failures."""

    judged: int = 0
    aside: dict[str, list[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def error(got: Any, want: Any, scale: float | None = None) -> float:
    """Return |got - want| over |want| (Euclidean norms), or over `scale` where it is given.

    A `want` of rounding errors alone counts as large as 1e-6 for each element.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        raise Failure(f"shape {got.shape}, expected {want.shape}")
    if not want.size:
        return 0.0
    scale = np.linalg.norm(want) if scale is None else scale
    return float(np.linalg.norm(got - want) / (scale + 1e-6 * np.sqrt(want.size)))


def allowed(kind: str, precision: str = "high", own: float = 0.0) -> float:
    """Return the bound of `error` for a kind of result, from the table of tolerances.

    `own` is the error of PyTorch's float32: where that is large, the case is badly conditioned.
    """
    least, factor = NORMWISE[kind]["medium" if precision == "medium" else "float32"]
    return max(least, factor * own)


def close(what: str, got: Any, want: Any, bound: float, scale: float | None = None) -> None:
    """Raise Failure unless `error` is within the bound (NaN is not)."""
    try:
        off = error(got, want, scale)
    except Failure as failure:
        raise Failure(f"{what}: {failure}") from None
    if not off <= bound:
        raise Failure(f"{what}: off by {off:.2e}, allowed {bound:.2e}")


def same(what: str, got: Any, want: Any) -> None:
    """Raise Failure unless both are the same to the bit."""
    if not np.array_equal(np.asarray(got), np.asarray(want), equal_nan=True):
        raise Failure(f"{what}: other bits")


def missing(subject: Any) -> str | None:
    """Return why a subject cannot run here, or None."""
    absent = [name for name in subject.NEEDS if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def search(subject: Any, seeds: Iterable[int], seconds: float | None = None,
           most: int = 5) -> Report:
    """Judge a subject's cases until seeds, seconds or patience (`most` failures) are over."""
    report, began, threads = Report(), time.perf_counter(), ck.get_num_threads()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for seed in seeds:
            if seconds is not None and time.perf_counter() - began > seconds:
                break
            _try(subject, seed, report)
            if len(report.failures) >= most:
                break
    ck.set_num_threads(threads)
    return report


def _try(subject: Any, seed: int, report: Report) -> None:
    """Draw and judge one case, and enter what comes of it in the report."""
    case = "(not drawn)"
    try:
        case = subject.draw(seed)
        subject.judge(case)
    except SetAside as reason:
        report.aside.setdefault(str(reason), []).append(seed)
        return
    except Exception as wrong:
        case, wrong = _smallest(subject, case, wrong)
        report.failures.append(f"seed {seed}: {_words(wrong)}\n    {case}")
    report.judged += 1


def _smallest(subject: Any, case: Any, wrong: Exception) -> tuple[Any, Exception]:
    """Return the smallest case that fails with the same kind of error, and that error."""
    until = time.perf_counter() + SHRINKING
    found = True
    while found and time.perf_counter() < until:
        found = False
        for less in getattr(case, "smaller", tuple)():
            failure = _failure(subject, less)
            if type(failure) is type(wrong):
                case, wrong, found = less, failure, True
                break
    return case, wrong


def _failure(subject: Any, case: Any) -> Exception | None:
    """Return what a case raises, if it does."""
    try:
        subject.judge(case)
    except SetAside:
        return None
    except Exception as wrong:
        return wrong
    return None


def _words(wrong: Exception) -> str:
    """Describe what was raised; other errors than Failure with the place that they come from."""
    if isinstance(wrong, Failure):
        return str(wrong)
    place = traceback.extract_tb(wrong.__traceback__)[-1]
    return f"{type(wrong).__name__}: {wrong} ({place.filename}:{place.lineno})"


def main(subject: Any) -> int:
    """Run a subject from the command line; return 1 where a case failed."""
    parser = argparse.ArgumentParser(description=subject.__doc__)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2**62), metavar=("FIRST", "END"))
    parser.add_argument("--most", type=int, default=5, help="failures until it stops")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    absent = missing(subject)
    if absent:
        sys.exit(absent)
    began = time.perf_counter()
    report = search(subject, range(*args.seeds), args.seconds, args.most)
    print(f"{report.judged} cases from seed {args.seeds[0]} on in "
          f"{time.perf_counter() - began:.0f} s, {len(report.failures)} failed")
    for reason, seeds in report.aside.items():
        print(f"{len(seeds)} set aside ({reason}), the first of seed {seeds[0]}")
    print(*report.failures, sep="\n")
    return 1 if report.failures else 0
