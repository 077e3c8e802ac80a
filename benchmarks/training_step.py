"""One training step of whole networks beside PyTorch: forward, loss, backward, SGD update.

Both sides run the same program (`networks.py`) from the same weights on the same batches
with SGD (momentum 0.9, weight decay 5e-4). The losses of the first steps must agree; how
far apart they are is in the table. PyTorch runs on contiguous and on channels-last
tensors; `best` divides its faster form by convkit's time.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --only resnet20 --batch 32
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
import numpy as np
from networks import NETWORKS

import convkit
from convkit import functional, nn, optim

STEPS = 5  # whose losses are compared
SETTINGS = {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}


def batches(shape: tuple[int, ...], batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return random images and labels: the arithmetic does not know them from real ones."""
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((batch, *shape), dtype=np.float32),
             rng.integers(0, 10, batch)) for _ in range(STEPS)]


def endless(data: list[tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    """Return a function that gives the batches in turn, for ever."""
    count = iter(range(1 << 62))
    return lambda: data[next(count) % len(data)]


def ours(build: Callable, state: dict[str, np.ndarray],
         data: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[], Any]:
    """Return convkit's training step; it returns the loss."""
    model = build(nn, functional)
    model.load_state_dict(state)
    optimizer = optim.SGD(model.parameters(), **SETTINGS)
    draw = endless([(convkit.from_numpy(x), convkit.from_numpy(t)) for x, t in data])

    def step():
        x, target = draw()
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def theirs(build: Callable, state: dict[str, np.ndarray],
           data: list[tuple[np.ndarray, np.ndarray]], channels_last: bool) -> Callable[[], Any]:
    """Return PyTorch's training step; it returns the loss."""
    torch = common.require_torch()
    form = {"memory_format": torch.channels_last if channels_last else torch.contiguous_format}
    model = build(torch.nn, torch.nn.functional)
    model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    model = model.to(**form)
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    draw = endless([(torch.from_numpy(x).contiguous(**form), torch.from_numpy(t))
                    for x, t in data])

    def step():
        x, target = draw()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def run(name: str, options: Any, agreement: common.Agreement) -> dict[str, Any]:
    """Check and time one network's training step."""
    torch = common.require_torch()
    build, shape, batch = NETWORKS[name]
    batch = options.batch or batch
    torch.manual_seed(0)
    state = {k: v.numpy().copy()
             for k, v in build(torch.nn, torch.nn.functional).state_dict().items()}
    data = batches(shape, batch)
    sides = {"convkit": ours(build, state, data),
             "torch contiguous": theirs(build, state, data, False),
             "torch channels_last": theirs(build, state, data, True)}
    losses = {side: [float(step().item()) for _ in range(STEPS)]
              for side, step in sides.items()}
    apart = max(agreement.check(f"{name}, losses of {STEPS} steps, {side}", losses["convkit"],
                                values) for side, values in losses.items() if side != "convkit")
    timing = common.interleave(sides, options.seconds, options.quick)
    return {"network": name, "batch": batch, "losses": losses, "loss difference": apart,
            "timing": timing, "images per second": batch / timing["convkit"]["seconds"],
            "best": min(t["ratio"] for n, t in timing.items() if n != "convkit")}


def row(result: dict[str, Any]) -> list[str]:
    """Return a result as a line of the table."""
    return [f"{result['network']} b{result['batch']}",
            *[f"{t['seconds'] * 1e3:.2f}" for t in result["timing"].values()],
            f"{result['best']:.2f}", f"{result['images per second']:.0f}",
            f"{result['loss difference']:.0e}"]


def main() -> None:
    """Run the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=15.0)
    parser.add_argument("--batch", type=int, default=None, help="batch size of all networks")
    options = parser.parse_args()
    common.require_torch()
    common.set_threads(options.threads)
    if options.quick:
        options.batch = options.batch or 8
    record = common.machine(options.threads)
    common.print_machine(record)
    agreement = common.Agreement(1e-4)
    results = [run(name, options, agreement) for name in NETWORKS if options.only in name]
    print("milliseconds a step; best: PyTorch's faster form / convkit")
    common.print_table(["network", "convkit", "torch contig.", "torch ch.last", "best",
                        "images/s", "losses apart"], map(row, results))
    common.write_results("training_step", options, record, results)
    agreement.finish()


if __name__ == "__main__":
    main()
