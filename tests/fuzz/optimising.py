"""Several training steps of random networks with random optimisers, schedules and clipping.

In float64 beside PyTorch; in float32, to the bit: interrupted and resumed, with checkpoints, and
with hooks that look on, as without.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import Network, convkit_library, draw_network, numbers, torch_library, with_weights
from fuzz.trials import SetAside, close, main, same

NEEDS = ("torch",)
STEPS = 4
OPTIMISERS: dict[str, dict[str, tuple]] = {
    "SGD": {"momentum": (0.9,), "weight_decay": (1e-2,), "nesterov": (True,), "dampening": (0.1,)},
    "Adam": {"weight_decay": (1e-2,), "amsgrad": (True,), "betas": ((0.8, 0.95),)},
    "AdamW": {"weight_decay": (0.1,), "amsgrad": (True,), "eps": (1e-4,)},
    "RMSprop": {"momentum": (0.5,), "centered": (True,), "weight_decay": (1e-2,)},
    "Adagrad": {"lr_decay": (0.1,), "weight_decay": (1e-2,), "initial_accumulator_value": (0.1,)},
    "Adadelta": {"rho": (0.8,), "weight_decay": (1e-2,)},
}
SCHEDULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("StepLR", {"step_size": 2}), ("ExponentialLR", {"gamma": 0.7}),
    ("LinearLR", {"total_iters": 3}),
    ("CosineAnnealingLR", {"T_max": 3}), ("PolynomialLR", {"total_iters": 3, "power": 2.0}),
    ("MultiStepLR", {"milestones": [1, 3]}), ("CosineAnnealingWarmRestarts", {"T_0": 2}),
    ("OneCycleLR", {"max_lr": 0.05, "total_steps": 6, "cycle_momentum": False}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.05, "step_size_up": 2, "cycle_momentum": False}))


def draw(seed: int) -> Network:
    """Draw a network with a classifier, trained on batches of at least two."""
    network = draw_network(seed, without=frozenset({"response_norm"}))
    return replace(network, batch=max(2, network.batch))


class Plan:
    """How to train: what is drawn besides the network."""

    def __init__(self, seed: int):
        rng = random.Random(seed + 7)
        self.seed = seed
        self.optimiser, options = rng.choice(tuple(OPTIMISERS.items()))
        self.options = {k: rng.choice(v) for k, v in options.items() if rng.random() < 0.5}
        if self.options.get("nesterov"):
            self.options |= {"momentum": 0.9, "dampening": 0.0}
        self.options["lr"] = rng.choice((0.01, 0.03))
        self.schedule = rng.choice((None, *SCHEDULES))
        self.clip = rng.choice((None, "norm", "value"))
        self.parts = rng.choice((1, 1, 2))  # batches whose gradients are added up
        self.groups = rng.random() < 0.4
        self.look = rng.random() < 0.5
        self.threads = rng.choice((1, 2))

    def __str__(self) -> str:
        return (f"{self.optimiser}({self.options}), schedule {self.schedule}, clip {self.clip}, "
                f"{self.parts} parts, {2 if self.groups else 1} groups")


class Training:
    """A network in training, in either library."""

    def __init__(self, plan: Plan, model: Any, library: Any, optim: Any, clip: Any):
        self.plan, self.model, self.library, self.clip = plan, model.train(), library, clip
        named = list(model.named_parameters())
        groups: list[Any] = [p for _, p in named]
        if plan.groups:
            vectors = [p for _, p in named if p.ndim == 1]
            others = [p for _, p in named if p.ndim > 1]
            groups = [{"params": others}, {"params": vectors, "lr": 0.005, "weight_decay": 0.0}]
            groups = [g for g in groups if g["params"]]
        self.optimiser = getattr(optim, plan.optimiser)(groups, **plan.options)
        name, options = plan.schedule or (None, {})
        self.schedule = name and getattr(optim.lr_scheduler, name)(self.optimiser, **options)

    def step(self, number: int, shape: tuple[int, ...], dtype: Any, run: Any = None) -> None:
        """Take a step; `run` calls the network."""
        self.optimiser.zero_grad()
        for part in range(self.plan.parts):
            x = numbers(self.plan.seed + 100 * number + part, *shape).astype(dtype)
            y = (run or self.model)(self.library.top.tensor(x))
            target = numbers(self.plan.seed + 7 + number, *y.shape).astype(dtype)
            loss = ((y - self.library.top.tensor(target)) ** 2).mean()
            (loss / self.plan.parts).backward()
        parameters = list(self.model.parameters())
        if self.plan.clip == "norm":
            self.clip.clip_grad_norm_(parameters, 0.5)
        elif self.plan.clip == "value":
            self.clip.clip_grad_value_(parameters, 0.05)
        self.optimiser.step()
        if self.schedule:
            self.schedule.step()

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and buffers."""
        return {k: np.array(v.detach().numpy() if hasattr(v, "detach") else v)
                for k, v in self.model.state_dict().items()}


def judge(network: Network) -> None:
    """Train with PyTorch and in every way there is."""
    plan = Plan(network.seed)
    ck.set_num_threads(plan.threads)
    probe = network.build(convkit_library())
    if not list(probe.parameters()):
        raise SetAside("no parameters")
    weights = with_weights(probe, network.seed)
    shape = (network.batch, *network.shape)
    try:
        _beside_torch(network, plan, weights, shape)
        want = _trained(network, plan, weights, shape)
        _equal("resumed", _resumed(network, plan, weights, shape), want)
        _equal("with checkpoints", _checkpointed(network, plan, weights, shape), want)
        _equal("with hooks", _watched(network, plan, weights, shape), want)
    except SetAside:
        raise
    except AssertionError as failure:
        raise type(failure)(f"{plan}: {failure}") from None


def _ours(network: Network, plan: Plan, weights: dict[str, np.ndarray], double: bool = False,
          ) -> Training:
    model = network.build(convkit_library())
    model.load_state_dict(weights)
    if double:
        model.double()
    return Training(plan, model, convkit_library(), ck.optim, ck.optim)


def _beside_torch(network: Network, plan: Plan, weights: dict[str, np.ndarray],
                  shape: tuple[int, ...]) -> None:
    """Compare in float64; parameters whose gradient is rounding alone go where that takes them.

    PyTorch's gradient of hardsigmoid is no better than float32's, hence the bound.
    """
    import torch

    torch.set_num_threads(1)
    library = torch_library()
    model = network.build(library)
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    theirs = Training(plan, model.double(), library, torch.optim, torch.nn.utils)
    ours = _ours(network, plan, weights, double=True)
    told = set(dict(model.named_parameters()))
    for number in range(STEPS):
        try:
            theirs.step(number, shape, np.float64)
        except ValueError as refusal:  # one value for each channel
            raise SetAside("PyTorch refuses to train on it") from refusal
        ours.step(number, shape, np.float64)
        told &= _told(model)
    want, got = theirs.state(), ours.state()
    if not all(np.isfinite(v).all() for v in want.values()):
        raise SetAside("no finite numbers")
    for name in told:
        close(f"{name} after {STEPS} steps in float64", got[name], want[name], 1e-4)


def _told(model: Any) -> set[str]:
    """Return the parameters whose every gradient is more than rounding."""
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    most = max(float(g.abs().max()) for g in grads.values())
    return {n for n, g in grads.items() if float(g.abs().min()) > 1e-8 * most}


def _trained(network: Network, plan: Plan, weights: dict[str, np.ndarray], shape: tuple[int, ...],
             ) -> dict[str, np.ndarray]:
    training = _ours(network, plan, weights)
    for number in range(STEPS):
        training.step(number, shape, np.float32)
    return training.state()


def _resumed(network: Network, plan: Plan, weights: dict[str, np.ndarray], shape: tuple[int, ...],
             ) -> dict[str, np.ndarray]:
    """Train half of the steps, move all state to new objects, and train on."""
    first, second = (_ours(network, plan, weights) for _ in range(2))
    for number in range(STEPS // 2):
        first.step(number, shape, np.float32)
    second.model.load_state_dict(first.state())
    second.optimiser.load_state_dict(first.optimiser.state_dict())
    if first.schedule:
        second.schedule.load_state_dict(first.schedule.state_dict())
    for number in range(STEPS // 2, STEPS):
        second.step(number, shape, np.float32)
    return second.state()


def _checkpointed(network: Network, plan: Plan, weights: dict[str, np.ndarray],
                  shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Train without keeping values within halves of the network."""
    training = _ours(network, plan, weights)
    layers = list(training.model)
    parts = min(2, len(layers))
    for number in range(STEPS):
        training.step(number, shape, np.float32,
                      lambda x: ck.checkpoint_sequential(layers, parts, x))
    return training.state()


def _watched(network: Network, plan: Plan, weights: dict[str, np.ndarray], shape: tuple[int, ...],
             ) -> dict[str, np.ndarray]:
    """Train with hooks that read every module's output and its gradient."""
    training = _ours(network, plan, weights)
    seen: list[float] = []

    def read(module, given, made):
        seen.append(float(made.data.sum()))
        if made.requires_grad and plan.look:
            made.register_hook(lambda gradient: seen.append(float(np.asarray(gradient).sum())))

    for module in training.model.modules():
        module.register_forward_hook(read)
    for number in range(STEPS):
        training.step(number, shape, np.float32)
    return training.state()


def _equal(what: str, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for name, value in want.items():
        same(f"{what}: {name}", got[name], value)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
