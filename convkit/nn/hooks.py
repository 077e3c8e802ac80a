"""Functions that are called around a module's forward."""

from __future__ import annotations

import itertools
from collections.abc import Callable

__all__ = ["RemovableHandle"]

_ids = itertools.count()


class RemovableHandle:
    """What registering a hook returns; usable as a context manager.

    Parameters
    ----------
    hooks : dict
        Where the hook is entered, under the handle's `id`.
    hook : callable
        The hook.
    """

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self._hooks = hooks
        self.id = next(_ids)
        hooks[self.id] = hook

    def remove(self) -> None:
        """Take the hook out; doing so twice is no error."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc) -> None:
        self.remove()
