"""The build finds OpenMP by trying it, and says so where there is none."""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import stat
from pathlib import Path

import pytest

from convkit._kernels import native

SETUP = Path(__file__).resolve().parents[1] / "setup.py"
pytest.importorskip("Cython", reason="the build needs Cython: pip install convkit[test]")


@pytest.fixture
def build():
    return runpy.run_path(str(SETUP))


def compiler_that(tmp_path, script: str):
    """Return a compiler object whose program is a shell script around the real one."""
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    real = shutil.which("cc")
    if real is None:
        pytest.skip("no C compiler")
    program = tmp_path / "cc"
    program.write_text(f"#!/bin/sh\n{script}\nexec {real} \"$@\"\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    compiler = new_compiler()
    customize_compiler(compiler)
    compiler.set_executables(compiler=str(program), compiler_so=str(program),
                             linker_exe=str(program))
    return compiler


def test_openmp_is_found_by_running_a_probe(build, tmp_path):
    compiler = compiler_that(tmp_path, "")
    assert build["find_openmp"](compiler) == (["-fopenmp"], ["-fopenmp"])


def test_a_compiler_without_openmp_is_noticed(build, tmp_path):
    script = 'case "$*" in *-fopenmp*|*-lomp*) echo "no OpenMP" >&2; exit 1;; esac'
    assert build["find_openmp"](compiler_that(tmp_path, script)) is None


def test_a_probe_that_does_not_run_counts_as_none(build, tmp_path):
    compiler = compiler_that(tmp_path, "")
    compiler.link_executable = lambda objects, program, **kw: shutil.copy("/bin/false", program)
    assert build["find_openmp"](compiler) is None


def test_a_build_without_openmp_warns_or_is_refused(build, monkeypatch, capsys):
    monkeypatch.delenv("CONVKIT_REQUIRE_OPENMP", raising=False)
    build["warn_without_openmp"]()
    assert "WARNING: convkit: no working OpenMP found (tried -fopenmp" in capsys.readouterr().err
    monkeypatch.setenv("CONVKIT_REQUIRE_OPENMP", "1")
    with pytest.raises(SystemExit, match="and CONVKIT_REQUIRE_OPENMP is set"):
        build["warn_without_openmp"]()


def test_every_kernel_module_is_part_of_the_one_file(build, monkeypatch):
    monkeypatch.chdir(SETUP.parent)
    names = {e.name for e in build["parts"](False)}
    stems = {p.stem for p in (SETUP.parent / "convkit" / "_kernels").glob("*.pyx")}
    assert len(stems) > 10
    assert names == {f"convkit._kernels.{stem}" for stem in {*stems, "native"}}
    assert set(native.names) == stems
    for stem in stems:
        module = importlib.import_module(f"convkit._kernels.{stem}")
        assert module.__file__ == native.__file__
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module("convkit._kernels.nothing")


def test_a_source_is_compiled_anew_where_a_header_is_newer(build, tmp_path):
    source, header = tmp_path / "a.c", tmp_path / "a.h"
    header.write_text("")
    source.write_text("int a;")
    from setuptools import Distribution, Extension

    command = build["BuildExt"](Distribution())
    command.ensure_finalized()
    command.compiler = compiler_that(tmp_path, "echo x >> " + str(tmp_path / "runs"))
    command.build_temp = str(tmp_path / "temp")
    part = Extension("a", [str(source)], depends=[str(header)])
    runs = []
    for newer in (None, None, header):
        if newer:
            os.utime(newer, (2**32, 2**32))
        target = command.compile_unit(part, str(source), ["-O0"])
        runs.append(len((tmp_path / "runs").read_text().split()))
    assert Path(target).exists() and runs == [1, 1, 2]


def test_structs_of_modules_start_as_zeros(build, monkeypatch, tmp_path):
    from setuptools import Distribution

    monkeypatch.chdir(SETUP.parent)
    command = build["BuildExt"](Distribution())
    command.compiler = compiler_that(tmp_path, "")
    kernels = build["Kernels"]("native", build["parts"](False), [])
    if not build["takes"](command.compiler, build["ZEROED"]):
        pytest.skip("this compiler cannot set variables to zero")
    for part, source, flags in command.units(kernels):
        assert (set(build["ZEROED"]) <= set(flags)) == source.endswith(".pyx"), part.name
    assert not build["takes"](command.compiler, ["-fno-such-flag-anywhere"])
