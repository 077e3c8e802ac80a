"""Gradients of random expressions of tensors beside PyTorch, in float32 and float64.

Values that are read twice, broadcast, cut up, and backward called once or twice.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import Library, convkit_library, torch_library
from fuzz.steps import Expression, draw_expression
from fuzz.trials import Failure, SetAside, close, error, main

NEEDS = ("torch",)
SHAPES = ((2, 3, 4), (3, 4), (4,), (2, 1, 4), (1,), (), (2, 3, 1), (2, 4, 3, 4), (3, 1))
LEAST = {"float32": 2e-5, "float64": 1e-10}


def draw(seed: int) -> Expression:
    """Draw an expression of three leaves."""
    rng = random.Random(seed)
    return draw_expression(seed, tuple(rng.choice(SHAPES) for _ in range(3)), rng.randint(3, 16))


def judge(expression: Expression) -> None:
    """Compare all values and the leaves' gradients."""
    rng = random.Random(expression.seed + 4)
    dtype = rng.choice(("float32", "float64", "float64"))
    twice = rng.random() < 0.3
    if not expression.steps:
        raise SetAside("no step fitted")
    leaves = [_leaf(expression.seed + i, shape).astype(dtype)
              for i, shape in enumerate(expression.given)]
    torch = torch_library()
    double, single = (_run(expression, torch, [torch.top.tensor(a.astype(kind), requires_grad=True)
                                               for a in leaves], twice)
                      for kind in (np.float64, np.float32))
    if not all(np.isfinite(v).all() for v in double[0] + single[0] if v is not None):
        raise SetAside("no finite numbers")
    ours = _run(expression, convkit_library(), [ck.tensor(a, requires_grad=True) for a in leaves],
                twice)
    for what, *lists in zip(("value v", "gradient of v"), ours, double, single, strict=True):
        for i, arrays in enumerate(zip(*lists, strict=True)):
            _compare(f"{what}{i}", dtype, expression.jumps, *arrays)


def _leaf(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of one sign, not near 0."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 1.5, shape) * rng.choice((1, -1))


def _run(expression: Expression, lib: Library, leaves: list[Any], twice: bool,
         ) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Return the values and the leaves' gradients of a sum of weighted results."""
    values = expression.run(lib, leaves)
    for _ in range(1 + twice):
        for at in expression.results():
            if values[at].requires_grad:
                weights = np.random.default_rng(at).standard_normal(tuple(values[at].shape))
                tensor = lib.top.tensor(weights.astype(np.asarray(values[at].detach()).dtype))
                (values[at] * tensor).sum().backward(retain_graph=True)
    return ([np.asarray(v.detach()) for v in values],
            [None if v.grad is None else np.asarray(v.grad) for v in leaves])


def _compare(what: str, dtype: str, jumps: bool, got: Any, want: Any, single: Any) -> None:
    """Compare with float64; PyTorch's float32 shows how well the expression is conditioned."""
    if (got is None) != (want is None):
        raise Failure(f"{what}: {'missing' if got is None else 'not expected'}")
    if got is None:
        return
    own = error(single, want)
    if own > (1e-3 if jumps else 0.1):
        raise SetAside("rounding decides")
    # What cancels is as exact as what it comes from, numbers of about 1.
    scale = max(float(np.linalg.norm(want)), 1e-2 * np.sqrt(want.size))
    close(what, got, want, max(LEAST[dtype], (20 if dtype == "float32" else 1e-7) * own), scale)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
