"""The running average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from convkit import nn, runtime
from convkit._kernels import optim as kernels
from convkit.autograd import no_grad
from convkit.training.modes import weights_of

__all__ = ["EMA"]


class EMA:
    """Exponential moving average of parameters and floating-point buffers.

    After step t: ``average += (1 - d) (weights - average)`` with
    ``d = min(decay, (1 + t) / (10 + t))``, so that the first steps, whose weights are poor,
    are soon forgotten.

    Parameters
    ----------
    model : Module
        Its weights now are the first average.
    decay : float
        How much of the average is kept in a step, from 0 to below 1.

    Attributes
    ----------
    average : dict of str to numpy.ndarray
        By the keys of ``model.state_dict()``.
    steps : int
        How many times `update` was called.

    References
    ----------
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the
    growing decay is that of TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay from 0 to below 1, got {decay}")
        self.model = model
        self.decay = decay
        self.steps = 0
        self.average = weights_of(model)

    def update(self) -> None:
        """Take the model's weights of now into the average."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        together = []
        for name, tensor in self.model.state_dict().items():
            average, value = self.average[name], tensor.data
            if average.dtype.kind != "f":
                np.copyto(average, value)  # counters are taken as they are
            elif average.flags.c_contiguous and value.flags.c_contiguous \
                    and average.dtype == value.dtype:
                together.append((average, value, None))
            else:
                average += average.dtype.type(share) * (value - average)
        # A step of gradient descent that is all weight decay: p -= -share (value - p).
        kernels.sgd(together, [False] * len(together), -share, 0.0, 0.0, -1.0, False, False,
                    runtime.get_num_threads())

    def restart(self) -> None:
        """Make the model's weights of now the average."""
        for name, tensor in self.model.state_dict().items():
            np.copyto(self.average[name], tensor.data)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights within a ``with`` block."""
        own = weights_of(self.model)
        self.copy_to(self.model)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def copy_to(self, model: nn.Module) -> None:
        """Give a model the averaged weights for good."""
        with no_grad():
            model.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and how it came about."""
        return {"decay": self.decay, "steps": self.steps, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; arrays are copied.

        Raises
        ------
        ValueError
            When it is of another network.
        """
        shapes = {name: array.shape for name, array in self.average.items()}
        if {name: array.shape for name, array in state["average"].items()} != shapes:
            raise ValueError("expected the average of a network with the same weights")
        self.decay, self.steps = state["decay"], state["steps"]
        self.average = {name: np.array(array) for name, array in state["average"].items()}
