"""The blocks of code on the pages of docs/, and running them as a reader would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from convkit.cli import main

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    """Return the page's blocks of a language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_python(page: str, skip: int = 0) -> dict[str, Any]:
    """Run the page's Python one block after the other; return the names that are left."""
    names: dict[str, Any] = {"__name__": "docs"}
    for number, block in enumerate(blocks(page, "python")[skip:], skip):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


def run_commands(page: str, capsys: Any) -> list[str]:
    """Run the page's `convkit` commands within this process; return what each printed."""
    printed = []
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            argv = shlex.split(line, comments=True)
            if argv and argv[0] == "convkit":
                assert main(argv[1:]) == 0, (line, capsys.readouterr().err)
                printed.append(capsys.readouterr().out)
    return printed
