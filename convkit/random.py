"""The generator of random numbers that initialisers and random layers draw from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["fork_rng", "generator", "get_state", "jump", "manual_seed", "set_state"]

# Made on first use: numpy.random takes a quarter of the time of `import convkit`.
_generator: np.random.Generator | None = None


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
    # As in PyTorch, a process that never seeds draws the same numbers every time.
    return manual_seed(0) if _generator is None else _generator


def get_state() -> dict[str, Any]:
    """Return the generator's state, for checkpoints (JSON values)."""
    return generator().bit_generator.state


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that `get_state` returned."""
    generator().bit_generator.state = state


def jump(times: int) -> None:
    """Move on as if some 2**127 numbers had been drawn, so many times.

    Processes that train together, seeded alike, then draw different numbers if each jumps as many
    times as its rank says.
    """
    if times:
        set_state(generator().bit_generator.jumped(times).state)


@contextlib.contextmanager
def fork_rng(seed: int | None = None) -> Iterator[None]:
    """Leave the generator after a ``with`` block as it was before.

    Parameters
    ----------
    seed : int, optional
        What the generator is restarted from within the block; without it, it goes on.
    """
    global _generator
    before, state = generator(), get_state()
    try:
        if seed is not None:
            manual_seed(seed)
        yield
    finally:
        _generator = before
        set_state(state)
