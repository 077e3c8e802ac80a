"""Threads, instruction set and what was chosen at import."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import sys
from collections.abc import Iterator

__all__ = ["get_num_threads", "set_num_threads", "show_config", "threads"]

MAX_THREADS = 1024


def _text(path: str) -> str:
    """Return what a system file holds."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _cgroup_quota() -> float | None:
    """Return the CPUs that a Linux control group allows, or None where there is no limit."""
    limits = []
    try:
        own = _text("/proc/self/cgroup").splitlines()
    except OSError:
        return None
    for line in own:
        _, _, path = line.partition(":")
        controllers, _, path = path.partition(":")
        for base in (path, "/"):
            with contextlib.suppress(OSError, ValueError):
                if not controllers:  # version 2
                    quota, period = _text(f"/sys/fs/cgroup{base.rstrip('/')}/cpu.max").split()
                    if quota != "max":
                        limits.append(int(quota) / int(period))
                elif "cpu" in controllers.split(","):
                    folder = f"/sys/fs/cgroup/cpu{base.rstrip('/')}"
                    quota = int(_text(f"{folder}/cpu.cfs_quota_us"))
                    period = int(_text(f"{folder}/cpu.cfs_period_us"))
                    if quota > 0:
                        limits.append(quota / period)
    return min(limits, default=None)


def _positive_int(text: str | None, name: str) -> int | None:
    """Parse an environment variable's thread count; None when unset or empty."""
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_THREADS:
        raise ImportError(f"{name}={text!r}: expected a number of threads from 1 to {MAX_THREADS}")
    return value


def default_num_threads() -> int:
    """Return min(CPU affinity, control group's quota), or what CONVKIT_NUM_THREADS says."""
    asked = _positive_int(os.environ.get("CONVKIT_NUM_THREADS"), "CONVKIT_NUM_THREADS")
    if asked:
        return asked
    try:
        cpus = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota()
    if quota is not None:
        cpus = min(cpus, max(1, math.ceil(quota)))
    omp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if omp.isdigit() and int(omp) > 0:
        cpus = min(cpus, int(omp))
    return max(1, min(cpus, MAX_THREADS))


_process_threads = default_num_threads()
_local_threads: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "convkit_threads", default=None)


def checked_threads(n: int) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"expected a number of threads as an int, got {n!r}")
    n = n.__index__()
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"expected 1 to {MAX_THREADS} threads, got {n}")
    return n


def get_num_threads() -> int:
    """Return how many threads operations called from here may use."""
    local = _local_threads.get()
    return _process_threads if local is None else local


def set_num_threads(n: int) -> None:
    """Set how many threads operations use, for the whole process.

    Parameters
    ----------
    n : int
        From 1 to 1024. Results do not depend on it, to the bit.

    Raises
    ------
    TypeError, ValueError
        When `n` is no integer, or out of range.
    """
    global _process_threads
    _process_threads = checked_threads(n)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads within a ``with`` block, in this Python thread (or task) only."""
    token = _local_threads.set(checked_threads(n))
    try:
        yield
    finally:
        _local_threads.reset(token)


def config() -> dict[str, object]:
    """Return what this process runs on and what was chosen, as a dictionary."""
    import numpy as np

    from convkit._kernels import dispatch
    from convkit._kernels import threads as kernel_threads
    from convkit._precision import get_precision
    from convkit._version import __version__

    return {
        "convkit": __version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "cpu": dispatch.cpu_name(),
        "instruction sets": dispatch.supported_isas(),
        "instruction set in use": dispatch.isa(),
        "openmp": kernel_threads.have_openmp(),
        "threading": kernel_threads.threading(),
        "precision": get_precision(),
        "threads": get_num_threads(),
        "cpus allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "cgroup quota": _cgroup_quota(),
    }


def show_config() -> None:
    """Print CPU, instruction sets, threads and versions, and what was chosen."""
    for key, value in config().items():
        if isinstance(value, list):
            value = " ".join(value)
        print(f"{key:24} {value}")
