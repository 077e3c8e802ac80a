"""Gradients of weights whose input is made of a batch norm's while it is read (`maker.pxd`).

They have the bits of those of the values, made beforehand.
"""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python
from test_depthwise_kernel import FORMS, Case
from test_direct_engine import WEIGHT_GRADIENTS

from convkit._kernels import depthwise, dispatch, gradweight, threads
from convkit.ops.conv_algorithms.direct import Direct
from convkit.ops.conv_problem import ConvProblem
from convkit.ops.deferred import ENDS, NormInput
from convkit.ops.kept import HALF, Remade

POINTWISE = [which for which, (*_, kernel, stride, padding, groups) in WEIGHT_GRADIENTS.items()
             if (kernel, stride, padding, groups) == (1, 1, 0, 1)]


def made(x, activation):
    """Return numbers for each channel, and what they make of x."""
    rng = np.random.default_rng(7)
    center, scale, shift = rng.standard_normal((3, x.shape[-1])).astype(np.float32)
    x[0, 0, 0] = np.nan, np.inf, -np.inf, *x[0, 0, 0, 3:]
    kept = Remade(NormInput(x, (center, scale, shift), False, True), activation)
    return kept.source(1)[1], kept.array(1)


def check(run, x, shape, activation):
    """Compare ``run(x, gw, threads, maker)`` of numbers made on the way and beforehand."""
    maker, values = made(x, activation)
    want = np.full(shape, np.nan, np.float32)
    run(values, want, 1, None)
    before = threads.set_work_per_thread(0.0)
    try:
        for count in (1, 2, 3):
            got = np.full(shape, np.nan, np.float32)
            run(x, got, count, maker)
            assert_same_bits(got, want, f"{count} threads")
    finally:
        threads.set_work_per_thread(before)


def check_depthwise(form, activation, channels=17, size=(3, 13, 19)):
    """Check one form of a depthwise layer."""
    case = Case(FORMS[form], size, channels)
    check(lambda x, gw, count, maker: depthwise.grad_weight(x, case.gy, gw, *case.window, count,
                                                            maker),
          case.x, case.w.shape, activation)


def check_pointwise(which, activation):
    """Check one 1x1 layer."""
    n, h, w, c, o, *_ = WEIGHT_GRADIENTS[which]
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((n, h, w, k)).astype(np.float32) for k in (c, o))
    check(lambda x, gw, count, maker: gradweight.run(x, gy, gw, [0], [0], (1, 1), 1, count,
                                                     maker=maker),
          x, (o, c, 1, 1), activation)


@pytest.mark.parametrize("activation", ENDS)
@pytest.mark.parametrize("form", FORMS)
def test_depthwise(form, activation):
    check_depthwise(form, activation)


@pytest.mark.parametrize("form", ["3x3", "3x3 stride 2", "5x5 dilated"])
@pytest.mark.parametrize("channels", [3, 16, 96])
def test_depthwise_of_other_sizes(form, channels):
    """Blocks of several samples, and of rows of one."""
    for size in ((20, 5, 4), (2, 61, 40)):
        check_depthwise(form, "relu6", channels, size)


@pytest.mark.parametrize("activation", ENDS)
@pytest.mark.parametrize("which", POINTWISE)
def test_pointwise(which, activation):
    check_pointwise(which, activation)


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_lower_instruction_sets(isa):
    run_python("""
        from test_made_inputs import FORMS, POINTWISE, check_depthwise, check_pointwise
        for form in FORMS:
            check_depthwise(form, "relu6")
        for which in POINTWISE:
            check_pointwise(which, "relu")
    """, {"CONVKIT_ISA": isa})


def test_what_cannot_be_made_is_refused():
    x, gy = np.ones((2, 4, 4, 3), np.float32), np.ones((2, 4, 4, 3), np.float32)
    one = np.ones(3, np.float32)
    maker = one, one, one, (0.0, 6.0)
    gw = np.empty((3, 3, 1, 1), np.float32)
    with pytest.raises(ValueError, match="not for float32 and a 1x1 kernel"):
        gradweight.run(x, gy, np.empty((3, 3, 3, 3), np.float32), [-1, 0, 1], [-1, 0, 1], (1, 1), 1,
                       1, maker=maker)
    with pytest.raises(ValueError, match="not for float32 and a 1x1 kernel"):
        gradweight.run(x.astype(float), gy.astype(float), gw.astype(float), [0], [0], (1, 1), 1, 1,
                       maker=maker)
    with pytest.raises(ValueError, match=r"expected \(3,\) numbers of float32, got \(2,\)"):
        gradweight.run(x, gy, gw, [0], [0], (1, 1), 1, 1, maker=(one, one[:2], one, (0.0, 6.0)))
    with pytest.raises(ValueError, match="not for float32 of single channels"):
        depthwise.grad_weight(x.astype(float), gy.astype(float), np.empty((1, 1, 3)), (1, 1),
                              (0, 0), (1, 1), 1, maker)
    with pytest.raises(ValueError, match=r"got .* of float64"):
        depthwise.grad_weight(x, gy, np.empty((1, 1, 3), np.float32), (1, 1), (0, 0), (1, 1), 1,
                              (one, one, one.astype(float), (0.0, 6.0)))


def test_direct_convolution_reads_what_it_goes_through_once():
    """Not bfloat16, other kernels, or what each part of a large result would make again."""
    class Kept:
        dtype, channels = np.dtype(np.float32), 24

    def reads(channels=24, out=24, size=64, kernel=(1, 1), dtype=Kept.dtype):
        kept = Kept()
        kept.dtype, kept.channels = dtype, channels
        pad = tuple(((k - 1) // 2,) * 2 for k in kernel)
        return Direct.reads_kept(ConvProblem(
            2, channels, (size, size), out, (size, size), kernel, (1, 1), pad, (1, 1), 1,
            np.dtype(np.float32)), kept)

    assert reads()
    assert not (reads(size=32) or reads(dtype=HALF) or reads(kernel=(3, 3))
                or reads(channels=512, out=512))
