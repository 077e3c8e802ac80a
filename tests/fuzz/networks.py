"""Random networks in eval mode: layers, Programs, .ckit and ONNX files beside PyTorch.

Everything is compared with PyTorch in float64, within what PyTorch's float32 shows to be possible.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import Network, convkit_library, draw_network, numbers
from fuzz.onnx_peer import onnxruntime_result
from fuzz.torch_peer import Peers
from fuzz.trials import Failure, SetAside, allowed, close, main, same

NEEDS = ("torch", "onnx")
PRECISIONS = ("highest", "high", "medium")


def draw(seed: int) -> Network:
    """Draw a network."""
    return draw_network(seed)


def judge(network: Network) -> None:
    """Compare every way to run a network."""
    rng = random.Random(network.seed)
    ck.set_num_threads(rng.choice((1, 2)))
    model = network.build(convkit_library()).eval()
    peers = Peers(network, model)
    scale = np.float32(rng.choice((1,) * 8 + (1e4, 1e-4)))
    x = scale * numbers(network.seed, network.batch, *network.shape)
    try:
        want, own = peers.evaluate(x)
    except ValueError as refusal:  # group norm of one value for each group
        raise SetAside("PyTorch refuses it") from refusal
    if not want.size or not np.isfinite(want).all():
        raise SetAside("no finite numbers")
    given = channels_last(x) if rng.random() < 0.3 else x
    _layers(model, given, want, own, rng.choice(PRECISIONS))
    for precision in rng.sample(PRECISIONS, 2):
        _program(model, given, want, own, precision)
    if rng.random() < 0.4:
        _channels_last_program(model, x, want, own)
    _no_samples(model, x, network)
    with tempfile.TemporaryDirectory() as folder:
        _ckit_file(model, x, Path(folder) / "network.ckit")
        if rng.random() < 0.6:
            _onnx_file(model, x, want, own, Path(folder) / "network.onnx")


def channels_last(x: np.ndarray) -> np.ndarray:
    """Return the same numbers, in memory with the channels last."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def _layers(model, x: np.ndarray, want: np.ndarray, own: float, precision: str) -> None:
    with ck.precision(precision), ck.no_grad():
        close(f"layers at {precision!r}", model(ck.Tensor(x)).data, want,
              allowed("forward", precision, own))


def _no_samples(model, x: np.ndarray, network: Network) -> None:
    """Check that layers take a batch of no samples, as PyTorch's do."""
    with ck.no_grad():
        shape = model(ck.Tensor(x[:0])).shape
    if shape != (0, *network.gives):
        raise Failure(f"no samples: shape {shape}")


def _program(model, x: np.ndarray, want: np.ndarray, own: float, precision: str) -> None:
    """Compare a Program; one sample alone has the bits that it has in the batch."""
    program = ck.compile(model, x.shape, precision=precision, check=False)
    got = program(x)
    close(f"Program at {precision!r}", got, want, allowed("forward", precision, own))
    same(f"Program at {precision!r}, last sample alone", program(x[-1:]), got[-1:])
    with ck.threads(3):
        same(f"Program at {precision!r}, 3 threads", program(x), got)


def _channels_last_program(model, x: np.ndarray, want: np.ndarray, own: float) -> None:
    if x.ndim != 4:
        return
    program = ck.compile(model, x.shape, layout="NHWC", check=False)
    got = program(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    close("Program of channels-last images", got, want, allowed("forward", "high", own))


def _ckit_file(model, x: np.ndarray, path: Path) -> None:
    program = ck.compile(model, x.shape)
    ck.save(program, path)
    same(".ckit file", ck.load(path)(x), program(x))


def _onnx_file(model, x: np.ndarray, want: np.ndarray, own: float, path: Path) -> None:
    ck.io.onnx.save(model, path, x.shape)
    bound = allowed("forward", "high", own)
    peer = onnxruntime_result(path, x)
    if peer is not None:
        close("ONNX file in onnxruntime", peer, want, 10 * bound)  # its exp is coarser
    close("ONNX file read again", ck.compile(ck.io.onnx.load(path))(x), want, bound)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
