"""Random calls of functions and tensors' methods: what is drawn, for `functions.py`.

`FAMILIES` are functions from random numbers to a `Call`; arrays come from the call's seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Call", "draw_call"]


class Call(NamedTuple):
    """A call ``F.name(*args, **options)``, or ``args[0].name(...)`` for a method."""

    name: str
    args: tuple
    options: dict[str, Any]
    method: bool = False

    def __str__(self) -> str:
        args = [_word(a) for a in self.args] + [f"{k}={_word(v)}" for k, v in self.options.items()]
        return f"{'Tensor.' if self.method else 'F.'}{self.name}({', '.join(args)})"


def _word(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    return f"<{value.dtype} {value.shape}{'' if value.flags.c_contiguous else ' strided'}>"


class Draw(random.Random):
    """Random choices, and arrays."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.numbers = np.random.default_rng(seed)

    def array(self, *shape: int) -> np.ndarray:
        """Return float32 numbers, at times tiny or large, or not one after the other in memory."""
        scale = self.choices((1.0, 30.0, 1e-3), (8, 1, 1))[0]
        x = (scale * self.numbers.standard_normal(shape)).astype(np.float32)
        return self.strided(x) if self.random() < 0.25 else x

    def strided(self, x: np.ndarray) -> np.ndarray:
        """Return the same numbers in memory of another order, or with gaps."""
        if x.ndim == 0:
            return x
        if self.random() < 0.5:
            return np.ascontiguousarray(x.T).T
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    def whole(self, below: int, *shape: int) -> np.ndarray:
        """Return int64 numbers from 0."""
        return self.numbers.integers(0, below, shape)

    def shares(self, *shape: int) -> np.ndarray:
        """Return float32 numbers between 0 and 1."""
        return self.numbers.random(shape).astype(np.float32)

    def chance(self, share: float) -> bool:
        """Return whether something is to happen."""
        return self.random() < share

    def image(self, axes: int | None = None, least: int = 1) -> np.ndarray:
        """Return a batch of images or of rows; the batch is at times empty."""
        axes = axes or self.choice((1, 2, 2, 2))
        batch = self.choices((0, 1, 2, 3), (1, 6, 6, 6))[0]
        return self.array(batch, self.choice((1, 2, 3, 5, 8, 16)),
                          *(self.randint(least, 12) for _ in range(axes)))

    def some(self, **options: tuple[float, Callable[[], Any]]) -> dict[str, Any]:
        """Return options, each with its chance of being there."""
        return {k: make() for k, (share, make) in options.items() if self.random() < share}


def draw_call(seed: int) -> Call:
    """Draw a call."""
    rng = Draw(seed)
    return rng.choice(FAMILIES)(rng)


def _interpolate(rng: Draw) -> Call:
    mode = rng.choice(("nearest", "bilinear", "linear", "bicubic", "nearest-exact", "area"))
    x = rng.image({"linear": 1, "bilinear": 2, "bicubic": 2}.get(mode))
    axes = x.ndim - 2
    options: dict[str, Any] = {"mode": mode}
    if rng.chance(0.5):
        options["size"] = rng.choice((rng.randint(1, 20),
                                      tuple(rng.randint(1, 20) for _ in range(axes))))
    else:
        options["scale_factor"] = rng.choice(
            (2, 0.5, 1.5, 3, 0.7, tuple(rng.choice((2, 0.5, 1.7)) for _ in range(axes))))
        options |= rng.some(recompute_scale_factor=(0.2, lambda: True))
    if mode in ("bilinear", "linear", "bicubic"):
        options |= rng.some(align_corners=(0.5, lambda: rng.chance(0.5)))
    # PyTorch's own antialiasing reads beside the image where an axis has or gets one pixel;
    # convkit has it without align_corners only.
    if mode in ("bilinear", "bicubic") and min(x.shape[2:]) > 3 and np.min(
            options.get("size", 2)) > 1 and not options.get("align_corners") and rng.chance(0.2):
        options["antialias"] = True
    return Call("interpolate", (x,), options)


def _pool(rng: Draw) -> Call:
    x = rng.image()
    axes = x.ndim - 2
    kernel = rng.choice((1, 2, 3, (2,) if axes == 1 else (2, 3)))
    options: dict[str, Any] = {"stride": rng.choice((None, 1, 2, 3)),
                               "padding": rng.choice((0, 0, 1)), "ceil_mode": rng.chance(0.4)}
    if rng.chance(0.5):
        options |= rng.some(count_include_pad=(0.5, lambda: rng.chance(0.5)))
        if axes == 2:
            options |= rng.some(divisor_override=(0.2, lambda: rng.randint(1, 5)))
        return Call(f"avg_pool{axes}d", (x, kernel), options)
    # A dilated window that lies in the padding alone has no meaning (PyTorch's ceil_mode has such).
    options["dilation"] = rng.choice((1, 1, 2)) if min(x.shape[2:]) >= 5 else 1
    options |= rng.some(return_indices=(0.2, lambda: True))
    return Call(f"max_pool{axes}d", (x, kernel), options)


def _adaptive_pool(rng: Draw) -> Call:
    x = rng.image()
    axes = x.ndim - 2
    size = rng.choice((1, 2, 3, 5, 7, *(((None, 3), (2, 5)) if axes == 2 else ((2,),))))
    return Call(f"adaptive_{rng.choice(('avg', 'max'))}_pool{axes}d", (x, size), {})


def _pad(rng: Draw) -> Call:
    x = rng.image()
    mode = rng.choice(("constant", "reflect", "replicate", "circular"))
    axes = rng.randint(1, x.ndim - 2) if mode == "constant" else x.ndim - 2
    least = -1 if mode == "constant" else 0
    around = tuple(rng.randint(least, 3) for _ in range(2 * axes))
    options = {"mode": mode} | (rng.some(value=(0.5, lambda: 1.5)) if mode == "constant" else {})
    return Call("pad", (x, around), options)


def _classes_loss(rng: Draw) -> Call:
    classes, n = rng.randint(2, 6), rng.randint(1, 4)
    places = () if rng.chance(0.6) else (rng.randint(1, 4),)
    x, target = rng.array(n, classes, *places), rng.whole(classes, n, *places)
    name = rng.choice(("cross_entropy", "cross_entropy", "nll_loss"))
    options = {"reduction": rng.choice(("mean", "sum", "none"))} | rng.some(
        weight=(0.4, lambda: rng.shares(classes)),
        ignore_index=(0.3, lambda: rng.choice((-100, 0))))
    if name == "nll_loss":
        return Call(name, (x - np.logaddexp.reduce(x, 1, keepdims=True), target), options)
    options |= rng.some(label_smoothing=(0.4, lambda: 0.1))
    if rng.chance(0.2):
        options.pop("ignore_index", None)
        shares = rng.shares(n, classes, *places)
        target = shares / shares.sum(1, keepdims=True)
    return Call(name, (x, target), options)


def _margin_loss(rng: Draw) -> Call:
    n, classes = rng.randint(1, 4), rng.randint(2, 6)
    options = {"reduction": rng.choice(("mean", "sum", "none"))} | rng.some(
        margin=(0.4, lambda: 0.7), p=(0.4, lambda: 2))
    return Call("multi_margin_loss", (rng.array(n, classes), rng.whole(classes, n)), options)


def _pair_loss(rng: Draw) -> Call:
    """Losses of two arrays of one shape."""
    name, options = rng.choice(tuple(PAIR_LOSSES.items()))
    shape = rng.randint(1, 4), rng.choice((1, 2, 3, 5, 8))
    options = rng.some(**{k: (0.5, lambda v=v: rng.choice(v)) for k, v in options.items()})
    return Call(name, (rng.array(*shape), rng.array(*shape)),
                options | {"reduction": rng.choice(("mean", "sum", "none"))})


PAIR_LOSSES = {"mse_loss": {}, "l1_loss": {}, "smooth_l1_loss": {"beta": (0.5, 2.0, 0.0)},
               "huber_loss": {"delta": (0.5, 2.0)}, "hinge_embedding_loss": {"margin": (0.5,)}}


def _probability_loss(rng: Draw) -> Call:
    """Losses whose arrays are probabilities, counts or signs."""
    shape = rng.randint(1, 4), rng.choice((1, 2, 3, 5, 8))
    x, shares = rng.array(*shape), rng.shares(*shape)
    options: dict[str, Any] = {"reduction": rng.choice(("mean", "sum", "none"))}
    name = rng.choice(("binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div",
                       "soft_margin_loss", "poisson_nll_loss", "gaussian_nll_loss"))
    if name == "binary_cross_entropy":
        return Call(name, (0.01 + 0.98 * rng.shares(*shape), shares), options)
    if name == "binary_cross_entropy_with_logits":
        more = rng.some(pos_weight=(0.4, lambda: rng.shares(shape[1])),
                        weight=(0.4, lambda: rng.shares(shape[1])))
        return Call(name, (x, shares), options | more)
    if name == "kl_div":
        return Call(name, (x, shares), options | {"log_target": rng.chance(0.3)})
    if name == "soft_margin_loss":
        return Call(name, (x, np.sign(x) * np.sign(shares - 0.5)), options)
    if name == "poisson_nll_loss":
        return Call(name, (np.abs(np.tanh(x)), 5 * shares),
                    options | {"log_input": rng.chance(0.5), "full": rng.chance(0.4)})
    return Call(name, (x, rng.array(*shape), shares + np.float32(0.1)),
                options | {"full": rng.chance(0.5)})


def _likeness(rng: Draw) -> Call:
    shape = rng.randint(1, 4), rng.choice((2, 3, 5, 8))  # of one number it is a sign
    name = rng.choice(("cosine_similarity", "pairwise_distance"))
    return Call(name, (rng.array(*shape), rng.array(*shape)), {})


def _convolution(rng: Draw) -> Call:
    axes, groups = rng.choice((1, 2)), rng.choice((1, 1, 2, 3))
    given, out = groups * rng.randint(1, 5), groups * rng.randint(1, 5)
    batch = rng.choices((0, 1, 3), (1, 6, 6))[0]
    x = rng.array(batch, given, *(rng.randint(1, 12) for _ in range(axes)))
    weight = rng.array(out, given // groups, *(rng.randint(1, 4) for _ in range(axes)))
    bias = (rng.array(out),) if rng.chance(0.5) else ()
    padding = rng.choice((0, 1, 2, "same", "valid"))
    options = {"stride": 1 if padding == "same" else rng.randint(1, 3), "padding": padding,
               "dilation": rng.randint(1, 2), "groups": groups}
    return Call(f"conv{axes}d", (x, weight, *bias), options)


def _transposed(rng: Draw) -> Call:
    axes, groups = rng.choice((1, 2)), rng.choice((1, 1, 2, 3))
    given, out = groups * rng.randint(1, 4), rng.randint(1, 4)
    x = rng.array(rng.choices((0, 1, 3), (1, 6, 6))[0], given,
                  *(rng.randint(1, 9) for _ in range(axes)))
    weight = rng.array(given, out, *(rng.randint(1, 4) for _ in range(axes)))
    bias = (rng.array(out * groups),) if rng.chance(0.5) else ()
    options = {"stride": rng.randint(1, 3), "padding": rng.randint(0, 2), "groups": groups,
               "output_padding": rng.choice((0, 0, 1, 2)), "dilation": rng.randint(1, 3)}
    return Call(f"conv_transpose{axes}d", (x, weight, *bias), options)


def _unfold(rng: Draw) -> Call:
    return Call("unfold", (rng.image(2), rng.choice((1, 2, (2, 3)))),
                {"dilation": rng.randint(1, 2), "padding": rng.randint(0, 1),
                 "stride": rng.randint(1, 2)})


def _linear(rng: Draw) -> Call:
    given, out = rng.randint(1, 40), rng.randint(1, 20)
    lead = rng.choice(((), (rng.choice((0, 1, 3, 17)),), (2, 5)))
    bias = (rng.array(out),) if rng.chance(0.5) else ()
    return Call("linear", (rng.array(*lead, given), rng.array(out, given), *bias), {})


def _norm(rng: Draw) -> Call:
    channels = rng.choice((1, 2, 3, 6, 8))
    x = rng.array(rng.randint(2, 4), channels, rng.randint(2, 9), rng.randint(1, 9))
    name = rng.choice(("layer_norm", "group_norm", "instance_norm", "local_response_norm",
                       "batch_norm", "normalize"))
    if name == "layer_norm":
        last = x.shape[-rng.randint(2, 3):]
        affine = {"weight": rng.array(*last), "bias": rng.array(*last)}
        return Call(name, (x, last), affine if rng.chance(0.5) else {})
    affine = {"weight": rng.array(channels), "bias": rng.array(channels)}
    if name == "group_norm":
        groups = rng.choice([g for g in range(1, channels + 1) if channels % g == 0])
        return Call(name, (x, groups), affine if rng.chance(0.5) else {})
    if name == "local_response_norm":
        return Call(name, (x, rng.randint(1, 5)),
                    {"alpha": 0.1, "beta": rng.choice((0.5, 0.75)), "k": rng.choice((1.0, 2.0))})
    if name == "normalize":
        dim = rng.choice([axis for axis in (1, -1, 2) if x.shape[axis] > 1])  # else it is the sign
        return Call(name, (x,), {"p": rng.choice((1.0, 2.0, 3.0)), "dim": dim})
    if name == "batch_norm":
        return Call(name, (x, None, None), affine | {"training": True})
    return Call(name, (x,), {})


ACTIVATIONS = (
    "relu", "relu6", "elu", "silu", "hardswish", "tanh", "sigmoid", "mish", "hardsigmoid", "selu",
    "celu", "logsigmoid", "softsign", "hardtanh", "tanhshrink", "softshrink", "hardshrink")


def _activation(rng: Draw) -> Call:
    return Call(rng.choice(ACTIVATIONS), (rng.image(),), {})


def _activation_with_options(rng: Draw) -> Call:
    x = rng.image()
    name, options = rng.choice((
        ("leaky_relu", {"negative_slope": 0.2}), ("gelu", {"approximate": "tanh"}), ("gelu", {}),
        ("softplus", {"beta": 2, "threshold": 5}), ("softplus", {}), ("elu", {"alpha": 0.5}),
        ("softmax", {"dim": rng.choice((0, 1, 2, -1))}), ("glu", {"dim": 1}),
        ("log_softmax", {"dim": rng.choice((0, 1, 2, -1))}), ("softmin", {"dim": 1})))
    if name == "glu":
        x = np.concatenate([x, x[:, ::-1]], 1)
    return Call(name, (x,), options)


def _threshold(rng: Draw) -> Call:
    return Call("threshold", (rng.image(), 0.3, -1.0), {})


def _rearranging(rng: Draw) -> Call:
    n, c, h, w = rng.randint(1, 3), rng.randint(1, 5), rng.randint(1, 6), rng.randint(1, 6)
    name = rng.choice(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "one_hot"))
    if name == "one_hot":
        return Call(name, (rng.whole(5, n, c),), {"num_classes": rng.choice((5, 6, -1))})
    shape = {"pixel_shuffle": (n, 4 * c, h, w), "pixel_unshuffle": (n, c, 2 * h, 2 * w),
             "channel_shuffle": (n, 2 * c, h, w)}[name]
    return Call(name, (rng.array(*shape), 2), {})


def _indexing(rng: Draw) -> Call:
    x = rng.array(*(rng.randint(2, 5) for _ in range(4)))
    key: list[Any] = []
    for n in x.shape[:rng.randint(1, 4)]:
        kind = rng.randrange(10)
        if kind < 3:
            key.append(slice(rng.choice((None, 0, 1, -1)), rng.choice((None, -1, n)),
                             rng.choice((None, 1, 2))))
        elif kind < 5:
            key.append(rng.randint(-n, n - 1))
        elif kind == 5:
            key += [None, slice(None)]
        elif kind == 6:
            key.append(rng.whole(n, 3))
        else:
            key.append(slice(None))
    return Call("__getitem__", (x, tuple(key)), {}, True)


REDUCTIONS = ("sum", "mean", "amax", "amin", "var", "std", "logsumexp", "norm")
ONE_AXIS = ("prod", "argmax", "argmin", "max", "min", "median", "cumsum", "sort", "argsort", "any",
            "all")


def _reduction(rng: Draw) -> Call:
    x = rng.array(*(rng.randint(1, 8) for _ in range(4)))
    name = rng.choice(REDUCTIONS)
    dim = rng.choice((0, 1, 2, 3, -1, (1, 2), (0, 3), *((None,) if name != "logsumexp" else ())))
    options: dict[str, Any] = {} if dim is None else {"dim": dim, "keepdim": rng.chance(0.5)}
    if name in ("var", "std"):
        options |= rng.some(correction=(0.5, lambda: 0))
    return Call(name, (x,), options, True)


def _one_axis(rng: Draw) -> Call:
    x = rng.array(*(rng.randint(1, 8) for _ in range(rng.randint(1, 4))))
    name, dim = rng.choice(ONE_AXIS), rng.randrange(-x.ndim, x.ndim)
    if name in ("any", "all"):
        x = x > 0
    options: dict[str, Any] = {"dim": dim}
    if name in ("sort", "argsort"):
        options |= rng.some(descending=(0.5, lambda: True))
    elif name != "cumsum":
        options |= rng.some(keepdim=(0.5, lambda: True))
    return Call(name, (x,), options, True)


def _topk(rng: Draw) -> Call:
    x = rng.array(*(rng.randint(1, 8) for _ in range(3)))
    dim = rng.randrange(-3, 3)
    return Call("topk", (x, rng.randint(1, x.shape[dim])),
                {"dim": dim, "largest": rng.chance(0.7)}, True)


def _shape_method(rng: Draw) -> Call:
    n, c, h, w = rng.randint(1, 3), 2 * rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, 6)
    axis, axes = rng.randrange(-4, 4), tuple(rng.sample(range(4), rng.randint(1, 3)))
    methods: dict[str, tuple] = {
        "reshape": rng.choice(((-1,), (n, -1), (n * c, h * w), (n, 2, c // 2, h * w))),
        "view": (n, -1), "permute": tuple(rng.sample(range(4), 4)),
        "transpose": tuple(rng.sample(range(4), 2)), "flatten": (rng.randrange(3),),
        "squeeze": (axis,), "unsqueeze": (rng.randrange(-5, 5),), "flip": (axes,),
        "roll": (tuple(rng.randint(-2, 2) for _ in axes), axes),
        "repeat": (1, 2, 1, rng.randint(1, 2)), "expand": (2, n, c, h, w),
        "chunk": (rng.randint(1, 3), axis), "split": (rng.randint(1, 4), axis),
        "tril": (rng.randint(-1, 1),), "triu": (rng.randint(-1, 1),), "unbind": (axis,),
        "narrow": (1, 0, 1), "movedim": (1, axis), "tile": ((1, 2),), "diff": (),
        "repeat_interleave": (2, axis)}
    name = rng.choice(tuple(methods))
    x = rng.array(n, c, h, w)
    if name == "view":  # as `reshape`, where PyTorch's refuses what lies otherwise in memory
        x = np.ascontiguousarray(x)
    return Call(name, (x, *methods[name]), {}, True)


UNARY = ("exp", "log", "sqrt", "abs", "floor", "ceil", "round", "sign", "reciprocal", "erf", "sin",
         "cos", "tan", "asin", "atan", "sinh", "cosh", "asinh", "log2", "log10", "rsqrt", "square",
         "isnan", "isinf", "isfinite", "neg")
BINARY = ("add", "sub", "mul", "div", "remainder", "fmod", "maximum", "minimum", "eq", "ne", "lt",
          "le", "gt", "ge")


def _unary(rng: Draw) -> Call:
    return Call(rng.choice(UNARY), (rng.image(),), {}, True)


def _binary(rng: Draw) -> Call:
    x = rng.image()
    other = rng.array(*(n if rng.chance(0.6) else 1 for n in x.shape[rng.randint(0, x.ndim - 1):]))
    return Call(rng.choice(BINARY), (x, other), {}, True)


def _clamp(rng: Draw) -> Call:
    return Call("clamp", (rng.image(), *rng.choice(((-0.5, 0.5), (None, 0.3), (0.1,)))), {}, True)


FAMILIES: tuple[Callable[[Draw], Call], ...] = (
    _interpolate, _pool, _adaptive_pool, _pad, _classes_loss, _margin_loss, _pair_loss,
    _probability_loss, _likeness, _convolution, _convolution, _transposed, _unfold, _linear, _norm,
    _norm, _activation, _activation_with_options, _threshold, _rearranging, _indexing, _reduction,
    _one_axis, _topk, _shape_method, _shape_method, _unary, _binary, _clamp)
