"""The tests that docs/safety.md and docs/promises.md name are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_named_test_exists():
    text = (HERE.parent / "docs" / "safety.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    classes = text.partition("\n## ")[0]
    rows = [line for line in classes.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 9 and all("::test_" in row for row in rows)
    for file, name in named:
        assert re.search(rf"^def {name}\(", (HERE / file).read_text(), re.M), (file, name)


def test_the_tests_of_promises_exist():
    text = (HERE.parent / "docs" / "promises.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^def {name}\(", (HERE / file).read_text(), re.M), (file, name)
