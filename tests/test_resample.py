"""Upsampling and padding: values and gradients beside the reference and PyTorch; bits."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, check_batch_invariance, check_op, lay_out, run_python

from convkit import runtime
from convkit._kernels import dispatch
from convkit.autograd import Tensor, apply
from convkit.errors import DTypeError, ShapeError
from convkit.ops.op import REGISTRY


def run(name, x, **attrs):
    """Run an operation on an array."""
    return apply(REGISTRY[name], x, **attrs)


def interpolate(torch, size, mode, align_corners, factor):
    """Return PyTorch's interpolate with its arguments bound."""
    def call(x):
        last = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        corners = None if mode == "nearest" else align_corners
        given = {"size": size} if factor is None else {"scale_factor": factor}
        return torch.nn.functional.interpolate(last, mode=mode, align_corners=corners, **given)
    return call


def upsample_cases():
    """Yield (shape, attributes): up and down, by size and by factors that do not divide."""
    rng = np.random.default_rng(5)
    for i in range(30):
        rank = 1 + (i % 3 > 0)
        shape = (2, (1, 3, 4, 17, 33)[i % 5], *(int(n) for n in rng.integers(1, 12, rank)))
        mode = "nearest" if i % 4 == 0 else ("linear", "bilinear")[rank - 1]
        if i % 2:
            factor = tuple(float(f) for f in rng.choice([0.6, 1.0, 1.3, 2.0, 2.5, 3.0], rank))
            size = tuple(int(n * f) for n, f in zip(shape[2:], factor, strict=True))
        else:
            factor, size = None, tuple(int(n) for n in rng.integers(1, 25, rank))
        if min(size) > 0:
            yield shape, {"size": size, "mode": mode, "align_corners": mode != "nearest"
                          and bool(i % 3 == 1), "scale_factor": factor}


@pytest.mark.parametrize("case", list(upsample_cases()), ids=str)
def test_upsample(case):
    shape, attrs = case
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    # 1-D nearest of PyTorch ignores its own habits for equal and doubled sizes
    beside = None if attrs["mode"] == "nearest" and len(shape) == 3 else interpolate(
        torch, attrs["size"], attrs["mode"], attrs["align_corners"], attrs["scale_factor"])
    check_op("upsample", [shape], attrs, torch=beside)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [1, 2, 5, 16, 64, 70])
def test_doubling(mode, channels):
    check_op("upsample", [(2, channels, 6, 5)],
             {"size": (12, 10), "mode": mode, "scale_factor": (2.0, 2.0)})


def test_nearest_follows_pytorch_in_float32(torch, rng):
    for _ in range(60):
        n = int(rng.integers(1, 200))
        factor = float(rng.uniform(0.2, 4))
        m = max(int(n * factor), 1)
        x = np.arange(2 * n, dtype=np.float32).reshape(1, 1, 2, n)
        want = torch.nn.functional.interpolate(torch.from_numpy(x), size=(3, m), mode="nearest")
        got = run("upsample", x, size=(3, m), mode="nearest")
        np.testing.assert_array_equal(got.data, want.numpy())
        if int(n * factor) > 0:
            want = torch.nn.functional.interpolate(
                torch.from_numpy(x), scale_factor=(1.0, factor), mode="nearest")
            got = run("upsample", x, size=(2, m), mode="nearest", scale_factor=(1.0, factor))
            np.testing.assert_array_equal(got.data, want.numpy())


def pad_cases():
    """Yield (shape, attributes) of every mode, with cuts, over spatial and other axes."""
    rng = np.random.default_rng(6)
    for i, mode in enumerate(("constant", "reflect", "replicate", "circular") * 5):
        rank = 1 + i % 3 if mode == "constant" else 1 + i % 2
        shape = (2, (1, 3, 17)[i % 3], *(int(n) for n in rng.integers(4, 9, rank)))
        low = 0 if mode == "circular" else -1  # PyTorch wraps around what a cut has left
        pairs = tuple(tuple(int(p) for p in rng.integers(low, 4, 2)) for _ in range(rank))
        edges = ((1, 0), (0, 2)) if mode == "constant" and i % 8 == 0 else ((0, 0), (0, 0))
        yield shape, {"padding": (*edges, *pairs), "mode": mode,
                      "value": 1.5 if mode == "constant" else 0.0}


@pytest.mark.parametrize("case", list(pad_cases()), ids=str)
def test_pad(case):
    shape, attrs = case
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    flat = [p for pair in reversed(attrs["padding"]) for p in pair]
    if attrs["mode"] != "constant":
        flat = flat[:-4]
    value = {"value": attrs["value"]} if attrs["mode"] == "constant" else {}

    def beside(x):
        return torch.nn.functional.pad(x, flat, mode=attrs["mode"], **value)

    check_op("pad", [shape], attrs, torch=beside, gradcheck=len(shape) < 5)


def test_pad_of_any_rank():
    check_op("pad", [(5,)], {"padding": ((2, 1),)})
    check_op("pad", [(3, 4)], {"padding": ((0, 0), (1, 2)), "mode": "reflect"})
    check_op("pad", [(2, 3, 4, 5)], {"padding": ((0, 0),) * 4})
    check_op("pad", [(2, 3, 4, 5)], {"padding": ((1, 0), (0, 0), (0, 0), (0, 3)), "value": -2.0})


def test_pad_keeps_the_memory_order():
    x = lay_out(np.ones((2, 3, 4, 5), np.float32), "channels_last")
    y = run("pad", x, padding=((0, 0), (0, 0), (1, 1), (2, 2))).data
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert run("pad", np.ones((2, 3, 4, 5)), padding=((0, 0),) * 3 + ((1, 1),)).data \
        .flags.c_contiguous


def test_pad_fills_an_empty_axis():
    y = run("pad", np.ones((0, 2), np.float32), padding=((1, 1), (0, 0)), value=3.0).data
    np.testing.assert_array_equal(y, np.full((2, 2), 3.0))


def test_special_values_are_copied_to_the_bit():
    x = np.array([[[-0.0, np.nan, np.inf]]], np.float32)
    y = run("pad", x, padding=((0, 0), (0, 0), (1, 1)), mode="replicate").data
    assert_same_bits(y, x[..., [0, 0, 1, 2, 2]])
    assert_same_bits(run("upsample", x, size=(6,)).data, x[..., [0, 0, 1, 1, 2, 2]])


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read_only", "byte_swapped",
                                    "misaligned"])
@pytest.mark.parametrize("name, attrs", [
    ("upsample", {"size": (9, 4), "mode": "bilinear"}),
    ("upsample", {"size": (9, 4), "mode": "nearest"}),
    ("pad", {"padding": ((0, 0), (0, 0), (1, 2), (3, 0)), "mode": "reflect"}),
])
def test_layouts(name, attrs, layout):
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(np.float32)
    assert_same_bits(run(name, lay_out(x, layout), **attrs).data, run(name, x, **attrs).data)


@pytest.mark.parametrize("name, attrs", [
    ("upsample", {"size": (75, 66), "mode": "bilinear"}),
    ("upsample", {"size": (75, 66), "mode": "nearest"}),
    ("pad", {"padding": ((0, 0), (0, 0), (5, 7), (3, 9)), "mode": "circular"}),
])
def test_bits_over_threads_and_batches(name, attrs):
    values = np.random.default_rng(1).standard_normal((3, 33, 40, 30)).astype(np.float32)
    x = lay_out(values, "channels_last")

    def gradient(a):
        t = Tensor(a, requires_grad=True)
        y = run(name, t, **attrs)
        y.backward(y.data)
        return t.grad.data

    results = []
    for n in (1, 2, 3):
        with runtime.threads(n):
            results.append((run(name, x, **attrs).data, gradient(x)))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    check_batch_invariance(lambda a: run(name, a, **attrs), x)
    check_batch_invariance(gradient, x)


@pytest.mark.parametrize("isa", [i for i in dispatch.supported_isas() if i != dispatch.isa()])
def test_every_instruction_set(isa):
    run_python("""
        from harness import check_op
        for c in (1, 3, 5, 9, 17, 70):
            for mode in ("bilinear", "nearest"):
                check_op("upsample", [(2, c, 5, 4)], dict(size=(7, 8), mode=mode), gradcheck=False)
            check_op("pad", [(2, c, 5, 4)], dict(
                padding=((0, 0), (0, 0), (2, 1), (0, 3)), mode="reflect"), gradcheck=False)
    """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("attrs, message", [
    ({"size": (0, 3)}, "expected size of at least 1"),
    ({"size": (2, 3, 4)}, r"expected size with 2 values, one per spatial axis, got \(2, 3, 4\)"),
    ({"size": (2, 2), "mode": "linear"}, "mode 'linear' does not fit x of shape"),
    ({"size": (2, 2), "scale_factor": (1.0,)}, "expected scale_factor with 2 values"),
    ({"size": (2, 2), "scale_factor": (1.0, 0.0)}, "expected positive finite scale factors"),
])
def test_bad_upsample(attrs, message):
    with pytest.raises(ShapeError, match=message):
        run("upsample", np.zeros((1, 2, 4, 4), np.float32), **attrs)


@pytest.mark.parametrize("attrs, message", [
    ({"padding": ((1, 1),)}, r"expected padding with \(before, after\) for each of 3 axes"),
    ({"padding": ((0, 0), (0, 0), (4, 0)), "mode": "reflect"},
     r"expected reflect padding of at most 3 for an axis of size 4, got \(4, 0\)"),
    ({"padding": ((0, 0), (0, 0), (0, 5)), "mode": "circular"},
     r"expected circular padding of at most 4 for an axis of size 4, got \(0, 5\)"),
    ({"padding": ((0, 0), (0, 0), (-3, -2))},
     r"padding \(-3, -2\) makes an axis of size 4 one of -1"),
    ({"padding": ((0, 0), (0, 0), (0, 2 ** 40))}, "makes an axis of size 4|of at most"),
])
def test_bad_pad(attrs, message):
    with pytest.raises(ShapeError, match=message):
        run("pad", np.zeros((1, 2, 4), np.float32), **attrs)


def test_other_bad_input():
    x = np.zeros((1, 2, 4), np.float32)
    with pytest.raises(ValueError, match="expected mode 'nearest', 'linear' or 'bilinear'"):
        run("upsample", x, size=(2,), mode="cubic")
    with pytest.raises(ValueError, match="expected mode 'constant'"):
        run("pad", x, padding=((0, 0),) * 3, mode="wrap")
    with pytest.raises(ShapeError, match=r"expected x of shape \(N, C, L\) or \(N, C, H, W\)"):
        run("upsample", np.zeros((3, 4), np.float32), size=(2,))
    with pytest.raises(DTypeError, match="expected x of float32 or float64, got complex64"):
        run("pad", np.zeros((2, 2), np.complex64), padding=((1, 1), (1, 1)))
    with pytest.raises(MemoryError):
        run("upsample", np.zeros((1, 2, 4, 4), np.float32), size=(2 ** 31 - 1, 2 ** 31 - 1))
