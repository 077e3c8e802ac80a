"""Collective calls on tensors, under PyTorch's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from convkit.autograd import Tensor, no_grad
from convkit.distributed.group import Group, default_group

__all__ = ["all_gather_object", "all_reduce", "broadcast", "broadcast_all"]


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, in an order that is always the same.

    Raises
    ------
    DistributedError
        When another process does not answer.
    """
    flat = np.array(tensor.data).reshape(-1)
    default_group().sum_(flat)
    with no_grad():
        return tensor.copy_(flat.reshape(tensor.shape))


def broadcast(tensor: Tensor, src: int = 0) -> Tensor:
    """Overwrite a tensor with that of process `src`, in place."""
    broadcast_all([tensor], default_group(), src)
    return tensor


def broadcast_all(tensors: Iterable[Tensor], group: Group, source: int = 0) -> None:
    """Overwrite tensors with those of one process."""
    with no_grad():
        for tensor in tensors:
            array = np.array(tensor.data, order="C")
            group.broadcast(array, source)
            tensor.copy_(array)


def all_gather_object(value: Any) -> list[Any]:
    """Return the values (anything that pickles) of all processes in their order."""
    return default_group().gather_object(value)
