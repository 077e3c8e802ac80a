"""``convkit info``: what this installation runs on."""

from __future__ import annotations

import argparse
from typing import Any

from convkit import runtime
from convkit.cli.options import print_json

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "info", help="show CPU, instruction sets, threads and versions",
        description="Show CPU, instruction sets, threads and versions, and what was chosen.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the configuration."""
    if args.json:
        print_json(runtime.config())
    else:
        runtime.show_config()
