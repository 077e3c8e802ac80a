"""The C kernels compile for other processors and compilers than this machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

C_DIR = Path(__file__).parents[1] / "convkit" / "_kernels" / "c"
SOURCES = sorted(C_DIR.glob("*.c"))
FLAGS = ["-std=gnu11", "-O0", "-ffp-contract=fast", "-Wall", "-Werror", "-Wno-unused-function"]


def compile_all(compiler: str, folder: Path, *flags: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")

    def compiled(source: Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            [compiler, *FLAGS, *flags, "-c", str(source), "-o", str(folder / (source.stem + ".o"))],
            capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, done in zip(SOURCES, pool.map(compiled, SOURCES), strict=True):
            assert done.returncode == 0, f"{source.name} with {compiler}:\n{done.stderr[-2000:]}"


def test_there_are_sources():
    assert {"cpu.c", "isa_generic.c", "isa_avx2.c", "isa_avx512.c"} <= {p.name for p in SOURCES}


def test_compiles_for_64_bit_arm(tmp_path):
    compile_all("aarch64-linux-gnu-gcc", tmp_path)


def test_compiles_with_clang(tmp_path):
    compile_all("clang", tmp_path, "-Wno-unknown-pragmas", "-fsyntax-only")


def test_only_the_tables_and_the_detection_are_exported(tmp_path):
    compile_all("cc", tmp_path)
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    names = set()
    for path in tmp_path.glob("*.o"):
        lines = subprocess.run(["nm", "-g", "--defined-only", str(path)], capture_output=True,
                               text=True, check=True).stdout.splitlines()
        names |= {line.split()[-1] for line in lines if line}
    assert all(n.startswith(("ck_table_", "ck_cpu_", "ck_isa_")) for n in names), names
