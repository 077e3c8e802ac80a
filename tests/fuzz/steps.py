"""Random expressions of tensors: steps that each compute a value from values before it.

The same steps run with PyTorch and convkit, which name things alike; `first` = 1 keeps the batch
(axis 0) out of what they do, so that the expression can be compiled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

import convkit as ck
from fuzz.layers import Library, convkit_library, numbers

__all__ = ["Expression", "Step", "draw_expression"]

Shape = tuple[int, ...]


class Kind(NamedTuple):
    """What a step does, and how its arguments are drawn (None: it does not go with the shape)."""

    run: Callable[..., Any]
    choose: Callable[[random.Random, Shape, int], tuple | None] = lambda rng, shape, first: ()
    values: int = 1
    jumps: bool = False  # rounding decides between results far apart


class Step(NamedTuple):
    """One step: its kind, the positions of the values that it reads, other arguments."""

    name: str
    reads: tuple[int, ...]
    args: tuple

    def __str__(self) -> str:
        words = [f"v{i}" for i in self.reads] + [repr(a) for a in self.args]
        return f"{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Expression:
    """Values that are given, by their shapes, and steps that compute more."""

    seed: int
    given: tuple[Shape, ...]
    steps: tuple[Step, ...]

    def run(self, lib: Library, given: list[Any]) -> list[Any]:
        """Return all values."""
        values = list(given)
        for step in self.steps:
            values.append(KINDS[step.name].run(lib, *[values[i] for i in step.reads], *step.args))
        return values

    @property
    def jumps(self) -> bool:
        """Whether a rounding error can move a result far."""
        return any(KINDS[step.name].jumps for step in self.steps)

    def results(self) -> list[int]:
        """Return the positions of computed values that nothing reads."""
        read = {i for step in self.steps for i in step.reads}
        return [i for i in range(len(self.given), len(self.given) + len(self.steps))
                if i not in read]

    def smaller(self) -> Iterator[Expression]:
        """Return expressions without the last steps, or without one that nothing reads."""
        for count in range(1, len(self.steps)):
            yield replace(self, steps=self.steps[:count])
        for at in self.results():
            if len(self.steps) > 1:
                yield self._without(at)

    def _without(self, at: int) -> Expression:
        index = at - len(self.given)
        later = [s._replace(reads=tuple(i - (i > at) for i in s.reads))
                 for s in self.steps[index + 1:]]
        return replace(self, steps=(*self.steps[:index], *later))

    def __str__(self) -> str:
        shapes = ", ".join(f"v{i} {s}" for i, s in enumerate(self.given))
        made = "; ".join(f"v{i} = {s}" for i, s in enumerate(self.steps, len(self.given)))
        return f"{shapes}: {made}"


def draw_expression(seed: int, given: tuple[Shape, ...], count: int, first: int = 0,
                    without: frozenset[str] = frozenset(), most: int = 400) -> Expression:
    """Draw an expression of up to `count` steps whose values hold at most `most` finite numbers."""
    rng, lib = random.Random(seed), convkit_library()
    names = [name for name in KINDS if name not in without]
    values = [ck.Tensor(numbers(seed + i, *shape)) for i, shape in enumerate(given)]
    steps: list[Step] = []
    for name in rng.choices(names, k=count):
        step = _draw_step(rng, name, [v.shape for v in values], first)
        if step is None:
            continue
        with ck.no_grad():
            made = KINDS[name].run(lib, *[values[i] for i in step.reads], *step.args)
        if 0 < math.prod(made.shape) <= most and np.isfinite(made.data).all():
            values.append(made)
            steps.append(step)
    return Expression(seed, given, tuple(steps))


def _draw_step(rng: random.Random, name: str, shapes: list[Shape], first: int) -> Step | None:
    """Draw what a step reads, mostly the newest value, and its arguments."""
    kind = KINDS[name]
    read = len(shapes) - 1 if rng.random() < 0.5 else rng.randrange(len(shapes))
    if kind.values == 1:
        args = kind.choose(rng, shapes[read], first)
        return None if args is None else Step(name, (read,), args)
    fitting = [i for i, s in enumerate(shapes) if _broadcast(shapes[read], s, first)]
    return Step(name, (read, rng.choice(fitting)), ())


def _broadcast(one: Shape, other: Shape, first: int) -> bool:
    """Tell whether shapes broadcast; of one rank where the batch is to stay in its place."""
    if first and len(one) != len(other):
        return False
    return all(m == n or 1 in (m, n) for m, n in
               zip(reversed(one), reversed(other), strict=False))


# ---- arguments ----


def _axis(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return (rng.randrange(first, len(shape)),) if len(shape) > first else None


def _axis_kept(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axis = _axis(rng, shape, first)
    return axis and (*axis, rng.random() < 0.5)


def _long_axis(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axes = [a for a in range(first, len(shape)) if shape[a] > 1]
    return (rng.choice(axes),) if axes else None


def _long_axis_kept(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axis = _long_axis(rng, shape, first)
    return axis and (*axis, rng.random() < 0.5)


def _order(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axes = list(range(first, len(shape)))
    return (tuple(range(first)) + tuple(rng.sample(axes, len(axes))),)


def _two_axes(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axes = range(first, len(shape))
    return tuple(rng.sample(axes, 2)) if len(axes) > 1 else None


def _new_axis(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return (rng.randint(first, len(shape)),) if len(shape) < 6 else None


def _regrouped(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    """Draw a shape of the same number of elements, after the batch where there is one."""
    count = math.prod(shape[first:])
    parts = rng.choice([q for q in (1, 2, 3, 4, 5, count) if count % q == 0])
    return ((*((-1,) * first), parts, count // parts),)


def _stepped(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axis = _long_axis(rng, shape, first)
    return axis and (*axis, rng.choice((None, 1, -1)), rng.choice((1, 2, 3)))


def _places(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    axis = _axis(rng, shape, first)
    return axis and (*axis, tuple(rng.randrange(shape[axis[0]]) for _ in range(3)))


def _matrices(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return () if len(shape) >= 2 + first else None


def _number(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return (rng.choice((2.0, 0.5, -1.0, 1.5)),)


def _seed(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return (rng.randrange(1 << 30), first) if len(shape) > first else None


def _repeats(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    if len(shape) <= first:
        return None
    return (tuple(1 if a < first else rng.choice((1, 1, 2)) for a in range(len(shape))),)


def _around(rng: random.Random, shape: Shape, first: int) -> tuple | None:
    return ((rng.randint(0, 2), rng.randint(0, 2)),) if len(shape) > first else None


# ---- steps ----


def _at(axis: int, what: Any) -> tuple:
    """Return an index of one axis."""
    return (slice(None),) * axis + (what,)


def _scaled(lib: Library, x: Any, seed: int, first: int) -> Any:
    """Times an array that is a constant of the expression, plus it."""
    array = numbers(seed, *x.shape[first:])
    constant = lib.top.tensor(array.astype(_dtype(x)))
    return x * constant + constant


def _projected(lib: Library, x: Any, seed: int, first: int) -> Any:
    weight = numbers(seed, 5, x.shape[-1]) / np.float32(math.sqrt(x.shape[-1]))
    return lib.F.linear(x, lib.top.tensor(weight.astype(_dtype(x))))


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def _reduced(name: str) -> Callable[..., Any]:
    return lambda lib, x, axis, keep: getattr(x, name)(dim=axis, keepdim=keep)


def _function(name: str, **options: Any) -> Callable[..., Any]:
    return lambda lib, x: getattr(lib.F, name)(x, **options)


KINDS: dict[str, Kind] = {
    "add": Kind(lambda lib, a, b: a + b, values=2),
    "sub": Kind(lambda lib, a, b: a - b, values=2),
    "mul": Kind(lambda lib, a, b: a * b, values=2),
    "div": Kind(lambda lib, a, b: a / (abs(b) + 0.5), values=2),
    "minimum": Kind(lambda lib, a, b: lib.top.minimum(a, b), values=2),
    "where": Kind(lambda lib, a, b: lib.top.where(a > b, a * 2, b), values=2, jumps=True),
    "number": Kind(lambda lib, x, k: x * k + 1, _number),
    "rdiv": Kind(lambda lib, x, k: k / (abs(x) + 1), _number),
    "square": Kind(lambda lib, x: x ** 2),
    "cube": Kind(lambda lib, x: (0.5 * x) ** 3),
    "exp": Kind(lambda lib, x: (x * 0.3).exp()),
    "log": Kind(lambda lib, x: (abs(x) + 1).log()),
    "sqrt": Kind(lambda lib, x: (x * x + 1).sqrt()),
    "abs": Kind(lambda lib, x: abs(x)),
    "neg": Kind(lambda lib, x: -x),
    "clamp": Kind(lambda lib, x: x.clamp(-1, 1)),
    "sin": Kind(lambda lib, x: x.sin()),
    "tanh": Kind(lambda lib, x: x.tanh()),
    "sigmoid": Kind(lambda lib, x: x.sigmoid()),
    "relu": Kind(_function("relu")), "gelu": Kind(_function("gelu")),
    "silu": Kind(_function("silu")),
    "floor": Kind(lambda lib, x: (x * 3).floor() + x, jumps=True),
    "above": Kind(lambda lib, x: (x > 0) * x + 1.0, jumps=True),
    "sum": Kind(_reduced("sum"), _axis_kept), "mean": Kind(_reduced("mean"), _axis_kept),
    "amax": Kind(_reduced("amax"), _axis_kept), "prod": Kind(_reduced("prod"), _axis_kept),
    "norm": Kind(_reduced("norm"), _axis_kept),
    "logsumexp": Kind(_reduced("logsumexp"), _axis_kept),
    "var": Kind(_reduced("var"), _long_axis_kept), "std": Kind(_reduced("std"), _long_axis_kept),
    "max": Kind(lambda lib, x, axis: x.max(dim=axis)[0], _axis),
    # PyTorch's median of what `expand` gave sorts the memory that its parts share.
    "median": Kind(lambda lib, x, axis: x.contiguous().median(dim=axis)[0], _axis),
    "sort": Kind(lambda lib, x, axis: x.sort(dim=axis)[0], _axis),
    "topk": Kind(lambda lib, x, axis: x.topk(1, dim=axis)[0], _axis),
    "places": Kind(lambda lib, x, axis: x.argsort(axis) * 0.1 + x, _axis, jumps=True),
    "any": Kind(lambda lib, x, axis: lib.top.any(x > 1, axis, True) * x, _axis, jumps=True),
    "all": Kind(lambda lib, x, axis: lib.top.all(x > -1, axis, True) * x, _axis, jumps=True),
    "argmax": Kind(lambda lib, x, axis: x.argmax(axis, keepdim=True) * 0.1 + x, _axis, jumps=True),
    "cumsum": Kind(lambda lib, x, axis: x.cumsum(axis), _axis),
    "softmax": Kind(lambda lib, x, axis: lib.F.softmax(x, axis), _axis),
    "layer_norm": Kind(lambda lib, x, axis: lib.F.layer_norm(x, tuple(x.shape[axis:]), eps=0.1),
                       _long_axis),
    "reshape": Kind(lambda lib, x, shape: x.reshape(shape), _regrouped),
    "flatten": Kind(lambda lib, x, axis: x.flatten(axis), _axis),
    "permute": Kind(lambda lib, x, order: x.permute(order), _order),
    "transpose": Kind(lambda lib, x, a, b: x.transpose(a, b), _two_axes),
    "unsqueeze": Kind(lambda lib, x, axis: x.unsqueeze(axis), _new_axis),
    "squeeze": Kind(lambda lib, x, axis: x.squeeze(axis), _axis),
    "expand": Kind(lambda lib, x, axis: x.unsqueeze(axis).expand(
        *x.shape[:axis], 2, *x.shape[axis:]), _new_axis),
    "slice": Kind(lambda lib, x, axis, start, step: x[_at(axis, slice(start, None, step))],
                  _stepped),
    "select": Kind(lambda lib, x, axis: x[_at(axis, -1)], _axis),
    "index": Kind(lambda lib, x, axis, places: x[_at(axis, list(places))], _places),
    "flip": Kind(lambda lib, x, axis: x.flip(axis), _axis),
    "roll": Kind(lambda lib, x, axis: x.roll(1, axis), _axis),
    "split": Kind(lambda lib, x, axis: x.split(1, axis)[1] * x.split(1, axis)[0], _long_axis),
    "cat": Kind(lambda lib, x, axis: lib.top.cat([x, x * 2], axis), _axis),
    "stack": Kind(lambda lib, x, axis: lib.top.stack([x, x * 2], axis), _new_axis),
    "repeat": Kind(lambda lib, x, times: x.repeat(*times), _repeats),
    "interleave": Kind(lambda lib, x, axis: x.repeat_interleave(2, axis), _axis),
    "pad": Kind(lambda lib, x, around: lib.F.pad(x, around), _around),
    "tril": Kind(lambda lib, x: x.tril(), _matrices),
    "matmul": Kind(lambda lib, x: x.matmul(x.transpose(-1, -2)) / x.shape[-1], _matrices),
    "scaled": Kind(_scaled, _seed), "projected": Kind(_projected, _seed),
    "detach": Kind(lambda lib, x: x + x.detach() * 0.5),
}
