"""The generator of random numbers that initialisers and random layers draw from."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["generator", "get_state", "manual_seed", "set_state"]

# As in PyTorch, a process that never seeds draws the same numbers every time.
_generator = np.random.Generator(np.random.PCG64(0))


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the generator from `seed`.

    Parameters
    ----------
    seed : int
        At least 0.

    Returns
    -------
    numpy.random.Generator
        The process-wide generator (PCG64), also given by `generator`.
    """
    global _generator
    _generator = np.random.Generator(np.random.PCG64(seed))
    return _generator


def generator() -> np.random.Generator:
    """Return the process-wide generator."""
    return _generator


def get_state() -> dict[str, Any]:
    """Return the generator's state, for checkpoints (JSON values)."""
    return _generator.bit_generator.state


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that `get_state` returned."""
    _generator.bit_generator.state = state
