"""Pooling: values, indices and gradients beside the reference and PyTorch; bits; bad input."""

from __future__ import annotations

import numpy as np
import pytest
from harness import (
    assert_same_bits,
    check_batch_invariance,
    check_op,
    lay_out,
    random_array,
    run_python,
)

from convkit import reference, runtime
from convkit._kernels import dispatch
from convkit.autograd import Tensor, apply
from convkit.errors import DTypeError, ShapeError
from convkit.ops.op import REGISTRY

CHANNELS = (1, 3, 4, 7, 8, 16, 17, 33, 65)


def pool(name, x, **attrs):
    """Run an operation on an array."""
    return apply(REGISTRY[name], x, **attrs)


def outputs(result):
    """Return a tuple of tensors for one or several."""
    return result if isinstance(result, tuple) else (result,)


def torch_function(torch, name, rank, attrs):
    """Return PyTorch's form of an operation with its attributes bound."""
    F = torch.nn.functional
    f = getattr(F, f"{name}{rank}d")
    if name == "avg_pool":
        order = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
        args = [attrs.get(k, d) for k, d in zip(order, (None, None, 0, False, True), strict=True)]
        last = (attrs.get("divisor_override"),) if rank == 2 else ()
        return lambda x: f(x, *args, *last)
    return lambda x: f(x, **attrs)


def cases(seed, count):
    """Yield random (shape, fixed-window attributes, output size)."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        rank = 2 if i % 3 else 1
        kernel = tuple(int(k) for k in rng.integers(1, 5, rank))
        stride = tuple(int(s) for s in rng.integers(1, 4, rank))
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        spatial = tuple(int(n) for n in rng.integers(5, 13, rank))
        channels = CHANNELS[i % len(CHANNELS)]
        attrs = {"kernel_size": kernel, "stride": stride, "padding": padding,
                 "ceil_mode": bool(i % 2)}
        yield (2, channels, *spatial), attrs, tuple(int(n) for n in rng.integers(1, 15, rank))


@pytest.mark.parametrize("case", list(cases(1, 18)), ids=str)
def test_max_pool(case):
    shape, attrs, _ = case
    rng = np.random.default_rng(0)
    dilation = tuple(int(d) for d in rng.integers(1, 3, len(shape) - 2))
    attrs = {**attrs, "dilation": dilation, "return_indices": True}
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    check_op("max_pool", [shape], attrs,
             torch=torch_function(torch, "max_pool", len(shape) - 2, attrs))


@pytest.mark.parametrize("case", list(cases(2, 18)), ids=str)
def test_avg_pool(case):
    shape, attrs, extra = case
    attrs = {**attrs, "count_include_pad": bool(extra[0] % 2)}
    if len(shape) == 4 and extra[-1] % 3 == 0:
        attrs["divisor_override"] = 5
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    check_op("avg_pool", [shape], attrs,
             torch=torch_function(torch, "avg_pool", len(shape) - 2, attrs))


@pytest.mark.parametrize("name", ["adaptive_max_pool", "adaptive_avg_pool"])
@pytest.mark.parametrize("case", list(cases(3, 9)), ids=str)
def test_adaptive_pools(name, case):
    shape, _, size = case
    attrs = {"output_size": size}
    if name == "adaptive_max_pool":
        attrs["return_indices"] = True
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    check_op(name, [shape], attrs, torch=torch_function(torch, name, len(shape) - 2, attrs))


@pytest.mark.parametrize("name, attrs", [
    ("max_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool", {"kernel_size": 2}),
    ("avg_pool", {"kernel_size": 2}),
    ("avg_pool", {"kernel_size": 3, "padding": 1, "stride": 1, "count_include_pad": False}),
    ("adaptive_avg_pool", {"output_size": 1}),
    ("adaptive_max_pool", {"output_size": (None, 2)}),
])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 64, 14, 14), (3, 6, 9, 10), (1, 130, 7, 7)])
def test_common_windows(name, attrs, shape):
    if min(shape[2:]) == 1 and attrs.get("kernel_size") == 2:
        shape = (*shape[:2], 2, 2)
    check_op(name, [shape], attrs, layouts=("channels_last",))


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read_only", "byte_swapped",
                                    "misaligned"])
@pytest.mark.parametrize("name, attrs", [
    ("max_pool", {"kernel_size": (3, 2), "return_indices": True}),
    ("avg_pool", {"kernel_size": (3, 2)}),
])
def test_layouts(name, attrs, layout):
    x = random_array((2, 5, 8, 9))
    for a, b in zip(outputs(pool(name, lay_out(x, layout), **attrs)),
                    outputs(pool(name, x, **attrs)), strict=True):
        assert_same_bits(a.data, b.data)


def test_windows_too_large_for_bytes_are_counted_in_int32():
    check_op("max_pool", [(2, 5, 40, 37)],
             {"kernel_size": (17, 16), "stride": (5, 7), "padding": (8, 8), "dilation": (1, 2),
              "return_indices": True}, gradcheck=False)
    check_op("adaptive_max_pool", [(1, 17, 40, 37)], {"output_size": 1, "return_indices": True})


def test_long_signals():
    check_op("avg_pool", [(1, 2, 70_001)], {"kernel_size": 4, "stride": 3}, gradcheck=False,
             dtypes=("float32",), layouts=("channels_last",))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_max_pool_with_ties_nan_and_infinities(channels, dtype):
    rng = np.random.default_rng(channels)
    x = rng.integers(-1, 2, (2, channels, 9, 8)).astype(dtype)
    x[rng.random(x.shape) < 0.1] *= -0.0
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.4] = -np.inf
    for attrs in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2},
                  {"kernel_size": (2, 3), "dilation": 2, "stride": 1}):
        alone = pool("max_pool", x, **attrs)      # taps are not kept
        attrs = {**attrs, "return_indices": True}
        y, index = pool("max_pool", x, **attrs)
        want, want_index = reference.max_pool(x, **attrs)
        np.testing.assert_array_equal(y.data, want)
        np.testing.assert_array_equal(index.data, want_index)
        np.testing.assert_array_equal(alone.data, want)
        np.testing.assert_array_equal(np.signbit(alone.data), np.signbit(y.data))


def test_nan_and_infinity_reach_the_average():
    x = np.ones((1, 3, 4, 4), np.float32)
    x[0, 0, 0, 0], x[0, 1, 3, 3] = np.nan, np.inf
    y = pool("avg_pool", x, kernel_size=2).data
    assert np.isnan(y[0, 0, 0, 0]) and y[0, 1, 1, 1] == np.inf and np.isfinite(y).sum() == 10


def test_a_window_with_no_tap_in_the_input_gives_minus_infinity():
    x = Tensor(np.ones((1, 20, 2), np.float32), requires_grad=True)
    y, index = pool("max_pool", x, kernel_size=2, stride=1, padding=2, dilation=3,
                    return_indices=True)
    np.testing.assert_array_equal(y.data[0, 3], [1, -np.inf, 1])
    np.testing.assert_array_equal(index.data[0, 3], [1, -1, 0])
    y.backward(np.ones_like(y.data))
    np.testing.assert_array_equal(x.grad.data, np.ones((1, 20, 2)))


def test_indices_are_made_only_when_asked_for():
    x = random_array((1, 2, 4, 4))
    assert isinstance(pool("max_pool", x, kernel_size=2), Tensor)
    assert isinstance(pool("adaptive_max_pool", x, output_size=2), Tensor)
    y, index = pool("max_pool", Tensor(x, requires_grad=True), kernel_size=2, return_indices=True)
    assert y.requires_grad and not index.requires_grad and index.dtype == np.int64


@pytest.mark.parametrize("name, attrs", [
    ("max_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("avg_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("adaptive_avg_pool", {"output_size": 1}),
    ("adaptive_max_pool", {"output_size": 5}),
])
def test_a_sample_has_the_same_bits_in_any_batch(name, attrs):
    x = random_array((4, 33, 40, 31))
    check_batch_invariance(lambda a: pool(name, a, **attrs), x)

    def gradient(a):
        t = Tensor(a, requires_grad=True)
        y = pool(name, t, **attrs)
        y.backward(np.ascontiguousarray(y.data * 0.37))
        return t.grad

    check_batch_invariance(gradient, x)


@pytest.mark.parametrize("name, attrs", [
    ("max_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("avg_pool", {"kernel_size": 5, "stride": 1, "padding": 2}),
    ("adaptive_avg_pool", {"output_size": 7}),
])
def test_threads_do_not_change_bits_where_rows_are_shared_out(name, attrs):
    results = []
    for n in (1, 2, 3):
        with runtime.threads(n):
            x = Tensor(random_array((2, 48, 70, 60)), requires_grad=True)
            y = pool(name, x, **attrs)
            y.backward(y.data)
            results.append((y.data, x.grad.data))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("isa", [i for i in dispatch.supported_isas() if i != dispatch.isa()])
def test_every_instruction_set(isa):
    run_python("""
        from harness import check_op
        for c in (1, 3, 5, 9, 17, 40):
            check_op("max_pool", [(2, c, 9, 8)], dict(
                kernel_size=3, stride=2, padding=1, return_indices=True), gradcheck=False)
            check_op("avg_pool", [(2, c, 9, 8)], dict(kernel_size=(2, 3)), gradcheck=False)
    """, {"CONVKIT_ISA": isa})


def test_an_empty_batch():
    x = Tensor(np.zeros((0, 3, 8, 8), np.float32), requires_grad=True)
    y = pool("max_pool", x, kernel_size=2)
    assert y.shape == (0, 3, 4, 4)
    y.backward(y.data)
    assert x.grad.shape == (0, 3, 8, 8)
    assert pool("adaptive_avg_pool", x, output_size=1).shape == (0, 3, 1, 1)


@pytest.mark.parametrize("shape, attrs, message", [
    ((2, 3), {"kernel_size": 2},
     r"expected x of shape \(N, C, L\) or \(N, C, H, W\), got \(2, 3\)"),
    ((1, 0, 4, 4), {"kernel_size": 2}, "expected channels and spatial sizes from 1"),
    ((1, 2, 4, 0), {"kernel_size": 2}, r"got x of shape \(1, 2, 4, 0\)"),
    ((1, 2, 4, 4), {"kernel_size": (2,)}, r"expected kernel_size with 2 values.*got \(2,\)"),
    ((1, 2, 4, 4), {"kernel_size": 0}, "expected kernel_size of at least 1, got 0"),
    ((1, 2, 4, 4), {"kernel_size": 2 ** 40}, "kernel_size"),
    ((1, 2, 4, 4), {"kernel_size": 2, "stride": 0}, "expected stride of at least 1, got 0"),
    ((1, 2, 4, 4), {"kernel_size": 2, "padding": -1}, "expected padding of at least 0, got -1"),
    ((1, 2, 4, 4), {"kernel_size": 2, "padding": 2}, "padding should be at most half of the "
     "effective kernel size, but got padding=2, kernel_size=2 and dilation=1"),
    ((1, 2, 3, 4), {"kernel_size": 4}, r"kernel_size \(4, 4\) .*is larger than the padded input of "
     r"spatial size \(3, 4\)"),
])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_bad_windows(name, shape, attrs, message):
    with pytest.raises(ShapeError, match=message):
        pool(name, np.zeros(shape, np.float32), **attrs)
    with pytest.raises(ShapeError, match=message):
        REGISTRY[name].shape(shape, **attrs)


def test_other_bad_input():
    x = np.zeros((1, 2, 4, 4), np.float32)
    with pytest.raises(ShapeError, match="expected dilation of at least 1, got 0"):
        pool("max_pool", x, kernel_size=2, dilation=0)
    with pytest.raises(ShapeError, match="divisor_override other than zero"):
        pool("avg_pool", x, kernel_size=2, divisor_override=0)
    with pytest.raises(ShapeError, match="expected output_size of at least 1, got"):
        pool("adaptive_avg_pool", x, output_size=(0, 1))
    with pytest.raises(ShapeError, match="expected output_size with 2 values"):
        pool("adaptive_max_pool", x, output_size=(1, 1, 1))
    with pytest.raises(DTypeError, match="expected x of float32 or float64, got int32"):
        pool("max_pool", x.astype(np.int32), kernel_size=2)
    with pytest.raises(TypeError):
        pool("max_pool", x, kernel_size=2.5)
    with pytest.raises((MemoryError, ShapeError)):
        pool("adaptive_avg_pool", x, output_size=2 ** 31 - 1)
