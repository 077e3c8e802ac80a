"""PyTorch's sides of the inference benchmark: eager mode, in both memory layouts."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable
from typing import Any

import common
import networks
import numpy as np

__all__ = ["LAYOUTS", "torch_sides"]

LAYOUTS = {"torch contiguous": "contiguous_format", "torch channels_last": "channels_last"}


def torch_sides(name: str, model: Any) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return functions from an input to the scores, of a network with the weights of `model`.

    Empty where PyTorch is missing, or torchvision for networks that are its own.
    """
    torch = common.find_torch()
    network = None if torch is None else _network(torch, name)
    if network is None:
        return {}
    # Both sides list the same values in the same order.
    values = [torch.from_numpy(np.array(value)) for value in model.state_dict().values()]
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    return {side: _side(torch, network, getattr(torch, layout)) for side, layout in LAYOUTS.items()}


def _network(torch: Any, name: str) -> Any:
    """Return PyTorch's form of a network; None where there is none."""
    if name in networks.NETWORKS:
        return networks.NETWORKS[name][0](torch.nn, torch.nn.functional).eval()
    # The models need none of torchvision's own operators, which a build for another PyTorch
    # lacks; only that these two are known when it is imported.
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{operator}",
                                 "(Tensor a, Tensor b, float c) -> Tensor")
    try:
        return getattr(importlib.import_module("torchvision.models"), name)(weights=None).eval()
    except (ImportError, RuntimeError, AttributeError):
        return None


def _side(torch: Any, network: Any, layout: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs a copy of the network in one layout."""
    own = copy.deepcopy(network).to(memory_format=layout)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return own(torch.from_numpy(x).to(memory_format=layout)).numpy()

    return call
