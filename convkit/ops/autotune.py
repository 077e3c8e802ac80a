"""Choice of algorithms by measurement, off unless asked for.

With ``convkit.set_autotune(path)`` (or ``CONVKIT_AUTOTUNE=path``) each layer's candidates are
timed once, on one sample of random numbers and one thread, and the fastest is used from then
on, also by later processes that name the same file. So the choice is still a function of the
layer and not of the batch or the threads, but two machines (or two runs without the file) may
choose differently, and then differ in their last bits: that is why it is off by default.

The file is JSON: ``{"<cpu> <instruction set> <convkit's version>": {"<task> <layer>": name}}``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit._kernels import dispatch
from convkit._version import __version__
from convkit.ops.conv_algorithms import BY_NAME, CANDIDATES, Algorithm, Task
from convkit.ops.conv_problem import ConvProblem

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["enabled", "fastest", "set_autotune"]

# Timings of each candidate; the least counts, which other work on the machine disturbs least.
ROUNDS = 5
# A cache file that is larger was not written here.
MOST_BYTES = 16 << 20
# Choices kept at most: of more, the oldest is forgotten.
MOST_CHOICES = 16_384

_lock = threading.RLock()
_choices: dict[str, str] | None = None
_path: Path | None = None


def enabled() -> bool:
    """Tell whether layers are timed."""
    return _choices is not None


def set_autotune(where: str | os.PathLike | bool) -> None:
    """Switch the timing of algorithms on or off.

    Parameters
    ----------
    where : path or bool
        A file that keeps the choices (made when it is absent), True for choices of this
        process alone, False for the fixed order of candidates.

    Raises
    ------
    ValueError
        When the file holds something else than choices.
    """
    global _choices, _path
    with _lock:
        if isinstance(where, bool):
            _path, _choices = None, {} if where else None
        else:
            from pathlib import Path

            path = Path(where)
            _path, _choices = path, _read(path).get(_machine(), {})


def fastest(problem: ConvProblem, task: Task) -> str:
    """Return the name of the fastest algorithm for a layer's task, timing it when unknown."""
    with _lock:
        key = f"{task} {problem.layer}"
        name = _choices.get(key)
        if name is None or BY_NAME[name].refuses(problem, task) is not None:
            name = _measure(dataclasses.replace(problem, batch=1), task)
            _choices[key] = name
            if len(_choices) > MOST_CHOICES:
                del _choices[next(iter(_choices))]
            if _path is not None:
                _write(_path)
        return name


def _measure(problem: ConvProblem, task: Task) -> str:
    """Time every candidate that can do the task on one sample; return the fastest's name."""
    arrays = _arrays(problem, task)
    best: dict[str, float] = {}
    for candidate in CANDIDATES:
        if candidate.refuses(problem, task) is None:
            best[candidate.name] = min(_seconds(candidate, problem, task, arrays))
    return min(best, key=best.__getitem__)


def _arrays(problem: ConvProblem, task: Task) -> tuple[Any, ...]:
    """Return the arguments of a task: two arrays to read, one to write, and a cache."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(problem.dtype)

    x = noise(1, *problem.in_size, problem.in_channels)
    y = noise(1, *problem.out_size, problem.out_channels)
    weight = noise(problem.out_channels, problem.in_group, *problem.kernel)
    return {"forward": (x, weight, y, {}), "grad_input": (y, weight, x, {}),
            "grad_weight": (x, y, weight)}[task]


def _seconds(candidate: type[Algorithm], problem: ConvProblem, task: Task, arrays: tuple):
    """Yield the time of each round; the first, which packs weights, is not counted."""
    work = getattr(candidate, task)
    work(problem, *arrays, 1)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work(problem, *arrays, 1)
        yield time.perf_counter() - start


def _machine() -> str:
    return f"{dispatch.cpu_name()} {dispatch.isa()} {__version__}"


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return all choices in a file, checked; nothing where there is no file."""
    import json

    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: larger than {MOST_BYTES} bytes, no file of choices")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from None
    if not (isinstance(found, dict) and all(isinstance(t, dict) for t in found.values())):
        raise ValueError(f"{path}: expected choices by machine and layer")
    for table in found.values():
        if not all(isinstance(name, str) for name in table.values()):
            raise ValueError(f"{path}: expected names of algorithms")
    return {machine: {k: v for k, v in table.items() if v in BY_NAME}
            for machine, table in found.items()}


def _write(path: Path) -> None:
    """Add this process's choices to the file, at once or not at all."""
    import json

    with contextlib.suppress(ValueError):
        found = _read(path)
        found[_machine()] = {**found.get(_machine(), {}), **_choices}
        whole = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            whole.write_text(json.dumps(found, indent=1, sort_keys=True))
            os.replace(whole, path)
        finally:
            whole.unlink(missing_ok=True)


if os.environ.get("CONVKIT_AUTOTUNE", "0") != "0":
    set_autotune(os.environ["CONVKIT_AUTOTUNE"]
                 if os.environ["CONVKIT_AUTOTUNE"] != "1" else True)
