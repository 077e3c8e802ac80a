"""Options from a TOML file and from ``--set``, put in front of those of the command line."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convkit.cli.options import UsageError, unknown

__all__ = ["add_config", "expand"]

# Options that only make sense on the command line.
NOT_SETTINGS = {"help", "config", "set", "debug"}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a file of options, and single ones."""
    parser.add_argument("config", nargs="?", metavar="CONFIG",
                        help="TOML file with any of the options below, named alike; its tables "
                             "are headings only; the command line wins over it, lists are "
                             "replaced")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE",
                        help="an option by its name in such a file, over which it wins; without "
                             "VALUE, an empty list")
    parser.set_defaults(config_parser=parser)


def expand(args: argparse.Namespace, argv: Sequence[str]) -> list[str] | None:
    """Return the command line with the options of file and ``--set`` put in; None without.

    Of what may be given several times, the place that wins has all: later ones replace it.

    Raises
    ------
    UsageError
        When a key is unknown, a value is no option's, or the file is no TOML.
    OSError
        When the file cannot be read.
    """
    if getattr(args, "config", None) is None and not getattr(args, "set", None):
        return None
    options = _options(args.config_parser)
    found: dict[str, list[str]] = {}
    if args.config is not None:
        found = _arguments(options, _pairs(_read(args.config)), args.config)
    found |= _arguments(options, _settings(args.set or []), "--set")
    tokens = [token for name, tokens in found.items() for token in tokens
              if not _is_list(options[name]) or getattr(args, options[name].dest) is None]
    return [argv[0], *tokens, *argv[1:]]


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the parser's settings by name."""
    return {option[2:]: action for action in parser._actions if action.dest not in NOT_SETTINGS
            for option in action.option_strings
            if option.startswith("--") and not option.startswith("--no-")}


def _is_list(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from None


def _pairs(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all keys and values; tables are headings only."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _pairs(value)
        else:
            yield key, value


def _settings(entries: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield what ``--set KEY=VALUE`` says."""
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {entry}: expected KEY=VALUE")
        yield key.strip(), {"true": True, "false": False}.get(value.strip(), value.strip())


def _arguments(options: dict[str, argparse.Action], pairs: Iterator[tuple[str, Any]],
               where: str) -> dict[str, list[str]]:
    """Return settings by their option's name, as arguments of the command line."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        name = key.replace("_", "-")
        if name not in options:
            raise unknown(f"{where}: unknown option", key, sorted(options))
        if name in found and where != "--set":
            raise UsageError(f"{where}: {key!r} appears twice")
        action = options[name]
        switch = isinstance(action, argparse.BooleanOptionalAction)
        if isinstance(value, bool) != switch or (isinstance(value, list) and not _is_list(action)):
            expected = "true or false" if switch else "a value"
            raise UsageError(f"{where}: {key}: expected {expected}, got {value!r}")
        if switch:
            found[name] = [f"--{name}" if value else f"--no-{name}"]
        elif _is_list(action):
            values = value if isinstance(value, list) else [value] if value != "" else []
            found.setdefault(name, []).extend(f"--{name}={v}" for v in values)
        else:
            found[name] = [f"--{name}={value}"]
    return found
