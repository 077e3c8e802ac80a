"""docs/toolkit.md: every name, module and test in its tables is there."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import convkit

ROOT = Path(__file__).parents[1]
ROOMS = {"A": "data.augment", "F": "functional", "nn": "nn", "optim": "optim",
         "lr_scheduler": "optim.lr_scheduler", "data": "data", "training": "training",
         "models": "models", "ck": ""}


def rows() -> list[list[str]]:
    """Return the cells of every row that names a module and a test."""
    lines = (ROOT / "docs" / "toolkit.md").read_text().splitlines()
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
             if line.startswith("| ") and "---" not in line]
    return [row for row in cells if len(row) == 4 and row[0] != "name"]


ROWS = rows()
FILES = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
TESTS = "\n".join(FILES.values())


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_row(row):
    name, modules, tests, _ = row
    for text in quoted(name):
        room, dot, rest = re.sub(r"\(.*", "", text).partition(".")
        if dot and room in ROOMS:
            pkgutil.resolve_name(".".join(filter(None, ("convkit", ROOMS[room], rest))))
    for path in quoted(modules):
        home = Path(convkit.__file__).parent
        assert (home / path).exists() or (ROOT / path).exists(), path
    assert quoted(tests), "the row names no test"
    for path in quoted(tests):
        assert path in FILES or f"def {path}(" in TESTS, path


def test_there_are_rows():
    assert len(ROWS) > 90


# What PyTorch has too and no comparison of numbers is for.
BARE = {"Module", "ModuleDict", "Parameter", "ParameterList", "Optimizer", "LRScheduler"}


@pytest.mark.parametrize("room", ["nn.functional", "nn", "nn.init", "optim", "optim.lr_scheduler"])
def test_what_pytorch_has_is_compared_with_it(torch, room):
    ours, theirs = (pkgutil.resolve_name(f"{m.__name__}.{room}") for m in (convkit, torch))
    beside_pytorch = "\n".join(text for text in FILES.values() if "torch" in text)
    names = [n for n in getattr(ours, "__all__", dir(ours)) if callable(getattr(theirs, n, None))]
    assert len(names) > 5
    assert [n for n in names if n not in BARE
            and not re.search(rf"\b{n}\b", beside_pytorch)] == []
