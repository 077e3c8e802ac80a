"""PyTorch's twins of a network: float64, which is the truth, and float32, which shows limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzz.layers import Network, torch_library, with_weights
from fuzz.trials import error

__all__ = ["Peers"]


class Peers:
    """PyTorch's network in float32 and float64, with the weights that the convkit one is given."""

    def __init__(self, network: Network, model: Any):
        import torch

        torch.set_num_threads(1)
        self.torch = torch
        state = {name: torch.tensor(value)
                 for name, value in with_weights(model, network.seed).items()}
        self.single, self.double = (network.build(torch_library()) for _ in range(2))
        for peer in (self.single, self.double):
            peer.load_state_dict(state)
        self.double.double()

    def evaluate(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the result in eval mode, and the error of float32."""
        with self.torch.no_grad():
            want = self.double.eval()(self.torch.tensor(x).double()).numpy()
            got = self.single.eval()(self.torch.tensor(x)).numpy()
        return want, error(got, want)
