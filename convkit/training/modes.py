"""Leaving a network as it was: modes of its modules, and copies of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from convkit import nn

__all__ = ["evaluating", "modes_kept", "weights_of"]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each module of a network back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a Module into evaluation mode, and each of its parts back into its own."""
    if not isinstance(model, nn.Module):
        yield
        return
    with modes_kept(model):
        model.eval()
        yield


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Return copies of all parameters and buffers, for `Module.load_state_dict`."""
    return {name: np.array(tensor.data) for name, tensor in model.state_dict().items()}
