"""The processes that train together, and collective calls that end when one of them is gone.

No call blocks in MPI: requests are polled until a time limit is over, so that a rank whose
partner died raises `DistributedError` instead of waiting for ever. An error that ends one
process ends all of them (`MPI_Abort`), as MPI cannot go on without it.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from convkit.errors import ConvkitError
from convkit.extras import require

__all__ = ["DistributedError", "Group", "abort", "barrier", "default_group",
           "destroy_process_group", "get_rank", "get_world_size", "init_process_group",
           "is_available", "is_initialized", "is_launched"]

# How long a request is polled without a pause, and the longest pause after that, in seconds.
EAGER, PAUSE = 2e-4, 1e-3


# Where launchers tell processes how many they are: MPICH's and Intel's, Open MPI's, MVAPICH's.
LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class DistributedError(ConvkitError, RuntimeError):
    """Another process did not answer, or works on something else."""


class Group:
    """Processes with calls that all of them make in the same order.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Used by this object alone.
    timeout : float
        Seconds after which a call fails that not all others have made.
    """

    def __init__(self, communicator: Any, timeout: float):
        self._mpi = require("mpi4py.MPI", "distributed", "training on several processes")
        self._communicator = communicator
        self.timeout = timeout
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()

    def duplicate(self) -> Group:
        """Return a group of the same processes whose calls do not mix with this one's."""
        return Group(self._communicator.Dup(), self.timeout)

    @property
    def any_thread(self) -> bool:
        """Whether several threads may make calls (of different groups) at once."""
        return self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE

    def wait(self, request: Any, what: str) -> None:
        """Poll a request until it is done.

        Raises
        ------
        DistributedError
            When it is not, within the time limit.
        """
        start = time.perf_counter()
        pause = 0.0
        while not request.Test():
            waited = time.perf_counter() - start
            if waited > self.timeout:
                raise DistributedError(
                    f"{what}: rank {self.rank} of {self.size} waited {self.timeout:g} s for the "
                    "others; one has ended, or does not make the same calls")
            if waited > EAGER:
                pause = min(PAUSE, pause + 2e-5)
            time.sleep(pause)  # 0 lets other threads of this process run

    def neighbours(self) -> int:
        """Return how many of the processes, with this one, are on this machine."""
        local = self._communicator.Split_type(self._mpi.COMM_TYPE_SHARED)
        count = local.Get_size()
        local.Free()
        return count

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.wait(self._communicator.Ibarrier(), "barrier")

    def broadcast(self, array: np.ndarray, source: int = 0) -> None:
        """Overwrite a contiguous array with that of rank `source`."""
        self.wait(self._communicator.Ibcast(array.reshape(-1).view(np.uint8), source),
                  "broadcast")

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return the contiguous arrays of all ranks, of one shape, stacked by rank."""
        out = np.empty((self.size, *array.shape), array.dtype)
        self.wait(self._communicator.Iallgather(
            array.reshape(-1).view(np.uint8), out.reshape(-1).view(np.uint8)), "all_gather")
        return out

    def gather_object(self, value: Any) -> list[Any]:
        """Return the values (anything that pickles) of all ranks in their order."""
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self.gather(np.array([data.size], np.int64))[:, 0]
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[:data.size] = data
        return [pickle.loads(row[:size].tobytes())
                for row, size in zip(self.gather(padded), sizes, strict=True)]

    def sum_(self, flat: np.ndarray) -> None:
        """Sum a flat array over all ranks, in place, in the order of `tree_sum`.

        Each rank gets everybody's values of its own part, adds them, and hands the sums
        round: every byte travels twice, whatever the number of ranks.
        """
        if self.size == 1:
            return
        part = -(-flat.size // self.size)
        sent = np.zeros((self.size, part), flat.dtype)
        sent.reshape(-1)[:flat.size] = flat
        got = np.empty_like(sent)
        as_bytes: Callable = lambda a: a.reshape(-1).view(np.uint8)  # noqa: E731
        self.wait(self._communicator.Ialltoall(as_bytes(sent), as_bytes(got)), "all_reduce")
        mine = tree_sum(list(got))
        self.wait(self._communicator.Iallgather(as_bytes(mine), as_bytes(sent)), "all_reduce")
        flat[:] = sent.reshape(-1)[:flat.size]

    def abort(self, code: int = 1) -> None:
        """End all processes at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._communicator.Abort(code)

    def free(self) -> None:
        """Let go of the communicator."""
        self._communicator.Free()


def tree_sum(parts: list[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays: neighbours are added, then neighbours of those, and so on.

    The arrays may be changed.
    """
    while len(parts) > 1:
        pairs = [np.add(a, b, out=a) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs):]
    return parts[0]


_group: Group | None = None
_hook_before: Callable | None = None


def is_available() -> bool:
    """Tell whether mpi4py is installed."""
    return importlib.util.find_spec("mpi4py") is not None


def is_initialized() -> bool:
    """Tell whether `init_process_group` was called."""
    return _group is not None


def is_launched() -> bool:
    """Tell whether ``mpiexec`` (or Slurm's ``srun --mpi``) started this process among several."""
    return any(os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1
               for name in LAUNCHERS)


def init_process_group(backend: str = "mpi", *, timeout: float = 300.0) -> None:
    """Join the processes that ``mpiexec`` started; an uncaught error then ends all of them.

    Parameters
    ----------
    backend : {"mpi"}
    timeout : float
        Seconds after which a call raises `DistributedError` when another process does not
        make it too.

    Raises
    ------
    ImportError
        When mpi4py or an MPI library is missing.
    RuntimeError
        When the group is there already.
    ValueError
        When an argument is out of range.
    """
    global _group, _hook_before
    if backend != "mpi":
        raise ValueError(f"expected backend 'mpi', got {backend!r}")
    if not timeout > 0:
        raise ValueError(f"expected timeout above 0, got {timeout}")
    if _group is not None:
        raise RuntimeError("the process group is initialised already")
    try:
        mpi = require("mpi4py.MPI", "distributed", "training on several processes")
    except RuntimeError as error:  # mpi4py without a library to load
        raise ImportError(f"training on several processes needs an MPI library: {error}; "
                          "pip install 'convkit[distributed]'") from error
    _group = Group(mpi.COMM_WORLD.Dup(), timeout)
    _hook_before, sys.excepthook = sys.excepthook, _end_all


def destroy_process_group() -> None:
    """Leave the group; all processes call this."""
    global _group
    if _group is not None:
        _group.free()
        _group = None
        sys.excepthook = _hook_before or sys.__excepthook__


def _end_all(kind: type, value: BaseException, trace: Any) -> None:
    """Print an uncaught error and end all processes: the others would wait for this one."""
    (_hook_before or sys.__excepthook__)(kind, value, trace)
    abort()


def abort(code: int = 1) -> None:
    """End all processes at once with an exit code; nothing without a group of several."""
    if _group is not None and _group.size > 1:
        _group.abort(code)


def default_group() -> Group:
    """Return the group that `init_process_group` made.

    Raises
    ------
    RuntimeError
        When there is none.
    """
    if _group is None:
        raise RuntimeError("call convkit.distributed.init_process_group() first")
    return _group


def get_rank() -> int:
    """Return this process's number, from 0; 0 without a group."""
    return 0 if _group is None else _group.rank


def get_world_size() -> int:
    """Return how many processes there are; 1 without a group."""
    return 1 if _group is None else _group.size


def barrier() -> None:
    """Wait until all processes are here."""
    default_group().barrier()
