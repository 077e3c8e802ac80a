"""One training step of random networks: results, gradients and statistics beside PyTorch."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import Network, convkit_library, draw_network, numbers
from fuzz.torch_peer import Peers
from fuzz.trials import Failure, SetAside, allowed, close, error, main

NEEDS = ("torch",)


def draw(seed: int) -> Network:
    """Draw a network."""
    return draw_network(seed)


def judge(network: Network) -> None:
    """Compare a step forward and backward."""
    rng = random.Random(network.seed + 1)
    ck.set_num_threads(rng.choice((1, 2)))
    precision = rng.choice(("highest", "high", "high", "medium"))
    model = network.build(convkit_library())
    peers = Peers(network, model)
    x = numbers(network.seed, network.batch, *network.shape)
    try:
        steps = [_Step(peers.torch, peer.train(), x, network.seed)
                 for peer in (peers.double, peers.single)]
    except ValueError as refusal:
        _refused(model, x, str(refusal))
        return
    if not np.isfinite(steps[0].y).all():
        raise SetAside("no finite numbers")
    kind = "gradient of maxima" if "MaxPool" in str(network) else "gradient"
    _compare(_step(model, x, precision, network.seed), *steps, precision, kind)


def _refused(model: Any, x: np.ndarray, why: str) -> None:
    """Check that what PyTorch refuses (one value for each channel in training) is refused."""
    try:
        model.train()(ck.Tensor(x))
    except ck.ShapeError:
        return
    raise Failure(f"PyTorch refuses, convkit does not: {why}")


class _Step:
    """A step of a PyTorch network, in arrays."""

    def __init__(self, torch: Any, model: Any, x: np.ndarray, seed: int):
        dtype = next(iter(model.parameters()), torch.zeros(1)).dtype
        leaf = torch.tensor(x).to(dtype).requires_grad_()
        y = model(leaf)
        y.backward(torch.tensor(numbers(seed + 1, *y.shape)).to(dtype))
        self.y = y.detach().numpy()
        self.x_grad = _array(leaf.grad, leaf)
        self.grads = {n: _array(p.grad, p) for n, p in model.named_parameters()}
        self.buffers = {n: b.numpy() for n, b in model.named_buffers()}


def _array(grad: Any, like: Any) -> np.ndarray:
    """Return a gradient as an array, zeros for none."""
    return np.zeros(tuple(like.shape)) if grad is None else np.asarray(grad)


def _step(model: Any, x: np.ndarray, precision: str, seed: int) -> Any:
    """Return a convkit network's step, with the names of `_Step`."""
    step = _Step.__new__(_Step)
    leaf = ck.Tensor(x, requires_grad=True)
    with ck.precision(precision):
        y = model.train()(leaf)
        step.y = y.data.copy()
        y.backward(numbers(seed + 1, *y.shape))
    step.x_grad = _array(leaf.grad, leaf)
    step.grads = {n: _array(p.grad, p) for n, p in model.named_parameters()}
    step.buffers = {n: b.data for n, b in model.named_buffers()}
    return step


def _compare(ours: Any, double: Any, single: Any, precision: str, kind: str) -> None:
    """Compare with float64; each parameter's gradient counts for a thousandth of all at least."""
    at = f"at {precision!r}"
    close(f"training forward {at}", ours.y, double.y,
          allowed("train", precision, error(single.y, double.y)))
    close(f"gradient of the input {at}", ours.x_grad, double.x_grad,
          allowed(kind, precision, error(single.x_grad, double.x_grad)))
    least = 1e-3 * np.sqrt(sum((g ** 2).sum() for g in double.grads.values()))
    for name, want in double.grads.items():
        scale = max(float(np.linalg.norm(want)), least)
        close(f"gradient of {name} {at}", ours.grads[name], want,
              allowed(kind, precision, error(single.grads[name], want, scale)), scale)
    for name, want in double.buffers.items():
        close(f"{name} {at}", ours.buffers[name], want,
              allowed("statistics", precision, error(single.buffers[name], want)))


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
