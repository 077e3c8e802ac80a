"""Links on the repository's pages lead to files and headings; results that pages name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "convkit", "docs", "examples", "tests", "tools")
PAGES = sorted([*ROOT.glob("*.md"), *(page for f in FOLDERS for page in (ROOT / f).rglob("*.md"))])


def prose(page: Path) -> str:
    """Return the page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the page's headings."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", prose(page), re.M):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        if number:
            found[f"{slug}-{number}"] = 0
    return set(found)


def broken(page: Path) -> list[str]:
    """Return the page's links within the repository that lead nowhere."""
    bad = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            bad.append(target)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_broken_links_are_seen(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One\n\n## A layer's `x_y`, [and](z.md) more\n\n## One\n\n"
                     "```\n# no heading\n```\n")
    good = ["other.md", "other.md#one", "other.md#one-1", "other.md#a-layers-x_y-and-more", "#top",
            "https://example.org/none.md#none"]
    bad = ["none.md", "none.md#one", "other.md#two", "other.md#no-heading", "#bottom", "none.png"]
    page.write_text("# Top\n\n" + "\n".join(f"[`a`]({target})" for target in good + bad)
                    + "\n\n`[x](y)`\n\n```\n[x](y)\n```\n")
    assert broken(page) == bad


def test_results_that_pages_name_are_there():
    pattern = r"\bresults/[\w/]*\d{4}-\d\d-\d\d-[\w-]+\.json"
    named = {name for page in PAGES for name in re.findall(pattern, page.read_text("utf-8"))}
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / "benchmarks" / name).exists()] == []
