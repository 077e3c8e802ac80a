"""A network whose gradients are averaged over all processes while backward runs."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from convkit import nn
from convkit.autograd import Tensor, after_backward
from convkit.distributed.group import DistributedError, Group, default_group
from convkit.distributed.tensors import broadcast_all

__all__ = ["DistributedDataParallel", "Reducer"]

MEGABYTE = 1 << 20


class DistributedDataParallel(nn.Module):
    """Wraps a network for training on several processes.

    Weights and buffers start as those of rank 0. When a backward has finished a bucket of
    gradients, a thread sums it over the processes while backward goes on with the layers
    before; the gradients at hand after ``loss.backward()`` are the means over the processes.

    Parameters
    ----------
    module : Module
        The network; `state_dict` of the wrapper has its names behind "module.".
    bucket_cap_mb : float
        Megabytes that are sent together.
    broadcast_buffers : bool
        Give all processes rank 0's buffers (running estimates) before each forward in
        training.

    Raises
    ------
    RuntimeError
        Without `init_process_group`.
    DistributedError
        When the processes' networks differ in shape, or another process does not answer (in
        `backward` too).

    Notes
    -----
    Every forward in training must be followed by a backward on every process, or be in
    `no_sync`. Parameters that get no gradient on a process count as zeros where others have
    one.
    """

    def __init__(self, module: nn.Module, *, bucket_cap_mb: float = 25.0,
                 broadcast_buffers: bool = True):
        super().__init__()
        if not bucket_cap_mb > 0:
            raise ValueError(f"expected bucket_cap_mb above 0, got {bucket_cap_mb}")
        group = default_group()
        self.module = module
        self.broadcast_buffers = broadcast_buffers
        self._group = group
        shapes = [(n, t.shape, str(t.dtype)) for n, t in module.state_dict().items()]
        if any(other != shapes for other in group.gather_object(shapes)):
            raise DistributedError("the processes' networks have different parameters")
        broadcast_all([*module.parameters(), *module.buffers()], group)
        self.reducer = Reducer([p for p in module.parameters() if p.requires_grad],
                               group.duplicate(), int(bucket_cap_mb * MEGABYTE))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        if self.broadcast_buffers and self.training and self._group.size > 1:
            broadcast_all(self.module.buffers(), self._group)
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within the block gradients stay those of this process, to be accumulated."""
        before, self.reducer.enabled = self.reducer.enabled, False
        try:
            yield
        finally:
            self.reducer.enabled = before


class Reducer:
    """Sums parameters' gradients over a group's processes, a bucket at a time.

    Parameters
    ----------
    parameters : list of Parameter
        The same on all processes, in the order of the forward.
    group : Group
        Used by this object alone.
    cap : int
        Bytes in a bucket; a larger gradient has one by itself.

    Attributes
    ----------
    enabled : bool
        Whether a backward sums.
    average : bool
        Whether sums are divided by the number of processes.
    before_send : callable or None
        ``before_send(parameter)`` changes a gradient before it is summed.
    """

    def __init__(self, parameters: list[Any], group: Group, cap: int):
        self.enabled = self.average = True
        self.before_send: Callable[[Any], None] | None = None
        self._group = group
        self._buckets = list(_buckets(parameters[::-1], cap))
        self._bucket_of = {id(p): i for i, b in enumerate(self._buckets) for p in b}
        self._ready: list[int] = []
        self._next = 0  # the first bucket that was not sent: all processes send in one order
        self._begun = False
        self._worker: _Worker | None = None
        if group.size > 1 and group.any_thread:
            self._worker = _Worker(self._sum)
        for p in parameters:
            p.register_post_accumulate_grad_hook(self._final)

    def _final(self, parameter: Any) -> None:
        """Count a gradient that is final; called by backward."""
        if not self.enabled:
            return
        if not self._begun:
            self._begun, self._next = True, 0
            self._ready = [0] * len(self._buckets)
            after_backward(self.finish)
        self._ready[self._bucket_of[id(parameter)]] += 1
        while self._next < len(self._buckets) \
                and self._ready[self._next] == len(self._buckets[self._next]):
            self._send(self._buckets[self._next])
            self._next += 1

    def total(self, count: int) -> int:
        """Return the sum of the processes' counts."""
        return int(self._group.gather(np.array([count], np.int64)).sum())

    def reduce_now(self) -> None:
        """Sum the gradients at hand, without a backward."""
        self._begun, self._next = True, 0
        self.finish()

    def finish(self) -> None:
        """Send what is left, wait for the sums, and put them into the gradients."""
        if not self._begun:
            return
        self._begun = False
        for bucket in self._buckets[self._next:]:
            self._send(bucket)
        if self._worker is not None:
            self._worker.wait()

    def _send(self, bucket: list[Any]) -> None:
        if self.before_send is not None:
            for p in bucket:
                self.before_send(p)
        if self._worker is not None:
            self._worker.put(bucket)
        else:
            self._sum(bucket)

    def _sum(self, bucket: list[Any]) -> None:
        """Replace a bucket's gradients by their sums (means) over the processes."""
        if self._group.size == 1:
            return
        # A flag for each gradient follows them: where nobody has one, there is none after.
        total = sum(p.numel() for p in bucket)
        flat = np.zeros(total + len(bucket), bucket[0].dtype)
        at = 0
        for i, p in enumerate(bucket):
            if p.grad is not None:
                flat[at:at + p.numel()].reshape(p.shape)[...] = p.grad.data
                flat[total + i] = 1
            at += p.numel()
        self._group.sum_(flat)
        if self.average:
            flat[:total] *= 1 / self._group.size
        at = 0
        for i, p in enumerate(bucket):
            if flat[total + i]:
                if p.grad is None:
                    p.grad = Tensor(np.empty_like(p.data))
                p.grad._change()[...] = flat[at:at + p.numel()].reshape(p.shape)
            at += p.numel()


def _buckets(parameters: list[Any], cap: int) -> Iterator[list[Any]]:
    """Cut parameters into lists of one element type and at most `cap` bytes."""
    bucket: list[Any] = []
    size = 0
    for p in parameters:
        if bucket and (size + p.data.nbytes > cap or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p.data.nbytes
    if bucket:
        yield bucket


class _Worker:
    """A thread that sums buckets one after the other."""

    def __init__(self, work: Callable[[list[Any]], None]):
        self._work = work
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._done = threading.Semaphore(0)
        self._sent = 0
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="convkit-reducer", daemon=True).start()

    def put(self, bucket: list[Any]) -> None:
        """Have a bucket summed."""
        self._sent += 1
        self._queue.put(bucket)

    def wait(self) -> None:
        """Wait for all buckets; raise what went wrong."""
        for _ in range(self._sent):
            self._done.acquire()
        self._sent = 0
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            bucket = self._queue.get()
            try:
                if self._error is None:
                    self._work(bucket)
            except BaseException as error:
                self._error = error
            self._done.release()
