"""Random configurations of every operation, each with the same in PyTorch.

`all_cases(seed, wide)` gives a few hundred. They serve the tests of the reference and those
of the operations; `wide` adds channel counts that fill, and do not divide, kernels' tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Case", "all_cases"]

Rng = np.random.Generator


@dataclass
class Case:
    """One operation on one set of inputs; ``torch(F, *tensors)`` is the same in PyTorch."""

    name: str
    inputs: list
    attrs: dict
    torch: Callable
    tag: str = ""
    kind: str = ""  # row of the tolerance table

    def __str__(self) -> str:
        return f"{self.name}-{self.tag}" if self.tag else self.name


def _sizes(rng: Rng, ndim: int, low: int, high: int) -> tuple[int, ...]:
    """Return one random size per spatial axis, from low to high - 1."""
    return tuple(int(n) for n in rng.integers(low, high, ndim))


def _channels(rng: Rng, wide: bool) -> int:
    """Return a number of channels (of one group)."""
    return int(rng.choice((1, 3, 8, 16, 17, 33, 48))) if wide else int(rng.integers(1, 4))


def _grouped(rng: Rng, wide: bool, i: int) -> tuple[int, int, int]:
    """Return groups, input and output channels; every fourth is depthwise."""
    if i % 4 == 3:
        c = _channels(rng, wide)
        return c, c, c * int(rng.integers(1, 3))
    groups = int(rng.choice((1, 1, 2, 3)))
    cap = 17 if groups > 1 else 64
    return (groups, groups * min(cap, _channels(rng, wide)),
            groups * min(cap, _channels(rng, wide)))


# -- convolution and pooling ----------------------------------------------------------------


def _torch_pad(F: Any, x: Any, pairs: tuple, mode: str) -> Any:
    """Pad the spatial axes by (before, after) pairs with PyTorch."""
    flat = [p for pair in reversed(pairs) for p in pair]
    if not any(flat):
        return x
    return F.pad(x, flat, mode="constant" if mode == "zeros" else mode)


def conv_cases(rng: Rng, wide: bool, count: int = 48) -> list[Case]:
    """Return convolutions of one and two spatial axes, in every padding mode."""
    cases = []
    for i in range(count):
        ndim = 1 + (i // 4) % 2
        groups, c, o = _grouped(rng, wide, i)
        size, kernel = _sizes(rng, ndim, 7, 12), _sizes(rng, ndim, 1, 5)
        stride, dilation = _sizes(rng, ndim, 1, 4), _sizes(rng, ndim, 1, 3)
        if i % 3 == 0:
            kernel, stride, dilation = (3,) * ndim, (1 + i % 2,) * ndim, (1,) * ndim
        pairs = tuple(tuple(map(int, rng.integers(0, 4, 2))) for _ in range(ndim))
        mode = ("zeros", "zeros", "zeros", "reflect", "replicate", "circular")[i % 6]
        inputs = [rng.standard_normal((int(rng.integers(1, 4)), c, *size)),
                  rng.standard_normal((o, c // groups, *kernel)),
                  rng.standard_normal(o) if i % 5 else None]

        def run(F, x, w, b, ndim=ndim, stride=stride, dilation=dilation, groups=groups,
                pairs=pairs, mode=mode):
            return (F.conv1d, F.conv2d)[ndim - 1](
                _torch_pad(F, x, pairs, mode), w, b, stride, 0, dilation, groups)

        attrs = {"stride": stride, "padding": pairs, "dilation": dilation, "groups": groups,
                 "padding_mode": mode}
        cases.append(Case("conv", inputs, attrs, run, f"{i}-{mode}"))
    return cases


def fused_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return convolutions and linear layers with residual and activation."""
    cases = []
    o = 17 if wide else 4
    for activation in (None, "relu", "relu6", "leaky_relu"):
        args = (0.2,) if activation == "leaky_relu" else ()
        fused = {"activation": activation, "activation_args": args}

        def finish(F, z, activation=activation, args=args):
            return getattr(F, activation)(z, *args) if activation else z

        shapes = ((2, 3, 5, 6), (o, 3, 3, 3), (o,), (2, o, 5, 6))
        attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
        cases.append(Case(
            "conv", [3 * rng.standard_normal(s) for s in shapes], {**attrs, **fused},
            lambda F, x, w, b, r, finish=finish: finish(F, F.conv2d(x, w, b, padding=1) + r),
            f"fused-{activation}"))
        shapes = ((4, 7), (o, 7), (o,), (4, o))
        cases.append(Case(
            "linear", [rng.standard_normal(s) for s in shapes], fused,
            lambda F, x, w, b, r, finish=finish: finish(F, F.linear(x, w, b) + r),
            f"fused-{activation}"))
    return cases


def conv_transpose_cases(rng: Rng, wide: bool, count: int = 28) -> list[Case]:
    """Return transposed convolutions of one and two spatial axes."""
    cases = []
    for i in range(count):
        ndim = 1 + (i // 4) % 2
        groups, c, o = _grouped(rng, wide, i)
        size, kernel = _sizes(rng, ndim, 3, 7), _sizes(rng, ndim, 1, 5)
        stride, dilation = _sizes(rng, ndim, 1, 4), _sizes(rng, ndim, 1, 3)
        padding = tuple(int(rng.integers(0, (k - 1) * d + 1))
                        for k, d in zip(kernel, dilation, strict=True))
        extra = tuple(int(rng.integers(0, max(s, d)))
                      for s, d in zip(stride, dilation, strict=True))
        if any((n - 1) * s - 2 * p + d * (k - 1) + e + 1 < 1 for n, s, p, d, k, e in zip(
                size, stride, padding, dilation, kernel, extra, strict=True)):
            padding = (0,) * ndim
        inputs = [rng.standard_normal((int(rng.integers(1, 3)), c, *size)),
                  rng.standard_normal((c, o // groups, *kernel)),
                  rng.standard_normal(o) if i % 3 else None]

        def run(F, x, w, b, ndim=ndim, stride=stride, padding=padding, extra=extra, groups=groups,
                dilation=dilation):
            return (F.conv_transpose1d, F.conv_transpose2d)[ndim - 1](
                x, w, b, stride, padding, extra, groups, dilation)

        attrs = {"stride": stride, "padding": tuple((p, p) for p in padding),
                 "output_padding": extra, "groups": groups, "dilation": dilation}
        cases.append(Case("conv_transpose", inputs, attrs, run, str(i)))
    return cases


def pool_cases(rng: Rng, wide: bool, count: int = 24) -> list[Case]:
    """Return pooling of one and two spatial axes."""
    cases = []
    for i in range(count):
        ndim = 1 + i % 2
        shape = (2, _channels(rng, wide), *_sizes(rng, ndim, 6, 12))
        # Apart by more than the steps of central differences, so that no maximum moves.
        x = rng.permutation(math.prod(shape)).reshape(shape) / 64.0 - 5.0
        kernel, stride = _sizes(rng, ndim, 1, 5), _sizes(rng, ndim, 1, 4)
        padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
        ceil = bool(i // 2 % 2)
        dilation = _sizes(rng, ndim, 1, 3)
        if any(d * (k - 1) + 1 > n + 2 * p for n, k, p, d in zip(
                x.shape[2:], kernel, padding, dilation, strict=True)):
            dilation = (1,) * ndim

        def run_max(F, x, n=ndim, k=kernel, s=stride, p=padding, d=dilation, ceil=ceil):
            return (F.max_pool1d, F.max_pool2d)[n - 1](x, k, s, p, d, ceil, return_indices=True)

        attrs = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
        cases.append(Case("max_pool", [x], {**attrs, "dilation": dilation, "return_indices": True},
                          run_max, str(i)))
        include = bool(i // 4 % 2)
        divisor = 3 if ndim == 2 and i % 3 == 0 else None

        def run_avg(F, x, n=ndim, k=kernel, s=stride, p=padding, ceil=ceil, include=include,
                    divisor=divisor):
            if n == 1:
                return F.avg_pool1d(x, k, s, p, ceil, include)
            return F.avg_pool2d(x, k, s, p, ceil, include, divisor)

        cases.append(Case("avg_pool", [x], {**attrs, "count_include_pad": include,
                                            "divisor_override": divisor}, run_avg, str(i)))
        out = _sizes(rng, ndim, 1, 14)
        cases.append(Case(
            "adaptive_avg_pool", [x], {"output_size": out},
            lambda F, x, n=ndim, o=out: getattr(F, f"adaptive_avg_pool{n}d")(x, o), str(i)))
        cases.append(Case(
            "adaptive_max_pool", [x], {"output_size": out, "return_indices": True},
            lambda F, x, n=ndim, o=out: getattr(F, f"adaptive_max_pool{n}d")(
                x, o, return_indices=True), str(i)))
    return cases


def unpool_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return max unpooling of one and two spatial axes; no place comes twice."""
    cases = []
    for i, size in enumerate(((9,), (4, 7), (5, 3))):
        c = _channels(rng, wide)
        pooled = tuple(max(n // 2, 1) for n in size)
        x = rng.standard_normal((2, c, *pooled))
        places = np.argsort(rng.random((2, c, math.prod(size))), axis=2)
        places = places[..., :math.prod(pooled)].reshape(x.shape)

        def run(F, x, at, n=len(size), size=size):
            return getattr(F, f"max_unpool{n}d")(x, at, 2, output_size=size)

        cases.append(Case("max_unpool", [x, places], {"output_size": size}, run, str(i)))
    return cases


# -- normalisation, activations, arithmetic, shapes -----------------------------------------


def norm_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return batch norm of every rank, with and without weight and bias."""
    cases = []
    for shape in ((5, 3), (4, 3, 7), (3, 4, 5, 6), (1, 2, 3, 3)):
        for affine in (True, False):
            c = _channels(rng, wide)
            shape = (shape[0], c, *shape[2:])
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
    for activation in (None, "relu", "relu6", "leaky_relu"):
        c = _channels(rng, wide)
        args = (0.2,) if activation == "leaky_relu" else ()

        def affine(F, x, w, b, activation=activation, args=args):
            z = x * w[:, None, None] + b[:, None, None]
            return getattr(F, activation)(z, *args) if activation else z

        inputs = [3 * rng.standard_normal(shape) for shape in ((2, c, 4, 5), (c,), (c,))]
        cases.append(Case("affine", inputs, {"activation": activation, "activation_args": args},
                          affine, str(activation)))
    return cases


def sample_norm_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return the normalisations of each sample by itself, of every rank."""
    cases = []
    for shape in ((5, 0), (4, 0, 7), (3, 0, 5, 6), (2, 0, 9, 11)):
        for affine in (True, False):
            groups = int(rng.choice((1, 2, 3)))
            c = groups * max(2, _channels(rng, wide))
            x = 2 + rng.standard_normal((shape[0], c, *shape[2:]))
            wb = [rng.standard_normal(c), rng.standard_normal(c)] if affine else [None, None]
            tag = f"{len(shape)}d-{'affine' if affine else 'plain'}"
            cases.append(Case(
                "group_norm", [x, *wb], {"num_groups": groups, "eps": 1e-3},
                lambda F, x, w, b, g=groups: F.group_norm(x, g, w, b, 1e-3), tag))
            if len(shape) > 2:
                cases.append(Case(
                    "instance_norm", [x, *wb], {"eps": 1e-3},
                    lambda F, x, w, b: F.instance_norm(x, None, None, w, b, True, 0.1, 1e-3), tag))
            for axes in range(1, len(shape)):
                inner = x.shape[-axes:]
                wb = [rng.standard_normal(inner), rng.standard_normal(inner)]
                wb = wb if affine else [wb[0], None] if axes == 1 else [None, None]
                cases.append(Case(
                    "layer_norm", [x, *wb], {"normalized_shape": inner, "eps": 1e-3},
                    lambda F, x, w, b, s=inner: F.layer_norm(x, s, w, b, 1e-3), f"{tag}-{axes}"))
    for i, size in enumerate((1, 2, 5, 9)):
        x = 2 * rng.standard_normal((2, _channels(rng, wide), *_sizes(rng, 1 + i % 2, 2, 6)))
        attrs = {"size": size, "alpha": 0.3, "beta": (0.75, 0.5)[i % 2], "k": 2.0}
        cases.append(Case("local_response_norm", [x], attrs,
                          lambda F, x, a=attrs: F.local_response_norm(x, **a), str(size)))
    return cases


def activation_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return every activation on values around and far from its bends."""
    c = _channels(rng, wide)
    x = np.concatenate([rng.standard_normal(10 * c) * 4, rng.standard_normal(2 * c) * 30])
    x = x.reshape(2, c, 2, 3)
    cases = [Case(name, [x], {}, lambda F, x, name=name: getattr(F, name)(x)) for name in (
        "relu", "relu6", "sigmoid", "tanh", "silu", "hardswish")]
    cases += [
        # Written out: PyTorch's own multiplies by the float32 nearest to 1/6, in float64 too.
        Case("hardsigmoid", [x], {}, lambda F, x: F.relu6(x + 3) / 6),
        Case("leaky_relu", [x], {"negative_slope": 0.2}, lambda F, x: F.leaky_relu(x, 0.2)),
        Case("prelu", [x, np.array([0.3])], {}, lambda F, x, w: F.prelu(x, w), "one"),
        Case("prelu", [x, rng.standard_normal(c)], {}, lambda F, x, w: F.prelu(x, w), "channels"),
        Case("prelu", [x[:, :, 0, 0], rng.standard_normal(c)], {},
             lambda F, x, w: F.prelu(x, w), "2d"),
        Case("elu", [x], {"alpha": 0.7}, lambda F, x: F.elu(x, 0.7)),
        *(Case(name, [x], {}, lambda F, x, name=name: getattr(F, name)(x))
          for name in ("selu", "softsign", "mish", "logsigmoid")),
        # PyTorch rounds 1 / alpha to float32, in float64 too: a power of two is exact.
        Case("celu", [x], {"alpha": 0.5}, lambda F, x: F.celu(x, 0.5)),
        Case("hardtanh", [x], {"min_val": -2.0, "max_val": 3.0},
             lambda F, x: F.hardtanh(x, -2.0, 3.0)),
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


def arithmetic_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return arithmetic with broadcasting, and powers."""
    cases = []
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
        *(Case("pow", [x if e >= 0 and e == int(e) else positive], {"exponent": e},
               lambda F, x, e=e: x ** e, str(e)) for e in (0, 1, 2, 3, -1, 0.5, 2.5)),
    ]
    return cases


def product_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return reductions, matrix products and linear layers."""
    cases = []
    m, k, n = (33, 17, 70) if wide else (3, 4, 5)
    x = rng.standard_normal((2, m, k))
    for dim in (None, 1, -1, (0, 2)):
        for keep in (False, True):
            axes = tuple(range(3)) if dim is None else dim
            cases.append(Case("sum", [x], {"dim": dim, "keepdim": keep},
                              lambda F, x, d=axes, k=keep: x.sum(d, keepdim=k), f"{dim}-{keep}"))
            cases.append(Case("mean", [x], {"dim": dim, "keepdim": keep},
                              lambda F, x, d=axes, k=keep: x.mean(d, keepdim=k), f"{dim}-{keep}"))
    for a, b in (((m, k), (k, n)), ((2, m, k), (k, n)), ((2, 1, m, k), (5, k, n)), ((k,), (k, n)),
                 ((m, k), (k,)), ((k,), (k,)), ((k,), (2, k, n))):
        cases.append(Case("matmul", [rng.standard_normal(a), rng.standard_normal(b)], {},
                          lambda F, a, b: a @ b, f"{a}-{b}"))
    for i, shape in enumerate(((k,), (m, k), (2, m, k), (1, 1))):
        bias = rng.standard_normal(n) if i % 2 else None
        cases.append(Case(
            "linear", [rng.standard_normal(shape), rng.standard_normal((n, shape[-1])), bias], {},
            lambda F, *a: F.linear(*a), str(shape)))
    return cases


def _torch_cat(tensors: tuple, dim: int) -> Any:
    import torch

    return torch.cat(tensors, dim)


def shape_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return operations that move elements."""
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
                          lambda F, *xs, d=dim: _torch_cat(xs, d), str(dim)))
    for mode in ("constant", "reflect", "replicate", "circular"):
        pairs = ((2, 1), (0, 3))
        attrs = {"padding": ((0, 0), (0, 0), *pairs), "mode": mode,
                 "value": 1.5 if mode == "constant" else 0.0}
        cases.append(Case("pad", [x], attrs, lambda F, x, m=mode, v=attrs["value"]: F.pad(
            x, (0, 3, 2, 1), m, v if m == "constant" else None), mode))
    cases.append(Case("pad", [x], {"padding": ((0, 0), (-1, 2), (0, 0), (1, -2))},
                      lambda F, x: F.pad(x, (1, -2, 0, 0, -1, 2)), "crop"))
    return cases


def upsample_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return resampling by size and by factor, with aligned corners and without."""
    cases = []
    for i in range(30):
        ndim = 1 + i % 2
        x = rng.standard_normal((2, _channels(rng, wide), *_sizes(rng, ndim, 1, 9)))
        size, factor = _sizes(rng, ndim, 1, 20), None
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
            attrs = {"size": size, "mode": mode, "align_corners": bool(corners),
                     "scale_factor": factor}

            def run(F, x, size=size, factor=factor, mode=mode, corners=corners):
                where = {"scale_factor": factor} if factor else {"size": size}
                return F.interpolate(x, mode=mode, align_corners=corners, **where)

            cases.append(Case("upsample", [x], attrs, run, f"{i}-{mode}-{corners}"))
    return cases


def loss_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return losses with their options."""
    cases = []
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




def function_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return functions of one variable where they are smooth."""
    ranges = {"asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atanh": (-0.9, 0.9),
                    "acosh": (1.1, 4), "reciprocal": (0.5, 2), "tan": (-1.2, 1.2)}
    cases = []
    for name in ("floor", "ceil", "round", "sign", "reciprocal", "sin", "cos", "tan", "asin",
                 "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf"):
        x = rng.uniform(*ranges.get(name, (-3, 3)), (2, 3, 5))
        cases.append(Case(name, [x], {}, lambda F, x, name=name: getattr(x, name)()))
    x = rng.uniform(-30, 30, (2, 3, 5))
    return [*cases,
            Case("softplus", [x], {}, lambda F, x: F.softplus(x)),
            Case("softplus", [x], {"beta": 2.0, "threshold": 5.0},
                 lambda F, x: F.softplus(x, 2.0, 5.0), "beta")]


def choice_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return extremes, powers, remainders, clamping and choosing."""
    cases = []
    for shapes in (((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((1, 4), (2, 3, 1))):
        a, b = rng.uniform(0.5, 3, shapes[0]), rng.uniform(0.5, 2, shapes[1])
        tag = f"{shapes[0]}-{shapes[1]}"
        for name, other in (("maximum", "maximum"), ("minimum", "minimum"), ("power", "pow"),
                            ("remainder", "remainder"), ("fmod", "fmod")):
            cases.append(Case(name, [a, b], {}, lambda F, a, b, name=other: getattr(a, name)(b),
                              tag))
        condition = rng.random(shapes[0]) < 0.5
        cases.append(Case("where", [condition, a, b], {}, lambda F, c, a, b: a.where(c, b), tag))
        for mode in ("trunc", "floor"):
            cases.append(Case("div", [a, -b], {"rounding_mode": mode},
                              lambda F, a, b, m=mode: a.div(b, rounding_mode=m), f"{mode}-{tag}"))
    x = rng.standard_normal((2, 3, 4))
    for limits in ({"min": -0.5}, {"max": 0.5}, {"min": -0.5, "max": 0.75}):
        cases.append(Case("clamp", [x], limits, lambda F, x, v=limits: x.clamp(**v), str(limits)))
    return cases


def pick_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return extremes and products over axes, and elements picked by their places."""
    x, factors = rng.standard_normal((2, 3, 4, 5)), rng.uniform(0.7, 1.4, (2, 3, 2, 2))
    cases = []
    for dim in (None, (1,), (0, 2), (-1,)):
        for keep in (False, True):
            axes = tuple(range(4)) if dim is None else dim
            attrs = {"dim": dim, "keepdim": keep}
            for name in ("amax", "amin"):
                cases.append(Case(name, [x], attrs, lambda F, x, n=name, d=axes, k=keep:
                                  getattr(x, n)(d, keepdim=k), f"{dim}-{keep}"))

            def product(F, x, d=axes, k=keep):
                for axis in sorted((i % 4 for i in d), reverse=True):
                    x = x.prod(axis, keepdim=k)
                return x

            cases.append(Case("prod", [factors], attrs, product, f"{dim}-{keep}"))
    for dim in (0, 1, -1):
        for largest in (True, False):
            cases.append(Case("topk", [x], {"k": 2, "dim": dim, "largest": largest},
                              lambda F, x, d=dim, b=largest: tuple(x.topk(2, d, b)),
                              f"{dim}-{largest}"))
        cases.append(Case("cumsum", [x], {"dim": dim}, lambda F, x, d=dim: x.cumsum(d), str(dim)))
        rows = rng.integers(0, 2, (3, 2))
        cases.append(Case("take", [x, rows], {"dim": dim}, lambda F, x, i, d=dim: x.index_select(
            d, i.reshape(-1)).reshape(*x.shape[:d % 4], 3, 2, *x.shape[d % 4 + 1:]), str(dim)))
        places = rng.integers(0, 2, (2, 2, 4, 3))
        cases.append(Case("gather", [x, places], {"dim": dim},
                          lambda F, x, i, d=dim: x.gather(d, i), str(dim)))
    y = rng.standard_normal((3, 1, 5))
    cases.append(Case("expand", [y], {"shape": (2, -1, 4, 5)},
                      lambda F, y: y.expand(2, -1, 4, 5)))
    return cases


def resize_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return resampling in ONNX's words, as far as PyTorch has the same."""
    cases = []
    for i in range(8):
        x = rng.standard_normal((2, _channels(rng, wide), *_sizes(rng, 2, 3, 9)))
        size = _sizes(rng, 2, 2, 14)
        for mode, torchs in (("linear", "bilinear"), ("cubic", "bicubic")):
            for coordinates in ("half_pixel", "align_corners"):
                smooth = bool(i % 2) and coordinates == "half_pixel"
                # PyTorch's cubic filter has -0.5 where it is antialiased.
                attrs = {"size": (*x.shape[:2], *size), "mode": mode, "coordinates": coordinates,
                         "antialias": smooth, "exclude_outside": smooth,
                         "cubic_coeff_a": -0.5 if smooth else -0.75}

                def run(F, x, size=size, mode=torchs, c=coordinates, smooth=smooth):
                    return F.interpolate(x, size=size, mode=mode, antialias=smooth,
                                         align_corners=c == "align_corners")

                cases.append(Case("resize", [x], attrs, run, f"{i}-{mode}-{coordinates}"))
    return cases


def error_loss_cases(rng: Rng, wide: bool) -> list[Case]:
    """Return losses of single numbers, and those over classes beside cross entropy."""
    cases = []
    x, t = 3 * rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 5))
    p, q = rng.uniform(0.01, 0.99, (2, *x.shape))
    for reduction in ("mean", "sum", "none"):
        for name, inputs, attrs in (
                ("l1_loss", [x, t], {}), ("huber_loss", [x, t], {"delta": 1.3}),
                ("smooth_l1_loss", [x, t], {"beta": 0.7}),
                ("smooth_l1_loss", [x, t], {"beta": 0.0}),
                ("kl_div", [np.log(p), q], {}), ("kl_div", [np.log(p), np.log(q)],
                                                 {"log_target": True})):
            attrs = {"reduction": reduction, **attrs}
            cases.append(Case(name, inputs, attrs,
                              lambda F, x, t, n=name, a=attrs: getattr(F, n)(x, t, **a),
                              f"{attrs}"))
        for weight in (None, rng.uniform(0.5, 2, (4, 1))):
            cases.append(Case("bce", [p, q, weight], {"reduction": reduction},
                              lambda F, x, t, w, r=reduction: F.binary_cross_entropy(
                                  x, t, w, reduction=r), f"{reduction}-{weight is not None}"))
        signs = np.where(t > 0, 1.0, -1.0)
        cases.append(Case("hinge_loss", [x, signs], {"reduction": reduction, "margin": 1.5},
                          lambda F, x, t, r=reduction: _reduced((1.5 - t * x).clamp(min=0), r),
                          reduction))
        for alpha, gamma in ((0.25, 2.0), (-1.0, 0.0), (0.6, 1.5)):
            attrs = {"alpha": alpha, "gamma": gamma, "reduction": reduction}
            cases.append(Case("sigmoid_focal_loss", [x, (t > 0).astype(float)], attrs,
                              lambda F, x, t, a=attrs: _binary_focal(F, x, t, **a),
                              f"{reduction}-{gamma}"))
        scores, classes = rng.standard_normal((6, 5, 2)), rng.integers(0, 5, (6, 2))
        weight = rng.uniform(0.5, 2, 5)
        for gamma, w in ((2.0, None), (0.0, weight), (1.5, weight)):
            attrs = {"gamma": gamma, "ignore_index": 3, "reduction": reduction}
            cases.append(Case("focal_loss", [scores, classes, w], attrs,
                              lambda F, x, t, w, a=attrs: _class_focal(F, x, t, w, **a),
                              f"{reduction}-{gamma}"))
        for power, w in ((1, None), (2, weight)):
            attrs = {"p": power, "margin": 0.9, "reduction": reduction}
            cases.append(Case("multi_margin_loss", [scores[..., 0], classes[:, 0], w], attrs,
                              lambda F, x, t, w, a=attrs: F.multi_margin_loss(
                                  x, t, weight=w, **a), f"{reduction}-{power}"))
    return cases


def _reduced(losses: Any, reduction: str) -> Any:
    """Reduce a tensor as losses do."""
    return losses if reduction == "none" else getattr(losses, reduction)()


def _binary_focal(F: Any, x: Any, t: Any, alpha: float, gamma: float, reduction: str) -> Any:
    """Return the binary focal loss by its formula, in PyTorch."""
    p = x.sigmoid()
    share = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1.0
    losses = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    return _reduced(share * (1 - p * t - (1 - p) * (1 - t)) ** gamma * losses, reduction)


def _class_focal(F: Any, x: Any, t: Any, w: Any, gamma: float, ignore_index: int,
                 reduction: str) -> Any:
    """Return the focal loss over classes by its formula, in PyTorch."""
    losses = F.nll_loss((1 - x.softmax(1)) ** gamma * x.log_softmax(1), t, w,
                        ignore_index=ignore_index, reduction=reduction)
    return losses


def all_cases(seed: int, wide: bool = False) -> list[Case]:
    """Return random configurations of every operation."""
    rng = np.random.default_rng(seed)
    sums = [*conv_cases(rng, wide), *fused_cases(rng, wide), *conv_transpose_cases(rng, wide),
            *pool_cases(rng, wide), *unpool_cases(rng, wide), *norm_cases(rng, wide),
            *sample_norm_cases(rng, wide), *product_cases(rng, wide),
            *upsample_cases(rng, wide), *loss_cases(rng, wide), *error_loss_cases(rng, wide)]
    single = [*activation_cases(rng, wide), *arithmetic_cases(rng, wide), *shape_cases(rng, wide)]
    for case in single:
        case.kind = "elementwise"
    return [*sums, *single, *function_cases(rng, wide), *choice_cases(rng, wide),
            *pick_cases(rng, wide), *resize_cases(rng, wide)]
