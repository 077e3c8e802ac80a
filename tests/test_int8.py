"""Byte products are exact and the same to the bit on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python

from convkit._kernels import dispatch, int8

SHAPES = [(1, 1, 1), (3, 5, 7), (4, 33, 64), (5, 32, 63), (14, 31, 65), (17, 48, 130),
          (33, 17, 257), (130, 70, 96)]


def check(m, n, k, extreme=False, vnni=True):
    """Compare with NumPy's int64 products, A signed and unsigned."""
    rng = np.random.default_rng(m + n + k)
    weight = rng.integers(-128, 128, (n, k), np.int8)
    for dtype in (np.uint8, np.int8):
        info = np.iinfo(dtype)
        a = rng.integers(info.min, info.max + 1, (m, k), dtype)
        if extreme:  # what a saturating instruction would get wrong
            a[...], weight[...] = info.max, 127
            a[::2], weight[::2] = info.min, -128
        want = (a.astype(np.int64) @ weight.T.astype(np.int64)).astype(np.int32)
        for threads in (1, 2):
            assert_same_bits(int8.matmul(a, int8.pack(weight, vnni), threads), want,
                             f"{m} x {k} x {n} of {dtype.__name__}")


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(shape):
    for extreme in (False, True):
        for vnni in (False, True):
            check(*shape, extreme, vnni)


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_lower_instruction_sets(isa):
    run_python("""
        from test_int8 import SHAPES, check
        for shape in SHAPES:
            check(*shape)
            check(*shape, extreme=True)
    """, {"CONVKIT_ISA": isa})


def test_wrong_arrays_are_refused():
    packed = int8.pack(np.ones((3, 8), np.int8))
    with pytest.raises(ValueError, match=r"expected C-contiguous bytes of shape \(M, 8\), got "
                                         r"int8 of shape \(2, 9\)"):
        int8.matmul(np.ones((2, 9), np.int8), packed)
    with pytest.raises(ValueError, match="got float32 of shape"):
        int8.matmul(np.ones((2, 8), np.float32), packed)
    with pytest.raises(ValueError, match=r"expected int8 weights of shape \(N, K\)"):
        int8.pack(np.ones((3, 8), np.uint8))
    assert int8.matmul(np.empty((0, 8), np.uint8), packed).shape == (0, 3)
