"""Where the time of one training step goes: by operation, forward and backward, beside PyTorch.

Medians over steps: of thread CPU time on one thread, of wall clock time on more. convkit's
operations are timed around their forward and backward; what is left of the step is Python: the
tape, the layers, the loop.

    python benchmarks/step_profile.py resnet20
    python benchmarks/step_profile.py resnet20 --batch 32 --no-torch
    python benchmarks/step_profile.py resnet18 mobilenet_v2 --no-torch    # of convkit.models
    python benchmarks/step_profile.py resnet50 --threads 2 --precision medium
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
import training
from networks import NETWORKS

import convkit
from convkit import functional, models, nn
from convkit.ops import REGISTRY
from convkit.optim import Optimizer


class Clock:
    """Time by name; a call inside a timed call counts once, for the outer.

    Thread CPU time where one thread works, which other programs disturb less, else wall clock time.
    """

    def __init__(self):
        one = convkit.get_num_threads() == 1
        self.now = time.thread_time_ns if one else time.perf_counter_ns
        self.spent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside = False

    def timed(self, name: str, function: Callable) -> Callable:
        """Return `function` with its time booked under `name`."""
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += (self.now() - start) / 1e6
                self.calls[name] += 1
                self._inside = False
        return call


@contextlib.contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Time every operation and the optimisers' updates within the block."""
    before = []

    def wrap(owner: Any, method: str, name: str, kind: Callable) -> None:
        before.append((owner, method, vars(owner).get(method)))
        setattr(owner, method, kind(clock.timed(name, getattr(owner, method))))

    for name, op in REGISTRY.items():
        wrap(op, "forward", name, staticmethod)
        wrap(op, "backward", f"{name} backward", staticmethod)
    wrap(REGISTRY["add"], "total", "sums of gradients", staticmethod)
    wrap(Optimizer, "step", "optimizer", lambda f: f)
    try:
        yield
    finally:
        for owner, method, original in before:
            if original is None:
                delattr(owner, method)
            else:
                setattr(owner, method, original)


def profile(step: Callable[[], Any], rounds: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Return name -> (milliseconds, calls) of a step, and the median step unobserved.

    What the operations leave of the step before, which nobody timed, is Python: so the clock's own
    work is not counted.
    """
    for _ in range(3):
        step()
    clock = Clock()
    whole, tables = [], []
    for _ in range(rounds):
        start = clock.now()
        step()
        whole.append((clock.now() - start) / 1e6)
        clock.spent.clear()
        clock.calls.clear()
        with watched(clock):
            step()
        tables.append({**clock.spent, "(Python)": whole[-1] - sum(clock.spent.values())})
    names = {n for t in tables for n in t}
    return {n: (float(np.median([t.get(n, 0.0) for t in tables])), clock.calls.get(n, 0))
            for n in names}, float(np.median(whole))


def print_ours(step: Callable, rounds: int) -> None:
    """Print convkit's table."""
    table, whole = profile(step, rounds)
    print(f"convkit: {whole:.2f} ms a step")
    rows = sorted(table.items(), key=lambda item: -item[1][0])
    common.print_table(["operation", "ms", "share", "calls"],
                       [[n, f"{ms:.3f}", f"{100 * ms / whole:.1f} %", str(int(calls))]
                        for n, (ms, calls) in rows])


def zoo(name: str, batch: int, precision: str) -> Callable[[], Any]:
    """Return a training step of one of `convkit.models`' networks on 224x224 images."""
    def build(*_: Any) -> nn.Module:
        return models.create(name, num_classes=10)

    state = {k: np.array(v) for k, v in build().state_dict().items()}
    return training.ours(build, state, training.batches((3, 224, 224), batch), precision)


def print_theirs(step: Callable, rounds: int) -> None:
    """Print what PyTorch's profiler says."""
    torch = common.require_torch()
    for _ in range(3):
        step()
    whole = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        step()
        whole.append((time.perf_counter_ns() - start) / 1e6)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        for _ in range(rounds):
            step()
    print(f"PyTorch: {float(np.median(whole)):.2f} ms a step of wall clock time")
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)[:16]
    common.print_table(["operation", "ms", "calls"],
                       [[e.key, f"{e.self_cpu_time_total / 1e3 / rounds:.3f}",
                         f"{e.count / rounds:.0f}"] for e in events])


def main() -> None:
    """Profile the networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet20"],
                        help=", ".join(NETWORKS) + ", or a name of convkit.models")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=training.PRECISIONS, default="high",
                        help="convkit's; PyTorch beside medium uses bfloat16")
    options = parser.parse_args()
    convkit.set_num_threads(options.threads)
    for name in options.networks:
        if name not in NETWORKS:
            print(f"\n{name}, batch {options.batch or 4}")
            print_ours(zoo(name, options.batch or 4, options.precision), options.rounds)
            continue
        build, shape, batch = NETWORKS[name]
        data = training.batches(shape, options.batch or batch)
        state = {k: np.array(v) for k, v in build(nn, functional).state_dict().items()}
        print(f"\n{name}, batch {options.batch or batch}")
        print_ours(training.ours(build, state, data, options.precision), options.rounds)
        if not options.no_torch:
            common.require_torch().set_num_threads(options.threads)
            print_theirs(training.theirs(build, state, data, True, options.precision == "medium"),
                         options.rounds)


if __name__ == "__main__":
    main()
