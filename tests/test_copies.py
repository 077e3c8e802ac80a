"""Copies between memory layouts, beside NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from convkit._kernels import copies, memory
from convkit.ops.layout import in_order

# Large enough that our own code copies: see LEAST_BYTES in copies.pyx.
SHAPES = [(70_001,), (300, 257), (9, 65, 131), (4, 3, 96, 97), (2, 3, 5, 40, 41)]
TYPES = ["u1", "i2", "f2", "f4", "i8", "f8", "?", "c16"]


def filled(shape, dtype):
    """Return numbers of which neighbours differ."""
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def views(shape, dtype):
    """Yield arrays of one shape that lie differently in memory."""
    rng = np.random.default_rng(len(shape))
    yield filled(shape, dtype)
    yield np.asfortranarray(filled(shape, dtype))
    order = rng.permutation(len(shape))
    yield filled([shape[i] for i in order], dtype).transpose(np.argsort(order))
    yield filled([2 * n for n in shape], dtype)[tuple([slice(1, None, 2)] * len(shape))]
    yield filled(shape, dtype)[tuple([slice(None, None, -1)] * len(shape))]
    yield np.broadcast_to(filled((*shape[:-1], 1), dtype), shape)
    yield np.broadcast_to(filled(shape[1:], dtype), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_to_every_other(shape, dtype):
    sources = list(views(shape, dtype))
    for number, x in enumerate(sources):
        for y in list(views(shape, dtype))[:-2]:
            y[...] = 0
            copies.copyto(y, x, 1 + number % 3)
            np.testing.assert_array_equal(y, x)


def test_other_types_are_converted_and_wrong_shapes_refused():
    x = filled((300, 300), np.float64)
    y = np.empty((300, 300), np.float32)
    copies.copyto(y, x)
    np.testing.assert_array_equal(y, x)
    copies.copyto(y, x.astype(">f4").T, 2)
    np.testing.assert_array_equal(y, x.T)
    for shape in ((300, 299), (90_000,), (1, 300, 300)):
        with pytest.raises(ValueError, match=r"cannot copy"):
            copies.copyto(np.empty(shape), x, 2)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        copies.copyto(x, np.ones((300, 300)), 2)


def test_layouts_copied_by_threads_are_those_of_one():
    x = filled((4, 3, 200, 100), np.float32)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(memory.to_last(x, threads), x.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(in_order(x, (3, 1, 0, 2), threads), x.transpose(3, 1, 0, 2))
