"""Mirrored images, and turns by 90 degrees."""

from __future__ import annotations

import numpy as np

from convkit.data.augment.base import share
from convkit.data.augment.geometry import Geometric, Sampling, composed, signed_axes
from convkit.errors import ShapeError

__all__ = ["RandomHorizontalFlip", "RandomRotation90", "RandomVerticalFlip"]


class RandomHorizontalFlip(Geometric):
    """Mirror left and right with probability `p`."""

    sampling = Sampling()

    def __init__(self, p: float = 0.5):
        self.p = share(p)

    def maps(self, draws, size):
        """Return the maps."""
        return signed_axes(draws.uniform(1)[:, 0] < self.p, False, len(draws), size), size


class RandomVerticalFlip(Geometric):
    """Mirror top and bottom with probability `p`."""

    sampling = Sampling()

    def __init__(self, p: float = 0.5):
        self.p = share(p)

    def maps(self, draws, size):
        """Return the maps."""
        return signed_axes(False, draws.uniform(1)[:, 0] < self.p, len(draws), size), size


class RandomRotation90(Geometric):
    """Turn counter-clockwise by a random one of some multiples of 90 degrees (`numpy.rot90`).

    Parameters
    ----------
    turns : sequence of int
        To choose from. Odd ones need square images, unless there is only one.
    """

    sampling = Sampling()

    def __init__(self, turns: tuple[int, ...] = (0, 1, 2, 3)):
        self.turns = tuple(int(k) % 4 for k in turns)
        if not self.turns:
            raise ValueError("expected at least one number of turns, got none")

    def maps(self, draws, size):
        """Return the maps."""
        height, width = size
        if height != width and len({k % 2 for k in self.turns}) == 2:
            raise ShapeError(f"expected square images for random turns by 90 degrees, "
                             f"got {height}x{width}")
        chosen = (draws.uniform(1)[:, 0] * len(self.turns)).astype(int)
        turns = np.array(self.turns)[chosen]
        out = signed_axes(turns >= 2, turns >= 2, len(draws), size)
        # One more turn: output (x, y) shows the input at (width - 1 - y, x).
        odd = turns % 2 == 1
        quarter = np.array([[0.0, -1.0, width - 1.0], [1.0, 0.0, 0.0]])
        out[odd] = composed(out[odd], np.broadcast_to(quarter, (int(odd.sum()), 2, 3)))
        return out, (width, height) if self.turns[0] % 2 else size
