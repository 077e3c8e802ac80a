"""Layers on bytes: sums are exact, and all bits the same on every instruction set."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from harness import assert_same_bits, run_python

from convkit._kernels import dispatch, int8

# (samples, height, width), in channels, out channels, kernel, stride, padding, dilation, groups
PROBLEMS = [
    ((1, 1, 1), 1, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 5, 7), 3, 17, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 9, 9), 64, 33, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((3, 14, 13), 16, 40, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    ((1, 23, 22), 3, 16, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    ((2, 6, 31), 68, 70, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((5, 1, 1), 130, 257, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 8, 8), 64, 65, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    ((1, 8, 9), 8, 12, (3, 2), (1, 2), (2, 1), (2, 3), 1),
    ((2, 7, 7), 70, 70, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 6, 3), 20, 33, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 14, 15), 65, 70, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    ((2, 7, 7), 12, 20, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    ((1, 6, 5), 10, 5, (3, 3), (1, 1), (1, 1), (1, 2), 5),
    ((2, 9, 11), 35, 35, (3, 3), (1, 1), (1, 1), (1, 1), 35),
    ((1, 9, 11), 64, 64, (5, 5), (2, 2), (2, 2), (1, 1), 64),
    ((2, 10, 9), 96, 96, (3, 3), (2, 2), (1, 1), (1, 1), 96),
    ((2, 3, 18), 145, 145, (3, 3), (1, 1), (1, 1), (1, 1), 145),
    ((1, 7, 2), 17, 17, (7, 4), (1, 1), (3, 2), (2, 1), 17),
    ((1, 9, 8), 6, 6, (2, 3), (1, 1), (1, 1), (2, 2), 6),
    ((1, 40, 3), 100, 70, (1, 1), (1, 1), (0, 0), (1, 1), 1),
]


def out_size(size, kernel, stride, padding, dilation):
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1
                 for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True))


def sums(x, weight, zero, stride, padding, dilation, groups, size):
    """Return sums of products in int64 of x (N, H, W, C) less its zero point, by taps."""
    x = np.pad(x.astype(np.int64) - zero,
               ((0, 0), *[(p, p + 200) for p in padding], (0, 0)))
    n, channels = x.shape[0], weight.shape[0]
    y = np.zeros((n, *size, groups, channels // groups), np.int64)
    w = weight.astype(np.int64).reshape(groups, channels // groups, *weight.shape[1:])
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            rows = slice(r * dilation[0], r * dilation[0] + size[0] * stride[0], stride[0])
            cols = slice(s * dilation[1], s * dilation[1] + size[1] * stride[1], stride[1])
            seen = x[:, rows, cols].reshape(n, *size, groups, -1)
            y += np.einsum("nhwgi,goi->nhwgo", seen, w[..., r, s])
    return y.reshape(n, *size, channels)


def random_bytes(rng, shape, dtype, extreme=False):
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape, dtype)
    if extreme:  # what a saturating instruction would get wrong
        values.reshape(-1)[...] = info.max
        values.reshape(-1)[::5] = info.min
    return values


def check_sums(problem, extreme=False, vnni=True):
    """Compare int32 results with NumPy's, for signed and unsigned input."""
    (n, *size), cin, cout, kernel, stride, padding, dilation, groups = problem
    rng = np.random.default_rng(cin + cout)
    weight = random_bytes(rng, (cout, cin // groups, *kernel), np.int8, extreme)
    bias = rng.integers(-10_000, 10_000, cout, np.int32)
    outs = out_size(size, kernel, stride, padding, dilation)
    for dtype, zero in ((np.uint8, 0), (np.uint8, 131), (np.int8, -7)):
        x = random_bytes(rng, (n, *size, cin), dtype, extreme)
        want = sums(x, weight, zero, stride, padding, dilation, groups, outs) + bias
        layer = int8.Conv(weight, int8.Finish("int32"), groups, stride, padding, dilation,
                          dtype == np.int8, zero, None, bias, vnni)
        for threads in (1, 2):
            y = np.full(want.shape, -1, np.int32)
            layer.run(x, None, y, threads)
            assert_same_bits(y, want.astype(np.int32), f"{problem} of {dtype.__name__}")


def finished(vnni=True):
    """Return a digest of results with all that may follow the sums."""
    digest = hashlib.sha256()
    for problem in PROBLEMS:
        (n, *size), cin, cout, kernel, stride, padding, dilation, groups = problem
        rng = np.random.default_rng(cin * cout)
        weight = random_bytes(rng, (cout, cin // groups, *kernel), np.int8)
        scale = rng.uniform(1e-4, 3e-3, cout).astype(np.float32)
        x = random_bytes(rng, (n, *size, cin), np.uint8)
        shape = (n, *out_size(size, kernel, stride, padding, dilation), cout)
        residuals = {None: None, "uint8": random_bytes(rng, shape, np.uint8),
                     "int8": random_bytes(rng, shape, np.int8),
                     "float32": rng.standard_normal(shape, np.float32)}
        for result in ("uint8", "int8", "float32"):
            for kind, residual in residuals.items():
                for bounds in ({}, {"low": 0.0}, {"alpha": 0.1, "high": 60.0}):
                    finish = int8.Finish(result, 11, kind, 0.37, 5, **bounds)
                    layer = int8.Conv(weight, finish, groups, stride, padding, dilation, False, 9,
                                      scale, None, vnni)
                    y = np.empty(shape, result)
                    layer.run(x, residual, y, 2)
                    digest.update(y.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_sums_are_exact(problem):
    for vnni in (False, True):
        check_sums(problem, False, vnni)
        check_sums(problem, True, vnni)


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_all_instruction_sets_give_the_same_bits(isa):
    run_python(f"""
        from test_int8 import PROBLEMS, check_sums, finished
        for problem in PROBLEMS:
            check_sums(problem)
        assert finished() == {finished()!r}
    """, {"CONVKIT_ISA": isa})
    assert finished(vnni=False) == finished()


def test_what_follows_the_sums():
    rng = np.random.default_rng(0)
    x, weight = random_bytes(rng, (2, 4, 5, 9), np.uint8), random_bytes(rng, (21, 9, 1, 1), np.int8)
    total = (x.reshape(-1, 9).astype(int) - 3) @ weight[:, :, 0, 0].T.astype(int)
    scale = rng.uniform(1e-3, 1e-2, 21).astype(np.float32)
    r = random_bytes(rng, (2, 4, 5, 21), np.int8)
    v = total * scale.astype(float) + (r.reshape(-1, 21).astype(int) + 4) * 0.25
    layer = int8.Conv(weight, int8.Finish("float32", 0, "int8", 0.25, -4, 0.5, -9, 20), zero=3,
                      scale=scale)
    y = np.empty((2, 4, 5, 21), np.float32)
    layer.run(x, r, y)
    want = np.clip(np.where(v < 0, v * 0.5, v), -9, 20)
    np.testing.assert_allclose(y.reshape(-1, 21), want, rtol=1e-5, atol=1e-5)
    layer = int8.Conv(weight, int8.Finish("int8", -20, "int8", 0.25, -4), zero=3, scale=scale)
    q = np.empty(y.shape, np.int8)
    layer.run(x, r, q)
    near = np.clip(v - 20, -128, 127).reshape(q.shape)
    assert np.abs(q - near).max() <= 0.5001
    assert len(np.unique(q)) > 50


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="expected int8 weights of shape"):
        int8.Conv(np.ones((3, 8, 1, 1), np.uint8), int8.Finish("int32"))
    layer = int8.Conv(np.ones((3, 8, 1, 1), np.int8), int8.Finish("int32"))
    y = np.empty((1, 2, 2, 3), np.int32)
    with pytest.raises(ValueError, match=r"expected C-contiguous bytes \(N, H, W, 8\)"):
        layer.run(np.ones((1, 2, 2, 7), np.uint8), None, y)
    with pytest.raises(ValueError, match="expected the residual"):
        layer.run(np.ones((1, 2, 2, 8), np.uint8), y, y)
    empty = np.empty((0, 2, 2, 3), np.int32)
    layer.run(np.ones((0, 2, 2, 8), np.uint8), None, empty)
