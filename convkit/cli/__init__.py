"""The ``convkit`` command: train, predict, convert, verify, bench, profile, inspect, info.

Exit codes: 0 done, 1 failed (the last line of the error stream says why), 2 wrong usage.
Each command is a module with ``add_parser`` and ``run``; what it needs beyond NumPy is
imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from convkit._version import __version__
from convkit.cli import bench, config, convert, info, inspect, predict, profile, train, verify
from convkit.cli.options import UsageError
from convkit.errors import ConvkitError

__all__ = ["main"]

COMMANDS = (train, predict, convert, verify, bench, profile, inspect, info)

# What data, files and settings can cause; anything else is a defect and keeps its traceback.
EXPECTED = (ConvkitError, OSError, ValueError, ImportError, FloatingPointError, MemoryError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convkit", description="Train and run convolutional networks on CPUs.")
    parser.add_argument("--version", action="version", version=f"convkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = command.add_parser(commands)
        sub.add_argument("--debug", action="store_true", help="show tracebacks of errors")
        sub.set_defaults(run=command.run, prog=sub.prog)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed usage, help or the version
        return int(stop.code or 0)
    try:
        expanded = config.expand(args, argv)
        if expanded is not None:
            args = parser.parse_args(expanded)
        args.run(args)
        sys.stdout.flush()
    except SystemExit as stop:  # a value in a file of options is wrong
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _failed(args.prog, "interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output is gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as error:
        if args.debug:
            raise
        return _failed(args.prog, _one_line(error), 2 if isinstance(error, UsageError) else 1)
    return 0


def _failed(prog: str, message: str, code: int) -> int:
    print(f"{prog}: error: {message}", file=sys.stderr)
    distributed = sys.modules.get("convkit.distributed")
    if distributed is not None:
        distributed.abort(code)  # others would wait for this process
    return code


def _one_line(error: BaseException) -> str:
    """Return an error's text in one line; never empty."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
