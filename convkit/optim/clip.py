"""Clipping gradients before a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import optim as kernels
from convkit.autograd import Tensor
from convkit.ops.layout import FLOATS, axis_order

__all__ = ["clip_grad_norm_", "clip_grad_value_"]

# What PyTorch adds to the norm before it divides by it.
EPSILON = 1e-6


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float,
                    norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """Scale the gradients of all parameters together so that their norm is at most `max_norm`.

    Every gradient is multiplied by ``min(1, max_norm / (norm + 1e-6))``.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are left out.
    max_norm : float
        Largest norm, above 0.
    norm_type : float
        The p of the p-norm; ``inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Whether to raise where the norm is NaN or infinite.

    Returns
    -------
    Tensor
        The norm before, summed in float64.

    Raises
    ------
    ValueError
        When `max_norm` or `norm_type` is not above 0.
    RuntimeError
        When the norm is not finite and `error_if_nonfinite` is set.

    References
    ----------
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
    2013.
    """
    _above_zero("max_norm", max_norm)
    _above_zero("norm_type", norm_type)
    grads = _gradients(parameters)
    dense = [_dense(g.data) for g in grads]
    if norm_type == 2 and None not in dense:
        norm = math.sqrt(kernels.sum_of_squares(dense, runtime.get_num_threads()))
    else:
        norm = _norm([g.data for g in grads], norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(f"the gradients' norm is {norm}, expected a finite one")
    scale = max_norm / (norm + EPSILON)
    if not scale >= 1:  # NaN goes on into the gradients, as in PyTorch
        if None in dense:
            for grad in grads:
                grad.mul_(scale)
        else:
            for grad in grads:
                grad._change()
            kernels.scale(dense, scale, runtime.get_num_threads())
    return Tensor(norm)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of the gradients into the range -clip_value to clip_value.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are left out.
    clip_value : float
        Above 0.

    Raises
    ------
    ValueError
        When it is not.
    """
    _above_zero("clip_value", clip_value)
    for grad in _gradients(parameters):
        grad.copy_(np.clip(grad.data, -clip_value, clip_value))


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"expected {name} above 0, got {value}")


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Any]:
    """Return the gradients that are there, cut off from any tape."""
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad.detach() for p in given if p.grad is not None]


def _dense(array: np.ndarray) -> tuple[np.ndarray] | None:
    """Return an array in the order in which it lies in memory, as kernels want it, or None."""
    order = axis_order(array)
    flat = array if order is None else array.transpose(order)
    ok = flat.flags.carray and array.dtype in FLOATS
    return (flat,) if ok else None


def _norm(arrays: list[np.ndarray], p: float) -> float:
    """Return the p-norm of all elements together, in float64."""
    if math.isinf(p):
        return float(max((np.abs(a).max(initial=0.0) for a in arrays), default=0.0))
    return sum(float((np.abs(a, dtype=np.float64) ** p).sum()) for a in arrays) ** (1 / p)
