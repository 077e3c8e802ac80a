"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.optim.optimizer import Optimizer, at_least

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop: steps divided by the root of a running mean of the squared gradient.

    With gradient g (plus weight_decay * p): ``v = alpha v + (1 - alpha) g^2`` and
    ``d = g / (sqrt(v) + eps)``; centred, the square of the running mean of g is taken from v
    under the root. With momentum ``b = momentum b + d`` and ``p -= lr b``, else ``p -= lr d``.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    alpha : float
        How much of the running means is kept, from 0 to 1.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty.
    momentum : float
        How much of the last step goes into the next.
    centered : bool
        Divide by the deviation of the gradient instead of its size.
    maximize : bool
        Climb along the gradient instead of going down: it is negated before anything else.

    Raises
    ------
    ValueError
        When a setting makes no sense.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013 (centred).
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, alpha: float = 0.99,
                 eps: float = 1e-8, weight_decay: float = 0.0, momentum: float = 0.0,
                 centered: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps,
                                  "weight_decay": weight_decay, "momentum": momentum,
                                  "centered": centered, "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        at_least(group, 0.0, "lr", "alpha", "eps", "weight_decay", "momentum")
        if group["alpha"] > 1:
            raise ValueError(f"expected alpha from 0 to 1, got {group['alpha']}")

    def _update(self, group: dict[str, Any]) -> None:
        arrays, _, _ = self._due(group, "square_avg",
                                 "momentum_buffer" if group["momentum"] else None,
                                 "grad_avg" if group["centered"] else None)
        kernels.rmsprop(arrays, group["lr"], group["alpha"], group["eps"], group["weight_decay"],
                        group["momentum"], group["maximize"], runtime.get_num_threads())
