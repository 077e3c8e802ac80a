"""One training step of random networks: results, gradients and statistics beside PyTorch."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
    kind = rng.choice(("highest", "high", "high", "medium", "float64"))
    model = network.build(convkit_library())
    peers = Peers(network, model)
    x = numbers(network.seed, network.batch, *network.shape)
    try:
        double = _peer_step(peers.torch, peers.double, x.astype(np.float64), network.seed)
        single = _peer_step(peers.torch, peers.single, x, network.seed)
    except ValueError as refusal:
        _refused(model, x, str(refusal))
        return
    if not np.isfinite(double.y).all():
        raise SetAside("no finite numbers")
    if kind == "float64" and "Hardsigmoid" in str(network):
        raise SetAside("PyTorch's gradient of hardsigmoid is float32's in float64 too")
    _compare(_step(model, x, kind, network.seed), double, single, kind, "MaxPool" in str(network))


def _refused(model: Any, x: np.ndarray, why: str) -> None:
    """Check that what PyTorch refuses (one value for each channel in training) is refused."""
    try:
        model.train()(ck.Tensor(x))
    except ck.ShapeError:
        return
    raise Failure(f"PyTorch refuses, convkit does not: {why}")


class Step(NamedTuple):
    """What a step of training gives."""

    y: np.ndarray
    x_grad: np.ndarray
    grads: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]


def _array(grad: Any, like: Any) -> np.ndarray:
    """Return a gradient as an array, zeros for none."""
    return np.zeros(tuple(like.shape)) if grad is None else np.asarray(grad)


def _peer_step(torch: Any, model: Any, x: np.ndarray, seed: int) -> Step:
    """Return the step of a PyTorch network."""
    leaf = torch.tensor(x, requires_grad=True)
    y = model.train()(leaf)
    y.backward(torch.tensor(numbers(seed + 1, *y.shape).astype(x.dtype)))
    return Step(y.detach().numpy(), _array(leaf.grad, leaf),
                {n: _array(p.grad, p) for n, p in model.named_parameters()},
                {n: b.numpy() for n, b in model.named_buffers()})


def _step(model: Any, x: np.ndarray, kind: str, seed: int) -> Step:
    """Return the step of a convkit network, at a precision or in float64."""
    if kind == "float64":
        model, x = model.double(), x.astype(np.float64)
    leaf = ck.tensor(x, requires_grad=True)
    with ck.precision("high" if kind == "float64" else kind):
        y = model.train()(leaf)
        made = y.data.copy()
        y.backward(numbers(seed + 1, *y.shape).astype(x.dtype))
    return Step(made, _array(leaf.grad, leaf),
                {n: _array(p.grad, p) for n, p in model.named_parameters()},
                {n: b.data for n, b in model.named_buffers()})


def _compare(ours: Step, double: Step, single: Step, kind: str, maxima: bool) -> None:
    """Compare with float64; each parameter's gradient counts for a thousandth of all at least."""
    def bound(of: str, own: float) -> float:
        return allowed("double", own=own) if kind == "float64" else allowed(of, kind, own)

    gradient = "gradient of maxima" if maxima else "gradient"
    close(f"training forward, {kind}", ours.y, double.y, bound("train", error(single.y, double.y)))
    close(f"gradient of the input, {kind}", ours.x_grad, double.x_grad,
          bound(gradient, error(single.x_grad, double.x_grad)))
    least = 1e-3 * np.sqrt(sum((g ** 2).sum() for g in double.grads.values()))
    for name, want in double.grads.items():
        scale = max(float(np.linalg.norm(want)), least)
        close(f"gradient of {name}, {kind}", ours.grads[name], want,
              bound(gradient, error(single.grads[name], want, scale)), scale)
    for name, want in double.buffers.items():
        close(f"{name}, {kind}", ours.buffers[name], want,
              bound("statistics", error(single.buffers[name], want)))


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
