"""docs/toolkit.md: every name, module, test and source in its tables is there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from reach import named_tests, reached

import convkit

ROOT = Path(__file__).parents[1]
ROOMS = {"A": "data.augment", "F": "functional", "P": "data.preprocess", "nn": "nn",
         "optim": "optim", "lr_scheduler": "optim.lr_scheduler", "data": "data",
         "training": "training", "models": "models", "plot": "plot", "ck": ""}


def rows() -> list[list[str]]:
    """Return the cells of every row of the tables, but for their headings."""
    lines = (ROOT / "docs" / "toolkit.md").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
             if line.startswith("|") and not line.startswith("| --")]
    return [row for row in cells if row[0] != "name"]


ROWS = rows()
FILES = {path.name: path.read_text(encoding="utf-8")
         for path in Path(__file__).parent.glob("test_*.py")}
TESTS = {name for text in FILES.values() for name in re.findall(r"^def (test_\w+)\(", text, re.M)}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def module(path: str) -> object:
    """Import the module of a path below convkit; examples and benchmarks need only be there."""
    if (ROOT / path).exists():
        return None
    if path == "sklearn.py":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    name = path.removesuffix(".py").replace("/", ".")
    found = importlib.import_module(f"convkit.{name}")
    assert Path(found.__file__) == Path(convkit.__file__).parent / path
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_row(row):
    name, modules, tests, source = row
    homes = [module(path) for path in quoted(modules)]
    assert homes, "the row names no module"
    for text in quoted(name):
        room, dot, rest = re.sub(r"\(.*", "", text).partition(".")
        if dot and room in ROOMS:
            what = pkgutil.resolve_name(".".join(filter(None, ("convkit", ROOMS[room], rest))))
        elif not dot and room.isidentifier():
            what = next((getattr(h, room) for h in homes if hasattr(h, room)), None)
            assert what is not None, f"{room} is in none of {modules}"
        else:
            continue
        for option in re.findall(r"(\w+)=", text):
            taken = inspect.signature(what).parameters  # builders of networks pass **options on
            assert option in taken or "options" in taken, text
    assert quoted(tests), "the row names no test"
    for test in quoted(tests):
        assert test in FILES or test in TESTS, test
    assert source, "the row has no source"


def test_there_are_rows():
    assert len(ROWS) > 90 and {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("room", ["optim", "optim.lr_scheduler", "nn.init"])
def test_the_table_names_all_of_a_room(room):
    named = {word for row in ROWS for text in quoted(row[0]) for word in re.findall(r"\w+", text)}
    exported = set(pkgutil.resolve_name(f"convkit.{room}").__all__)
    assert exported - named == {"optim": {"Optimizer"}, "optim.lr_scheduler": {"LRScheduler"},
                                "nn.init": set()}[room]


# What PyTorch has too and no comparison of numbers is for.
BARE = {"Module", "ModuleDict", "Parameter", "ParameterList", "Optimizer", "LRScheduler"}


@pytest.fixture(scope="module")
def beside_pytorch():
    """Return what each test that uses PyTorch reaches."""
    found = {f"{path.name}::{test}": reached(path.stem, test)
             for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)
             for test in named_tests(path.stem)}
    return {test: names for test, names in found.items() if names.all & {"torch", "TF"}}


@pytest.mark.parametrize("room", ["nn.functional", "nn", "nn.init", "optim", "optim.lr_scheduler"])
def test_a_test_with_pytorch_names_what_pytorch_has(torch, room, beside_pytorch):
    """One test names it and uses PyTorch; that it compares the two is for that test's readers."""
    ours, theirs = (pkgutil.resolve_name(f"{m.__name__}.{room}") for m in (convkit, torch))
    names = [n for n in getattr(ours, "__all__", dir(ours)) if callable(getattr(theirs, n, None))]
    assert len(names) > 5
    assert [n for n in names if n not in BARE and not any(
        n in found.all or any(re.fullmatch(p, n) for p in found.patterns)
        for found in beside_pytorch.values())] == []
