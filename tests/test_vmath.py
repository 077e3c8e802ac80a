"""The vector functions against float64, in units in the last place of float32.

They are reached through the activations that are nothing but them.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from convkit._kernels import elementwise

TINY = 2.0 ** -126  # results below it are flushed to zero


def run(name, x, a=0.0):
    out = np.empty_like(x)
    elementwise.unary(name, x, out, 1, a)
    return out


def gradient(name, saved, a=0.0):
    out = np.empty_like(saved)
    elementwise.unary_grad(name, np.ones_like(saved), saved, out, 1, a)
    return out


def samples(low, high):
    """All magnitudes: even spacing, and powers of two down to the smallest normal number."""
    rng = np.random.default_rng(0)
    even = np.linspace(low, high, 200_001)
    small = 2.0 ** rng.uniform(-126, 0, 50_000) * rng.choice([-1.0, 1.0], 50_000)
    x = np.concatenate([even, small[(small >= low) & (small <= high)]])
    return x.astype(np.float32)


def worst_ulp(got, want):
    """Return the largest error in units in the last place of the exact value."""
    unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    error = np.abs(got.astype(np.float64) - want) / unit
    return float(error[np.abs(want) >= 2 * TINY].max())


FUNCTIONS = {
    # name: (computed, exact, interval, allowed units)
    "exp below 0": (lambda x: gradient("elu", x, 1.0), np.exp, (-87.0, 0.0), 1.0),
    "expm1 below 0": (lambda x: run("elu", x, 1.0), np.expm1, (-30.0, 0.0), 1.0),
    "tanh": (lambda x: run("tanh", x), np.tanh, (-12.0, 12.0), 2.5),
    "sigmoid": (lambda x: run("sigmoid", x), special.expit, (-86.0, 86.0), 2.5),
    "silu": (lambda x: run("silu", x), lambda x: x * special.expit(x), (-80.0, 80.0), 3.1),
    "gelu": (lambda x: run("gelu", x), lambda x: x * special.ndtr(x), (-1.0, 10.0), 7.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_units_in_the_last_place(name):
    computed, exact, interval, allowed = FUNCTIONS[name]
    x = samples(*interval)
    worst = worst_ulp(computed(x), exact(x.astype(np.float64)))
    assert worst <= allowed, f"{name}: {worst:.2f} units in the last place"


def test_gelu_keeps_relative_accuracy_in_its_lower_tail():
    x = np.linspace(-8, -1, 10_001).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(run("gelu", x), wide * special.ndtr(wide), rtol=4e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([-inf, -1e30, -200, -0.0, 0.0, 200, 1e30, inf, nan], dtype)
    np.testing.assert_array_equal(run("sigmoid", x)[[0, 1, 3, 4, 5, 6, 7, 8]],
                                  [0, 0, 0.5, 0.5, 1, 1, 1, nan])
    np.testing.assert_array_equal(run("tanh", x), [-1, -1, -1, -0.0, 0, 1, 1, 1, nan])
    assert np.signbit(run("tanh", x)[3])
    np.testing.assert_array_equal(run("elu", x, 1.0),
                                  [-1, -1, -1, 0, 0, 200, dtype(1e30), inf, nan])
    gelu = run("gelu", x)
    np.testing.assert_array_equal(gelu[3:], np.array([0, 0, 200, 1e30, inf, nan], dtype))
    assert np.isnan(gelu[0]) and abs(gelu[1]) == 0


def test_double_is_the_c_library():
    x = np.linspace(-20, 20, 10_001)
    for name, exact in [("tanh", np.tanh), ("sigmoid", special.expit),
                        ("gelu", lambda v: v * special.ndtr(v))]:
        np.testing.assert_allclose(run(name, x), exact(x), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu", "elu", "relu"])
def test_bits_do_not_depend_on_the_place_in_the_array(name):
    x = np.random.default_rng(1).standard_normal(67).astype(np.float32) * 3
    whole = run(name, x, 1.0)
    for start in range(40):
        for length in (1, 3, 7, 16, 20):
            part = run(name, x[start:start + length].copy(), 1.0)
            assert part.tobytes() == whole[start:start + length].tobytes()
