"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.optim.optimizer import Optimizer, at_least

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    With gradient g (plus weight_decay * p) and buffer b, which is g at first:
    ``b = momentum * b + (1 - dampening) * g``, then ``p -= lr * b``, or with `nesterov`
    ``p -= lr * (g + momentum * b)``.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    momentum : float
        Share of the buffer that is kept; 0 for no buffer.
    dampening : float
        Share of the gradient that does not enter the buffer.
    weight_decay : float
        L2 penalty.
    nesterov : bool
        Look ahead along the buffer; needs a momentum and no dampening.
    maximize : bool
        Climb along the gradient instead of going down: it is negated before anything else.

    Raises
    ------
    ValueError
        When a setting makes no sense.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning",
    2013.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0,
                 dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False,
                 *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening,
                                  "weight_decay": weight_decay, "nesterov": nesterov,
                                  "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        at_least(group, 0.0, "lr", "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("nesterov needs a momentum and no dampening")

    def _update(self, group: dict[str, Any]) -> None:
        arrays, fresh, _ = self._due(group, "momentum_buffer" if group["momentum"] else None,
                                     counts=False)
        kernels.sgd(arrays, fresh, group["lr"], group["momentum"], group["dampening"],
                    group["weight_decay"], group["nesterov"], group["maximize"],
                    runtime.get_num_threads())
