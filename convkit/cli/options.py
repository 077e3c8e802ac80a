"""Option types and small helpers that commands share."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["HelpFormatter", "UsageError", "add_threads", "at_least", "duration", "image_size",
           "list_of", "not_negative", "positive", "print_json", "set_threads", "share", "unknown"]


class UsageError(ValueError):
    """Arguments that do not go together, or name something unknown."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None, whose meaning the option's text says."""

    def _get_help_string(self, action):
        if action.default is None:
            return action.help
        return super()._get_help_string(action)


def unknown(what: str, name: str, known: Collection[str]) -> UsageError:
    """Return the error for a name that is none of those known, with the nearest of them."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"{what} {name!r}; {hint}known are {', '.join(known) or 'none'}")


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `least` up."""
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a number of at least {least}, got {value}")
        return value
    return whole_number


def list_of(parse: Callable[[str], Any], unique: bool = True) -> Callable[[str], list[Any]]:
    """Return an argparse type for values with commas between, such as 1,8,32."""
    def values(text: str) -> list[Any]:
        found = [parse(part) for part in text.split(",")]
        return list(dict.fromkeys(found)) if unique else found
    values.__name__ = getattr(parse, "__name__", "value")
    return values


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


def share(text: str) -> float:
    """Parse a number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got {text}")
    return value


def duration(text: str) -> float:
    """Parse a time such as 90, 90s, 10m or 1h30m; return seconds."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    hours, minutes, seconds = (float(n or 0) for n in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total > 0:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 10m or 1h30m, got {text}")
    return total


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
