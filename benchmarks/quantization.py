"""Quantised networks: accuracy on CIFAR-10, speed beside float32 and the peers' int8.

With a .ckit file and a folder of CIFAR-10's binary files, prints the accuracy of the file as it
is and quantised by every method, on training images as calibration data. Without, times a network
of `convkit.models` on random images. The peers run the very same quantised network, written as
ONNX; seconds are wall-clock, so run it with nothing beside.

    python benchmarks/quantization.py --model resnet50 --threads 1
    python benchmarks/quantization.py resnet20.ckit --cifar10 data --threads 2
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import (
    arguments,
    interleave,
    machine,
    print_machine,
    print_table,
    set_threads,
    write_results,
)
from inference_peers import PEERS

import convkit as ck

CALIBRATION = 512


def images_of(options, program) -> tuple[np.ndarray, np.ndarray | None, tuple | None]:
    """Return calibration images, their labels, and (images, labels) to test on."""
    (shape,) = program.input_shapes.values()
    if options.cifar10 is None:
        shape = (max(options.batches), *shape[1:])
        return np.random.default_rng(0).standard_normal(shape, np.float32), None, None
    sets = [ck.data.CIFAR10(options.cifar10, train=train) for train in (True, False)]
    prepare = program.preprocessing or (lambda x: x.astype(np.float32) / 255)
    return (np.asarray(prepare(sets[0].images[:CALIBRATION])), sets[0].labels[:CALIBRATION],
            (np.asarray(prepare(sets[1].images)), sets[1].labels))


def share_right(program, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy on test images."""
    scores = [program.run(images[i:i + 250]) for i in range(0, len(images), 250)]
    return float((np.concatenate(scores).argmax(axis=1) == labels).mean())


def accuracy(program, options) -> list[dict]:
    """Print the accuracy before and after, by method."""
    calibration, labels, test = images_of(options, program)
    if test is None:
        return []
    before = share_right(program, *test)
    rows = []
    for method in ("minmax", "percentile", "mse"):
        quantised = ck.quantize(program, calibration, method=method, labels=labels)
        after = share_right(quantised, *test)
        worst = quantised.quantization.worst
        rows.append({"method": method, "float": before, "int8": after,
                     "points": 100 * (after - before), "worst": worst.name, "dB": worst.snr})
    print_table(("ranges by", "float", "int8", "points", "worst layer", "dB"), [
        (r["method"], f"{r['float']:.2%}", f"{r['int8']:.2%}", f"{r['points']:+.2f}", r["worst"],
         f"{r['dB']:.1f}") for r in rows])
    return rows


def sides_of(program, quantised, batch: int, threads: int, folder: Path) -> dict:
    """Return a caller for each side: int8, float, and the peers on the same int8 network."""
    sides = {"int8": quantised.run, program.precision: program.run}
    path = folder / "int8.onnx"
    try:
        ck.io.onnx.save(quantised, path)
    except ImportError:
        return sides
    for name, make in PEERS["int8"].items():
        call = make(path, batch, threads)
        if call is not None:
            sides[name] = call
    return sides


def speed(program, quantised, x: np.ndarray, options) -> list[dict]:
    """Time all sides on batches."""
    results, rows = [], []
    for batch in options.batches:
        images = np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:])))
        with tempfile.TemporaryDirectory() as folder:
            sides = sides_of(program, quantised, batch, options.threads, Path(folder))
            want = np.asarray(quantised.run(images))
            for name, call in sides.items():
                apart = np.linalg.norm(np.asarray(call(images)) - want) / np.linalg.norm(want)
                if not apart < 0.2:
                    raise SystemExit(f"{name} differs by {apart:.2g}")
            timed = interleave({name: lambda call=call, x=images: call(x)
                                for name, call in sides.items()}, options.seconds, options.quick)
        for name, t in timed.items():
            rows.append((f"{name} batch {batch}", f"{1e3 * t['seconds']:.3f}",
                         f"{t['ratio']:.2f}"))
            results.append({"side": name, "batch": batch, **t})
    print_table(("side", "ms", "times int8's"), rows)
    return results


def main() -> None:
    """Quantise a network, print accuracy and speed, and write results."""
    parser = arguments(__doc__.splitlines()[0], seconds=10)
    parser.add_argument("file", nargs="?", help="a .ckit file with a float network")
    parser.add_argument("--model", default="resnet20", help="without a file: its name "
                        "(default: %(default)s)")
    parser.add_argument("--cifar10", help="folder with CIFAR-10's binary files")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    set_threads(options.threads)
    record = machine(options.threads)
    print_machine(record)
    if options.file:
        program = ck.load(options.file)
    else:
        ck.manual_seed(0)
        size = 32 if options.model.startswith("resnet20") else 224
        model = getattr(ck.models, options.model)()
        model.train()(ck.tensor(np.random.default_rng(1).standard_normal(
            (8, 3, size, size), np.float32)))
        program = ck.compile(model.eval(), (1, 3, size, size))
    results = [{"accuracy": accuracy(program, options)}]
    x, _, _ = images_of(options, program)
    quantised = ck.quantize(program, x[:CALIBRATION])
    print(quantised.quantization, "\n")
    results += speed(program, quantised, x, options)
    write_results("quantization", options, record, results)


if __name__ == "__main__":
    main()
