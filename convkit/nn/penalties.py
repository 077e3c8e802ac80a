"""Penalties on weights, to be added to a loss, and bounds on them, to be kept after a step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from convkit.autograd import Tensor
from convkit.nn.conv import ConvTranspose1d, ConvTranspose2d
from convkit.nn.module import Module

__all__ = ["elastic_net_penalty", "l1_penalty", "l2_penalty", "max_norm_"]


def _weights(of: Module | Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters meant: a module's weights (no biases or norms), or those given."""
    if isinstance(of, Module):
        return [p for p in of.parameters() if p.requires_grad and p.ndim > 1]
    return [of] if isinstance(of, Tensor) else list(of)


def _total(terms: list[Tensor]) -> Tensor:
    total = Tensor(np.zeros((), np.float32))
    for i, term in enumerate(terms):
        total = term if i == 0 else total + term
    return total


def l1_penalty(of: Module | Iterable[Tensor]) -> Tensor:
    """Return the sum of the absolute values of weights.

    Parameters
    ----------
    of : Module or iterable of Tensor
        A module's weights are meant, not its vectors (biases, norms).

    References
    ----------
    Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996.
    """
    return _total([p.abs().sum() for p in _weights(of)])


def l2_penalty(of: Module | Iterable[Tensor]) -> Tensor:
    """Return half the sum of the squares of weights.

    Times lambda it has the gradient lambda * w, that of an optimiser's
    ``weight_decay=lambda``; see `l1_penalty` for `of`.

    References
    ----------
    Hoerl and Kennard, "Ridge Regression", 1970.
    """
    return _total([(p * p).sum() for p in _weights(of)]) * 0.5


def elastic_net_penalty(of: Module | Iterable[Tensor], l1: float, l2: float) -> Tensor:
    """Return ``l1 * l1_penalty(of) + l2 * l2_penalty(of)``.

    References
    ----------
    Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", 2005.
    """
    weights = _weights(of)
    return l1_penalty(weights) * l1 + l2_penalty(weights) * l2


def max_norm_(of: Module | Iterable[Tensor], max_norm: float = 3.0) -> None:
    """Scale down, in place, the incoming weights of every unit whose norm is above a bound.

    A hard constraint ||w|| <= r, to be called after each step (``Trainer(max_norm=)`` does). A
    unit is an entry of the first axis, a row of a linear layer's weight or a filter of a
    convolution's; of a module's transposed convolutions it is an output channel.

    Parameters
    ----------
    of : Module or iterable of Tensor
        See `l1_penalty`.
    max_norm : float
        r, above 0.

    References
    ----------
    Srebro and Shraibman, "Rank, Trace-Norm and Max-Norm", 2005; Srivastava et al., "Dropout",
    2014, section 5.1.
    """
    if not max_norm > 0:
        raise ValueError(f"expected max_norm above 0, got {max_norm}")
    groups = _transposed_groups(of) if isinstance(of, Module) else {}
    for p in _weights(of):
        wide = p.data.astype(np.float64)
        if id(p) in groups:  # (I, O / groups, ...) as (groups, I / groups, O / groups, ...)
            wide = wide.reshape(groups[id(p)], -1, *p.shape[1:])
            axes = (1, *range(3, wide.ndim))
        else:
            axes = tuple(range(1, wide.ndim))
        norms = np.sqrt(np.square(wide).sum(axis=axes, keepdims=True))
        if (norms > max_norm).any():
            factors = np.minimum(1.0, max_norm / np.maximum(norms, max_norm))
            p.detach().copy_((wide * factors).reshape(p.shape).astype(p.dtype))


def _transposed_groups(module: Module) -> dict[int, int]:
    """Return the groups of each transposed convolution, by its weight's id."""
    return {id(m.weight): m.groups for m in module.modules()
            if isinstance(m, (ConvTranspose1d, ConvTranspose2d))}
