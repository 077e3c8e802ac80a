"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.optim.optimizer import Optimizer, at_least

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    With gradient g (plus weight_decay * p) at step t: ``m = beta1 m + (1 - beta1) g``,
    ``v = beta2 v + (1 - beta2) g^2``, then
    ``p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)``.

    Parameters
    ----------
    params : iterable
        See `Optimizer`.
    lr : float
        Learning rate.
    betas : tuple of float
        How much of the two running means is kept.
    eps : float
        Added to the root.
    weight_decay : float
        L2 penalty.
    amsgrad : bool
        Use the largest v so far (Reddi et al., 2018).
    maximize : bool
        Climb along the gradient instead of going down: it is negated before anything else.

    Raises
    ------
    ValueError
        When a setting makes no sense.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015.
    """

    _decoupled = False

    def __init__(self, params: Iterable[Any], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps,
                                  "weight_decay": weight_decay, "amsgrad": amsgrad,
                                  "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        at_least(group, 0.0, "lr", "eps", "weight_decay")
        if len(group["betas"]) != 2 or not all(0 <= b < 1 for b in group["betas"]):
            raise ValueError(f"expected two betas from 0 to below 1, got {group['betas']}")

    def _update(self, group: dict[str, Any]) -> None:
        arrays, _, steps = self._due(group, "exp_avg", "exp_avg_sq",
                                     "max_exp_avg_sq" if group["amsgrad"] else None)
        kernels.adam(arrays, steps, group["lr"], *group["betas"], group["eps"],
                     group["weight_decay"], self._decoupled, group["maximize"],
                     runtime.get_num_threads())


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p *= 1 - lr * weight_decay`` first.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, maximize
        See `Adam`.
    weight_decay : float
        Share of the parameter taken off at each step, times the learning rate.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """

    _decoupled = True

    def __init__(self, params: Iterable[Any], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
