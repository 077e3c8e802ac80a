"""What goes on inside a network in training: norms, update ratios, units that never fire."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import nn
from convkit.autograd import watching
from convkit.training.callbacks import Callback
from convkit.training.layers import current_place
from convkit.training.records import pack_records, unpack_records
from convkit.training.scoring import score

if TYPE_CHECKING:
    from convkit.training.trainer import Trainer

__all__ = ["LayerMonitor", "dead_relu_share"]


def dead_relu_share(model: nn.Module, loader: Iterable) -> dict[str, float]:
    """Return which share of each ReLU's units gives 0 for every sample.

    A unit is a channel of images (dead when 0 at every pixel) or a feature.

    Parameters
    ----------
    model : Module
        Run in evaluation mode. ReLUs are found as operations, so that calls of
        ``functional.relu`` count too; each goes by the dotted path of the layer that it runs
        in, with a number from its second call there on.
    loader : iterable of (images, ...)

    Returns
    -------
    dict of str to float
        From 0 to 1, in the order of the calls.
    """
    alive: dict[str, np.ndarray] = {}
    calls: Counter[str] = Counter()

    def watch(op: Any, inputs: tuple, attrs: dict, outputs: tuple) -> None:
        if op.name != "relu":
            return
        path = current_place().path
        calls[path] += 1
        name = path if calls[path] == 1 else f"{path} ({calls[path]})"
        y = outputs[0].data
        active = (y > 0).any(axis=tuple(i for i in range(y.ndim) if i != 1))
        alive[name] = active | alive.get(name, False)

    with watching(watch):
        score(model, loader, lambda scores, targets: calls.clear())
    return {name: float(1 - active.mean()) for name, active in alive.items()}


class LayerMonitor(Callback):
    """Measures each parameter's gradient, weights and change by step.

    Parameters
    ----------
    every_steps : int
        After how many steps of the optimiser it measures.
    relu_data : iterable of (images, ...), optional
        What `dead_relu_share` is measured on after each epoch.
    by_layer : bool
        Whether the epochs' records, and so all logs, get the figures of each parameter and
        ReLU too, as "update_ratio/conv1.weight".

    Attributes
    ----------
    records : list of dict
        "step", and under "layers" for each parameter's dotted path "weight_norm" (before the
        step), "grad_norm" (before clipping), and "update_ratio", the norm of the step's
        change over that of the weights (healthy is around 1e-3).
    dead_relus : dict of str to float
        Of the newest epoch.

    Notes
    -----
    The epoch's record gets "grad_norm", "weight_norm" and "update_ratio" of all parameters
    together at the newest measured step, and with `relu_data` "dead_relu_share", the mean
    over the ReLUs.
    """

    def __init__(self, every_steps: int = 10, relu_data: Iterable | None = None,
                 by_layer: bool = False):
        if every_steps < 1:
            raise ValueError(f"expected every_steps of at least 1, got {every_steps}")
        self.every_steps = every_steps
        self.relu_data = relu_data
        self.by_layer = by_layer
        self.records: list[dict[str, Any]] = []
        self.dead_relus: dict[str, float] = {}
        self._before: dict[str, tuple[np.ndarray, float]] = {}

    def on_gradients(self, trainer: Trainer) -> None:
        """Note weights and gradients before a step that is to be measured."""
        self._before = {}
        if (trainer.step + 1) % self.every_steps == 0:
            self._before = {name: (np.array(p.data), _norm(p.grad.data))
                            for name, p in trainer.model.named_parameters()
                            if p.grad is not None}

    def on_step(self, trainer: Trainer) -> None:
        """Measure the step."""
        if not self._before:
            return
        layers = {}
        for name, parameter in trainer.model.named_parameters():
            if name in self._before:
                weights, grad_norm = self._before[name]
                norm = _norm(weights)
                layers[name] = {"weight_norm": norm, "grad_norm": grad_norm,
                                "update_ratio": _ratio(_norm(parameter.data - weights), norm)}
        self.records.append({"step": trainer.step, "layers": layers})
        self._before = {}

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Add the figures of the whole network to the epoch's record."""
        if self.records:
            layers = self.records[-1]["layers"].values()
            weights, gradients, changes = (
                math.hypot(*values) for values in
                ([v["weight_norm"] for v in layers], [v["grad_norm"] for v in layers],
                 [v["update_ratio"] * v["weight_norm"] for v in layers]))
            record.update(grad_norm=gradients, weight_norm=weights,
                          update_ratio=_ratio(changes, weights))
        if self.relu_data is not None:
            self.dead_relus = dead_relu_share(trainer.model, self.relu_data)
            if self.dead_relus:
                record["dead_relu_share"] = float(np.mean(list(self.dead_relus.values())))
        if self.by_layer:
            newest = self.records[-1]["layers"] if self.records else {}
            record.update((f"{figure}/{name}", value) for name, figures in newest.items()
                          for figure, value in figures.items())
            record.update((f"dead_relu_share/{name}", share)
                          for name, share in self.dead_relus.items())

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured."""
        flat = [{"step": r["step"], **{f"{name}/{figure}": value for name, figures
                                       in r["layers"].items() for figure, value in figures.items()}}
                for r in self.records]
        return {"records": pack_records(flat), "dead_relus": self.dead_relus}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.records, self.dead_relus = [], dict(state["dead_relus"])
        for flat in unpack_records(state["records"]):
            layers: dict[str, dict[str, float]] = {}
            for key, value in flat.items():
                name, _, figure = key.rpartition("/")
                if name:
                    layers.setdefault(name, {})[figure] = value
            self.records.append({"step": flat["step"], "layers": layers})


def _norm(array: np.ndarray) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).sum()))


def _ratio(change: float, norm: float) -> float:
    """Return change / norm; 0 for no change and infinity for one from nothing."""
    return change / norm if norm else (math.inf if change else 0.0)
