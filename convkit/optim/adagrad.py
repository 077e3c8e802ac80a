"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.autograd import Tensor
from convkit.ops.layout import like
from convkit.optim.optimizer import Optimizer, at_least

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Adagrad: steps divided by the root of the sum of all squared gradients so far.

    With gradient g (plus weight_decay * p) at step t: ``s += g^2``, then
    ``p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)``.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    lr_decay : float
        How fast it falls with the number of steps.
    weight_decay : float
        L2 penalty.
    initial_accumulator_value : float
        The sum of squares at first.
    eps : float
        Added to the root.
    maximize : bool
        Climb along the gradient instead of going down: it is negated before anything else.

    Raises
    ------
    ValueError
        When a setting is negative.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", 2011.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, lr_decay: float = 0.0,
                 weight_decay: float = 0.0, initial_accumulator_value: float = 0.0,
                 eps: float = 1e-10, *, maximize: bool = False):
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "eps": eps,
            "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        at_least(group, 0.0, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def _update(self, group: dict[str, Any]) -> None:
        def filled(p: Tensor) -> Tensor:
            array = like(p.data)
            array.fill(group["initial_accumulator_value"])
            return Tensor(array)

        arrays, _, steps = self._due(group, "sum", make=filled)
        rates = [group["lr"] / (1 + (step - 1) * group["lr_decay"]) for step in steps]
        kernels.adagrad(arrays, rates, group["eps"], group["weight_decay"],
                        group["maximize"], runtime.get_num_threads())
