"""Batch norm's statistics after training, and biases that it makes pointless."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from convkit import nn
from convkit.autograd import Tensor, no_grad, tracing
from convkit.training.modes import evaluating

__all__ = ["biases_before_batch_norm", "recompute_batch_stats"]


def recompute_batch_stats(model: nn.Module, loader: Iterable, batches: int | None = None) -> None:
    """Estimate the population statistics of all batch norm layers anew, over many batches.

    Algorithm 2 of the paper, steps 7 to 12: the mean of the batches' means, and m / (m - 1)
    times the mean of their biased variances, m being the number of values per channel in a
    batch. The moving averages, which lag behind the weights, are replaced.

    Parameters
    ----------
    model : Module
        Its batch norm layers that track statistics are changed; all modes are as before
        afterwards, and dropout is off meanwhile.
    loader : iterable
        Batches: tensors, or tuples whose first entry goes into the model. All should be of one
        size; they count alike.
    batches : int, optional
        How many batches at most; all unless given.

    Raises
    ------
    ValueError
        When the model has no such layer, or the loader no batch (the statistics are then as
        they were).

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2.
    """
    layers = [m for m in model.modules()
              if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.running_mean is not None]
    if not layers:
        raise ValueError("expected a model with batch norm layers that track statistics")
    momenta = [layer.momentum for layer in layers]
    before = [[np.array(b.data) for b in layer.buffers()] for layer in layers]
    seen = 0
    with evaluating(model), no_grad():
        for layer in layers:
            layer.train()
            layer.momentum = None  # all batches weigh the same
            layer.reset_running_stats()
        try:
            for batch in loader:
                if seen == batches:
                    break
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                seen += 1
        finally:
            for layer, momentum, values in zip(layers, momenta, before, strict=True):
                layer.momentum = momentum
                if not seen:
                    for buffer, value in zip(layer.buffers(), values, strict=True):
                        buffer.copy_(value)
    if not seen:
        raise ValueError("expected a loader with at least one batch")


class _BiasFinder:
    """Notes which biases are added right before a batch norm."""

    def __init__(self):
        self._bias_of: dict[int, Any] = {}
        self._alive: list[Any] = []  # ids stay valid while the arrays live
        self.found: list[Any] = []

    def record(self, op: Any, inputs: tuple, attrs: dict, outputs: tuple) -> None:
        """Take note of one operation; called by the tape."""
        if op.name in ("conv", "conv_transpose", "linear") and len(inputs) > 2 \
                and inputs[2] is not None:
            self._bias_of[id(outputs[0].data)] = inputs[2]
            self._alive.append(outputs[0].data)
        elif op.name in ("batch_norm", "batch_norm_train"):
            bias = self._bias_of.get(id(inputs[0].data if isinstance(inputs[0], Tensor)
                                        else inputs[0]))
            if bias is not None:
                self.found.append(bias)


def biases_before_batch_norm(model: nn.Module, *inputs: Any, warn: bool = True) -> list[str]:
    """Name the biases that batch norm takes away again.

    A batch norm subtracts the mean of what comes in, and with it any bias added right before;
    such a bias costs time and memory, gets no gradient, and is better left out
    (``bias=False``): the norm's own offset stands for it.

    Parameters
    ----------
    model : Module
        Run once in evaluation mode; all modes are as before afterwards.
    *inputs : Tensor or array
        An example of what the model takes; its values do not matter.
    warn : bool
        Warn (UserWarning) where there are such biases.

    Returns
    -------
    list of str
        Their dotted names, in the order in which they come.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization", 2015, section 3.2.
    """
    finder = _BiasFinder()
    with evaluating(model), no_grad(), tracing(finder):
        model(*inputs)
    names = {id(p): name for name, p in model.named_parameters()}
    found = list(dict.fromkeys(names[id(b)] for b in finder.found if id(b) in names))
    if found and warn:
        warnings.warn(f"batch norm takes away the biases before it: {', '.join(found)}; leave "
                      "them out with bias=False", UserWarning, stacklevel=2)
    return found
