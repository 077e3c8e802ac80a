"""convkit: train and run convolutional networks on CPUs."""

from __future__ import annotations

from convkit._version import __version__

__all__ = ["__version__"]
