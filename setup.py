"""Build of the compiled part: one module for each .pyx in convkit/_kernels, all in one file.

Each module is translated and compiled with flags of its own; all are linked into the file of
`native`, which tells the import system which modules it holds (convkit/_kernels/__init__.py).
A file for each would be 600 KB more, of tables for the dynamic linker and of padding.

Switches, all environment variables:

CONVKIT_REQUIRE_OPENMP=1  fail when the compiler has no OpenMP (else: warn, build without)
CONVKIT_DEBUG_BUILD=1     bounds checks in Cython code, assertions and -O1 -g in C code
CONVKIT_SANITIZE=LIST     passed to the compiler as -fsanitize=LIST
CONVKIT_BUILD_JOBS=N      parallel compilations (default: the CPUs this process may use)
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

KERNELS = Path("convkit/_kernels")
C_DIR = KERNELS / "c"

OPENMP_PROBE = r"""
#include <omp.h>
#include <stdio.h>
int main(void) {
    int seen = 0;
#pragma omp parallel num_threads(2) reduction(+ : seen)
    seen += 1;
    printf("%d\n", seen >= 1 ? omp_get_max_threads() : -1);
    return seen >= 1 ? 0 : 1;
}
"""

# (compile flags, link flags) to try in turn: GCC and Clang, then Apple's Clang with libomp.
OPENMP_FLAGS = [
    (["-fopenmp"], ["-fopenmp"]),
    (["-Xpreprocessor", "-fopenmp"], ["-lomp"]),
]

# Modules whose own code only prepares calls of kernels, or loops over rows and tiles around them:
# loops over elements are in the C table, NumPy's, or wait for memory.
CALLS_ONLY = {"augment", "axis", "bench", "binary", "chain", "copies", "depthwise", "direct",
              "dispatch", "elements", "elementwise", "gather", "gradweight", "int8", "loss",
              "matmul", "memory", "norm", "optim", "pool", "quant", "resample", "rownorm",
              "runner", "softmax", "tape", "threads", "tilegrad", "winograd", "winograd_grad"}
# Installed size: no symbols, and sections side by side rather than on pages of their own. Apple's
# linker knows neither.
SMALL_LINK = [] if sys.platform == "darwin" else ["-Wl,-s", "-Wl,-z,noseparate-code"]
# Nothing here throws or is thrown through, so tables for unwinding (150 KB) would serve debuggers
# only; debug builds have them.
SMALL_CODE = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]


# Python's integers are read, and methods called, by functions of Python rather than by copies of
# them wherever that happens (90 KB): a few nanoseconds, where calls take microseconds.
SMALL_CALLS = [("CYTHON_USE_PYLONG_INTERNALS", "0"), ("CYTHON_UNPACK_METHODS", "0")]
# What a function leaves unset in a struct is 0, in modules that fill structs with the parameters of
# kernels. Kernels' own variables are left alone.
ZEROED = ["-ftrivial-auto-var-init=zero"]


def switch(name: str) -> bool:
    """Tell whether an environment switch is on."""
    return os.environ.get(name, "0").lower() not in ("", "0", "no", "false")


def find_openmp(compiler) -> tuple[list[str], list[str]] | None:
    """Return the first OpenMP flags whose probe compiles, links and runs; else None."""
    for compile_flags, link_flags in OPENMP_FLAGS:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = compiler.compile(
                    [str(source)], output_dir="/" if os.name == "posix" else folder,
                    extra_postargs=compile_flags)
                program = str(Path(folder, "probe"))
                compiler.link_executable(objects, program, extra_postargs=link_flags)
                subprocess.run([program], check=True, stdout=subprocess.DEVNULL, timeout=20)
            except Exception:  # any failure of a foreign compiler means "not with these flags"
                continue
            return compile_flags, link_flags
    return None


def spare(source: str) -> bool:
    """Tell whether a file of kernels is for CPUs that hardly anyone has: before AVX2, of 2013."""
    return (source.endswith("isa_generic.c") and platform.machine() in ("x86_64", "AMD64")
            and not switch("CONVKIT_DEBUG_BUILD") and not os.environ.get("CONVKIT_SANITIZE"))


def takes(compiler, flags: list[str]) -> bool:
    """Tell whether a compiler takes some flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int probe(void) { int unset; return unset; }")
        try:
            compiler.compile([str(source)], output_dir="/" if os.name == "posix" else folder,
                             extra_postargs=["-Werror", "-Wno-uninitialized", *flags])
        except Exception:  # any failure of a foreign compiler means "not with these flags"
            return False
    return True


def warn_without_openmp() -> None:
    """Say that there is no OpenMP, or end the build where it is required."""
    message = ("convkit: no working OpenMP found (tried "
               + ", ".join(" ".join(flags) for flags, _ in OPENMP_FLAGS) + ")")
    if switch("CONVKIT_REQUIRE_OPENMP"):
        sys.exit(f"{message}, and CONVKIT_REQUIRE_OPENMP is set")
    stars = "*" * 78
    print(f"\n{stars}\nWARNING: {message}: convkit's own worker threads\n"
          f"are used where there are POSIX threads, else one thread\n{stars}\n",
          file=sys.stderr)


class Kernels(Extension):
    """The file of all compiled modules: linked from `parts`, one extension for each module."""

    def __init__(self, name: str, parts: list[Extension], link_args: list[str]):
        super().__init__(name, [], extra_link_args=link_args)
        self.parts = parts


class BuildExt(build_ext):
    """build_ext that finds OpenMP first and compiles the parts of `Kernels` side by side."""

    def build_extension(self, ext: Kernels) -> None:
        """Compile what has changed, then link all of it."""
        units = self.units(ext)
        jobs = int(os.environ.get("CONVKIT_BUILD_JOBS") or self.parallel
                   or len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(jobs) as pool:
            ext.extra_objects = list(pool.map(lambda unit: self.compile_unit(*unit), units))
        ext.depends = ext.extra_objects
        super().build_extension(ext)

    def units(self, ext: Kernels) -> list[tuple[Extension, str, list[str]]]:
        """List (part, C file, flags), and add to the flags of the linker what these ask for."""
        sanitize = os.environ.get("CONVKIT_SANITIZE", "")
        # GCC 12 breaks off with an internal error where pointer arithmetic is checked.
        extra = [f"-fsanitize={sanitize}", "-fno-sanitize=pointer-overflow",
                 "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"] if sanitize else []
        # Above -O1, GCC takes a quarter of an hour for the checks in one file of kernels. Products
        # and sums are fused as at -O3, so that loops which have to agree on the bits still do.
        calm = ["-O1", "-fexpensive-optimizations", "-g1"] if sanitize else []
        openmp = find_openmp(self.compiler)
        if openmp is None:
            warn_without_openmp()
            openmp = ([], [])
        ext.extra_link_args += openmp[1] + extra
        zeroed = ZEROED if takes(self.compiler, ZEROED) else []
        units = []
        for part in ext.parts:
            flags = [*part.extra_compile_args, *extra, *calm]
            if part.name.endswith(".threads"):  # the one door to threads
                flags += openmp[0]
            if not part.name.endswith(".native"):
                flags += zeroed
            units += [(part, source, [*flags, *(["-Os"] if spare(source) else [])])
                      for source in part.sources]
        return units

    def compile_unit(self, part: Extension, source: str, flags: list[str]) -> str:
        """Compile one C file unless its object is newer than all it depends on."""
        (target,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or newer_group([source, __file__, *part.depends], target):
            self.compiler.compile([source], output_dir=self.build_temp, debug=self.debug,
                                  macros=part.define_macros, include_dirs=part.include_dirs,
                                  extra_postargs=flags)
        return target


def parts(debug: bool) -> list[Extension]:
    """List one part per .pyx file and one that carries every C micro-kernel."""
    optimise = ["-O1", "-g", "-UNDEBUG"] if debug else ["-g0", "-DNDEBUG", *SMALL_CODE]
    flags = ["-std=gnu11", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast",
             "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wno-unused-function", *optimise]
    headers = sorted(str(p) for p in C_DIR.glob("*.h"))
    modules = sorted(p.stem for p in KERNELS.glob("*.pyx"))

    def part(name: str, sources: list[Path], level: str, *macros: tuple[str, str]) -> Extension:
        return Extension(
            f"convkit._kernels.{name}", [str(p) for p in sources], depends=headers,
            include_dirs=[str(C_DIR), numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *SMALL_CALLS, *macros],
            extra_compile_args=[*flags, *([] if debug else [level])])

    return [part("native", [KERNELS / "native.c", *sorted(C_DIR.glob("*.c"))], "-O2",
                 ("CK_MODULES", f'"{" ".join(modules)}"')),
            *(part(name, [KERNELS / f"{name}.pyx"], "-Os" if name in CALLS_ONLY else "-O2")
              for name in modules)]


def main() -> None:
    """Build what the command line asks for."""
    debug = switch("CONVKIT_DEBUG_BUILD")
    small = [] if debug or os.environ.get("CONVKIT_SANITIZE") else SMALL_LINK
    directives = {
        "language_level": 3,
        "boundscheck": debug,
        "initializedcheck": debug,
        "cdivision": True,
        "embedsignature": True,
        "binding": False,  # a function type of its own would be 15 KB in each module
        "freethreading_compatible": True,
    }
    # Debug and release code differ, so each has its own folder of translated files.
    translated = cythonize(parts(debug), compiler_directives=directives,
                           build_dir="build/cython-debug" if debug else "build/cython")
    setup(cmdclass={"build_ext": BuildExt},
          ext_modules=[Kernels("convkit._kernels.native", translated, ["-pthread", *small])])


if __name__ == "__main__":
    main()
