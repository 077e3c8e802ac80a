"""Random networks of one or two spatial axes, for convkit and PyTorch alike.

A network is drawn as a list of `Layer`; `Layer.build` makes it from either library, whose layers
have the same names and arguments. Weights come from NumPy, so a seed means the same network
whatever is installed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

import convkit as ck

__all__ = ["FIXED_SIZES", "Layer", "Library", "Network", "convkit_library", "draw_network",
           "numbers", "torch_library", "with_weights"]

Shape = tuple[int, ...]  # (C, L) or (C, H, W)
MOST = 60_000  # elements of a value of one sample
ACTIVATIONS = ("ReLU", "ReLU6", "LeakyReLU", "ELU", "SiLU", "Hardswish", "GELU", "Tanh", "Sigmoid",
               "Mish", "Softplus", "PReLU", "Hardsigmoid", "SELU", "CELU", "Softsign", "LogSigmoid")


class Library(NamedTuple):
    """The names that networks are made of."""

    nn: Any
    F: Any
    top: Any


def convkit_library() -> Library:
    """Return convkit."""
    return Library(ck.nn, ck.functional, ck)


def torch_library() -> Library:
    """Return PyTorch."""
    import torch

    return Library(torch.nn, torch.nn.functional, torch)


@dataclass(frozen=True)
class Layer:
    """A layer by its name in `nn` (or `COMPOSED`) and its arguments, and the shapes around it."""

    name: str
    args: tuple
    given: Shape
    gives: Shape
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, lib: Library) -> Any:
        """Return the module."""
        make = COMPOSED.get(self.name)
        if make is not None:
            return make(lib, *self.args, **self.options)
        return getattr(lib.nn, self.name)(*self.args, **self.options)

    def __str__(self) -> str:
        words = [_word(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.options.items()]
        return f"{self.name}({', '.join(words)})"


def _word(value: Any) -> str:
    """Return an argument as it is written; layers within it as they are described."""
    if isinstance(value, tuple) and value and isinstance(value[0], (Layer, tuple)):
        return f"[{', '.join(map(_word, value))}]"
    return str(value) if isinstance(value, Layer) else repr(value)


@dataclass(frozen=True)
class Network:
    """Layers one after the other, and a batch for them."""

    seed: int
    batch: int
    shape: Shape
    layers: tuple[Layer, ...]

    @property
    def gives(self) -> Shape:
        """The shape of one sample's result."""
        return self.layers[-1].gives if self.layers else self.shape

    def build(self, lib: Library) -> Any:
        """Return the network."""
        return lib.nn.Sequential(*[layer.build(lib) for layer in self.layers])

    def smaller(self) -> Iterator[Network]:
        """Return networks without the last layers, or without one that keeps the shape."""
        for count in range(1, len(self.layers)):
            yield replace(self, layers=self.layers[:count])
        for at, layer in enumerate(self.layers):
            if layer.given == layer.gives and len(self.layers) > 1:
                yield replace(self, layers=self.layers[:at] + self.layers[at + 1:])
        if self.batch > 1:
            yield replace(self, batch=1)

    def __str__(self) -> str:
        return f"x {(self.batch, *self.shape)}: " + ", ".join(map(str, self.layers))


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Return float32 numbers of a normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_weights(model: Any, seed: int) -> dict[str, np.ndarray]:
    """Load a convkit model with weights, affine numbers and running statistics; return them."""
    rng = np.random.default_rng(seed)
    state = {name: _weights(name, np.asarray(value), rng)
             for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return state


def _weights(name: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw what a state dict may hold, so that values keep their size from layer to layer."""
    if value.dtype.kind != "f":
        return value
    if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
        made = rng.uniform(0.5, 1.5, value.shape)
    elif value.ndim > 1:
        made = rng.standard_normal(value.shape) * math.sqrt(1.5 / math.prod(value.shape[1:]))
    else:
        made = 0.3 * rng.standard_normal(value.shape)
    return made.astype(value.dtype)


def draw_network(seed: int, axes: int | None = None, without: frozenset[str] = frozenset(),
                 head: bool = True) -> Network:
    """Draw a network; `without` names choices that are not to be in it."""
    rng = random.Random(seed)
    axes = axes or rng.choice((1, 2, 2, 2))
    largest = 50 if axes == 1 else 30
    shape = (rng.choice((1, 3, 3, 4, 8, 16)), *(rng.randint(6, largest) for _ in range(axes)))
    layers = _several(rng, shape, rng.randint(3, 11), without) or (_activation(rng, shape),)
    network = Network(seed, rng.choice((1, 2, 3, 5)), shape, layers)
    return replace(network, layers=layers + _head(rng, network.gives)) if head else network


def _several(rng: random.Random, shape: Shape, count: int, without: frozenset[str],
             ) -> tuple[Layer, ...]:
    """Draw layers that follow each other."""
    names = [name for name in CHOICES if name not in without]
    weights = [CHOICES[name][1] for name in names]
    layers: list[Layer] = []
    for name in rng.choices(names, weights, k=count):
        layer = (CHOICES[name][0](rng, shape, without) if name in NESTING
                 else CHOICES[name][0](rng, shape))
        if layer is not None and 0 < math.prod(layer.gives) <= MOST:
            layers.append(layer)
            shape = layer.gives
    return tuple(layers)


def _head(rng: random.Random, shape: Shape) -> tuple[Layer, ...]:
    """Draw a classifier after the layers, or none."""
    axes, classes = len(shape) - 1, rng.randint(2, 12)
    kind = rng.choice(("none", "pooled", "flat"))
    if kind == "none" or (kind == "flat" and math.prod(shape) > 20_000):
        return ()
    made = []
    if kind == "pooled":
        pooled = (shape[0],) + (1,) * axes
        made.append(Layer(f"AdaptiveAvgPool{axes}d", (1,), shape, pooled))
        shape = pooled
    flat = (math.prod(shape),)
    return (*made, Layer("Flatten", (), shape, flat),
            Layer("Linear", (flat[0], classes), flat, (classes,)))


# ---- choices: functions from random numbers and a shape to a layer, or None where none fits ----


def _each(rng: random.Random, axes: int, choices: tuple[int, ...], differing: float = 0.15,
          ) -> tuple[int, ...]:
    """Draw one number for each axis, mostly the same for all."""
    if rng.random() < differing:
        return tuple(rng.choice(choices) for _ in range(axes))
    return (rng.choice(choices),) * axes


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int = 1,
             ceil: bool = False) -> int:
    """Return how many windows lie in an axis (0 for none), by PyTorch's rule."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        return 0
    count = (math.ceil if ceil else math.floor)(room / stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def _groups(rng: random.Random, channels: int) -> int:
    """Draw a number of groups that divides the channels."""
    return rng.choice([g for g in (1, 1, 1, 2, 4, channels) if channels % g == 0])


def _out_channels(rng: random.Random, groups: int) -> int:
    """Draw a number of output channels."""
    wanted = rng.choice((rng.randint(1, 40), 7, 16, 24, 32, 64))
    return groups * max(1, wanted // groups)


def _convolution(rng: random.Random, shape: Shape) -> Layer | None:
    axes, sizes = len(shape) - 1, shape[1:]
    groups = _groups(rng, shape[0])
    out = _out_channels(rng, groups)
    kernel = _each(rng, axes, (1, 2, 3, 3, 3, 5, 7))
    stride = _each(rng, axes, (1, 1, 1, 2, 2, 3))
    dilation = _each(rng, axes, (1, 1, 1, 2))
    padding = (tuple(d * (k // 2) for k, d in zip(kernel, dilation, strict=True))
               if rng.random() < 0.6 else _each(rng, axes, (0, 1, 2)))
    mode = rng.choice(("zeros",) * 6 + ("reflect", "replicate", "circular"))
    if any(p >= n for p, n in zip(padding, sizes, strict=True)):
        mode = "zeros"
    after = tuple(map(_windows, sizes, kernel, stride, padding, dilation))
    options = {"groups": groups, "bias": rng.random() < 0.5, "padding_mode": mode}
    return Layer(f"Conv{axes}d", (shape[0], out, kernel, stride, padding, dilation), shape,
                 (out, *after), options)


def _transposed(rng: random.Random, shape: Shape) -> Layer | None:
    axes = len(shape) - 1
    groups = _groups(rng, shape[0])
    out = groups * max(1, rng.choice((4, 5, 8, 16)) // groups)
    kernel, stride = _each(rng, axes, (1, 2, 3, 4)), _each(rng, axes, (1, 2, 2, 3))
    padding, dilation = _each(rng, axes, (0, 0, 1)), _each(rng, axes, (1, 1, 2))
    extra = tuple(rng.randrange(max(s, d)) if rng.random() < 0.5 else 0
                  for s, d in zip(stride, dilation, strict=True))
    after = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in
                  zip(shape[1:], stride, padding, dilation, kernel, extra, strict=True))
    options = {"output_padding": extra, "groups": groups, "bias": rng.random() < 0.5,
               "dilation": dilation}
    return None if min(after) < 1 else Layer(
        f"ConvTranspose{axes}d", (shape[0], out, kernel, stride, padding), shape, (out, *after),
        options)


def _batch_norm(rng: random.Random, shape: Shape) -> Layer:
    options = {"affine": rng.random() < 0.85, "eps": rng.choice((1e-5, 1e-3))}
    if rng.random() < 0.2:
        options["momentum"] = rng.choice((0.3, None))
    return Layer(f"BatchNorm{len(shape) - 1}d", (shape[0],), shape, shape, options)


def _group_norm(rng: random.Random, shape: Shape) -> Layer:
    groups = rng.choice([g for g in (1, 2, 4, 8, shape[0]) if shape[0] % g == 0])
    return Layer("GroupNorm", (groups, shape[0]), shape, shape)


def _instance_norm(rng: random.Random, shape: Shape) -> Layer | None:
    if math.prod(shape[1:]) < 2:
        return None
    return Layer(f"InstanceNorm{len(shape) - 1}d", (shape[0],), shape, shape,
                 {"affine": rng.random() < 0.5})


def _layer_norm(rng: random.Random, shape: Shape) -> Layer | None:
    last = shape[-rng.randint(1, len(shape)):]
    return None if math.prod(last) < 2 else Layer("LayerNorm", (last,), shape, shape)


def _response_norm(rng: random.Random, shape: Shape) -> Layer:
    return Layer("LocalResponseNorm", (rng.choice((2, 3, 5)),), shape, shape,
                 {"alpha": rng.choice((1e-4, 0.1))})


def _activation(rng: random.Random, shape: Shape) -> Layer:
    return Layer(rng.choice(ACTIVATIONS), (), shape, shape)


def _pool(rng: random.Random, shape: Shape) -> Layer | None:
    axes = len(shape) - 1
    kernel, stride = _each(rng, axes, (2, 2, 3)), _each(rng, axes, (1, 2, 2, 3))
    padding = tuple(min(p, k // 2)
                    for p, k in zip(_each(rng, axes, (0, 0, 1)), kernel, strict=True))
    ceil, kind = rng.random() < 0.3, rng.choice(("Max", "Avg"))
    options: dict[str, Any] = {"ceil_mode": ceil}
    dilation = (1,) * axes
    if kind == "Avg":
        options["count_include_pad"] = rng.random() < 0.5
    elif rng.random() < 0.2:
        dilation = options["dilation"] = (2,) * axes
    after = tuple(_windows(*numbers_, ceil) for numbers_ in
                  zip(shape[1:], kernel, stride, padding, dilation, strict=True))
    return Layer(f"{kind}Pool{axes}d", (kernel, stride, padding), shape, (shape[0], *after),
                 options)


def _adaptive_pool(rng: random.Random, shape: Shape) -> Layer:
    axes = len(shape) - 1
    after = tuple(rng.randint(1, 7) for _ in range(axes))
    kind = rng.choice(("Max", "Avg"))
    return Layer(f"Adaptive{kind}Pool{axes}d", (after if axes > 1 else after[0],), shape,
                 (shape[0], *after))


def _upsample(rng: random.Random, shape: Shape) -> Layer | None:
    axes = len(shape) - 1
    mode = rng.choice(("nearest", "linear") if axes == 1 else ("nearest", "bilinear", "bicubic"))
    options: dict[str, Any] = {"scale_factor": rng.choice((2, 2, 3, 1.5)), "mode": mode}
    if mode != "nearest":
        options["align_corners"] = rng.random() < 0.5
    after = tuple(math.floor(n * options["scale_factor"]) for n in shape[1:])
    return Layer("Upsample", (), shape, (shape[0], *after), options)


def _shuffle(rng: random.Random, shape: Shape) -> Layer | None:
    groups = [g for g in (2, 3, 4) if shape[0] % g == 0]
    if not groups or len(shape) != 3:
        return None
    return Layer("ChannelShuffle", (rng.choice(groups),), shape, shape)


def _pixel_shuffle(rng: random.Random, shape: Shape) -> Layer | None:
    if len(shape) != 3:
        return None
    c, h, w = shape
    if c % 4 == 0 and rng.random() < 0.5:
        return Layer("PixelShuffle", (2,), shape, (c // 4, 2 * h, 2 * w))
    if h % 2 or w % 2:
        return None
    return Layer("PixelUnshuffle", (2,), shape, (4 * c, h // 2, w // 2))


def _dropout(rng: random.Random, shape: Shape) -> Layer:
    return Layer("Dropout", (0.0,), shape, shape)


def _pad(rng: random.Random, shape: Shape) -> Layer:
    sizes = shape[1:]
    around = tuple((rng.randint(0, 2), rng.randint(0, 2)) for _ in sizes)
    mode = rng.choice(("constant", "reflect", "replicate", "circular"))
    if any(max(p) >= n for p, n in zip(around, sizes, strict=True)):
        mode = "constant"
    after = tuple(n + sum(p) for n, p in zip(sizes, around, strict=True))
    flat = tuple(p for pair in reversed(around) for p in pair)
    return Layer("Pad", (flat, mode), shape, (shape[0], *after))


def _some_channels(rng: random.Random, shape: Shape) -> Layer | None:
    if shape[0] < 4:
        return None
    start = rng.randint(0, shape[0] // 2)
    stop = rng.randint(start + 1, shape[0])
    return Layer("Channels", (start, stop), shape, (stop - start, *shape[1:]))


def _centre(rng: random.Random, shape: Shape) -> Layer:
    return Layer("Centre", (), shape, shape)


def _residual(rng: random.Random, shape: Shape, without: frozenset[str]) -> Layer | None:
    layers = _several(rng, shape, rng.randint(1, 4), without)
    if not layers or (layers[-1].gives != shape and "adaptive_pool" in without):
        return None
    return Layer("Residual", (layers, rng.random() < 0.5), shape, layers[-1].gives)


def _branches(rng: random.Random, shape: Shape) -> Layer:
    parts = tuple((rng.choice((4, 5, 8, 16, 20, 32)), rng.choice((1, 3, 5)), rng.random() < 0.5,
                   rng.choice(ACTIVATIONS)) for _ in range(rng.randint(2, 3)))
    keep = rng.random() < 0.4
    channels = sum(p[0] for p in parts) + keep * shape[0]
    return Layer("Branches", (len(shape) - 1, shape[0], parts, keep), shape, (channels, *shape[1:]))


def _gate(rng: random.Random, shape: Shape) -> Layer:
    return Layer("Gate", (len(shape) - 1, shape[0], rng.choice(("Sigmoid", "Hardsigmoid"))), shape,
                 shape)


CHOICES: dict[str, tuple[Callable[..., Layer | None], float]] = {
    "convolution": (_convolution, 8), "batch_norm": (_batch_norm, 4),
    "activation": (_activation, 5), "group_norm": (_group_norm, 0.7),
    "instance_norm": (_instance_norm, 0.5),
    "layer_norm": (_layer_norm, 0.4), "response_norm": (_response_norm, 0.3), "pool": (_pool, 3),
    "adaptive_pool": (_adaptive_pool, 0.3), "transposed": (_transposed, 1),
    "upsample": (_upsample, 0.7), "shuffle": (_shuffle, 0.7),
    "pixel_shuffle": (_pixel_shuffle, 0.5), "dropout": (_dropout, 0.4), "pad": (_pad, 0.6),
    "some_channels": (_some_channels, 0.5),
    "centre": (_centre, 0.3), "residual": (_residual, 2), "branches": (_branches, 1.5),
    "gate": (_gate, 1),
}
NESTING = frozenset({"residual"})
FIXED_SIZES = frozenset({"layer_norm", "adaptive_pool", "pixel_shuffle"})


# ---- modules made of several layers, or of functions, in either library ----


def _composed(lib: Library, parts: dict[str, Any], forward: Callable) -> Any:
    """Return a module with named parts."""
    class Composed(lib.nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return forward(self, x)

    return Composed()


def _build_residual(lib: Library, layers: tuple[Layer, ...], relu: bool) -> Any:
    given, gives = layers[0].given, layers[-1].gives
    axes = len(given) - 1
    parts = {"inner": lib.nn.Sequential(*[layer.build(lib) for layer in layers])}
    if given != gives:
        after = gives[1:] if axes > 1 else gives[1]
        parts["project"] = lib.nn.Sequential(
            getattr(lib.nn, f"AdaptiveAvgPool{axes}d")(after),
            getattr(lib.nn, f"Conv{axes}d")(given[0], gives[0], 1, bias=False))

    def forward(self, x):
        y = self.inner(x) + (self.project(x) if given != gives else x)
        return lib.F.relu(y) if relu else y

    return _composed(lib, parts, forward)


def _build_branches(lib: Library, axes: int, channels: int, parts: tuple, keep: bool) -> Any:
    def branch(out, kernel, norm, activation):
        convolution = getattr(lib.nn, f"Conv{axes}d")(channels, out, kernel, padding=kernel // 2,
                                                      bias=not norm)
        norms = [getattr(lib.nn, f"BatchNorm{axes}d")(out)] if norm else []
        return lib.nn.Sequential(convolution, *norms, getattr(lib.nn, activation)())

    def forward(self, x):
        return lib.top.cat([b(x) for b in self.branches] + ([x] if keep else []), 1)

    return _composed(lib, {"branches": lib.nn.ModuleList([branch(*p) for p in parts])}, forward)


def _build_gate(lib: Library, axes: int, channels: int, activation: str) -> Any:
    convolution = getattr(lib.nn, f"Conv{axes}d")
    few = max(1, channels // 4)
    gate = lib.nn.Sequential(
        getattr(lib.nn, f"AdaptiveAvgPool{axes}d")(1), convolution(channels, few, 1), lib.nn.ReLU(),
        convolution(few, channels, 1), getattr(lib.nn, activation)())
    return _composed(lib, {"gate": gate}, lambda self, x: x * self.gate(x))


def _build_pad(lib: Library, around: tuple[int, ...], mode: str) -> Any:
    return _composed(lib, {}, lambda self, x: lib.F.pad(x, around, mode=mode))


def _build_channels(lib: Library, start: int, stop: int) -> Any:
    return _composed(lib, {}, lambda self, x: x[:, start:stop])


def _build_centre(lib: Library) -> Any:
    return _composed(lib, {}, lambda self, x: x - x.mean(tuple(range(2, x.ndim)), keepdim=True))


COMPOSED = {"Residual": _build_residual, "Branches": _build_branches, "Gate": _build_gate,
            "Pad": _build_pad, "Channels": _build_channels, "Centre": _build_centre}
