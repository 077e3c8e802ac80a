"""What embedding a model costs beside its arithmetic, for convkit, ONNX Runtime and OpenVINO.

Per call: a one-layer network, and its kernel alone. Two Python threads with Programs of one
thread each beside one. In processes of their own: importing, the time from an imported
library to the first result of ResNet-50, and peak memory. File sizes by storage type.

    python benchmarks/embedding.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common
import inference
import numpy as np
from inference_peers import PEERS, versions

import convkit
from convkit import nn

# Run in a fresh process: prints seconds to import, then to the first result, and peak memory.
FIRST_RESULT = """
import json, pathlib, sys, time
import numpy as np
side, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.ones((1, 3, 224, 224), np.float32)
before = time.perf_counter()
if side == "convkit":
    import convkit
elif side == "onnxruntime":
    import onnxruntime
else:
    import openvino
imported = time.perf_counter()
if side == "convkit":
    convkit.load(path, threads=threads)(x)
elif side == "onnxruntime":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: x})
else:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
    compiled([x])
done = time.perf_counter()
# Not ru_maxrss, which begins with that of the process that started this one.
status = pathlib.Path("/proc/self/status").read_text()
peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"import": imported - before, "first result": done - imported, "peak": peak}))
"""


def call_cost(options: Any) -> dict[str, float]:
    """Return microseconds of a call of a network of one tiny layer, by side."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1)).eval()
    x = np.ones((1, 1, 1, 1), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.onnx")
        convkit.io.onnx.save(model, path, input_shape=x.shape)
        sides = {"convkit": convkit.compile(model, x.shape, threads=1)}
        for name, build in PEERS["float32"].items():
            call = build(path, 1, 1)
            if call is not None:
                sides[name] = call
        timing = common.interleave({n: (lambda c=c: c(x)) for n, c in sides.items()},
                                   options.seconds, options.quick)
        kernel = min(sides["convkit"].profile(x).seconds for _ in range(20))
    return {name: 1e6 * t["seconds"] for name, t in timing.items()} | {"kernel": 1e6 * kernel}


def _runs(program: Any, x: np.ndarray, until: float, counts: list[int]) -> None:
    count = 0
    while time.perf_counter() < until:
        program(x)
        count += 1
    counts.append(count)


def two_threads(options: Any) -> float:
    """Return the throughput of two threads calling one-thread Programs over that of one."""
    program = convkit.compile(inference.settled("resnet20", 32, 3), (1, 3, 32, 32), threads=1)
    x = inference.images(8, 32, 3)
    program(x)
    share = 0.05 if options.quick else options.seconds / 20
    ratios = []
    for _ in range(1 if options.quick else 7):
        counts = {}
        for workers in (1, 2):
            until, done = time.perf_counter() + share, []
            team = [threading.Thread(target=_runs, args=(program, x, until, done))
                    for _ in range(workers)]
            for worker in team:
                worker.start()
            for worker in team:
                worker.join()
            counts[workers] = sum(done)
        ratios.append(counts[2] / max(1, counts[1]))
    return statistics.median(ratios)


def first_results(folder: Path, options: Any) -> dict[str, dict[str, float]]:
    """Return medians of import time, time to the first result and peak memory, by side."""
    if options.quick:
        return {}
    size = 224
    model = inference.settled("resnet50", size, 3)
    files = {"convkit": folder / "net.ckit", "onnxruntime": folder / "net.onnx",
             "openvino": folder / "net.onnx"}
    convkit.save(convkit.compile(model, (1, 3, size, size)), files["convkit"])
    convkit.io.onnx.save(model, files["onnxruntime"], input_shape=(1, 3, size, size))
    found: dict[str, list[dict[str, float]]] = {}
    # As after an installation, which leaves compiled Python: the first turn makes what is missing.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for turn in range(6):
        for side, path in files.items():
            done = subprocess.run([sys.executable, "-c", FIRST_RESULT, side, str(path),
                                   str(options.threads)], capture_output=True, text=True,
                                  env=environment, check=False)
            if done.returncode == 0 and turn:
                found.setdefault(side, []).append(json.loads(done.stdout))
    return {side: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for side, runs in found.items()}


def file_sizes(folder: Path, options: Any) -> dict[str, float]:
    """Return the bytes of ResNet-50's file by storage type, over those of float32."""
    name = "lenet5" if options.quick else "resnet50"
    size, channels, _ = inference.NETWORKS[name]
    model = inference.settled(name, size, channels)
    program = convkit.compile(model, (1, channels, size, size))
    sizes = {}
    for weights in ("float32", "float16", "bfloat16"):
        path = folder / f"{weights}.ckit"
        convkit.save(program, path, weights=weights)
        sizes[weights] = path.stat().st_size
    convkit.save(convkit.quantize(model, inference.images(2, size, channels)), path)
    sizes["int8"] = path.stat().st_size
    return {weights: size / sizes["float32"] for weights, size in sizes.items()}


def main() -> None:
    """Print the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=10.0)
    options = parser.parse_args()
    common.set_threads(options.threads)
    record = common.machine(options.threads) | versions()
    common.print_machine(record)
    with tempfile.TemporaryDirectory() as name:
        result = {"call, us": call_cost(options), "two threads / one": two_threads(options),
                  "processes": first_results(Path(name), options),
                  "file / float32": file_sizes(Path(name), options)}
    common.print_table(["one-layer network", "us a call"],
                       [[n, f"{us:.1f}"] for n, us in result["call, us"].items()])
    print(f"two Python threads, one-thread Programs: {result['two threads / one']:.2f} of one\n")
    common.print_table(["ResNet-50", "import ms", "first result ms", "peak MB"],
                       [[side, f"{1e3 * r['import']:.0f}", f"{1e3 * r['first result']:.0f}",
                         f"{r['peak'] / 1e6:.0f}"] for side, r in result["processes"].items()])
    common.print_table(["file", "of float32"],
                       [[w, f"{share:.1%}"] for w, share in result["file / float32"].items()])
    common.write_results("embedding", options, record, [result])


if __name__ == "__main__":
    main()
