"""The reference against independent sources: PyTorch, SciPy and central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tolerances import GRADCHECK, assert_close, tolerance

from convkit import reference


class Case:
    """One operation on one set of inputs, with the same in PyTorch."""

    def __init__(self, name: str, inputs: list, attrs: dict, torch: Callable, tag: str = ""):
        self.name, self.inputs, self.attrs, self.torch = name, inputs, attrs, torch
        self.tag = f"{name}-{tag}" if tag else name

    def reference(self, *inputs: Any) -> tuple:
        """Return the reference's outputs as a tuple."""
        y = getattr(reference, self.name)(*inputs, **self.attrs)
        return y if isinstance(y, tuple) else (y,)

    def reference_grad(self, gy: np.ndarray) -> tuple:
        """Return the reference's gradients."""
        return getattr(reference, self.name + "_grad")(gy, *self.inputs, **self.attrs)


def _upstream(y: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(np.shape(y))


def check_differences(case: Case) -> None:
    """Compare every gradient with central differences along a random direction."""
    outputs = case.reference(*case.inputs)
    gy = _upstream(outputs[0])
    step = GRADCHECK["step"]
    rng = np.random.default_rng(2)
    checked = 0
    for i, grad in enumerate(case.reference_grad(gy)):
        if grad is None:
            continue
        assert grad.shape == np.shape(case.inputs[i])
        assert grad.dtype == np.float64
        direction = rng.standard_normal(grad.shape)
        ends = []
        for sign in (1, -1):
            moved = list(case.inputs)
            moved[i] = case.inputs[i] + sign * step * direction
            ends.append(float((case.reference(*moved)[0] * gy).sum()))
        numeric = (ends[0] - ends[1]) / (2 * step)
        size = float(np.abs(outputs[0] * gy).sum())
        allowed = GRADCHECK["relative"] * np.linalg.norm(grad) + GRADCHECK["roundoff"] * size
        assert numeric == pytest.approx(float((grad * direction).sum()), rel=0, abs=allowed), (
            case.tag, i)
        checked += 1
    assert checked


def check_torch(case: Case, torch: Any) -> None:
    """Compare outputs and gradients with PyTorch's, in float64."""
    # PyTorch's hardsigmoid multiplies by the float32 nearest to 1/6, in float64 too.
    bounds = tolerance("elementwise", np.float32) if case.name == "hardsigmoid" else None
    grads = case.reference_grad(gy := _upstream(case.reference(*case.inputs)[0]))
    tensors = [None if a is None else torch.from_numpy(np.array(a)) for a in case.inputs]
    for t, g in zip(tensors, grads, strict=False):
        if g is not None:
            t.requires_grad_()
    outputs = case.torch(torch.nn.functional, *tensors)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for got, want in zip(case.reference(*case.inputs), outputs, strict=False):
        assert_close(got, want.detach().numpy(), bounds or tolerance("forward", np.float64),
                     case.tag)
    outputs[0].backward(torch.from_numpy(gy))
    for i, (t, g) in enumerate(zip(tensors, grads, strict=False)):
        if g is not None:
            assert_close(g, t.grad.numpy(), bounds or tolerance("gradient", np.float64),
                         f"{case.tag} {i}")


# -- cases ----------------------------------------------------------------------------------


def _random_spatial(rng, ndim: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, ndim))


def _torch_pad(F, x, pairs, mode):
    """Pad the spatial axes by (before, after) pairs with PyTorch."""
    flat = [p for pair in reversed(pairs) for p in pair]
    if not any(flat):
        return x
    return F.pad(x, flat, mode="constant" if mode == "zeros" else mode)


def conv_cases() -> list[Case]:
    """Return random convolutions of one and two spatial axes."""
    rng, cases = np.random.default_rng(10), []
    for i in range(40):
        ndim = 1 + i % 2
        groups = int(rng.choice([1, 1, 2, 3]))
        c, o = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
        size, kernel = _random_spatial(rng, ndim, 7, 11), _random_spatial(rng, ndim, 1, 4)
        stride, dilation = _random_spatial(rng, ndim, 1, 4), _random_spatial(rng, ndim, 1, 3)
        pairs = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(ndim))
        mode = ["zeros", "reflect", "replicate", "circular"][i // 2 % 4]
        inputs = [rng.standard_normal((int(rng.integers(1, 4)), c, *size)),
                  rng.standard_normal((o, c // groups, *kernel)),
                  rng.standard_normal(o) if i % 3 else None]

        def run(F, x, w, b, ndim=ndim, stride=stride, dilation=dilation, groups=groups,
                pairs=pairs, mode=mode):
            return (F.conv1d, F.conv2d)[ndim - 1](
                _torch_pad(F, x, pairs, mode), w, b, stride, 0, dilation, groups)

        attrs = {"stride": stride, "padding": pairs, "dilation": dilation, "groups": groups,
                 "padding_mode": mode}
        cases.append(Case("conv", inputs, attrs, run, f"{i}-{mode}"))
    for activation in (None, "relu", "relu6", "leaky_relu"):
        inputs = [3 * rng.standard_normal(s) for s in ((2, 3, 5, 6), (4, 3, 3, 3), (4,),
                                                       (2, 4, 5, 6))]
        args = (0.2,) if activation == "leaky_relu" else ()

        def fused(F, x, w, b, r, activation=activation, args=args):
            z = F.conv2d(x, w, b, padding=1) + r
            return getattr(F, activation)(z, *args) if activation else z

        attrs = {"padding": 1, "activation": activation, "activation_args": args}
        cases.append(Case("conv", inputs, attrs, fused, f"fused-{activation}"))
    return cases


def conv_transpose_cases() -> list[Case]:
    """Return random transposed convolutions of one and two spatial axes."""
    rng, cases = np.random.default_rng(11), []
    for i in range(24):
        ndim = 1 + i % 2
        groups = int(rng.choice([1, 2, 3]))
        c, o = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
        size, kernel = _random_spatial(rng, ndim, 3, 7), _random_spatial(rng, ndim, 1, 5)
        stride, dilation = _random_spatial(rng, ndim, 1, 4), _random_spatial(rng, ndim, 1, 3)
        padding = tuple(int(rng.integers(0, (k - 1) * d + 1))
                        for k, d in zip(kernel, dilation, strict=True))
        extra = tuple(int(rng.integers(0, max(s, d)))
                      for s, d in zip(stride, dilation, strict=True))
        inputs = [rng.standard_normal((2, c, *size)),
                  rng.standard_normal((c, o // groups, *kernel)),
                  rng.standard_normal(o) if i % 3 else None]

        def run(F, x, w, b, ndim=ndim, stride=stride, padding=padding, extra=extra, groups=groups,
                dilation=dilation):
            return (F.conv_transpose1d, F.conv_transpose2d)[ndim - 1](
                x, w, b, stride, padding, extra, groups, dilation)

        attrs = {"stride": stride, "padding": padding, "output_padding": extra,
                 "groups": groups, "dilation": dilation}
        cases.append(Case("conv_transpose", inputs, attrs, run, str(i)))
    return cases


def pool_cases() -> list[Case]:
    """Return random pooling of one and two spatial axes."""
    rng, cases = np.random.default_rng(12), []
    for i in range(24):
        ndim = 1 + i % 2
        x = rng.standard_normal((2, 3, *_random_spatial(rng, ndim, 6, 12)))
        kernel, stride = _random_spatial(rng, ndim, 1, 4), _random_spatial(rng, ndim, 1, 4)
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        ceil = bool(i // 2 % 2)
        dilation = _random_spatial(rng, ndim, 1, 3)

        def run_max(F, x, n=ndim, k=kernel, s=stride, p=padding, d=dilation, ceil=ceil):
            return (F.max_pool1d, F.max_pool2d)[n - 1](x, k, s, p, d, ceil, return_indices=True)

        attrs = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
        cases.append(Case("max_pool", [x], {**attrs, "dilation": dilation}, run_max, str(i)))
        include = bool(i // 4 % 2)
        divisor = 3 if ndim == 2 and i % 3 == 0 else None

        def run_avg(F, x, n=ndim, k=kernel, s=stride, p=padding, ceil=ceil, include=include,
                    divisor=divisor):
            if n == 1:
                return F.avg_pool1d(x, k, s, p, ceil, include)
            return F.avg_pool2d(x, k, s, p, ceil, include, divisor)

        cases.append(Case("avg_pool", [x], {**attrs, "count_include_pad": include,
                                            "divisor_override": divisor}, run_avg, str(i)))
        out = _random_spatial(rng, ndim, 1, 14)
        cases.append(Case(
            "adaptive_avg_pool", [x], {"output_size": out},
            lambda F, x, n=ndim, o=out: getattr(F, f"adaptive_avg_pool{n}d")(x, o), str(i)))
        cases.append(Case(
            "adaptive_max_pool", [x], {"output_size": out},
            lambda F, x, n=ndim, o=out: getattr(F, f"adaptive_max_pool{n}d")(
                x, o, return_indices=True), str(i)))
    return cases


def norm_cases() -> list[Case]:
    """Return batch norm of every rank, with and without weight and bias."""
    rng, cases = np.random.default_rng(13), []
    for shape in ((5, 3), (4, 3, 7), (3, 4, 5, 6), (1, 2, 3, 3)):
        for affine in (True, False):
            c = shape[1]
            x = 2 + rng.standard_normal(shape)
            wb = [rng.standard_normal(c), rng.standard_normal(c)] if affine else [None, None]
            stats = [rng.standard_normal(c), rng.uniform(0.5, 2, c)]
            tag = f"{len(shape)}d-{'affine' if affine else 'plain'}"
            cases.append(Case(
                "batch_norm", [x, *wb, *stats], {"eps": 1e-3},
                lambda F, x, w, b, m, v: F.batch_norm(x, m, v, w, b, False, 0.1, 1e-3), tag))

            def train(F, x, w, b):
                y = F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3)
                axes = [0, *range(2, x.ndim)]
                return y, x.mean(axes), x.var(axes, unbiased=False)

            cases.append(Case("batch_norm_train", [x, *wb], {"eps": 1e-3}, train, tag))
    return cases


def activation_cases() -> list[Case]:
    """Return every activation on values around and far from its bends."""
    rng = np.random.default_rng(14)
    x = np.concatenate([rng.standard_normal(40) * 4, rng.standard_normal(8) * 30])
    x = x.reshape(2, 4, 2, 3)
    cases = [Case(name, [x], {}, lambda F, x, name=name: getattr(F, name)(x)) for name in (
        "relu", "relu6", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid")]
    cases += [
        Case("leaky_relu", [x], {"negative_slope": 0.2}, lambda F, x: F.leaky_relu(x, 0.2)),
        Case("prelu", [x, np.array([0.3])], {}, lambda F, x, w: F.prelu(x, w), "one"),
        Case("prelu", [x, rng.standard_normal(4)], {}, lambda F, x, w: F.prelu(x, w), "channels"),
        Case("prelu", [x[:, :, 0, 0], rng.standard_normal(4)], {},
             lambda F, x, w: F.prelu(x, w), "2d"),
        Case("elu", [x], {"alpha": 0.7}, lambda F, x: F.elu(x, 0.7)),
        Case("gelu", [x], {}, lambda F, x: F.gelu(x), "none"),
        Case("gelu", [x], {"approximate": "tanh"},
             lambda F, x: F.gelu(x, approximate="tanh"), "tanh"),
    ]
    for dim in (0, 1, -1):
        cases.append(Case("softmax", [x], {"dim": dim},
                          lambda F, x, d=dim: F.softmax(x, d), str(dim)))
        cases.append(Case("log_softmax", [x], {"dim": dim},
                          lambda F, x, d=dim: F.log_softmax(x, d), str(dim)))
    return cases


def arithmetic_cases() -> list[Case]:
    """Return arithmetic with broadcasting, powers, reductions and products."""
    rng, cases = np.random.default_rng(15), []
    for shapes in (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (2, 3, 1)), ((3,), ())):
        a, b = rng.standard_normal(shapes[0]), rng.uniform(0.5, 2, shapes[1])
        for name, op in (("add", lambda F, a, b: a + b), ("sub", lambda F, a, b: a - b),
                         ("mul", lambda F, a, b: a * b), ("div", lambda F, a, b: a / b)):
            cases.append(Case(name, [a, b], {}, op, f"{shapes[0]}-{shapes[1]}"))
    x, positive = rng.standard_normal((2, 3, 4)), rng.uniform(0.5, 2, (2, 3, 4))
    cases += [
        Case("neg", [x], {}, lambda F, x: -x), Case("abs", [x], {}, lambda F, x: x.abs()),
        Case("exp", [x], {}, lambda F, x: x.exp()),
        Case("log", [positive], {}, lambda F, x: x.log()),
        Case("sqrt", [positive], {}, lambda F, x: x.sqrt()),
        *(Case("pow", [x if e == int(e) else positive], {"exponent": e},
               lambda F, x, e=e: x ** e, str(e)) for e in (0, 1, 2, 3, -1, 0.5, 2.5)),
    ]
    for dim in (None, 1, -1, (0, 2)):
        for keep in (False, True):
            axes = tuple(range(3)) if dim is None else dim
            cases.append(Case("sum", [x], {"dim": dim, "keepdim": keep},
                              lambda F, x, d=axes, k=keep: x.sum(d, keepdim=k), f"{dim}-{keep}"))
            cases.append(Case("mean", [x], {"dim": dim, "keepdim": keep},
                              lambda F, x, d=axes, k=keep: x.mean(d, keepdim=k), f"{dim}-{keep}"))
    for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 5)),
                 ((3, 4), (4,)), ((4,), (4,)), ((4,), (2, 4, 3))):
        cases.append(Case("matmul", [rng.standard_normal(a), rng.standard_normal(b)], {},
                          lambda F, a, b: a @ b, f"{a}-{b}"))
    for shape in ((7,), (3, 7), (2, 3, 7)):
        cases.append(Case("linear", [rng.standard_normal(shape), rng.standard_normal((5, 7)),
                                     rng.standard_normal(5)], {}, lambda F, *a: F.linear(*a),
                          str(shape)))
    cases.append(Case(
        "linear", [rng.standard_normal(s) for s in ((4, 7), (5, 7), (5,), (4, 5))],
        {"activation": "leaky_relu", "activation_args": (0.3,)},
        lambda F, x, w, b, r: F.leaky_relu(F.linear(x, w, b) + r, 0.3), "fused"))
    return cases


def shape_cases() -> list[Case]:
    """Return operations that move elements."""
    rng = np.random.default_rng(16)
    x = rng.standard_normal((2, 3, 4, 5))
    cases = [
        Case("reshape", [x], {"shape": (6, -1)}, lambda F, x: x.reshape(6, -1)),
        Case("flatten", [x], {"start_dim": 1, "end_dim": -1}, lambda F, x: x.flatten(1)),
        Case("flatten", [x], {"start_dim": -3, "end_dim": 2}, lambda F, x: x.flatten(1, 2), "mid"),
        Case("permute", [x], {"dims": (2, 0, -1, 1)}, lambda F, x: x.permute(2, 0, 3, 1)),
        Case("slice", [x], {"starts": (None, 1, -3, 0), "stops": (None, None, -1, 5),
                            "steps": (None, 1, 1, 2)},
             lambda F, x: x[:, 1::1, -3:-1, 0:5:2]),
    ]
    for dim in (1, -1):
        others = [x, rng.standard_normal(x.shape), rng.standard_normal(x.shape)]
        cases.append(Case("concat", others, {"dim": dim},
                          lambda F, *xs, d=dim: __import__("torch").cat(xs, d), str(dim)))
    for mode in ("constant", "reflect", "replicate", "circular"):
        pairs = ((2, 1), (0, 3))
        attrs = {"padding": ((0, 0), (0, 0), *pairs), "mode": mode,
                 "value": 1.5 if mode == "constant" else 0.0}
        cases.append(Case("pad", [x], attrs, lambda F, x, m=mode, v=attrs["value"]: F.pad(
            x, (0, 3, 2, 1), m, v if m == "constant" else None), mode))
    cases.append(Case("pad", [x], {"padding": ((0, 0), (-1, 2), (0, 0), (1, -2))},
                      lambda F, x: F.pad(x, (1, -2, 0, 0, -1, 2)), "crop"))
    return cases


def upsample_cases() -> list[Case]:
    """Return resampling by size and by factor, with aligned corners and without."""
    rng, cases = np.random.default_rng(17), []
    for i in range(30):
        ndim = 1 + i % 2
        x = rng.standard_normal((2, 3, *_random_spatial(rng, ndim, 1, 9)))
        size, factor = _random_spatial(rng, ndim, 1, 20), None
        if i % 3 == 0:
            factor = tuple(float(f) for f in rng.uniform(1, 3, ndim))
            size = tuple(int(n * f) for n, f in zip(x.shape[2:], factor, strict=True))
        smooth = "linear" if ndim == 1 else "bilinear"
        for mode, corners in (("nearest", None), (smooth, False), (smooth, True)):
            if corners and factor:
                continue
            if ndim == 1 and mode == "nearest" and factor and size[0] in (
                    x.shape[2], 2 * x.shape[2]):
                continue  # PyTorch's values and gradients contradict each other here
            attrs = {"size": size, "mode": mode, "align_corners": corners, "scale_factor": factor}

            def run(F, x, size=size, factor=factor, mode=mode, corners=corners):
                where = {"scale_factor": factor} if factor else {"size": size}
                return F.interpolate(x, mode=mode, align_corners=corners, **where)

            cases.append(Case("upsample", [x], attrs, run, f"{i}-{mode}-{corners}"))
    return cases


def loss_cases() -> list[Case]:
    """Return losses with their options."""
    rng, cases = np.random.default_rng(18), []
    for shape in ((6, 4), (3, 4, 5), (2, 4, 3, 2)):
        x = rng.standard_normal(shape)
        target = rng.integers(0, 4, (shape[0], *shape[2:]))
        target.flat[1] = 2
        probabilities = rng.uniform(size=shape)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        weight = rng.uniform(0.5, 2, 4)
        for reduction in ("mean", "sum", "none"):
            for w in (None, weight):
                tag = f"{len(shape)}d-{reduction}-{'weight' if w is not None else 'plain'}"
                for ignore in (-100, 2):
                    cases.append(Case(
                        "nll_loss", [x, target, w],
                        {"ignore_index": ignore, "reduction": reduction},
                        lambda F, x, t, w, i=ignore, r=reduction: F.nll_loss(
                            x, t, w, ignore_index=i, reduction=r), f"{tag}-{ignore}"))
                    for smooth in (0.0, 0.1):
                        cases.append(Case(
                            "cross_entropy", [x, target, w],
                            {"ignore_index": ignore, "reduction": reduction,
                             "label_smoothing": smooth},
                            lambda F, x, t, w, i=ignore, r=reduction, s=smooth: F.cross_entropy(
                                x, t, w, ignore_index=i, reduction=r, label_smoothing=s),
                            f"{tag}-{ignore}-{smooth}"))
                for smooth in (0.0, 0.1):
                    cases.append(Case(
                        "cross_entropy", [x, probabilities, w],
                        {"reduction": reduction, "label_smoothing": smooth},
                        lambda F, x, t, w, r=reduction, s=smooth: F.cross_entropy(
                            x, t, w, reduction=r, label_smoothing=s), f"{tag}-soft-{smooth}"))
            cases.append(Case("mse_loss", [x, probabilities], {"reduction": reduction},
                              lambda F, x, t, r=reduction: F.mse_loss(x, t, reduction=r),
                              f"{len(shape)}d-{reduction}"))
            pos = rng.uniform(0.5, 3, (4, *(1,) * (len(shape) - 2)))
            for w, p in ((None, None), (rng.uniform(size=shape), None), (None, pos)):
                cases.append(Case(
                    "bce_with_logits", [20 * x, probabilities, w, p], {"reduction": reduction},
                    lambda F, x, t, w, p, r=reduction: F.binary_cross_entropy_with_logits(
                        x, t, w, reduction=r, pos_weight=p),
                    f"{len(shape)}d-{reduction}-{w is not None}-{p is not None}"))
    return cases


CASES = [*conv_cases(), *conv_transpose_cases(), *pool_cases(), *norm_cases(), *activation_cases(),
         *arithmetic_cases(), *shape_cases(), *upsample_cases(), *loss_cases()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.tag)
def test_gradients_are_derivatives(case):
    check_differences(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.tag)
def test_agrees_with_pytorch(case, torch):
    check_torch(case, torch)


def test_every_function_has_cases():
    names = {name.removesuffix("_grad") for name in vars(reference)
             if not name.startswith("_") and name.endswith("_grad")}
    assert {case.name for case in CASES} == names
    assert all(callable(getattr(reference, name)) for name in names)


# -- independent checks ---------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolution_is_scipys_correlation(padding, rng):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, w = rng.standard_normal((2, 3, 7, 8)), rng.standard_normal((4, 3, 3, 2))
    xp = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    want = [[np.sum([signal.correlate2d(xp[n, c], w[o, c], "valid") for c in range(3)], axis=0)
             for o in range(4)] for n in range(2)]
    got = reference.conv(x, w, padding=padding)
    assert_close(got, np.array(want), tolerance("forward", np.float64))


def test_input_gradient_is_scipys_full_convolution(rng):
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x, w = rng.standard_normal((1, 2, 6, 7)), rng.standard_normal((3, 2, 3, 2))
    gy = rng.standard_normal((1, 3, 4, 6))
    want = [np.sum([signal.convolve2d(gy[0, o], w[o, c], "full") for o in range(3)], axis=0)
            for c in range(2)]
    assert_close(reference.conv_grad(gy, x, w)[0][0], np.array(want),
                 tolerance("gradient", np.float64))


def test_transposed_convolution_is_the_adjoint(rng):
    x, y = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((2, 6, 3, 3))
    w = rng.standard_normal((6, 2, 3, 2))
    attrs = {"stride": 2, "padding": (1, 0), "groups": 2}
    there = (reference.conv(x, w, **attrs) * y).sum()
    back = (reference.conv_transpose(y, w, output_padding=(0, 0), **attrs) * x).sum()
    assert there == pytest.approx(back, rel=1e-12)


def test_max_pool_takes_the_first_of_equals_and_nan():
    x = np.zeros((1, 1, 4, 4))
    x[0, 0, 3, 2] = np.nan
    y, places = reference.max_pool(x, kernel_size=2)
    np.testing.assert_array_equal(places[0, 0], [[0, 2], [8, 14]])
    np.testing.assert_array_equal(y[0, 0], [[0, 0], [0, np.nan]])
    lowest = np.full((1, 1, 3), -np.inf)
    y, places = reference.max_pool(lowest, kernel_size=3, padding=1, stride=1)
    np.testing.assert_array_equal(places[0, 0], [0, 0, 1])
    assert (y == -np.inf).all()


def test_max_pool_agrees_with_pytorch_on_ties_and_nan(torch, rng):
    x = rng.integers(0, 3, (2, 3, 7, 9)).astype(float)
    x[rng.random(x.shape) < 0.05] = np.nan
    got = reference.max_pool(x, kernel_size=3, stride=2, padding=1)
    want = torch.nn.functional.max_pool2d(
        torch.from_numpy(x), 3, 2, 1, return_indices=True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_bends_agree_with_pytorch(torch):
    x = np.array([-np.inf, -6.0, -3.0, -0.0, 0.0, 3.0, 6.0, np.inf, np.nan])
    for name in ("relu", "relu6", "leaky_relu", "elu", "hardsigmoid", "hardswish", "sigmoid",
                 "tanh"):
        t = torch.from_numpy(x.copy()).requires_grad_()
        y = getattr(torch.nn.functional, name)(t)
        y.backward(torch.ones_like(y))
        with np.errstate(invalid="ignore"):
            got = getattr(reference, name)(x)
            (grad,) = getattr(reference, name + "_grad")(np.ones_like(x), x)
        np.testing.assert_allclose(got, y.detach().numpy(), rtol=1e-7, err_msg=name)
        np.testing.assert_allclose(grad, t.grad.numpy(), rtol=1e-7, atol=1e-15, err_msg=name)


def test_a_mean_over_ignored_targets_only_is_nan():
    x, target = np.zeros((2, 3)), np.array([1, 1])
    assert np.isnan(reference.cross_entropy(x, target, ignore_index=1))
    assert np.isnan(reference.nll_loss(x, target, ignore_index=1))
    assert reference.cross_entropy(x, target, ignore_index=1, reduction="sum") == 0


def test_large_logits_do_not_overflow():
    x = np.array([[1000.0, -1000.0, 0.0]])
    assert_close(reference.softmax(x, dim=1), np.array([[1.0, 0.0, 0.0]]),
                 tolerance("forward", np.float64))
    assert reference.bce_with_logits(np.array([-1000.0]), np.array([1.0])) == 1000.0
