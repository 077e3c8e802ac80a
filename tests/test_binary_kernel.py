"""Arithmetic of two arrays: every way of broadcasting and of lying in memory."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, random_array

from convkit._kernels import binary, threads
from convkit.autograd import apply
from convkit.ops import REGISTRY as OPS
from convkit.runtime import threads as use_threads

UFUNCS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
SHAPES = [
    ((2, 5, 7, 3), (2, 5, 7, 3)), ((2, 5, 7, 3), (2, 5, 1, 1)), ((2, 5, 7, 3), (1, 5, 1, 1)),
    ((2, 5, 7, 3), (2, 1, 7, 3)), ((2, 5, 7, 3), (3,)), ((2, 5, 7, 3), ()), ((1,), (4, 1)),
    ((2, 1, 7, 1), (1, 5, 1, 3)), ((3, 1, 2, 1, 2), (1, 4, 1, 5, 1)), ((0, 3), (1, 3)),
    ((40_000,), (40_000,)), ((3, 17_000), (3, 1)), ((64, 1), (1, 600)), ((), ()),
]


@pytest.mark.parametrize("a, b", SHAPES)
@pytest.mark.parametrize("name", UFUNCS)
def test_same_values_as_numpy_in_every_layout(name, a, b):
    for dtype in (np.float32, np.float64):
        for layout in ("contiguous", "channels_last", "strided", "reversed", "fortran"):
            x, y = (np.asarray(random_array(shape, dtype, layout if shape else "contiguous", seed))
                    for seed, shape in enumerate((a, b)))
            for first, second in ((x, y), (y, x)):
                with np.errstate(all="ignore"):
                    want = UFUNCS[name](first, second)
                got = apply(OPS[name], first, second).data
                np.testing.assert_array_equal(got, want)


def test_same_bits_for_any_number_of_threads():
    before = threads.set_work_per_thread(0.0)
    try:
        x, gate = random_array((3, 70, 31, 17)), random_array((3, 70, 1, 1))
        results = []
        for n in (1, 2, 5):
            with use_threads(n):
                results.append((apply(OPS["mul"], x, gate).data, apply(OPS["add"], x, x).data))
        for other in results[1:]:
            assert_same_bits(results[0], other)
    finally:
        threads.set_work_per_thread(before)


def test_the_kernel_itself_takes_what_it_should_and_refuses_the_rest():
    x = random_array((4, 6))
    out = np.empty_like(x)
    gate = np.broadcast_to(random_array((4, 1)), (4, 6))
    assert binary.run("mul", x, gate, out, 2)
    np.testing.assert_array_equal(out, x * gate)
    assert not binary.run("mul", np.asfortranarray(x), x, out, 1)
    for wrong in (x[:3], x[0], x.astype(np.float64)):
        with pytest.raises((ValueError, TypeError)):
            binary.run("add", x, wrong, out, 1)
    with pytest.raises(ValueError, match="cannot address"):
        binary.run("add", x, x, np.asfortranarray(out), 1)
