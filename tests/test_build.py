"""The build makes an extension of every kernel module."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[1] / "setup.py"
pytest.importorskip("Cython", reason="the build needs Cython: pip install convkit[test]")


@pytest.fixture
def build():
    return runpy.run_path(str(SETUP))


def test_every_kernel_module_is_an_extension(build, monkeypatch):
    monkeypatch.chdir(SETUP.parent)
    names = {e.name for e in build["extensions"](False)}
    stems = {p.stem for p in (SETUP.parent / "convkit" / "_kernels").glob("*.pyx")}
    assert len(stems) > 10
    assert names == {f"convkit._kernels.{stem}" for stem in stems}
