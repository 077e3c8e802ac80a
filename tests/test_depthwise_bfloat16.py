"""Depthwise convolution of bfloat16: kernels against those of floats, and layers under "medium".

What is read and written may be bfloat16, sums are floats in the same order: so results are the bits
of the kernels of floats, rounded. The kernels run where there are tiles (see tile_runs.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from halves_checks import (
    assert_all_same_bits,
    assert_hooks_see_float32,
    assert_reading_changes_no_bit,
    gradients,
    relative_error,
    tiles,
)
from harness import assert_same_bits, run_python
from test_depthwise_kernel import FORMS, Case

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import depthwise, elementwise, norm, threads
from convkit.ops import planner
from convkit.ops.conv_algorithms.depthwise import DepthwiseBfloat16
from convkit.ops.conv_problem import forward_problem
from convkit.ops.deferred import ENDS, NormInput
from convkit.ops.kept import HALF, Remade, widened

CHANNELS = (1, 17, 31, 32, 33, 48, 100)
# Activation, alpha, beta: none, a clamp, leaky ReLU, and one that follows in a pass of its own.
EPILOGUES = {"none": (0, 0.0, 0.0), "relu6": (2, 0.0, 6.0), "leaky": (3, 0.1, 0.0),
             "hardswish": (elementwise.fused("hardswish"), 0.0, 0.0)}


def rounded(array):
    """Return an array of floats as bfloat16."""
    halves = np.empty(array.shape, HALF)
    norm.narrow(np.ascontiguousarray(array), halves, 1)
    return halves


def each_thread_count():
    """Yield numbers of threads, which all get work."""
    before = threads.set_work_per_thread(0.0)
    try:
        yield from (1, 2, 3)
    finally:
        threads.set_work_per_thread(before)


def assert_same(got, want, what):
    """Compare floats or bfloat16 with floats."""
    assert_same_bits(got, rounded(want) if got.dtype == HALF else want, what)


class HalfCase:
    """A case whose arrays there are as bfloat16, and as floats of the same numbers."""

    def __init__(self, form, channels, size=(2, 9, 11)):
        self.name = f"{form}, {channels} channels"
        self.case = case = Case(FORMS[form], size, channels)
        self.halves = {name: rounded(getattr(case, name)) for name in ("x", "gy", "residual")}
        for name, halves in self.halves.items():
            setattr(case, name, widened(halves, 1))

    def given(self, name, half):
        """Return one of the arrays."""
        return self.halves[name] if half else getattr(self.case, name)

    def check_forward(self, epilogue, with_residual=False):
        """Compare each combination of types with floats."""
        case, args = self.case, EPILOGUES[epilogue]
        residual = case.residual if with_residual else None
        want = case.forward(case.bias, residual, *args)
        for count in each_thread_count():
            for x_half, y_half, r_half in np.ndindex(2, 2, 1 + with_residual):
                y = np.full(want.shape, 7, HALF if y_half else np.float32)
                depthwise.forward(
                    self.given("x", x_half), case.w, case.bias,
                    self.given("residual", r_half) if with_residual else None, y, *case.window,
                    *args, count)
                assert_same(y, want, f"{self.name}, {count} threads, "
                                     f"halves {x_half, y_half, r_half}")

    def check_gradients(self):
        """Compare gradients of each combination of types with those of floats."""
        case = self.case
        gx, gw = case.gradients()
        for count in each_thread_count():
            for half, other in np.ndindex(2, 2):
                gy = self.given("gy", half)
                got = np.full(gx.shape, 7, HALF if other else np.float32)
                depthwise.grad_input(gy, case.w, got, *case.window, count)
                assert_same(got, gx, f"{self.name}, gradient of x, {count} threads, "
                                     f"halves {half, other}")
                got = np.full_like(gw, np.nan)
                depthwise.grad_weight(self.given("x", other), gy, got, *case.window, count)
                assert_same_bits(got, gw, f"{self.name}, gradient of w, {count} threads, "
                                          f"halves {half, other}")

    def check_made_inputs(self, activation):
        """Compare the gradient of w from inputs that are made of a norm's, with theirs."""
        case, x = self.case, self.halves["x"]
        rng = np.random.default_rng(5)
        scale, shift = rng.standard_normal((2, x.shape[-1])).astype(np.float32)
        kept = Remade(NormInput(x, (np.zeros_like(scale), scale, shift), True, True), activation)
        source, maker = kept.source(1)
        case.x = kept.array(1)
        want = case.gradients()[1]
        for count in each_thread_count():
            for half in (False, True):
                got = np.full_like(want, np.nan)
                depthwise.grad_weight(source, self.given("gy", half), got, *case.window, count,
                                      maker)
                assert_same_bits(got, want, f"{self.name}, {count} threads, gradient half {half}")


def test_kernels_give_the_bits_of_floats(run_on_bfloat16):
    run_on_bfloat16("""
    from test_depthwise_bfloat16 import CHANNELS, FORMS, HalfCase
    for form in FORMS:
        for channels in CHANNELS:
            case = HalfCase(form, channels)
            case.check_forward("none")
            case.check_gradients()
    """)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(run_on_bfloat16, epilogue):
    run_on_bfloat16(f"""
    from test_depthwise_bfloat16 import HalfCase
    for form in ("3x3", "3x3 stride 2", "5x5 stride 2", "3x3 stride 3"):
        for channels in (5, 40, 64):
            for residual in (False, True):
                HalfCase(form, channels).check_forward({epilogue!r}, residual)
    """)


@pytest.mark.parametrize("activation", ENDS)
def test_inputs_made_on_the_way(run_on_bfloat16, activation):
    run_on_bfloat16(f"""
    from test_depthwise_bfloat16 import HalfCase
    for form in ("3x3", "3x3 stride 2", "5x5", "3x3 dilated", "7x2, all apart"):
        for channels in (5, 32, 48):
            HalfCase(form, channels).check_made_inputs({activation!r})
    """)


def test_large_arrays_that_are_stored_past_the_caches(run_on_bfloat16):
    run_on_bfloat16("""
    from test_depthwise_bfloat16 import HalfCase
    for form in ("3x3", "3x3 stride 2"):
        case = HalfCase(form, 96, (3, 150, 151))
        case.check_forward("relu6")
        case.check_gradients()
    """)


def test_numbers_at_the_ends_of_the_range(run_on_bfloat16):
    """What rounds to infinity becomes the largest bfloat16; infinities and NaN stay."""
    run_on_bfloat16("""
    from test_depthwise_bfloat16 import HALF, rounded
    from convkit._kernels import depthwise
    largest = np.finfo(np.float32).max
    weight = np.zeros((3, 3, 64), np.float32)
    weight[1, 1] = [largest, -largest, np.inf, -np.inf, np.nan, 2.0, 1e-38, 0.0] * 8
    one = rounded(np.ones((1, 5, 4, 64), np.float32))
    y = np.empty_like(one)
    depthwise.forward(one, weight, None, None, y, (1, 1), (1, 1), (1, 1), 0, 0.0, 0.0, 1)
    for channel, bits in enumerate([0x7f7f, 0xff7f, 0x7f80, 0xff80, None, 0x4000]):
        got = y[..., channel::8]
        assert ((got & 0x7fff) > 0x7f80).all() if bits is None else (got == bits).all(), channel
    # Padding is skipped, not multiplied: infinite weights beside the window's middle make no NaN.
    weight[...] = np.inf
    depthwise.forward(one, weight, None, None, y, (1, 1), (1, 1), (1, 1), 0, 0.0, 0.0, 1)
    assert (y == 0x7f80).all()
    """)


def test_wrong_arrays_are_refused(run_on_bfloat16):
    run_on_bfloat16("""
    import pytest
    from test_depthwise_bfloat16 import HalfCase, HALF
    from test_depthwise_kernel import Case, FORMS
    from convkit._kernels import depthwise
    case = HalfCase("3x3", 32)
    x, y = case.halves["x"], np.empty(case.case.gy.shape, HALF)
    args = *case.case.window, 0, 0.0, 0.0, 1
    with pytest.raises(ValueError, match=r"expected a C-contiguous uint16 array of shape "
                                         r"\\(2, 9, 11, 32\\), got uint16"):
        depthwise.forward(x[..., ::-1], case.case.w, None, None, y, *args)
    with pytest.raises(ValueError, match="expected a C-contiguous float32"):
        depthwise.forward(x, case.case.w, case.case.bias.astype(np.float64), None, y, *args)
    with pytest.raises(ValueError, match="expected a C-contiguous float64"):
        depthwise.forward(x, case.case.w.astype(np.float64), None, None, y, *args)
    """)


def test_without_tiles_kernels_refuse_bfloat16():
    run_python("""
        import numpy as np, pytest
        from convkit._kernels import depthwise
        x, w = np.zeros((1, 4, 4, 32), np.uint16), np.zeros((3, 3, 32), np.float32)
        with pytest.raises(ValueError, match="expected a C-contiguous float32 array"):
            depthwise.forward(x, w, None, None, x.copy(), (1, 1), (1, 1), (1, 1), 0, 0.0, 0.0, 1)
    """, {"CONVKIT_ISA": "avx2"})


# -- layers ---------------------------------------------------------------------------------------


def problem(channels=64, kernel=3, stride=1, dilation=1, precision="medium", dtype=np.float32):
    """Return a depthwise layer's problem."""
    return forward_problem((2, channels, 20, 20), (channels, 1, kernel, kernel), np.dtype(dtype),
                           stride=(stride,) * 2, padding=((1, 1),) * 2, dilation=(dilation,) * 2,
                           groups=channels, precision=precision)


@tiles
def test_who_takes_it():
    for task in ("forward", "grad_input", "grad_weight"):
        assert planner.choose(problem(), task) is DepthwiseBfloat16
        assert planner.choose(problem(kernel=5, stride=2), task) is DepthwiseBfloat16
    for other, reason in (
            (problem(precision="high"), "precision is high"),
            (problem(channels=31), "31 channels are fewer than 32"),
            (problem(kernel=7), "no kernels for windows of (7, 7) and stride (1, 1)"),
            (problem(stride=3), "no kernels for windows of (3, 3) and stride (3, 3)"),
            (problem(stride=2, dilation=2), "dilated"),
            (problem(dtype=np.float64), "bfloat16 stands for float32, not float64")):
        assert planner.choose(other, "forward").name == "depthwise"
        assert planner.why_not(DepthwiseBfloat16, other, "forward") == reason


class Inverted(nn.Module):
    """Two inverted residual blocks, as of MobileNetV2, the second of stride 2."""

    def __init__(self, channels: int = 32, wide: int = 96):
        super().__init__()
        sizes = [(1, channels, wide, 1), (3, wide, wide, 1), (1, wide, channels, 1),
                 (1, channels, wide, 1), (5, wide, wide, 2), (1, wide, channels, 1)]
        self.convs = nn.ModuleList([
            nn.Conv2d(cin, cout, k, stride, k // 2, groups=wide if k > 1 else 1, bias=False)
            for k, cin, cout, stride in sizes])
        self.norms = nn.ModuleList([nn.BatchNorm2d(cout) for *_, cout, _ in sizes])

    def forward(self, x, seen=lambda t: t):
        def layer(i, t):
            return seen(self.norms[i](seen(self.convs[i](t))))

        def block(i, t):
            return layer(i + 2, seen(F.relu6(layer(i + 1, seen(F.relu6(layer(i, t)))))))

        return block(3, seen(x + block(0, x)))


@pytest.fixture
def net():
    ck.manual_seed(3)
    return Inverted()


@pytest.fixture
def images(rng):
    return rng.standard_normal((2, 32, 48, 50)).astype(np.float32)


def test_reading_a_value_changes_no_bit(net, images):
    assert_reading_changes_no_bit(net, images)


def test_threads_change_no_bit(net, images):
    assert_all_same_bits(gradients(net, images), gradients(net, images, threads=2))


def test_hooks_see_arrays_of_float32(net, images):
    assert_hooks_see_float32(net, images, 17)


def test_a_sample_alone_has_the_bits_that_it_has_among_others(net, images):
    with ck.precision("medium"), ck.no_grad():
        net.eval()
        assert_same_bits(net(ck.Tensor(images[:1])).data, net(ck.Tensor(images)).data[:1])


def test_gradients_are_near_those_of_float32(net, images):
    """By norm: six convolutions and six norms, as far off as PyTorch's autocast or nearer."""
    ours, exact = gradients(net, images), gradients(net, images, "highest")
    assert relative_error(ours, exact) < 0.05


@tiles
def test_neighbours_hand_on_bfloat16(net, images):
    """Outputs and gradients of depthwise layers are never float32 in memory."""
    names = []
    before = depthwise.forward, depthwise.grad_input, depthwise.grad_weight

    def watch(which, name):
        def call(*args, **more):
            names.append((name, *[a.dtype.name for a in args[:6] if isinstance(a, np.ndarray)]))
            return before[which](*args, **more)
        return call

    try:
        for which, name in enumerate(("forward", "grad_input", "grad_weight")):
            setattr(depthwise, name, watch(which, name))
        gradients(net, images)
    finally:
        depthwise.forward, depthwise.grad_input, depthwise.grad_weight = before
    assert sorted(names) == sorted(2 * [("forward", "uint16", "float32", "uint16"),
                                        ("grad_input", "uint16", "float32", "uint16"),
                                        ("grad_weight", "uint16", "uint16", "float32")])


@tiles
def test_programs_hold_what_lies_between_as_bfloat16(images):
    ck.manual_seed(3)
    net = Inverted(96, 576).eval()
    x = np.concatenate([images] * 3, axis=1)
    made = ck.compile(net, (1, *x.shape[1:]), precision="medium")
    assert [n.algorithm for n in made.profile(x).nodes if n.op == "conv"] == [
        "bf16", "depthwise_bf16", "bf16"] * 2
    exact = ck.compile(net, (1, *x.shape[1:]), precision="highest")(x)
    got = made(x)
    assert np.linalg.norm(got - exact) < 6**0.5 * 1e-2 * np.linalg.norm(exact)
    assert_same_bits(made(x[:1]), got[:1])
