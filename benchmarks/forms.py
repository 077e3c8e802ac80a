"""Every form of convolution beside im2col and a matrix product; the worst of them last.

Strides, dilations, groups, depthwise, one axis or two, odd sizes, even kernels, few and many
channels, forward and both gradients (of which that of the input is the transposed convolution).
The other side copies the pixels under each tap side by side and multiplies: convkit's own kernels
for that or NumPy's (with its BLAS), whichever is faster. One thread's CPU time, in turns: other
work on the machine disturbs it little.

    python benchmarks/forms.py [--random 100]

USERS.md's promise, checked by tests/test_forms.py on some of these: no form runs at less than a
quarter of the speed of im2col and the product.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from convkit._kernels import dispatch
from convkit.ops import planner
from convkit.ops.conv_algorithms import TASKS, Task
from convkit.ops.conv_problem import ConvProblem, forward_problem

# Multiply-adds and bytes of the matrix that a random form has at most.
MOST_WORK = 30e6
MOST_BYTES = 40e6


class Form(NamedTuple):
    """A convolution of x (N, C, H, W), O output channels."""

    batch: int
    channels: int
    size: tuple[int, int]
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def problem(self) -> ConvProblem:
        """Return the problem; raise ShapeError where there is none."""
        return forward_problem(
            (self.batch, self.channels, *self.size),
            (self.columns, self.channels // self.groups, *self.kernel), np.dtype(np.float32),
            stride=self.stride, padding=tuple((p, p) for p in self.padding),
            dilation=self.dilation, groups=self.groups)


def form(channels, size, columns, kernel, stride=1, padding=None, dilation=1, groups=1, batch=2):
    """Return a form; single numbers count for both axes, and "same" padding is the default."""
    def two(v):
        return v if isinstance(v, tuple) else (v, v)

    kernel, dilation = two(kernel), two(dilation)
    if padding is None:
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    return Form(batch, channels, two(size), columns, kernel, two(stride), two(padding), dilation,
                groups)


# What networks use, and what they seldom do.
FORMS = [
    form(3, 64, 192, 8, 8, 0), form(3, 64, 32, 3), form(1, 64, 192, 16, 16, 0),
    form(3, 112, 64, 7, 2), form(3, 67, 48, 11, 4), form(1, 28, 32, 5),
    form(3, 56, 96, 4, 4, 0), form(3, 64, 3, 9), form(64, 28, 3, 9), form(64, 28, 64, 3),
    form(64, 29, 64, 3, 2), form(64, 28, 64, 3, 3), form(128, 14, 128, 3, 2), form(256, 7, 256, 3),
    form(512, 4, 512, 3), form(512, 2, 512, 3), form(64, 28, 64, 3, 1, 0), form(64, 28, 128, 1),
    form(256, 28, 64, 1), form(64, 28, 128, 1, 2), form(64, 28, 64, 1, 3), form(1024, 7, 17, 1),
    form(17, 31, 1024, 1), form(1, 40, 256, 1), form(256, 28, 1, 1),
    form(1000, 1, 1000, 1, batch=4), form(256, 28, 1, 3), form(1, 28, 256, 3), form(1, 96, 1, 3),
    form(1, 96, 1, 15), form(2, 64, 2, 5), form(5, 33, 7, 3), form(17, 19, 23, 5),
    form(64, 28, 64, 2), form(64, 28, 64, 2, 2, 0), form(64, 28, 64, 4, 2), form(32, 31, 32, 6, 3),
    form(64, 28, 64, (1, 7)), form(64, 28, 64, (7, 1)), form(64, 28, 64, (3, 1), (2, 1)),
    form(64, 28, 64, 3, 1, None, 2), form(64, 28, 64, 3, 1, None, 6),
    form(32, 28, 32, 5, 1, None, 3), form(64, 28, 64, 3, 2, None, 2),
    form(64, 28, 64, 3, 3, None, 2), form(8, 40, 8, 3, 1, None, 12), form(64, 28, 64, 3, groups=2),
    form(64, 28, 64, 3, groups=16), form(64, 28, 64, 3, groups=32),
    form(64, 28, 128, 3, groups=32), form(128, 28, 64, 3, groups=32),
    form(60, 28, 60, 3, groups=20), form(64, 28, 64, 3, 2, groups=16),
    form(64, 28, 64, 5, 3, groups=16), form(96, 28, 96, 1, groups=8),
    form(64, 28, 64, 3, 1, None, 2, groups=16), form(48, 28, 96, 7, groups=24),
    form(64, 28, 64, 3, groups=64), form(65, 29, 65, 3, groups=65),
    form(64, 28, 64, 3, 2, groups=64), form(64, 28, 64, 5, groups=64),
    form(64, 28, 64, 5, 2, groups=64), form(64, 28, 64, 7, groups=64),
    form(64, 28, 64, 3, 3, groups=64), form(64, 28, 64, 4, groups=64),
    form(64, 28, 64, 2, 2, groups=64), form(64, 28, 64, 3, 1, None, 2, groups=64),
    form(64, 28, 64, 3, 2, None, 2, groups=64), form(64, 28, 64, 31, groups=64),
    form(64, 28, 64, (1, 11), groups=64), form(64, 28, 128, 3, groups=64),
    form(64, 28, 256, 3, 2, groups=64), form(3, 64, 3, 5, groups=3), form(2, 64, 2, 3, groups=2),
    form(512, 7, 512, 3, groups=512), form(64, 28, 64, 1, groups=64),
    form(256, 1, 256, 1, groups=256), form(64, (1, 400), 64, (1, 3)),
    form(1, (1, 8000), 32, (1, 80), (1, 4)), form(32, (1, 1000), 32, (1, 9), 1, None, (1, 8)),
    form(64, (1, 400), 64, (1, 4), (1, 2)), form(64, (1, 400), 64, (1, 7), groups=64),
    form(128, (1, 401), 128, (1, 5), (1, 5)), form(64, (1, 800), 64, (1, 31), groups=64),
    form(256, (1, 50), 256, (1, 2), 1, None, (1, 16)), form(16, 13, 16, 13, 1, 0),
    form(16, 26, 64, 13, 13, 0), form(32, 14, 32, 14, 1, 0), form(128, 7, 256, 7, 1, 0),
    form(64, 3, 64, 3, 1, 2), form(32, 9, 32, 3, 1, 7), form(3, 128, 8, 3, 8),
    form(8, 128, 8, 1, 5), form(16, 64, 16, 3, 7, 0), form(64, 14, 64, 4, 2, 1),
    form(128, 7, 64, 4, 2, 1), form(64, 28, 3, 4, 2, 1),
]


def random_forms(count: int, seed: int = 0) -> list[Form]:
    """Return forms drawn at random, of bounded size."""
    rng = np.random.default_rng(seed)
    found: list[Form] = []

    def pair(values, same=0.8):
        a = int(rng.choice(values))
        return (a, a) if rng.random() < same else (a, int(rng.choice(values)))

    while len(found) < count:
        channels, columns = (int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 31, 48, 64, 96, 100,
                                             128, 256, 512, 1000])) for _ in range(2))
        groups = int(rng.choice([1, 1, 1, 2, 4, 8, 16, channels, channels]))
        if groups == channels:
            columns = channels * int(rng.choice([1, 1, 1, 2, 3]))
        if channels % groups or columns % groups:
            continue
        size = pair([1, 2, 3, 5, 7, 8, 14, 15, 28, 31, 56, 64, 100])
        kernel = pair([1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 9])
        if rng.random() < 0.15:
            size, kernel = (1, int(rng.choice([30, 100, 333, 1000]))), (1, kernel[1])
        dilation = pair([1, 1, 1, 1, 2, 3, 4])
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        one = Form(int(rng.choice([1, 2, 4, 8])), channels, size, columns, kernel,
                   pair([1, 1, 1, 1, 2, 2, 3, 4]), padding, dilation, groups)
        try:
            p = one.problem()
        except ValueError:
            continue
        pixels = p.batch * p.out_size[0] * p.out_size[1]
        depth = p.in_channels * p.kernel[0] * p.kernel[1]
        work = pixels * depth * p.out_group
        if 2e5 < work < MOST_WORK and 4 * pixels * depth < MOST_BYTES:
            found.append(one)
    return found


# -- the other side: NumPy's ------------------------------------------------------------------


def _windows(p: ConvProblem, padded: np.ndarray) -> np.ndarray:
    """Return the pixels under each tap as a view (N, OH, OW, kH, kW, C) of the padded input."""
    n, h, w, c = padded.strides
    (sh, sw), (dh, dw) = p.stride, p.dilation
    return np.lib.stride_tricks.as_strided(
        padded, (p.batch, *p.out_size, *p.kernel, p.in_channels),
        (n, sh * h, sw * w, dh * h, dw * w, c))


def _padded(p: ConvProblem) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Return zeros of the padded input's shape, and where the input lies in it."""
    size = [s + sum(pad) for s, pad in zip(p.in_size, p.padding, strict=True)]
    inner = tuple(slice(pad[0], pad[0] + s) for s, pad in zip(p.in_size, p.padding, strict=True))
    return (np.zeros((p.batch, *size, p.in_channels), p.dtype), (slice(None), *inner))


def _matrix(p: ConvProblem, x: np.ndarray) -> np.ndarray:
    """Return the im2col matrices (groups, pixels, taps * channels of a group)."""
    padded, inner = _padded(p)
    padded[inner] = x
    windows = _windows(p, padded)
    windows = windows.reshape(*windows.shape[:-1], p.groups, p.in_group)
    return np.ascontiguousarray(windows.transpose(5, 0, 1, 2, 3, 4, 6)).reshape(
        p.groups, -1, p.kernel[0] * p.kernel[1] * p.in_group)


def _by_group(p: ConvProblem, y: np.ndarray) -> np.ndarray:
    """Return (N, OH, OW, O) as (groups, pixels, O / groups)."""
    return np.moveaxis(y.reshape(-1, p.groups, p.out_group), 1, 0)


def _flat(p: ConvProblem, w: np.ndarray) -> np.ndarray:
    """Return the weight as (groups, taps * channels of a group, O / groups)."""
    w = w.reshape(p.groups, p.out_group, p.in_group, -1)
    return w.transpose(0, 3, 2, 1).reshape(p.groups, -1, p.out_group)


def numpy_task(p: ConvProblem, task: Task, x: np.ndarray, w: np.ndarray,
               y: np.ndarray) -> np.ndarray:
    """Do a task by NumPy; `y` is the output's gradient where one is needed."""
    if task == "forward":
        made = np.matmul(_matrix(p, x), _flat(p, w))
        return np.moveaxis(made, 0, 1).reshape(y.shape)
    if task == "grad_weight":
        made = np.matmul(_matrix(p, x).transpose(0, 2, 1), _by_group(p, y))
        return np.ascontiguousarray(
            made.reshape(p.groups, -1, p.in_group, p.out_group).transpose(0, 3, 2, 1)).reshape(
            w.shape)
    matrix = np.matmul(_by_group(p, y), _flat(p, w).transpose(0, 2, 1))
    matrix = np.moveaxis(matrix.reshape(p.groups, p.batch, *p.out_size, *p.kernel, p.in_group),
                         0, -2).reshape(p.batch, *p.out_size, *p.kernel, p.in_channels)
    padded, inner = _padded(p)
    windows = _windows(p, padded)
    for i in range(p.kernel[0]):
        for j in range(p.kernel[1]):
            windows[:, :, :, i, j] += matrix[:, :, :, i, j]
    return np.ascontiguousarray(padded[inner])


# -- timing ----------------------------------------------------------------------------------


class Result(NamedTuple):
    """What one task of one form took."""

    task: Task
    layer: str
    algorithm: str
    seconds: float
    ratio: float     # im2col's time over ours: speed beside im2col
    by: str          # whose im2col was the faster


def measure(one: Form, task: Task, rounds: int = 5, least: float = 0.001) -> Result:
    """Time the planner's choice beside im2col; raise AssertionError where results differ.

    The generic kernels, which know no instruction set, are not compared with NumPy's BLAS.
    """
    p = one.problem()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((p.batch, *p.in_size, p.in_channels), dtype=np.float32)
    w = rng.standard_normal((p.out_channels, p.in_group, *p.kernel), dtype=np.float32)
    y = rng.standard_normal((p.batch, *p.out_size, p.out_channels), dtype=np.float32)

    def side(algorithm: str) -> Callable[[], np.ndarray]:
        cache: dict = {}
        if task == "forward":
            made = np.empty_like(y)
            arrays = (x, w, made, cache, 1)
        elif task == "grad_input":
            made = np.empty_like(x)
            arrays = (y, w, made, cache, 1)
        else:
            made = np.empty_like(w)
            arrays = (x, y, made, 1)

        def call() -> np.ndarray:
            planner.run(task, p, algorithm, *arrays)
            return made

        return call

    sides = {"auto": side("auto"), "im2col": side("im2col"),
             "numpy": lambda: numpy_task(p, task, x, w, y)}
    want = sides["numpy"]()
    scale = np.abs(want).max() or 1.0
    counts = {}
    for name, call in sides.items():
        error = np.abs(call() - want).max() / scale
        assert error < 1e-4, f"{task} {p.layer}: {name} differs by {error:.1e}"
        start = time.thread_time()
        call()
        counts[name] = max(1, int(least / max(time.thread_time() - start, 1e-6)))
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.thread_time()
            for _ in range(counts[name]):
                call()
            spent[name].append((time.thread_time() - start) / counts[name])
    best = {name: statistics.median(times) for name, times in spent.items()}
    by = "im2col" if dispatch.isa() == "generic" else min(("im2col", "numpy"), key=best.get)
    return Result(task, f"n{p.batch} {p.layer}", planner.choose(p, task).name, best["auto"],
                  best[by] / best["auto"], by)


def main() -> None:
    """Print every form's speed beside im2col's, slowest last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=100, help="forms drawn at random besides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only forms and tasks whose line has this text")
    parser.add_argument("--least", type=float, default=0.0,
                        help="end with status 1 where a form is slower than this")
    parser.add_argument("--quick", action="store_true", help="a few forms, one round")
    options = parser.parse_args()
    forms = FORMS[::20] if options.quick else FORMS + random_forms(options.random, options.seed)
    results = [measure(one, task, 1 if options.quick else 5)
               for one in forms for task in TASKS
               if options.only in f"{task} n{one.batch} {one.problem().layer}"]
    results.sort(key=lambda r: -r.ratio)
    print(f"{'task':11} {'speed':>6} {'us':>8}  beside   algorithm  layer")
    for r in results:
        print(f"{r.task:11} {r.ratio:6.2f} {1e6 * r.seconds:8.0f}  {r.by:7}  {r.algorithm:9}  "
              f"{r.layer}")
    worst = results[-1]
    below = sum(r.ratio < 0.25 for r in results)
    print(f"\n{len(results)} tasks, {below} below 0.25 of im2col's speed, median "
          f"{statistics.median(r.ratio for r in results):.2f}; worst {worst.ratio:.2f}: "
          f"{worst.task} {worst.layer}")
    if worst.ratio < options.least:
        sys.exit(1)


if __name__ == "__main__":
    main()
