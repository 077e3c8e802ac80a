"""The installed package stays small: what pip puts on the disk, with and without bytecode."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import pytest

import convkit

PACKAGE = Path(convkit.__file__).parent
# Neither is installed (see MANIFEST.in and pyproject.toml).
NOT_INSTALLED = {".c", ".h", ".pyx", ".pxd", ".pyc"}
# All that is installed, and the same with the bytecode that pip has Python write beside it.
BOUND, WITH_BYTECODE = 5_000_000, 7_000_000


def installed_files() -> list[Path]:
    return [p for p in PACKAGE.rglob("*")
            if p.is_file() and p.suffix not in NOT_INSTALLED]


def size(paths) -> int:
    return sum(p.stat().st_size for p in paths)


def test_the_installed_package_is_below_5_megabytes(tmp_path):
    files = installed_files()
    extensions = [p for p in files if p.suffix == ".so"]
    if not extensions:
        pytest.skip("extensions of this platform do not end in .so")
    if any(b".debug_info" in p.read_bytes() for p in extensions):
        pytest.skip("a debug build")
    for path in files:
        if path.suffix == ".py":
            target = tmp_path / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    assert compileall.compile_dir(tmp_path, quiet=1)
    bytecode = size(tmp_path.rglob("*.pyc"))
    assert bytecode > 100_000
    parts = (f"{size(extensions) / 1e6:.2f} MB of extensions, {bytecode / 1e6:.2f} of bytecode, "
             f"{(size(files) - size(extensions)) / 1e6:.2f} of other files")
    assert size(files) < BOUND, parts
    assert size(files) + bytecode < WITH_BYTECODE, parts


def test_the_kernels_of_all_instruction_sets_stay_below_their_share():
    sizes = {p.name: p.stat().st_size for p in installed_files() if p.suffix == ".so"}
    assert sizes
    kernels = sum(s for n, s in sizes.items() if n.startswith("dispatch."))
    assert 0 < kernels < 1_600_000, f"the C kernels take {kernels} bytes"
