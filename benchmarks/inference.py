"""Inference of whole networks beside ONNX Runtime and OpenVINO, from the same ONNX file.

convkit runs its own Program of every precision; the peers that are installed run the file
that `convkit.io.onnx.save` wrote, and PyTorch its own network with the same weights. Outputs
are compared with convkit's at precision "highest". `best` is the fastest float32 peer's time
divided by convkit's; for "medium" and "int8" that of the fastest peer of that precision, where
there is one.

    python benchmarks/inference.py
    python benchmarks/inference.py --networks resnet50 --batches 1 --precisions high int8
"""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import common
import networks
import numpy as np
from inference_peers import PEERS, quantise, versions
from inference_torch import LAYOUTS, torch_sides

import convkit
from convkit import functional, models, nn

# Network: image size, channels, batches.
NETWORKS = {
    "resnet18": (224, 3, (1, 32)), "resnet50": (224, 3, (1, 32)), "vgg16": (224, 3, (1, 8)),
    "mobilenet_v2": (224, 3, (1, 32)), "resnet20": (32, 3, (1, 128)), "lenet5": (28, 1, (1, 128)),
    "lenet_wide": (28, 1, (1, 128)),
}
QUICK = ("lenet5",)
PRECISIONS = ("highest", "high", "medium", "int8")
# Largest difference from "highest", relative to the largest score. Peers in float32 and "high"
# are held to the first; bfloat16 and int8 results are only shown.
BOUND = 1e-3


def settled(name: str, size: int, channels: int) -> nn.Module:
    """Return the network with random weights, and batch norm estimates that fit them."""
    convkit.manual_seed(0)
    if hasattr(models, name):
        model = models.create(name, num_classes=10 if size < 100 else 1000, in_channels=channels)
    else:
        model = networks.NETWORKS[name][0](nn, functional)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with convkit.no_grad():
        for _ in range(2):
            model.train()(images(2, size, channels))
    return model.eval()


def images(count: int, size: int, channels: int) -> np.ndarray:
    """Return smooth random images: neighbouring pixels are alike, as in photographs."""
    rng = np.random.default_rng(1)
    coarse = rng.standard_normal((count, channels, -(-size // 4), -(-size // 4)), np.float32)
    fine = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :size, :size]
    return fine + 0.2 * rng.standard_normal(fine.shape, np.float32)


def ours(model: nn.Module, shape: tuple[int, ...], precision: str, threads: int):
    """Return convkit's Program of one precision."""
    if precision == "int8":
        return convkit.quantize(model, images(8, shape[2], shape[1]), threads=threads)
    return convkit.compile(model, shape, precision=precision, threads=threads)


def run(name: str, folder: Path, options: Any, agreement: common.Agreement) -> list[dict]:
    """Check and time one network at all batches."""
    size, channels, batches = NETWORKS[name]
    model = settled(name, size, channels)
    shape = (1, channels, size, size)
    path = folder / f"{name}.onnx"
    convkit.io.onnx.save(model, path, input_shape=shape)
    programs = {p: ours(model, shape, p, options.threads) for p in options.precisions}
    small = quantise(path, images(8, size, channels)) if "int8" in options.precisions else None
    files = {"float32": path, "bfloat16": path, "int8": small}
    torch = torch_sides(name, model)
    results = []
    for batch in options.batches or batches:
        x = images(batch, size, channels)
        want = convkit.compile(model, shape, precision="highest", threads=options.threads)(x)
        sides = {f"convkit {p}": program for p, program in programs.items()} | torch
        for kind in kinds(options.precisions):
            for peer, build in PEERS[kind].items():
                call = None if files[kind] is None else build(files[kind], batch, options.threads)
                if call is not None:
                    sides[peer] = call
        apart = {}
        for side, call in sides.items():
            got = np.array(call(x))
            if any(word in side for word in ("bf16", "int8", "medium")):
                apart[side] = float(np.abs(got - want).max() / np.abs(want).max())
            else:
                apart[side] = agreement.check(f"{name} b{batch} {side}", got, want)
        timing = time_by_kind({side: functools.partial(call, x) for side, call in sides.items()},
                              options)
        results.append({"network": name, "batch": batch, "timing": timing, "apart": apart})
        print_result(results[-1], options.precisions)
    return results


def time_by_kind(calls: dict[str, Any], options: Any) -> dict[str, dict[str, float]]:
    """Time each side in turns with those of its kind, which it is compared with.

    A side of another kind leaves the processor in another state: after int8 on tiles, tiles
    are throttled, which those in float32 do not notice.
    """
    timing = {}
    for kind in kinds(options.precisions):
        group = {side: call for side, call in calls.items() if side_kind(side) == kind}
        seconds = options.seconds * len(group) / len(calls)
        timing |= common.interleave(group, seconds, options.quick) if group else {}
    return timing


def side_kind(side: str) -> str:
    """Return the kind of a side by its name."""
    own, _, precision = side.partition(" ")
    if own == "convkit":
        return peer_kind(precision)
    return next((kind for kind, peers in PEERS.items() if side in peers), "float32")


def kinds(precisions: list[str]) -> list[str]:
    """Return which peers the precisions are compared with."""
    found = ["float32"]
    return found + ["bfloat16"] * ("medium" in precisions) + ["int8"] * ("int8" in precisions)


def peer_kind(precision: str) -> str:
    """Return the kind of peers that a precision is measured by."""
    return {"medium": "bfloat16", "int8": "int8"}.get(precision, "float32")


def best(result: dict[str, Any], precision: str) -> tuple[float, str] | None:
    """Return the fastest peer's time over convkit's, and the peer's name."""
    timing = result["timing"]
    own = timing[f"convkit {precision}"]["seconds"]
    kind = peer_kind(precision)
    names = [*PEERS[kind], *(LAYOUTS if kind == "float32" else ())]
    peers = [(timing[p]["seconds"] / own, p) for p in names if p in timing]
    return min(peers) if peers else None


def print_result(result: dict[str, Any], precisions: list[str]) -> None:
    """Print a network's table."""
    print(f"{result['network']} batch {result['batch']}")
    rows = []
    for side, timing in result["timing"].items():
        precision = side.removeprefix("convkit ")
        found = best(result, precision) if precision in precisions else None
        rows.append([side, f"{1e3 * timing['seconds']:.3f}",
                     f"{result['batch'] / timing['seconds']:.1f}",
                     f"{found[0]:.2f} of {found[1]}" if found else "",
                     f"{result['apart'][side]:.0e}"])
    common.print_table(["side", "ms", "images/s", "best", "apart"], rows)


def main() -> None:
    """Run the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=20.0)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=None,
                        help="instead of each network's own")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    options = parser.parse_args()
    if options.quick:
        options.networks, options.batches = list(QUICK), options.batches or [2]
    if importlib.util.find_spec("onnx") is None:
        parser.error("this benchmark writes ONNX files: pip install onnx")
    common.set_threads(options.threads)
    record = common.machine(options.threads) | versions()
    common.print_machine(record)
    agreement = common.Agreement(BOUND)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            results += run(name, Path(folder), options, agreement)
    common.write_results("inference", options, record, results)
    agreement.finish()


if __name__ == "__main__":
    main()
