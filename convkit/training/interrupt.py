"""Ctrl-C during training: the step at hand is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["finishing_steps"]


@contextmanager
def finishing_steps(interrupted: Callable[[], None]) -> Iterator[None]:
    """Call `interrupted` at the first Ctrl-C within a ``with`` block.

    A second one raises KeyboardInterrupt at once, as usual. Where the block runs in another
    than the main thread, or the program has a handler of its own, nothing changes.
    """
    usual = signal.default_int_handler
    if (threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not usual):
        yield
        return

    def once(number, frame):
        signal.signal(signal.SIGINT, usual)
        interrupted()

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
