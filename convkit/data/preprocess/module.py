"""Preprocessing as a layer, for networks that take images as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convkit import nn
from convkit.autograd import Tensor

__all__ = ["Preprocess"]


class Preprocess(nn.Module):
    """Applies the steps of a `Pipeline`; their numbers are constants, not parameters.

    Parameters
    ----------
    forward : callable
        Of the pipeline, Tensor to Tensor.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]):
        super().__init__()
        self._steps = forward

    def forward(self, images: Any) -> Tensor:
        """Return what the network takes, for images (N, C, H, W) of floats from 0 to 1."""
        return self._steps(images if isinstance(images, Tensor) else Tensor(images))
