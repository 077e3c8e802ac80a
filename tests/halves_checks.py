"""What tests of bfloat16 between layers share: a step's gradients, and what must not change them.

A network's ``forward`` takes ``seen``, which is called with each value on the way and returns it.
"""

from __future__ import annotations

import numpy as np
import pytest
import test_kept
from harness import assert_same_bits

from convkit._kernels import dispatch

tiles = pytest.mark.skipif(not dispatch.has_tiles(), reason="this CPU has no AMX")


def is_bfloat16(x: np.ndarray) -> bool:
    """Tell whether all numbers of a float32 array are bfloat16."""
    return not (np.ascontiguousarray(x).view(np.uint32) & 0xffff).any()


def gradients(net, x, precision="medium", threads=1, **more):
    """Return output and gradients of a network, whose input is no leaf."""
    return test_kept.gradients(net, x, precision, threads=threads,
                               part=lambda t: net(t * 1, **more))


def assert_all_same_bits(ours, theirs):
    """Check that two lists of arrays are the same."""
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)


def assert_reading_changes_no_bit(net, images):
    """Check that each value may be read, before or behind its other readers."""
    def read(t):
        assert np.isfinite(t.data).all()
        return t

    assert_all_same_bits(gradients(net, images), gradients(net, images, seen=read))


def assert_hooks_see_float32(net, images, count):
    """Check that hooks on so many values get arrays, and leave the results as they are."""
    seen = []

    def hook(t):
        t.register_hook(lambda g: seen.append((g.dtype, g.shape == t.shape)))
        return t

    assert_all_same_bits(gradients(net, images), gradients(net, images, seen=hook))
    assert set(seen) == {(np.dtype(np.float32), True)} and len(seen) == count


def relative_error(grads, exact):
    """Return the error of all gradients together, by norm."""
    flat, want = (np.concatenate([np.ravel(g) for g in given]) for given in (grads, exact))
    return np.linalg.norm(flat - want) / np.linalg.norm(want)
