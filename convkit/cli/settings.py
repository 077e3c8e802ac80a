"""Settings that have no option of their own: KEY=VALUE, checked against a signature."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from inspect import signature
from typing import Any

from convkit.cli.options import UsageError, unknown

__all__ = ["add_settings", "settings"]

# Parameters that are no settings, or have options of their own.
OTHERS = ("params lr weight_decay momentum nesterov optimizer last_epoch max_lr total_steps epochs "
          "steps_per_epoch input target weight ignore_index reduction label_smoothing").split()

# What reads a parameter, by its type.
READERS: dict[str, Callable[[str], Any]] = {
    "bool": {"true": True, "false": False}.__getitem__, "int": int, "float": float, "str": str,
    "tuple[float, float]": lambda text: [float(part) for part in text.split(",")],
    "Iterable[int]": lambda text: [int(part) for part in text.split(",")]}


def add_settings(add: Any, of: str, examples: str) -> None:
    """Add the argument for settings of what --`of` names."""
    add(f"--{of}-option", action="append", metavar="KEY=VALUE",
        help=f"a setting of it, such as {examples}; may be given again")


def settings(args: argparse.Namespace, of: str, kind: Callable[..., Any]) -> dict[str, Any]:
    """Return what --`of`-option sets among the parameters of `kind`."""
    known = {name: parameter.annotation.split(" |")[0]
             for name, parameter in signature(kind).parameters.items() if name not in OTHERS}
    found = {}
    for entry in getattr(args, f"{of}_option") or ():
        key, _, text = entry.partition("=")
        if key not in known:
            raise unknown(f"--{of}-option: {getattr(args, of)} has no setting", key, known)
        try:
            found[key] = READERS[known[key]](text)
        except (ValueError, KeyError):
            raise UsageError(f"--{of}-option {entry}: expected {known[key]}") from None
    return found
