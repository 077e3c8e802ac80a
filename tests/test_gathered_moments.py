"""Moments that convolutions gather for the batch norm that follows: values, bits, who uses them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from harness import assert_same_bits, random_array, run_python

import convkit as ck
from convkit import nn
from convkit._kernels import dispatch, norm, threads
from convkit.autograd import Tensor
from convkit.ops import planner
from convkit.ops.conv import Conv
from convkit.ops.conv_problem import forward_problem
from convkit.ops.op import Context

# Relative error of a variance, and of a mean beside the deviation.
BOUND = {"float32": 2e-6, "float64": 1e-13}

# algorithm, (samples, channels, height, width), (outputs, kernel), attributes
PROBLEMS = [
    ("winograd", (3, 16, 13, 9), (16, 3), {"padding": 1}),
    ("winograd", (2, 70, 30, 31), (33, 3), {"padding": 1}),
    ("winograd", (1, 300, 7, 7), (130, 3), {"padding": 1}),
    ("winograd", (2, 20, 17, 23), (24, 3), {"padding": 2, "dilation": 2}),
    ("winograd", (2, 20, 5, 5), (24, 3), {"padding": 7, "dilation": 7}),
    ("winograd", (2, 8, 3, 3), (8, 3), {"padding": 0}),
    ("winograd", (2, 18, 11, 12), (35, 5), {"padding": 2}),
    ("direct", (3, 3, 19, 17), (24, 7), {"padding": 3, "stride": 2}),
    ("direct", (2, 17, 14, 14), (70, 3), {"padding": 1, "stride": 2}),
    ("direct", (5, 64, 9, 11), (200, 1), {}),
    ("direct", (1, 1, 1, 3), (1, 1), {}),
    ("direct", (2, 512, 7, 7), (1030, 1), {}),
    ("direct", (2, 12, 11, 10), (18, 3), {"padding": 1, "groups": 3}),
    ("depthwise", (2, 24, 15, 14), (24, 3), {"padding": 1, "groups": 24}),
    ("depthwise", (2, 35, 15, 14), (35, 3), {"padding": 1, "groups": 35, "stride": 2}),
    ("depthwise", (2, 16, 15, 14), (16, 3), {"padding": 2, "groups": 16, "dilation": 2}),
    ("depthwise", (9, 4, 61, 40), (4, 5), {"padding": 2, "groups": 4}),
    ("multiplied", (2, 10, 9, 8), (20, 3), {"padding": 1, "groups": 10}),
    ("grouped", (2, 64, 12, 9), (64, 3), {"padding": 1, "groups": 8}),
]


def attributes(padding=0, stride=1, dilation=1, groups=1):
    """Return a convolution's attributes with a number for each axis."""
    return {"stride": (stride,) * 2, "padding": ((padding,) * 2,) * 2, "dilation": (dilation,) * 2,
            "groups": groups}


def convolve(x, weight, attrs, threads=1, **more):
    """Return the output and the moments left in the context."""
    ctx = Context((True, True), threads, (None, None))
    return Conv.forward(ctx, x, weight, **attrs, moments=True, **more), ctx.moments


def check_moments(y, moments, bound, what=""):
    """Compare moments with those of the values, in float64."""
    assert moments is not None, what
    mean, variance, count = moments
    values = y.astype(np.float64).transpose(1, 0, 2, 3).reshape(y.shape[1], -1)
    assert count == values.shape[1]
    deviation = values.std(axis=1)
    scale = np.maximum(deviation, 1e-30)
    assert np.abs((mean - values.mean(axis=1)) / scale).max() <= bound, what
    assert np.abs(variance - deviation**2).max() <= bound * max(deviation.max()**2, 1e-30), what


def make(algorithm, shape, outputs, attrs, dtype, offset=0.0):
    """Return input and weight of a problem."""
    x = (random_array(shape, np.float64, seed=1) + offset).astype(dtype)
    count, kernel = outputs
    weight = random_array((count, shape[1] // attrs["groups"], kernel, kernel), np.float64,
                          seed=2)
    return x, weight.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p[0]}-{p[1]}")
def test_moments_are_those_of_the_output_with_the_same_bits_on_any_threads(
        problem, dtype):
    algorithm, shape, outputs, more = problem
    attrs = attributes(**more)
    if dtype == "float64" and algorithm in ("winograd", "grouped"):
        pytest.skip("these kernels are for float32")
    if algorithm == "grouped" and dispatch.isa() == "generic":
        pytest.skip("groups of 8 do not fill the generic vectors")
    x, weight = make(algorithm, shape, outputs, attrs, dtype)
    y, alone = convolve(x, weight, attrs, algorithm=algorithm)
    check_moments(y, alone, BOUND[dtype])
    before = threads.set_work_per_thread(0.0)
    try:
        for count in (2, 3):
            again, together = convolve(x, weight, attrs, count, algorithm=algorithm)
            assert_same_bits(y, again)
            assert_same_bits(alone[0], together[0])
            assert_same_bits(alone[1], together[1])
    finally:
        threads.set_work_per_thread(before)


def test_on_tiles_strips_are_the_same_for_any_threads(run_on_tiles):
    """One thread alone would cut samples less, were it not for the order of the sums."""
    run_on_tiles("""
    import test_gathered_moments as tests
    for shape, outputs, more in (((3, 32, 40, 11), (48, 3), {}), ((70, 16, 9, 9), (16, 3), {}),
                                 ((2, 1024, 13, 11), (40, 1), {"padding": 0})):
        attrs = tests.attributes(**more)
        x, weight = tests.make("tiles", shape, outputs, attrs, "float32")
        for algorithm in ("bf16", "split_bf16"):
            y, alone = tests.convolve(x, weight, attrs, algorithm=algorithm)
            tests.check_moments(y, alone, tests.BOUND["float32"], algorithm)
            for count in (2, 5):
                again, together = tests.convolve(x, weight, attrs, count, algorithm=algorithm)
                assert_same_bits(y, again)
                assert_same_bits(alone[:2], together[:2], (shape, algorithm, count))
    """)


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_a_mean_far_above_the_deviation_costs_no_accuracy(algorithm):
    attrs = attributes(padding=0)
    x, weight = make(algorithm, (2, 16, 20, 20), (16, 3), attrs, "float32", offset=1000.0)
    y, moments = convolve(x, weight, attrs, algorithm=algorithm)
    ratio = np.abs(y.mean(axis=(0, 2, 3))) / y.std(axis=(0, 2, 3))
    assert ratio.max() > 100
    check_moments(y, moments, BOUND["float32"])


def test_every_instruction_set_gathers_them():
    code = """
        import test_gathered_moments as tests
        from convkit._kernels import dispatch
        for algorithm, shape, outputs, more in tests.PROBLEMS:
            if algorithm == "grouped" and dispatch.isa() == "generic":
                continue
            attrs = tests.attributes(**more)
            x, weight = tests.make(algorithm, shape, outputs, attrs, "float32")
            y, moments = tests.convolve(x, weight, attrs, algorithm=algorithm)
            tests.check_moments(y, moments, tests.BOUND["float32"], algorithm)
        print(dispatch.isa())
    """
    for name in dispatch.supported_isas():
        assert run_python(code, {"CONVKIT_ISA": name}).stdout.strip() == name


def test_every_algorithm_that_says_so_takes_them_and_the_others_do_not():
    attrs = attributes(padding=1)
    x, weight = make("", (1, 16, 9, 9), (16, 3), attrs, "float32")
    shapes = forward_problem(x.shape, weight.shape, x.dtype, **attrs)
    assert planner.choose(shapes, "forward", "direct").gathers
    assert not planner.choose(shapes, "forward", "im2col").gathers
    assert convolve(x, weight, attrs, algorithm="im2col")[1] is None


def test_an_output_with_samples_done_anew_has_none():
    attrs = attributes(padding=1)
    x, weight = make("winograd", (3, 16, 9, 9), (16, 3), attrs, "float32")
    assert convolve(x, weight, attrs, algorithm="winograd")[1] is not None
    x[1, 3, 4, 4] = np.inf
    assert convolve(x, weight, attrs, algorithm="winograd")[1] is None


def test_no_pixels_give_what_batch_norm_refuses():
    attrs = attributes(padding=1)
    x, weight = make("direct", (0, 16, 9, 9), (16, 3), attrs, "float32")
    assert convolve(x, weight, attrs)[1] is None


class _Passes:
    """Counts batch norm's own passes over its input."""

    def __init__(self, monkeypatch):
        self.count, own = 0, norm.moments

        def counted(*args, **more):
            self.count += 1
            return own(*args, **more)

        monkeypatch.setattr("convkit.ops.norm.norm.moments", counted)

    def of(self, run):
        """Return how many passes a call takes."""
        before = self.count
        run()
        return self.count - before


@pytest.fixture
def passes(monkeypatch):
    """Return a counter of the passes that gathering saves."""
    return _Passes(monkeypatch)


def pair(bias=False, axes=2):
    """Return a convolution and a batch norm."""
    conv, batch_norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[axes - 1]
    return nn.Sequential(conv(8, 16, 3, padding=1, bias=bias), batch_norm(16))


def test_batch_norm_after_a_convolution_without_bias_reads_nothing_for_them(passes):
    x = random_array((4, 8, 10, 10), seed=3).astype(np.float32)
    assert passes.of(lambda: pair()(x)) == 0
    assert passes.of(lambda: pair(axes=1)(x[:, :, 0])) == 0
    assert passes.of(lambda: pair(bias=True)(x)) == 1


def test_evaluation_gathers_nothing():
    x = random_array((4, 8, 10, 10), seed=3).astype(np.float32)
    conv = pair()[0]
    assert conv(x)._moments is not None
    conv.eval()
    assert conv(x)._moments is None


def test_values_changed_since_are_read_again(passes):
    x = random_array((4, 8, 10, 10), seed=3).astype(np.float32)
    conv, batch_norm = pair()

    def changed(change):
        with ck.no_grad():
            y = conv(x)
            change(y)
            return batch_norm(y)

    assert passes.of(lambda: changed(lambda y: None)) == 0
    assert passes.of(lambda: changed(lambda y: y.mul_(2.0))) == 1
    assert passes.of(lambda: changed(lambda y: setattr(y, "data", y.data * 2))) == 1
    assert passes.of(lambda: changed(lambda y: y[0].fill_(0.0))) == 1


@pytest.mark.parametrize("recorded", [True, False])
def test_results_are_those_of_batch_norms_own_pass_and_need_no_recording(recorded):
    x = random_array((4, 8, 10, 10), seed=3).astype(np.float32)
    network = pair()
    conv, batch_norm = network
    with ck.enable_grad() if recorded else ck.no_grad():
        y = network(x)
    own = batch_norm(Tensor(conv(x).data))
    np.testing.assert_allclose(y.data, own.data, rtol=2e-5, atol=2e-6)


def test_gradients_flow_as_before():
    x = random_array((4, 8, 10, 10), seed=3).astype(np.float32)
    found = []
    for gathered in (True, False):
        ck.manual_seed(0)
        network = pair()
        a = Tensor(x, requires_grad=True)
        y = network[0](a)
        if not gathered:
            y._moments = None
        (network[1](y) ** 3).mean().backward()
        found.append([a.grad.data, *(p.grad.data for p in network.parameters())])
    for with_them, without in zip(*found, strict=True):
        np.testing.assert_allclose(with_them, without, rtol=2e-4,
                                   atol=2e-5 * np.abs(without).max())


def test_a_graph_knows_nothing_of_them():
    x = random_array((1, 8, 6, 6), seed=3)
    graph = ck.infer.trace(pair()[0].train(), (1, 8, 6, 6))
    conv, = (node for node in graph.nodes if node.op == "conv")
    assert "moments" not in conv.attrs
    assert ck.compile(graph)(x).shape == (1, 16, 6, 6)


# The kernel of a whole register's width, as it is compiled beside that for tiles.
KERNEL = """
#define CK_WITH_TILES
#include "isa_begin.h"
#include "gather.body.h"
void add(const ck_gather_args *args) { gather_table.add[0](args); }
#include "isa_end.h"
"""
C_DIR = Path(__file__).parents[1] / "convkit" / "_kernels" / "c"     # of the source tree
REGISTERS = {"generic": ["-DCK_VBYTES=16"],
             "avx512": ["-DCK_VBYTES=64", '-DCK_TARGET="avx512f,avx512bw,avx512vl,avx2,fma"']}


class _Args(ctypes.Structure):
    """ck_gather_args."""

    _fields_ = (("y", ctypes.c_void_p), *((name, ctypes.c_ssize_t) for name in (
        "rows", "cols", "row_step", "pixel_step", "channels")), ("begin", ctypes.c_int),
        ("halves", ctypes.c_int), *((name, ctypes.c_void_p) for name in ("shift", "sum", "square")))


def gathered(add, y):
    """Return shifts, sums and squares of an array (rows, cols, channels), in two calls."""
    channels = y.shape[2] - 3       # of wider pixels
    shift, sums = np.empty(channels, np.float32), np.empty((2, channels))
    for begin, part in ((1, y[:2]), (0, y[2:])):
        add(ctypes.byref(_Args(part.ctypes.data, *part.shape[:2],
                               *(n // y.itemsize for n in y.strides[:2]), channels, begin,
                               y.itemsize == 2, shift.ctypes.data, *(s.ctypes.data for s in sums))))
    return shift, sums


@pytest.mark.parametrize("isa", REGISTERS)
def test_those_of_bfloat16_have_the_bits_of_those_of_the_same_floats(isa, tmp_path):
    if shutil.which("cc") is None or not C_DIR.is_dir():
        pytest.skip("needs a C compiler and the C sources")
    if isa not in dispatch.supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    (tmp_path / "kernel.c").write_text(KERNEL)
    subprocess.run(["cc", "-std=gnu11", "-O2", "-shared", "-fPIC", f"-I{C_DIR}", *REGISTERS[isa],
                    "kernel.c", "-o", "kernel.so"], check=True, cwd=tmp_path)
    add = ctypes.CDLL(str(tmp_path / "kernel.so")).add
    for shape in ((5, 7, 64), (3, 1, 83), (4, 9, 128 + 16 + 8), (2, 30, 1), (3, 4, 24)):
        y = random_array((*shape[:2], shape[2] + 3)).astype(np.float32) + 2
        halves = np.empty(y.shape, np.uint16)
        norm.narrow(y, halves, 1)
        norm.widen(halves, y, 1)
        assert_same_bits(gathered(add, halves), gathered(add, y), str(shape))
