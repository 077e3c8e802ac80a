"""What a test reaches, read from its source: the names in it and in what of its module it uses.

Helpers of other modules of tests are followed too, but for `harness`, whose functions can do more
than a test has them do. A name that a test builds from parts, other than by an f-string, is not
found.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Names(NamedTuple):
    """Names that occur, those of them that the module may define, and patterns of f-strings."""

    all: set[str]
    read: set[str]
    patterns: set[str]


def _names(node: ast.AST) -> Names:
    every, read, patterns = set(), set(), set()
    texts = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Expr)}  # docstrings
    for n in ast.walk(node):
        if isinstance(n, (ast.Name, ast.arg)):
            read.add(n.id if isinstance(n, ast.Name) else n.arg)
        elif isinstance(n, (ast.Attribute, ast.keyword)):
            every.add(n.attr if isinstance(n, ast.Attribute) else n.arg)
        elif isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in texts:
            every.update(re.findall(r"\w+", n.value))
        elif isinstance(n, ast.JoinedStr):
            parts = [re.escape(v.value) if isinstance(v, ast.Constant) else r"\w*"
                     for v in n.values]
            if len("".join(parts).replace(r"\w*", "")) > 3:
                patterns.add("".join(parts))
    return Names(every | read, read, patterns)


@functools.cache
def _module(name: str) -> tuple[dict[str, list[Names]], dict[str, tuple[str, str]]]:
    """Return what a module of tests defines, and what it imports from others, by name."""
    made: dict[str, list[Names]] = {}
    imported = {}
    for node in ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.setdefault(node.name, []).append(_names(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = _names(node)
            for n in (n for target in targets for n in ast.walk(target)):
                if isinstance(n, ast.Name):
                    made.setdefault(n.id, []).append(names)
        elif (isinstance(node, ast.ImportFrom) and node.module != "harness"
              and (HERE / f"{node.module}.py").exists()):
            imported.update((a.asname or a.name, (node.module, a.name)) for a in node.names)
    return made, imported


def named_tests(module: str) -> list[str]:
    """Return the names of a module's tests."""
    return [name for name in _module(module)[0] if name.startswith("test_")]


def reached(module: str, test: str) -> Names:
    """Return the names in a test and in all that it uses."""
    found, todo = [], [(module, test)]
    seen = set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        made, imported = _module(key[0])
        if key[1] in imported:
            todo.append(imported[key[1]])
        for names in made.get(key[1], ()):
            found.append(names)
            todo += [(key[0], name) for name in names.read]
    return Names(*(set().union(*parts) for parts in zip(*found, strict=True)))
