"""Networks by name."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

from convkit import nn

__all__ = ["create", "names", "register"]

_MODELS: dict[str, Callable[..., nn.Module]] = {}


def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Enter a function ``build(num_classes, in_channels)`` under its name (a decorator).

    It gets an argument `weights`, a safetensors file or a state_dict for the new network.
    """
    @functools.wraps(build)
    def with_weights(*args: Any, weights: Any = None, **options: Any) -> nn.Module:
        model = build(*args, **options)
        if weights is not None:
            from convkit.io.state_dict import load_weights

            load_weights(model, weights)
        return model

    _MODELS[build.__name__] = with_weights
    return with_weights


def names() -> list[str]:
    """Return the names that `create` knows, in alphabetical order."""
    return sorted(_MODELS)


def create(name: str, num_classes: int = 10, in_channels: int = 3,
           weights: Any = None) -> nn.Module:
    """Make a network, with fresh weights where none are given.

    Parameters
    ----------
    name : str
        One of `names`.
    num_classes : int
        Number of outputs.
    in_channels : int
        Channels of the images.
    weights : path_like or mapping, optional
        A safetensors file, or a state_dict, as `convkit.io.load_weights` takes it.

    Raises
    ------
    ValueError
        When the name is unknown, or a number is below 1.
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown model {name!r}; {hint}known are {', '.join(names())}")
    for what, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if number < 1:
            raise ValueError(f"expected {what} of at least 1, got {number}")
    return _MODELS[name](num_classes=num_classes, in_channels=in_channels, weights=weights)
