"""Parameter: a tensor that a module learns."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.autograd import Tensor, _Cached

__all__ = ["Parameter"]


class Parameter(_Cached):
    """A leaf tensor that modules list among their parameters.

    Its values live in memory of its own, and `data` is a read-only view of them: they
    change by assigning `data`, or in place within ``no_grad()`` by ``copy_``, ``mul_`` and
    so on, so that forms derived from them (packed weights) are never stale.

    Parameters
    ----------
    data : Tensor or array_like
        The initial values, which are copied.
    requires_grad : bool
        Whether backward fills `grad`.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        data = data.data if isinstance(data, Tensor) else data
        super().__init__(np.array(data) if isinstance(data, np.ndarray) else data, requires_grad)

    @classmethod
    def empty(cls, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Parameter:
        """Return a parameter whose values are still to be set."""
        made = cls.__new__(cls)
        _Cached.__init__(made, np.empty(shape, dtype), True)
        return made

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
