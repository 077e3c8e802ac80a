"""Random numbers that are functions of (seed, epoch, sample, place in a composition)."""

from __future__ import annotations

import numpy as np

from convkit._kernels import augment as kernels

__all__ = ["Draws"]

# A sample's streams beyond its own transforms start here.
_GOLDEN = 0x9E3779B9


def _mixed(word: int) -> int:
    """Return a 32-bit word in which every bit depends on every bit of `word`."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    word = (word ^ (word >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return word ^ (word >> 16)


class Draws:
    """A stream of random numbers for each image of a batch.

    Every number is a function of the seed, the epoch, the sample's number and the place of
    the transform that asks: never of the batch, of threads, or of what was drawn before.

    Parameters
    ----------
    seed, epoch : int
        At least 0.
    ids : array_like of int, shape (N,)
        The samples' numbers, such as their positions in the data set.

    Notes
    -----
    The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2,
    3", 2011), keyed by seed and epoch.
    """

    def __init__(self, seed: int, epoch: int, ids: np.ndarray):
        words = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(2)
        self.key = (int(words[0]), int(words[1]))
        self.ids = np.ascontiguousarray(ids, np.int64)
        self.stream = 0

    def __len__(self) -> int:
        return len(self.ids)

    def _with(self, ids: np.ndarray, stream: int) -> Draws:
        other = object.__new__(Draws)
        other.key, other.ids, other.stream = self.key, ids, stream
        return other

    def child(self, place: int) -> Draws:
        """Return the stream of the part at `place` of a composition."""
        return self._with(self.ids, _mixed(self.stream ^ (place + 1) * _GOLDEN & 0xFFFFFFFF))

    def take(self, positions: np.ndarray) -> Draws:
        """Return the streams of some of the images."""
        return self._with(np.ascontiguousarray(self.ids[positions]), self.stream)

    def uniform(self, count: int) -> np.ndarray:
        """Return float64 (N, count), uniform in [0, 1)."""
        return kernels.uniforms(self.key, self.ids, self.stream, count)

    def beta(self, alpha: float) -> np.ndarray:
        """Return float64 (N,) of the distribution Beta(alpha, alpha).

        Notes
        -----
        As the share of one of two gamma-distributed numbers in their sum, each by Marsaglia
        and Tsang's method ("A simple method for generating gamma variables", 2000), in
        logarithms, so that small `alpha` do not underflow. Of 16 tries, the first accepted
        counts.
        """
        first, second = (self.child(i)._log_gamma(alpha) for i in (0, 1))
        return 1 / (1 + np.exp(np.clip(second - first, -700, 700)))

    def _log_gamma(self, alpha: float) -> np.ndarray:
        u = 1 - self.uniform(3 * 16 + 1)
        tries = u[:, 1:].reshape(len(u), 3, 16)  # in (0, 1]
        z = np.sqrt(-2 * np.log(tries[:, 0])) * np.cos(2 * np.pi * tries[:, 1])
        d = alpha + 1 - 1 / 3
        v = np.maximum(1 + z / np.sqrt(9 * d), 1e-90) ** 3
        taken = (v > 1e-200) & (np.log(tries[:, 2]) < z**2 / 2 + d - d * v + d * np.log(v))
        chosen = v[np.arange(len(v)), taken.argmax(axis=1)]
        return np.log(d * chosen) + np.log(u[:, 0]) / alpha
