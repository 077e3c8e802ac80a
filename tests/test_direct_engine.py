"""The direct engine from inside: packing, and sizes that are cut into parts and chunks.

The shapes of the operations' own tests are small; these are chosen by how the kernels cut
them. References are plain sums in float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python
from tolerances import assert_close, tolerance

from convkit._kernels import direct, dispatch, gemm, gradweight, memory, threads

DTYPES = (np.float32, np.float64)


def _random(shape, dtype, seed=0):
    """Return normal values over the pool's memory."""
    out = memory.empty(shape, dtype)
    out[...] = np.random.default_rng(seed).standard_normal(shape)
    return out


def _shifted(x, row, col, stride, out):
    """Return the pixels (N, *out, C) under one tap, zeros outside `x`, in float64."""
    result = np.zeros((x.shape[0], *out, x.shape[3]))
    for i in range(out[0]):
        for j in range(out[1]):
            h, w = i * stride[0] + row, j * stride[1] + col
            if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                result[:, i, j] = x[:, h, w]
    return result


def _unpack(packed, dtype):
    """Return packed weights as (groups, taps, depth, columns)."""
    taps, depth, columns = packed.taps, packed.depth, packed.columns
    width = packed.width * packed.vector
    blocks = packed.array.reshape(packed.groups, packed.blocks, -1)
    found = np.empty((packed.groups, taps, depth, columns), dtype)
    for group in range(packed.groups):
        for block in range(packed.blocks):
            first = block * width
            count = min(width, columns - first)
            row = -(-count // packed.vector) * packed.vector
            values = blocks[group, block, :taps * depth * row].reshape(taps, depth, row)
            assert not values[:, :, count:].any(), "columns that pad a vector are zero"
            found[group, :, :, first:first + count] = values[:, :, :count]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "depth", "taps"),
                         [(1, 1, 1), (16, 16, 9), (17, 5, 9), (40, 33, 1), (70, 3, 49), (3, 40, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_pack_forward_and_backward(columns, depth, taps, groups, dtype):
    weight = _random((groups, columns, depth, taps), dtype)
    steps = list(range(taps))
    group_step = columns * depth * taps
    forward = gemm.pack(weight, groups, columns, depth, steps, group_step, depth * taps, taps,
                        14, 1)
    np.testing.assert_array_equal(_unpack(forward, dtype), weight.transpose(0, 3, 2, 1))
    some = steps[::-2]
    backward = gemm.pack(weight, groups, depth, columns, some, group_step, taps, depth * taps,
                         7, 1)
    np.testing.assert_array_equal(_unpack(backward, dtype),
                                  weight.transpose(0, 3, 1, 2)[:, some])


@pytest.mark.parametrize("dtype", DTYPES)
def test_pack_columns_that_are_neighbours(dtype):
    weight = _random((2, 21, 37), dtype)
    packed = gemm.pack(weight, 2, 37, 21, [0], 21 * 37, 1, 37, 14, 1)
    np.testing.assert_array_equal(_unpack(packed, dtype), weight[:, None])


# (N, H, W, C, O, kernel, stride, padding, groups): what makes each one special.
WEIGHT_GRADIENTS = {
    "several parts": (5, 33, 29, 5, 9, 3, 1, 1, 1),
    "chunks of columns": (1, 9, 9, 64, 130, 3, 1, 1, 1),
    "large result": (2, 5, 7, 130, 150, 3, 1, 1, 1),
    "narrow rows of many samples": (11, 7, 3, 18, 17, 3, 1, 1, 1),
    "stride": (3, 17, 15, 20, 33, 3, 2, 1, 1),
    "taps that miss the input": (2, 3, 2, 9, 17, 5, 1, 3, 1),
    "few channels": (3, 30, 31, 3, 20, 7, 2, 3, 1),
    "groups": (2, 12, 11, 24, 36, 3, 1, 1, 4),
    "pointwise, parts": (5, 31, 37, 17, 21, 1, 1, 0, 1),
    "pointwise, chunks": (1, 10, 13, 150, 70, 1, 1, 0, 1),
    "pointwise, large result": (2, 11, 9, 400, 390, 1, 1, 0, 1),
    "pointwise, stride": (3, 15, 20, 19, 35, 1, 2, 0, 1),
    "pointwise, padding": (2, 8, 9, 19, 35, 1, 1, 1, 1),
    "pointwise, groups": (2, 20, 21, 34, 51, 1, 1, 0, 17),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", WEIGHT_GRADIENTS)
def test_weight_gradient(which, dtype):
    n, h, w, c, o, k, stride, pad, groups = WEIGHT_GRADIENTS[which]
    out = ((h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1)
    x, gy = _random((n, h, w, c), dtype), _random((n, *out, o), dtype, 1)
    taps = [i - pad for i in range(k)]
    want = np.empty((o, c // groups, k, k))
    gy_groups = gy.astype(np.float64).reshape(-1, groups, o // groups)
    for i, row in enumerate(taps):
        for j, col in enumerate(taps):
            seen = _shifted(x, row, col, (stride, stride), out).reshape(-1, groups, c // groups)
            want[:, :, i, j] = np.einsum("pgo,pgc->goc", gy_groups, seen).reshape(o, c // groups)

    found = [np.full(want.shape, np.nan, dtype) for _ in range(3)]
    before = threads.set_work_per_thread(0.0)
    try:
        for count, gw in enumerate(found, 1):
            gradweight.run(x, gy, gw, taps, taps, (stride, stride), groups, count)
    finally:
        threads.set_work_per_thread(before)
    assert_close(found[0], want, tolerance("gradient", dtype))
    assert_same_bits(found[1], found[0], "two threads")
    assert_same_bits(found[2], found[0], "three threads")


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_gradient_with_input_channels_first(dtype):
    x, gy = _random((3, 40, 41, 34), dtype), _random((3, 40, 41, 50), dtype, 1)
    want = np.einsum("nhwgc,nhwgo->gco", *(a.astype(np.float64).reshape(*a.shape[:3], 2, -1)
                                           for a in (x, gy)))
    gw = np.full(want.shape, np.nan, dtype)
    gradweight.run(x, gy, gw, [0], [0], (1, 1), 2, 1, taps_first=True)
    assert_close(gw, want, tolerance("gradient", dtype))


# (N, H, W, C, O, kernel, stride, padding, dilation)
FORWARDS = {
    "padded beforehand for its chunks of weights": (3, 6, 5, 70, 260, 3, 1, 1, 1),
    "the same with stride and dilation": (2, 13, 11, 60, 250, 3, 2, 2, 2),
    "chunks without padding": (2, 9, 8, 70, 260, 3, 1, 0, 1),
    "strips": (2, 61, 30, 6, 20, 3, 1, 1, 1),
    "pointwise, wide pixels": (3, 5, 7, 1300, 40, 1, 1, 0, 1),
    "pointwise, pixels a page apart": (3, 5, 7, 1024, 300, 1, 1, 0, 1),
    "pixels a page apart by stride": (2, 9, 12, 512, 70, 1, 2, 0, 1),
    "the same with padding": (2, 9, 12, 512, 70, 1, 2, 1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", FORWARDS)
def test_forward(which, dtype):
    n, h, w, c, o, k, stride, pad, dilation = FORWARDS[which]
    reach = dilation * (k - 1) + 1
    out = ((h + 2 * pad - reach) // stride + 1, (w + 2 * pad - reach) // stride + 1)
    x, weight = _random((n, h, w, c), dtype), _random((o, c, k, k), dtype, 1)
    taps = [i * dilation - pad for i in range(k)]
    want = np.zeros((n, *out, o))
    for i, row in enumerate(taps):
        for j, col in enumerate(taps):
            want += _shifted(x, row, col, (stride, stride), out) @ weight[:, :, i, j].T.astype(
                np.float64)

    packed = gemm.pack(weight, 1, o, c, list(range(k * k)), weight.size, c * k * k, k * k,
                       out[1] if k > 1 else 1 << 20, 1)
    found = [np.full(want.shape, np.nan, dtype) for _ in range(3)]
    before = threads.set_work_per_thread(0.0)
    try:
        for count, y in enumerate(found, 1):
            direct.run(x, packed, y, taps, taps, (stride, stride), threads=count)
    finally:
        threads.set_work_per_thread(before)
    assert_close(found[0], want, tolerance("forward", dtype))
    assert_same_bits(found[1], found[0], "two threads")
    assert_same_bits(found[2], found[0], "three threads")
    alone = np.empty((1, *want.shape[1:]), dtype)
    direct.run(x[1:2], packed, alone, taps, taps, (stride, stride), threads=1)
    assert_same_bits(alone[0], found[0][1], "a sample alone")
    if k == 1 and not pad:
        pixel = np.empty((1, 1, 1, o), dtype)
        direct.run(np.ascontiguousarray(x[1:2, :1, :1]), packed, pixel, taps, taps, (1, 1))
        assert_same_bits(pixel[0, 0, 0], found[0][1, 0, 0], "a pixel alone")


@pytest.mark.parametrize("shape", [(1, 1, 1, 25088), (5, 1, 1, 9217), (1, 3, 4, 1600)])
@pytest.mark.parametrize("activation", [0, 1])
def test_long_sums_are_added_up_in_parts(shape, activation):
    """A 1x1 kernel over many channels, or 3x3 over 1600, with what comes after the sum."""
    rng = np.random.default_rng(1)
    taps = 1 if shape[1] == 1 else 3
    pad = taps // 2
    n, h, w, channels = shape
    outs = 37
    x = rng.standard_normal(shape, dtype=np.float32)
    weight = rng.standard_normal((outs, channels, taps, taps), dtype=np.float32)
    bias = rng.standard_normal(outs, dtype=np.float32)
    residual = rng.standard_normal((n, h, w, outs), dtype=np.float32)
    reach = range(-pad, pad + 1)
    packed = gemm.pack(weight, 1, outs, channels, list(range(taps * taps)), weight.size,
                       channels * taps * taps, taps * taps, w if taps > 1 else 1 << 20, 1)

    def run(x, residual, threads):
        y = memory.empty((len(x), h, w, outs))
        direct.run(x, packed, y, list(reach), list(reach), (1, 1), bias=bias,
                   residual=residual, activation=activation, threads=threads)
        return y

    exact = bias + residual.astype(np.float64)
    for r in reach:
        for c in reach:
            exact += _shifted(x.astype(np.float64), r, c, (1, 1), (h, w)) @ weight[
                :, :, r + pad, c + pad].astype(np.float64).T
    exact = np.maximum(exact, 0) if activation else exact
    y = run(x, residual, 1)
    assert np.linalg.norm(y - exact) < 1.6e-6 * np.linalg.norm(exact)
    assert_same_bits(run(x, residual, 2), y)
    assert_same_bits(run(x[:1], residual[:1], 1), y[:1])


FEW_OUTPUTS = """
    import itertools
    import numpy as np
    from convkit._kernels import direct, gemm

    rng = np.random.default_rng(0)

    def run(x, weights, y_shape, taps, bias, residual, activation, apart=1):
        packed = gemm.pack(weights, 1, len(weights), 1, list(range(9)), 9 * len(weights), 9, 1,
                           x.shape[2], 1)
        n, h, w, c = y_shape
        y = np.full((n, h, w * apart, c), np.nan, np.float32)
        if residual is not None:     # which the result may take the place of
            y[:, :, ::apart] = residual
            residual = y
        direct.run(x, packed, y, taps, taps, (2, 1), grid=(h, w), step=(1, apart), bias=bias,
                   residual=residual, activation=activation, alpha=0.1, threads=2)
        assert all(np.isnan(y[:, :, i::apart]).all() for i in range(1, apart))
        return y[:, :, ::apart]

    widths = (3, 15, 16, 17, 31, 32, 33, 70)
    for width, dilation, activation in itertools.product(widths, (1, 2), (0, 1, 3, 16)):
        x = rng.standard_normal((2, 9, width, 1), np.float32)
        x[1, 4, width // 2] = np.nan
        taps = [-dilation, 0, dilation]
        weights = rng.standard_normal((17, 1, 3, 3), np.float32)
        bias, residual = (rng.standard_normal(s, np.float32) for s in (17, (2, 5, width, 17)))
        for few in range(1, 10):
            for more in (residual, None):
                want = run(x, weights, (2, 5, width, 17), taps, bias, more, activation)
                for apart in (1, 2):
                    got = run(x, weights[:few].copy(), (2, 5, width, few), taps,
                              bias[:few].copy(),
                              None if more is None else more[..., :few].copy(), activation, apart)
                    assert np.array_equal(got, want[..., :few], equal_nan=True), (
                        width, few, apart)
                assert np.isnan(want).any() and not np.isnan(want[0]).any()
    print("same")
"""


@pytest.mark.parametrize("isa", dispatch.supported_isas())
def test_few_outputs_of_one_channel_have_the_bits_of_many(isa):
    assert run_python(FEW_OUTPUTS, {"CONVKIT_ISA": isa}).stdout == "same\n"
