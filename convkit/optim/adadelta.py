"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.optim.optimizer import Optimizer, at_least

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    """Adadelta: the gradient in units of its own running size, times that of past changes.

    With gradient g (plus weight_decay * p): ``v = rho v + (1 - rho) g^2``,
    ``d = sqrt(u + eps) / sqrt(v + eps) * g``, ``u = rho u + (1 - rho) d^2``, ``p -= lr d``.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Factor of the change; the paper has none (1).
    rho : float
        How much of the running means is kept.
    eps : float
        Added under the roots.
    weight_decay : float
        L2 penalty.
    maximize : bool
        Climb along the gradient instead of going down: it is negated before anything else.

    Raises
    ------
    ValueError
        When a setting makes no sense.

    References
    ----------
    Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.0, rho: float = 0.9,
                 eps: float = 1e-6, weight_decay: float = 0.0, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps,
                                  "weight_decay": weight_decay, "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        at_least(group, 0.0, "lr", "rho", "eps", "weight_decay")
        if group["rho"] > 1:
            raise ValueError(f"expected rho from 0 to 1, got {group['rho']}")

    def _update(self, group: dict[str, Any]) -> None:
        arrays, _, _ = self._due(group, "square_avg", "acc_delta")
        kernels.adadelta(arrays, group["lr"], group["rho"], group["eps"], group["weight_decay"],
                         group["maximize"], runtime.get_num_threads())
