"""The wheel, and what it becomes when it is installed, stay small."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

import convkit

PACKAGE = Path(convkit.__file__).parent
# Neither is installed (see MANIFEST.in and pyproject.toml); .pyc is Python's cache, which it
# makes again from the source wherever it is missing.
NOT_INSTALLED = {".c", ".h", ".pyx", ".pxd", ".pyc"}
# Without the bundled images, which are data. 5 MB are promised of the wheel, whose files are
# compressed one by one; half of that keeps room. Pythons of distributions build extensions with
# guards of the stack, 2% of their size.
WHEEL = 2_500_000
INSTALLED = 5_400_000
DATA = PACKAGE / "data" / "bundled"


def installed_files() -> list[Path]:
    return [p for p in PACKAGE.rglob("*")
            if p.is_file() and p.suffix not in NOT_INSTALLED and DATA not in p.parents
            # Files of single modules are left behind by builds of old.
            and (p.suffix != ".so" or p.name.startswith("native."))]


def test_wheel_and_installed_package_are_small():
    sizes = {p: p.stat().st_size for p in installed_files()}
    extensions = [p for p in sizes if p.suffix == ".so"]
    if not extensions:
        pytest.skip("extensions of this platform do not end in .so")
    if any(b".debug_info" in p.read_bytes() for p in extensions):
        pytest.skip("a debug build")
    compiled = sum(sizes[p] for p in extensions)
    assert compiled > 1_000_000
    total = sum(sizes.values())
    assert total < INSTALLED, f"{total} bytes, {compiled} of them in extensions"
    assert sum(len(zlib.compress(p.read_bytes())) for p in sizes) < WHEEL
