"""Build of the compiled part: one Cython extension for each file in convkit/_kernels.

Switches, all environment variables:

CONVKIT_REQUIRE_OPENMP=1  fail when the compiler has no OpenMP (else: warn, build without)
CONVKIT_DEBUG_BUILD=1     bounds checks in Cython code, assertions and -O1 -g in C code
CONVKIT_SANITIZE=LIST     passed to the compiler as -fsanitize=LIST
CONVKIT_BUILD_JOBS=N      parallel compilations (default: the CPUs this process may use)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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

# Extensions whose own code only prepares calls: every loop over elements is in the C table.
CALLS_ONLY = {"axis", "bench", "binary", "chain", "elementwise", "int8", "loss", "memory", "norm",
              "optim", "pool", "quant", "resample", "rownorm", "runner", "softmax", "threads",
              "winograd"}
# Installed size: no symbols, and sections side by side rather than on pages of their own
# (three times 4 KB in each extension). Apple's linker knows neither.
SMALL_LINK = [] if sys.platform == "darwin" else ["-Wl,-s", "-Wl,-z,noseparate-code"]


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


class BuildExt(build_ext):
    """build_ext that finds OpenMP first and compiles extensions side by side."""

    def build_extensions(self):
        """Add the flags that depend on the compiler, then build."""
        self.compiler.src_extensions.append(".S")
        sanitize = os.environ.get("CONVKIT_SANITIZE", "")
        # GCC 12 breaks off with an internal error where pointer arithmetic is checked.
        extra = [f"-fsanitize={sanitize}", "-fno-sanitize=pointer-overflow",
                 "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"] if sanitize else []
        # Above -O1, GCC takes a quarter of an hour for the checks in one file of kernels.
        calm = ["-O1", "-g1"] if sanitize else []
        openmp = find_openmp(self.compiler)
        if openmp is None:
            warn_without_openmp()
            openmp = ([], [])
        for extension in self.extensions:
            if extension.name.endswith(".threads"):  # the one door to threads
                extension.extra_compile_args += openmp[0]
                extension.extra_link_args += openmp[1]
            extension.extra_compile_args += extra + calm
            extension.extra_link_args += extra
        if not self.parallel:
            jobs = os.environ.get("CONVKIT_BUILD_JOBS")
            self.parallel = int(jobs) if jobs else len(os.sched_getaffinity(0))
        super().build_extensions()


def extensions(debug: bool) -> list[Extension]:
    """List one extension per .pyx file; `dispatch` also carries every C micro-kernel."""
    optimise = ["-O1", "-g", "-UNDEBUG"] if debug else ["-g0", "-DNDEBUG"]
    flags = ["-std=gnu11", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast",
             "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wno-unused-function", *optimise]
    sanitize = os.environ.get("CONVKIT_SANITIZE")
    headers = sorted(str(p) for p in C_DIR.glob("*.h"))
    found = []
    for source in sorted(KERNELS.glob("*.pyx")):
        name = source.stem
        sources = [str(source)]
        level = "-Os" if name in CALLS_ONLY else "-O2"
        if name == "dispatch":
            sources += sorted(str(p) for p in C_DIR.glob("*.c"))
        found.append(Extension(
            f"convkit._kernels.{name}", sources, depends=headers,
            include_dirs=[str(C_DIR), numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
            extra_compile_args=[*flags, *([] if debug else [level])],
            extra_link_args=["-pthread", *([] if debug or sanitize else SMALL_LINK)]))
    return found


def main() -> None:
    """Build what the command line asks for."""
    debug = switch("CONVKIT_DEBUG_BUILD")
    directives = {
        "language_level": 3,
        "boundscheck": debug,
        "initializedcheck": debug,
        "cdivision": True,
        "embedsignature": True,
        "binding": False,  # a function type of its own would be 15 KB in each extension
        "freethreading_compatible": True,
    }
    setup(
        cmdclass={"build_ext": BuildExt},
        # Debug and release code differ, so each has its own folder of translated files.
        ext_modules=cythonize(extensions(debug), compiler_directives=directives,
                              build_dir="build/cython-debug" if debug else "build/cython"))


if __name__ == "__main__":
    main()
