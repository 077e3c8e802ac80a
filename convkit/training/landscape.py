"""The loss along its gradient: how far one may step before the gradient misleads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convkit import nn
from convkit.autograd import Tensor, no_grad
from convkit.training.layer_values import gradients_aside
from convkit.training.modes import weights_of

__all__ = ["Landscape", "loss_along_gradient"]


class Landscape(NamedTuple):
    """What is met along the direction of the gradient.

    Attributes
    ----------
    steps : numpy.ndarray
        Learning rates: how far each point lies along the gradient.
    losses : numpy.ndarray
        The loss there.
    distances : numpy.ndarray
        The norm of the difference between the gradient there and at the start.
    """

    steps: np.ndarray
    losses: np.ndarray
    distances: np.ndarray


def loss_along_gradient(model: nn.Module, loss_fn: Callable, inputs: Any, targets: Any,
                        steps: Sequence[float] = tuple(np.geomspace(0.01, 0.4, 10)),
                        ) -> Landscape:
    """Step from the present weights against the gradient, and look at loss and gradient there.

    With batch norm losses and gradients change less along the way (Santurkar, Tsipras, Ilyas
    and Madry, "How Does Batch Normalization Help Optimization?", 2018, section 3.1).

    Parameters
    ----------
    model : Module
        Runs in the mode that it is in, training usually. Weights, gradients and buffers (running
        estimates, too) are as before afterwards.
    loss_fn : callable
        From scores and targets to a loss.
    inputs, targets : array_like
    steps : sequence of float
        Learning rates.
    """
    before = weights_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    x = Tensor(np.asarray(inputs, np.float32))
    losses, distances = [], []
    try:
        with gradients_aside(model):
            _, start = _loss_and_gradient(model, parameters, loss_fn, x, targets)
            origin = [np.array(p.data) for p in parameters]
            for step in steps:
                with no_grad():
                    for p, weight, gradient in zip(parameters, origin, start, strict=True):
                        p.copy_(weight - np.float32(step) * gradient)
                loss, gradient = _loss_and_gradient(model, parameters, loss_fn, x, targets)
                losses.append(loss)
                distances.append(np.sqrt(sum(np.sum((a - b) ** 2, dtype=np.float64)
                                             for a, b in zip(gradient, start, strict=True))))
    finally:
        model.load_state_dict(before)
    return Landscape(np.asarray(steps, np.float64), np.array(losses), np.array(distances))


def _loss_and_gradient(model: nn.Module, parameters: list, loss_fn: Callable, x: Tensor,
                       targets: Any) -> tuple[float, list[np.ndarray]]:
    for p in parameters:
        p.grad = None
    loss = loss_fn(model(x), targets)
    loss.backward()
    return float(loss.item()), [np.zeros(p.shape, np.float32) if p.grad is None
                                else np.array(p.grad.numpy()) for p in parameters]
