"""Which layer an operation runs in, found from the calls that are under way."""

from __future__ import annotations

import inspect
import sys
from types import FrameType

from convkit import nn

__all__ = ["Place", "current_place"]


class Place:
    """The layer that an operation runs in, and the network that the layer is part of.

    Attributes
    ----------
    layer, network : Module or None
        None outside of any module.
    """

    __slots__ = ("layer", "network")

    def __init__(self, layer: nn.Module | None, network: nn.Module | None):
        self.layer = layer
        self.network = network

    @property
    def path(self) -> str:
        """The layer's dotted path in the network; empty for the network itself."""
        if self.network is None:
            return ""
        return next((name for name, m in self.network.named_modules() if m is self.layer), "")

    def parameter(self, tensor: object) -> str | None:
        """Return the name under which the layer has a parameter, or None."""
        if self.layer is None:
            return None
        return next((n for n, p in self.layer.named_parameters() if p is tensor), None)


def current_place() -> Place:
    """Return where the operation that is being run is."""
    modules = []
    frame = sys._getframe(1)
    while frame is not None:
        module = _runs(frame)
        if module is not None:
            modules.append(module)
        frame = frame.f_back
    return Place(modules[0], modules[-1]) if modules else Place(None, None)


def _runs(frame: FrameType) -> nn.Module | None:
    """Return the module whose own `forward` a call is, or None; `Module.__call__` is compiled."""
    code = frame.f_code
    if not code.co_argcount:
        return None
    first = frame.f_locals.get(code.co_varnames[0])
    if not isinstance(first, nn.Module):
        return None
    forward = inspect.unwrap(type(first).forward)
    return first if getattr(forward, "__code__", None) is code else None
