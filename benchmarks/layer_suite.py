"""Every distinct convolution of well-known networks beside PyTorch, in every precision.

PyTorch runs in float32 and bfloat16, on contiguous and on channels-last tensors; ratios
divide its faster form by convkit's time (above 1: convkit is faster): `highest` and `high`
are compared with float32, `medium` with bfloat16. `medium` has float32 in and out;
`medium-bf16` is the same with bfloat16, as PyTorch has it and layers of a network hand it on.
Forward is inference: no gradients recorded, weights unchanged between calls, so convkit packs
them once. Gradients are single (only the input's, only the weight's); weights are packed in
every call, as in training. `of peak` is of multiply-adds on vectors, `of tiles` of bfloat16
products on tiles (AMX), both measured beside the layer. Errors are normwise, against PyTorch in
float64 on the first sample.

    python benchmarks/layer_suite.py
    python benchmarks/layer_suite.py --networks resnet50 mobilenet_v2 --precisions high
    python benchmarks/layer_suite.py --only "3x3" --passes forward "grad input" "grad weight"
    python benchmarks/layer_suite.py --networks resnet50 --scaling     # one thread beside two
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from layers import NETWORKS, QUICK, Layer

import convkit
from convkit import functional as F
from convkit import nn
from convkit.ops import planner
from convkit.ops.conv import Conv
from convkit.ops.conv_problem import forward_problem
from convkit.ops.deferred import plain
from convkit.ops.halves import Halves
from convkit.ops.kept import Rounded
from convkit.ops.layout import to_last
from convkit.ops.op import Context

PASSES = ("forward", "grad input", "grad weight")
TASKS = dict(zip(PASSES, ("forward", "grad_input", "grad_weight"), strict=True))
PRECISIONS = ("highest", "high", "medium", "medium-bf16")
# Normwise error that each precision promises.
BOUNDS = {"highest": 2e-6, "high": 1e-5, "medium": 1e-2, "medium-bf16": 1e-2}
IMAGE_CHANNELS = 3
LONG = 1e-3  # seconds on one thread from which on `--scaling` prints a layer
# Above this many operations the float64 reference takes too long.
REFERENCE_OPERATIONS = 4e9


class Case:
    """One layer's arrays, and its passes on every side."""

    def __init__(self, layer: Layer):
        rng = np.random.default_rng(0)
        self.layer = layer
        shape = (layer.batch, layer.channels, layer.size, layer.size)
        self.x = _channels_last(rng.standard_normal(shape, dtype=np.float32))
        in_group = layer.channels // layer.groups
        w = rng.standard_normal((layer.filters, in_group, *layer.kernel), dtype=np.float32)
        self.w = w / np.float32(math.sqrt(in_group * math.prod(layer.kernel)))
        self.gy = _channels_last(rng.standard_normal(
            (layer.batch, layer.filters, *layer.out), dtype=np.float32))

    def arguments(self) -> tuple:
        """Return stride, padding, dilation and groups as PyTorch takes them."""
        layer = self.layer
        return (layer.stride,) * 2, layer.padding, (layer.dilation,) * 2, layer.groups

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of convkit's operation."""
        stride, padding, dilation, groups = self.arguments()
        return {"stride": stride, "padding": tuple((p, p) for p in padding),
                "dilation": dilation, "groups": groups}

    def algorithm(self, which: str, precision: str) -> str:
        """Return the name of the algorithm that convkit takes."""
        problem = forward_problem(self.x.shape, self.w.shape, self.x.dtype,
                                  precision=precision.removesuffix("-bf16"), **self.attributes())
        return planner.choose(problem, TASKS[which]).name

    def ours(self, which: str, precision: str) -> Callable[[], Any]:
        """Return convkit's function for one pass."""
        if precision == "medium-bf16" and self.layer.kind != "linear":
            return self._handed_on(which)
        precision = precision.removesuffix("-bf16")
        if which == "forward":
            if self.layer.kind == "linear":
                return self._our_linear(precision)
            x, weight = convkit.from_numpy(self.x), nn.Parameter(self.w)
            arguments = self.arguments()

            def call():
                with convkit.no_grad(), convkit.precision(precision):
                    return F.conv2d(x, weight, None, *arguments).numpy()

            return call
        wanted = PASSES.index(which) - 1
        ctx = Context(tuple(i == wanted for i in range(2)), convkit.get_num_threads(),
                      precision=precision)
        Conv.forward(ctx, self.x, self.w, **self.attributes())
        return lambda: Conv.backward(ctx, self.gy)[wanted]

    def _handed_on(self, which: str) -> Callable[[], Any]:
        """Return convkit's function for one pass between layers that hand on bfloat16.

        Images, which no layer hands on, are float32.
        """
        threads, forward = convkit.get_num_threads(), which == "forward"
        x = self.x if self.layer.channels == IMAGE_CHANNELS else _rounded(self.x, threads)
        gy = _rounded(self.gy, threads)
        wanted = -1 if forward else PASSES.index(which) - 1
        ctx = Context(tuple(i == wanted for i in range(2)), threads,
                      (None, {}) if forward else (), "medium")
        ctx.defer = True
        if forward:
            return lambda: Conv.forward(ctx, x, self.w, **self.attributes())
        Conv.forward(ctx, x, self.w, **self.attributes())
        return lambda: Conv.backward(ctx, gy)[wanted]

    def _our_linear(self, precision: str) -> Callable[[], np.ndarray]:
        """Return convkit's function for a linear layer."""
        x = convkit.from_numpy(self.x.reshape(len(self.x), -1))
        weight, shape = nn.Parameter(self.w.reshape(len(self.w), -1)), self.gy.shape

        def call():
            with convkit.no_grad(), convkit.precision(precision):
                return F.linear(x, weight).numpy().reshape(shape)

        return call

    def _their_linear(self, which: str, dtype: Any) -> Callable[[], Any]:
        """Return PyTorch's function for one pass of a linear layer: not as a convolution."""
        torch = common.require_torch()
        x, w, gy = (torch.from_numpy(np.ascontiguousarray(a)).to(dtype=dtype).flatten(1)
                    for a in (self.x, self.w, self.gy))

        def call():
            with torch.no_grad():
                if which == "forward":
                    return torch.nn.functional.linear(x, w)[:, :, None, None]
                y = gy @ w if which == "grad input" else gy.T @ x
                return y[:, :, None, None]

        return call

    def torch(self, which: str, dtype: Any, memory_format: Any) -> Callable[[], Any]:
        """Return PyTorch's function for one pass."""
        torch = common.require_torch()
        if self.layer.kind == "linear":
            return self._their_linear(which, dtype)
        x, w, gy = (torch.from_numpy(a).to(dtype=dtype).contiguous(memory_format=memory_format)
                    for a in (self.x, self.w, self.gy))
        stride, padding, dilation, groups = self.arguments()
        if which == "forward":
            def call():
                with torch.no_grad():
                    return torch.nn.functional.conv2d(x, w, None, stride, padding, dilation,
                                                      groups)

            return call
        wanted = PASSES.index(which) - 1
        mask = [i == wanted for i in range(3)]
        return lambda: torch.ops.aten.convolution_backward(
            gy, x, w, None, stride, padding, dilation, False, [0, 0], groups, mask)[wanted]

    def reference(self, which: str) -> tuple[Any, np.ndarray] | None:
        """Return an index into the result and float64 values there; None where too dear."""
        torch = common.require_torch()
        if self.layer.operations / self.layer.batch > REFERENCE_OPERATIONS:
            return None
        if which == "grad weight" and self.layer.operations > REFERENCE_OPERATIONS:
            return None
        samples = slice(None) if which == "grad weight" else slice(0, 1)
        x, w, gy = (torch.from_numpy(np.ascontiguousarray(a)).double()
                    for a in (self.x[samples], self.w, self.gy[samples]))
        stride, padding, dilation, groups = self.arguments()
        if which == "forward":
            return samples, torch.nn.functional.conv2d(x, w, None, stride, padding, dilation,
                                                       groups).numpy()
        wanted = PASSES.index(which) - 1
        mask = [i == wanted for i in range(3)]
        return samples, torch.ops.aten.convolution_backward(
            gy, x, w, None, stride, padding, dilation, False, [0, 0], groups, mask)[
                wanted].numpy()


def _channels_last(a: np.ndarray) -> np.ndarray:
    """Return (N, C, H, W) with pixels' channels side by side in memory."""
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _rounded(a: np.ndarray, threads: int) -> Halves:
    """Return an array of logical order as bfloat16."""
    return Halves(Rounded.of(to_last(a), threads).halves, threads)


def _normwise(got: np.ndarray, want: np.ndarray) -> float:
    """Return the norm of the difference over the norm of what is wanted."""
    return float(np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel()))


def _their_dtype(precision: str) -> str:
    """Return what PyTorch computes with beside a precision."""
    return "bfloat16" if precision.startswith("medium") else "float32"


def _sides(case: Case, which: str, options: Any) -> dict[str, Callable[[], Any]]:
    """Return every side's function, convkit's first."""
    torch = common.require_torch()
    sides = {precision: case.ours(which, precision) for precision in options.precisions}
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    # Agreement is checked with float32.
    for dtype in dict.fromkeys(("float32", *map(_their_dtype, options.precisions))):
        for name, memory_format in formats.items():
            sides[f"torch {dtype} {name}"] = case.torch(which, getattr(torch, dtype),
                                                        memory_format)
    return sides


def run(layer: Layer, which: str, options: Any, agreement: common.Agreement) -> dict[str, Any]:
    """Check and time one pass of one layer."""
    case = Case(layer)
    sides = _sides(case, which, options)
    errors = _errors(case, which, sides, options, agreement)
    tile_peaks: list[float | None] = []

    def peak() -> float:
        tile_peaks.append(common.tile_peak(options.threads))
        return common.peak(options.threads)

    timing = common.interleave(sides, options.seconds, options.quick, peak)
    tile_peak = None if None in tile_peaks else statistics.median(tile_peaks)
    rows = {}
    for precision in options.precisions:
        dtype = _their_dtype(precision)
        seconds = timing[precision]["seconds"]
        rows[precision] = {
            "algorithm": case.algorithm(which, precision), "seconds": seconds,
            "error": errors.get(precision),
            "gflops": layer.operations / seconds / 1e9,
            "share of peak": layer.operations / 1e9 * timing[precision]["per rate"],
            "share of tiles": tile_peak and layer.operations / seconds / 1e9 / tile_peak,
            "gbs": layer.bytes / (2 if precision == "medium-bf16" else 1) / seconds / 1e9,
            "best": min(t["ratio"] for n, t in timing.items()
                        if n.startswith(f"torch {dtype}")) / timing[precision]["ratio"]}
    return {"layer": layer.name, "network": layer.network, "batch": layer.batch,
            "kind": layer.kind, "count": layer.count, "pass": which,
            "operations": layer.operations, "bytes": layer.bytes,
            "fma peak gflops": timing[options.precisions[0]]["rate"],
            "tile peak gflops": tile_peak,
            "precisions": rows, "timing": timing}


def _errors(case: Case, which: str, sides: dict[str, Callable], options: Any,
            agreement: common.Agreement) -> dict[str, float]:
    """Check that sides agree with PyTorch's float32; return normwise errors by precision."""
    theirs = np.asarray(sides["torch float32 contiguous"]())
    reference = case.reference(which)
    errors = {}
    for precision in options.precisions:
        ours = np.asarray(plain(sides[precision]()))
        bound = 2 * BOUNDS[precision] + 1e-5
        what = f"{case.layer.name}, {which}, {precision}"
        difference = _normwise(ours.astype(np.float64), theirs.astype(np.float64))
        if not difference <= bound:
            agreement.failures.append(f"{what}: differs from PyTorch by {difference:.2g}")
        if reference is not None:
            samples, want = reference
            errors[precision] = _normwise(ours[samples], want)
            if not errors[precision] <= BOUNDS[precision]:
                agreement.failures.append(f"{what}: error {errors[precision]:.2g}, promised "
                                          f"{BOUNDS[precision]:g}")
    return errors


def scaling(layers: list[Layer], options: Any) -> list[dict[str, Any]]:
    """Time convkit's layers on one thread and on two, and print those that take long on one."""
    results, lines = [], []
    for which, layer in itertools.product(options.passes, layers):
        case = Case(layer)
        for precision in options.precisions:
            timing = common.interleave({str(n): _on_threads(case, which, precision, n)
                                        for n in (1, 2)},
                                       options.seconds, options.quick, rate=common.second_core)
            results.append({"layer": layer.name, "pass": which, "precision": precision,
                            "by threads": timing})
            alone = timing["1"]["seconds"]
            if alone >= LONG or options.quick:
                lines.append([f"{layer.name} {which}", precision, f"{alone * 1e3:.2f}",
                              f"{1 / timing['2']['ratio']:.2f}", f"{timing['1']['rate']:.2f}"])
    common.print_table(["layer", "precision", "ms, one thread", "two", "products"], lines)
    faster = [1 / r["by threads"]["2"]["ratio"] for r in results
              if r["by threads"]["1"]["seconds"] >= LONG]
    if faster:
        print(f"two threads, the median of {len(faster)} layers over {LONG * 1e3:g} ms: "
              f"{statistics.median(faster):.2f} times as fast")
    return results


def _on_threads(case: Case, which: str, precision: str, threads: int) -> Callable[[], Any]:
    """Return convkit's function for one pass, on so many threads."""
    with convkit.threads(threads):
        return common.on_threads(case.ours(which, precision), threads)


def row(result: dict[str, Any], precision: str) -> list[str]:
    """Return a result as a line of the table."""
    mine = result["precisions"][precision]
    error = "" if mine["error"] is None else f"{mine['error']:.0e}"
    tiles = "" if mine["share of tiles"] is None else f"{100 * mine['share of tiles']:.0f}%"
    return [result["layer"], precision, mine["algorithm"], f"{1e6 * mine['seconds']:.0f}",
            f"{mine['best']:.2f}", f"{mine['gflops']:.0f}", f"{100 * mine['share of peak']:.0f}%",
            tiles, f"{mine['gbs']:.1f}", error]


def totals(results: list[dict[str, Any]], precisions: list[str]) -> list[list[str]]:
    """Return, per network and pass, the time of all its convolutions on every side."""
    rows = []
    for key in dict.fromkeys((r["network"], r["batch"], r["pass"]) for r in results):
        part = [r for r in results if (r["network"], r["batch"], r["pass"]) == key]
        for precision in precisions:
            dtype = _their_dtype(precision)
            ours = sum(r["count"] * r["precisions"][precision]["seconds"] for r in part)
            sides = [n for n in part[0]["timing"] if n.startswith(f"torch {dtype}")]
            theirs = {side: sum(r["count"] * r["timing"][side]["seconds"] for r in part)
                      for side in sides}
            # The faster layout layer by layer, which is more than one program could have.
            best = sum(r["count"] * min(r["timing"][s]["seconds"] for s in sides) for r in part)
            work = sum(r["count"] * r["operations"] for r in part)
            rows.append([f"{key[0]} b{key[1]} {key[2]}", precision, f"{1e3 * ours:.2f}",
                         *[f"{1e3 * theirs[s]:.2f}" for s in sides],
                         f"{min(theirs.values()) / ours:.2f}", f"{best / ours:.2f}",
                         f"{work / ours / 1e9:.0f}"])
    return rows


def largest_errors(results: list[dict[str, Any]], precisions: list[str]) -> list[list[str]]:
    """Return the largest error of each precision, what it may be, and where it is."""
    rows = []
    for precision in precisions:
        known = [(r["precisions"][precision]["error"], f"{r['layer']} {r['pass']}")
                 for r in results if r["precisions"][precision]["error"] is not None]
        if known:
            error, where = max(known)
            rows.append([precision, f"{error:.1e}", f"{BOUNDS[precision]:g}", where])
    return rows


def main() -> None:
    """Run the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=2.5)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=["forward"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--scaling", action="store_true",
                        help="one thread beside two, convkit alone")
    options = parser.parse_args()
    if not options.scaling:
        common.require_torch()
    common.set_threads(options.threads)
    record = common.machine(options.threads)
    common.print_machine(record)
    agreement = common.Agreement(1e-4)
    layers = QUICK if options.quick else [
        layer for name in options.networks for layer in NETWORKS[name]
        if options.only in f"{layer.name} {layer.kind}"]
    if options.scaling:
        common.write_results("layer_suite", options, record, scaling(layers, options))
        return
    results = []
    for which in options.passes:
        part = [run(layer, which, options, agreement) for layer in layers]
        print(f"{which}: microseconds a call; best: PyTorch's faster layout / convkit")
        common.print_table(["layer", "precision", "algorithm", "us", "best", "GFLOP/s", "of peak",
                            "of tiles", "GB/s", "error"],
                           [row(r, p) for r in part for p in options.precisions])
        results += part
    print("all convolutions, ms; the two ratios: its better layout, and its better one by layer")
    common.print_table(["network", "precision", "convkit", "torch contig.", "torch ch.last",
                        "ratio", "by layer", "GFLOP/s"], totals(results, options.precisions))
    common.print_table(["precision", "largest error", "promised", "at"],
                       largest_errors(results, options.precisions))
    common.write_results("layer_suite", options, record, results)
    agreement.finish()


if __name__ == "__main__":
    main()
