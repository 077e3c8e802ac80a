"""One training step of whole networks beside PyTorch: forward, loss, backward, SGD update.

Both sides run the same program (`networks.py`) from the same weights on the same batches
with SGD (momentum 0.9, weight decay 5e-4). The losses of the first steps must agree; how
far apart they are is in the table. PyTorch runs in float32 on contiguous and on channels-last
tensors and (``--compile``) through torch.compile, and in bfloat16 autocast; `best` divides
its fastest form by convkit's time: float32 beside `highest` and `high`, bfloat16 beside
`medium`. Peak memory is that of a process of its own, less what it held before the network.

    python benchmarks/training.py
    python benchmarks/training.py --only resnet20 --batch 32 --no-memory
    python benchmarks/training.py --scaling    # by batch and by threads, convkit alone
    python benchmarks/training.py --loading    # the share of an epoch that waits for data
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from networks import NETWORKS

import convkit
from convkit import data as datasets
from convkit import functional, nn, optim

STEPS = 5  # whose losses are compared
PRECISIONS = ("highest", "high", "medium")
# How far losses may be from PyTorch's of the same kind, relative to the largest: the first one,
# before any update, and all. Rounding grows with the steps, fastest behind batch norms over few
# values, so all may also be SPREAD times as far apart as PyTorch's own two float32 forms are.
FIRST = {"highest": 1e-4, "high": 1e-4, "medium": 2e-2}
BOUNDS = {"highest": 1e-3, "high": 1e-3, "medium": 5e-2}
SPREAD = 3
# PyTorch's forms: memory format, bfloat16 autocast, compiled.
FORMS = {"torch float32 contiguous": (False, False, False),
         "torch float32 channels_last": (True, False, False),
         "torch float32 compiled": (True, False, True),
         "torch bfloat16 contiguous": (False, True, False),
         "torch bfloat16 channels_last": (True, True, False)}
BATCHES = (16, 32, 64, 128)
SETTINGS = {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}


def batches(shape: tuple[int, ...], batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return random images and labels: the arithmetic does not know them from real ones."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((batch, *shape), dtype=np.float32),
             rng.integers(0, 10, batch)) for _ in range(STEPS)]


def endless(data: list[tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    """Return a function that gives the batches in turn, for ever."""
    count = iter(range(1 << 62))
    return lambda: data[next(count) % len(data)]


def ours(build: Callable, state: dict[str, np.ndarray],
         data: list[tuple[np.ndarray, np.ndarray]], precision: str = "high"
         ) -> Callable[[], Any]:
    """Return convkit's training step; it returns the loss."""
    model = build(nn, functional)
    model.load_state_dict(state)
    optimizer = optim.SGD(model.parameters(), **SETTINGS)
    draw = endless([(convkit.from_numpy(x), convkit.from_numpy(t)) for x, t in data])

    def step():
        x, target = draw()
        optimizer.zero_grad()
        with convkit.precision(precision):
            loss = functional.cross_entropy(model(x), target)
            loss.backward()
        optimizer.step()
        return loss

    return step


def theirs(build: Callable, state: dict[str, np.ndarray],
           data: list[tuple[np.ndarray, np.ndarray]], channels_last: bool,
           bfloat16: bool = False, compiled: bool = False) -> Callable[[], Any]:
    """Return PyTorch's training step; it returns the loss."""
    torch = common.require_torch()
    form = {"memory_format": torch.channels_last if channels_last else torch.contiguous_format}
    model = build(torch.nn, torch.nn.functional)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    model = model.to(**form)
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    draw = endless([(torch.from_numpy(x).contiguous(**form), torch.from_numpy(t))
                    for x, t in data])

    def step():
        x, target = draw()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.cross_entropy(call(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def first_weights(build: Callable) -> dict[str, np.ndarray]:
    """Return the weights that all sides start from."""
    convkit.manual_seed(0)
    return {k: np.array(v) for k, v in build(nn, functional).state_dict().items()}


def side(name: str, which: str, batch: int) -> Callable[[], Any]:
    """Return one side's training step of a network."""
    build, shape, _ = NETWORKS[name]
    data = batches(shape, batch)
    if which in PRECISIONS:
        return ours(build, first_weights(build), data, which)
    return theirs(build, first_weights(build), data, *FORMS[which])


def peak_memory(name: str, which: str, batch: int, threads: int) -> int:
    """Return the bytes that a few steps take in a process of their own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", name, which,
               "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, which: str, batch: int) -> None:
    """Print this process's peak memory over three steps, less what it holds before."""
    def status(field: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))

    step = side(name, which, batch)
    before = status("VmRSS:")
    for _ in range(3):
        step()
    print(status("VmHWM:") - before)


def run(name: str, options: Any, agreement: common.Agreement) -> dict[str, Any]:
    """Check and time one network's training step."""
    build, shape, batch = NETWORKS[name]
    batch = options.batch or batch
    forms = [f for f in FORMS if options.compile or f != "torch float32 compiled"]
    sides = {which: side(name, which, batch) for which in (*PRECISIONS, *forms)}
    losses = {which: [float(step().item()) for _ in range(STEPS)]
              for which, step in sides.items()}
    flops = 3 * convkit.summary(build(nn, functional), (1, *shape)).flops * batch
    timing = common.interleave(sides, options.seconds, options.quick,
                               lambda: common.peak(options.threads))
    measured = [] if options.no_memory else [
        *PRECISIONS, *(f for f in forms if not (options.quick and "channels_last" in f))]
    peaks = {which: peak_memory(name, which, batch, options.threads) for which in measured}
    own = [np.array(losses[f"torch float32 {form}"]) for form in ("contiguous", "channels_last")]
    spread = float(np.abs(own[0] - own[1]).max() / np.abs(own[1]).max())
    rows = {}
    for precision in PRECISIONS:
        kind = "bfloat16" if precision == "medium" else "float32"
        others = [f for f in forms if kind in f]
        agreement.bound = FIRST[precision]
        for f in others:
            agreement.check(f"{name}, first loss, {precision} and {f}", losses[precision][:1],
                            losses[f][:1])
        agreement.bound = max(BOUNDS[precision], SPREAD * spread)
        seconds = timing[precision]["seconds"]
        fastest = min(others, key=lambda f: timing[f]["seconds"])
        rows[precision] = {
            "best": timing[fastest]["ratio"] / timing[precision]["ratio"], "fastest": fastest,
            "images per second": batch / seconds,
            "share of peak": flops / 1e9 * timing[precision]["per rate"],
            "loss difference": max(agreement.check(
                f"{name}, losses of {STEPS} steps, {precision} and {f}", losses[precision],
                losses[f]) for f in others),
            "memory": peaks.get(precision),
            "memory of PyTorch": min((peaks[f] for f in others if f in peaks), default=None)}
    return {"network": name, "batch": batch, "losses": losses, "timing": timing, "flops": flops,
            "loss spread of PyTorch": spread,
            "precisions": rows}


def scaling(options: Any) -> list[dict[str, Any]]:
    """Time ResNet-20 by batch, and ResNet-18 and ResNet-20 on 1 and 2 threads."""
    sizes = (2, 4) if options.quick else BATCHES
    by_batch = common.interleave({str(b): side("resnet20", "high", b) for b in sizes},
                                 options.seconds, options.quick)
    each = {b: by_batch[b]["seconds"] / int(b) for b in by_batch}
    common.print_table(["ResNet-20, batch", "ms a step", "us an image", "of the smallest batch"],
                       [[b, f"{t['seconds'] * 1e3:.2f}", f"{each[b] * 1e6:.0f}",
                         f"{each[b] / each[str(sizes[0])]:.3f}"] for b, t in by_batch.items()])
    results = [{"network": "resnet20", "by batch": by_batch}]
    for name in ("resnet18", "resnet20"):
        step = side(name, "high", 2 if options.quick else NETWORKS[name][2])
        by_threads = common.interleave({str(n): common.on_threads(step, n) for n in (1, 2)},
                                       options.seconds, options.quick, rate=common.second_core)
        print(f"{name}, 2 threads: {1 / by_threads['2']['ratio']:.2f} times as fast as 1; "
              f"products in registers: {by_threads['1']['rate']:.2f} times")
        results.append({"network": name, "by threads": by_threads})
    return results


def loading(options: Any) -> list[dict[str, Any]]:
    """Measure how long steps wait for batches that are augmented in the background."""
    rng = np.random.default_rng(0)
    count = 256 if options.quick else 6400
    images = rng.integers(0, 256, (count, 3, 32, 32), np.uint8)
    dataset = datasets.ImageDataset(images, rng.integers(0, 10, count),
                                    [str(i) for i in range(10)])
    augment = datasets.augment
    build = NETWORKS["resnet20"][0]
    model = build(nn, functional)
    optimizer = optim.SGD(model.parameters(), **SETTINGS)
    results = []
    for name, transform in (
            ("as they are", None),
            ("crop, flip, colour", augment.Compose([
                augment.RandomCrop(32, padding=4), augment.RandomHorizontalFlip(),
                augment.ColorJitter(0.2, 0.2, 0.2)]))):
        loader = datasets.DataLoader(dataset, 128, shuffle=True, transform=transform,
                                     mean=[0.5] * 3, std=[0.25] * 3, seed=0)
        waited, begun, first = 0.0, time.perf_counter(), None
        before = begun
        for x, target in loader:
            now = time.perf_counter()
            if first is None:
                first, begun = now - before, now  # nothing can be ready before the first
            else:
                waited += now - before
            optimizer.zero_grad()
            functional.cross_entropy(model(x), target).backward()
            optimizer.step()
            before = time.perf_counter()
        whole = before - begun
        results.append({"images": name, "waiting": waited, "seconds": whole,
                        "share": waited / whole, "first batch": first})
    common.print_table(["ResNet-20, images", "s an epoch", "waiting for data", "first batch, ms"],
                       [[r["images"], f"{r['seconds']:.2f}", f"{100 * r['share']:.2f} %",
                         f"{r['first batch'] * 1e3:.1f}"] for r in results])
    return results


def table(result: dict[str, Any]) -> list[list[str]]:
    """Return a result as lines of the table."""
    def megabytes(size: int | None) -> str:
        return "" if size is None else f"{size / 1e6:.0f}"

    return [[f"{result['network']} b{result['batch']}", precision,
             f"{result['timing'][precision]['seconds'] * 1e3:.2f}",
             f"{result['timing'][r['fastest']]['seconds'] * 1e3:.2f}",
             r["fastest"].removeprefix("torch "), f"{r['best']:.2f}",
             f"{r['images per second']:.0f}", f"{100 * r['share of peak']:.0f}%",
             megabytes(r["memory"]), megabytes(r["memory of PyTorch"]),
             f"{r['loss difference']:.0e}"] for precision, r in result["precisions"].items()]


def main() -> None:
    """Run the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=40.0)
    parser.add_argument("--batch", type=int, default=None, help="batch size of all networks")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--scaling", action="store_true", help="time by batch and threads")
    parser.add_argument("--loading", action="store_true", help="time that steps wait for data")
    parser.add_argument("--measure", nargs=2, metavar=("NETWORK", "SIDE"),
                        help="print the peak memory of one side and end")
    options = parser.parse_args()
    if options.measure and options.measure[1] in PRECISIONS:
        convkit.set_num_threads(options.threads)    # without waiting for PyTorch
    else:
        common.set_threads(options.threads)
    if options.measure:
        measure(*options.measure, options.batch or NETWORKS[options.measure[0]][2])
        return
    record = common.machine(options.threads)
    common.print_machine(record)
    agreement = common.Agreement(0.0)
    if options.scaling or options.loading:
        results = (scaling(options) if options.scaling else []) \
            + (loading(options) if options.loading else [])
    else:
        common.require_torch()
        if options.quick:
            options.batch = options.batch or 2
        results = [run(name, options, agreement) for name in NETWORKS if options.only in name]
        print("milliseconds a step; best: PyTorch's fastest form of the kind / convkit")
        common.print_table(["network", "precision", "convkit", "PyTorch", "form", "best",
                            "images/s", "of peak", "MB", "PyTorch MB", "losses apart"],
                           [line for result in results for line in table(result)])
    common.write_results("training", options, record, results)
    agreement.finish()


if __name__ == "__main__":
    main()
