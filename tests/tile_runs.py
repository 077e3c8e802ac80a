"""Children with products of bfloat16: on tiles, emulated or natively, or on vectors.

The emulation (amx_emulated.c) follows the instructions' definition and stops at whatever the
processor would refuse; the kernels' source is the very same.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from harness import run_python

from convkit._kernels import dispatch

__all__ = ["runner"]

TESTS = Path(__file__).parent
C_DIR = TESTS.parent / "convkit" / "_kernels" / "c"

START = """
    import ctypes
    import numpy as np
    import test_conv
    from convkit import reference, precision, Tensor, nn
    from convkit._kernels import dispatch, threads, tiles
    from convkit.autograd import apply
    from convkit.ops import planner
    from convkit.ops.conv import Conv
    from convkit.ops.conv_algorithms import bfloat16
    from convkit.ops.conv_problem import forward_problem
    from convkit.ops.op import REGISTRY
    from harness import assert_same_bits, check_batch_invariance, random_array, run_op

    library = LIBRARY
    if library:
        lib = ctypes.CDLL(library)
        def address(name):
            return ctypes.addressof(ctypes.c_char.in_dll(lib, name))
        dispatch.emulate_tiles(address("ck_table_amx_tile"), address("ck_table_amx_int8"),
                               address("ck_table_amx_grad"),
                               address("ck_table_amx_winograd"))
    assert dispatch.has_bfloat16() and dispatch.has_tiles() == TILES
    threads.set_work_per_thread(0.0)
    if not TILES:       # small problems too
        bfloat16.PRODUCT = bfloat16.READ = bfloat16.WRITTEN = 0
        bfloat16.LEAST_TOGETHER = 4.5       # nine of gradients that Winograd takes
    BOUNDS = {"split_bf16": 1e-5, "bf16": 1e-2} if TILES else {"bf16": 1e-2}

    def error(got, want):
        return np.linalg.norm(got - want) / np.linalg.norm(want)
"""


# The instruction sets of what is not emulated.
ISAS = {"native": "amx", "vectors": "avx512_bf16"}


def runner(kind: str, folder: Path):
    """Return a function that runs code in a child with products of bfloat16.

    They are on tiles, "emulated" or "native" ones, or on "vectors".
    """
    library = ""
    if kind in ISAS:
        if ISAS[kind] not in dispatch.supported_isas():
            pytest.skip(f"this CPU has no {ISAS[kind]}")
    else:
        if shutil.which("cc") is None or not C_DIR.is_dir():
            pytest.skip("emulating tiles needs a C compiler and the C sources")
        if "avx512_bf16" not in dispatch.supported_isas():
            pytest.skip("the tile kernels convert with AVX512-BF16, which this CPU lacks")
        library = str(folder / "emulated.so")
        subprocess.run(["cc", "-std=gnu11", "-O2", "-ffp-contract=fast", "-shared", "-fPIC",
                        f"-I{C_DIR}", str(TESTS / "amx_emulated.c"), "-o", library], check=True)
    start = START.replace("LIBRARY", repr(library)).replace("TILES", str(kind != "vectors"))

    def child(code: str, check: bool = True):
        return run_python(start + code, {"CONVKIT_ISA": ISAS.get(kind, "avx512")}, check=check)

    return child
