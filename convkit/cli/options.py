"""Option types and small helpers that commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["HelpFormatter", "UsageError", "add_threads", "at_least", "image_size",
           "not_negative", "positive", "print_json", "set_threads"]


class UsageError(ValueError):
    """Arguments that do not go together, or name something unknown."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None, whose meaning the option's text says."""

    def _get_help_string(self, action):
        if action.default is None:
            return action.help
        return super()._get_help_string(action)


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` up."""
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a number of at least {least}, got {value}")
        return value
    return whole_number


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return value


def image_size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH, or one number for both."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 32x32, got {text}")
    return int(parts[0]), int(parts[-1])


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=at_least(1), metavar="N",
                        help="threads to use (default: the CPUs this process may use)")


def set_threads(args: argparse.Namespace) -> None:
    """Apply ``--threads``."""
    if args.threads:
        from convkit import runtime
        runtime.set_num_threads(args.threads)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on the output stream."""
    json.dump(value, sys.stdout, indent=2)
    print()
