"""Random networks quantised to int8: near the float network, the same bits everywhere."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import Network, convkit_library, draw_network, numbers, with_weights
from fuzz.onnx_peer import onnxruntime_result
from fuzz.trials import Failure, SetAside, allowed, close, error, main, same

NEEDS = ("onnx",)
CALIBRATION = 16  # samples


def draw(seed: int) -> Network:
    """Draw a network."""
    return draw_network(seed)


def judge(network: Network) -> None:
    """Compare the quantised network with the float one, and itself with its files."""
    rng = random.Random(network.seed + 2)
    ck.set_num_threads(rng.choice((1, 2)))
    model = network.build(convkit_library()).eval()
    with_weights(model, network.seed)
    x = numbers(network.seed, CALIBRATION, *network.shape)
    with ck.no_grad():
        want = model(ck.Tensor(x)).data
    if not want.size or not np.isfinite(want).all():
        raise SetAside("no finite numbers")
    method = rng.choice(("minmax", "percentile", "mse"))
    program = ck.quantize(model, x, method=method)
    got = program(x)
    if method != "percentile":  # which is free to cut what few numbers are large
        close(f"int8 by {method}", got, want, allowed("int8"))
    _bits(program, x, got)
    with tempfile.TemporaryDirectory() as folder:
        _files(program, x, got, Path(folder))
    if rng.random() < 0.4:
        _exceptions(model, program, x, want, rng)


def _bits(program: Any, x: np.ndarray, got: np.ndarray) -> None:
    """Check that neither batch nor threads change a bit."""
    same("int8, samples alone", np.concatenate([program(x[i:i + 1]) for i in range(3)]), got[:3])
    with ck.threads(3):
        same("int8, 3 threads", program(x), got)


def _files(program: Any, x: np.ndarray, got: np.ndarray, folder: Path) -> None:
    """Check a .ckit file, and an ONNX file in onnxruntime and read again."""
    ck.save(program, folder / "network.ckit")
    same("int8 .ckit file", ck.load(folder / "network.ckit")(x), got)
    ck.io.onnx.save(program, folder / "network.onnx")
    peer = onnxruntime_result(folder / "network.onnx", x)
    if peer is not None:
        close("int8 ONNX file in onnxruntime", peer, got, allowed("int8 elsewhere"))
    again = ck.compile(ck.io.onnx.load(folder / "network.onnx"))
    close("int8 ONNX file read again", again(x), got, allowed("int8 elsewhere"))


def _exceptions(model: Any, program: Any, x: np.ndarray, want: np.ndarray,
                rng: random.Random) -> None:
    """Keep some layers float, and check that the result is not much worse for it."""
    names = [layer.name for layer in program.quantization.layers]
    if not names:
        return
    kept = rng.sample(names, rng.randint(1, len(names)))
    less = ck.quantize(model, x, skip=kept)
    close(f"int8 without {kept}", less(x), want, allowed("int8"))
    if len(kept) == len(names) and error(less(x), want) > allowed("forward"):
        raise Failure(f"int8 with all layers float: off by {error(less(x), want):.2e}")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
