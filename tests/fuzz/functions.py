"""Random calls of functions and of tensors' methods beside PyTorch.

Values, their types, gradients, and what is refused.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.calls import Call, draw_call
from fuzz.trials import Failure, SetAside, allowed, close, error, main, same

NEEDS = ("torch",)
# What a bad call raises; anything else is a fault.
REFUSALS = (ck.ConvkitError, ValueError, TypeError, IndexError, NotImplementedError)


class Outcome(NamedTuple):
    """Arrays of the results, and of the first input's gradient."""

    values: list[np.ndarray]
    grad: np.ndarray | None


def draw(seed: int) -> Call:
    """Draw a call."""
    return draw_call(seed)


def judge(call: Call) -> None:
    """Compare a call's outcome with PyTorch's in float64, its form with PyTorch's in float32."""
    torch, functions = _torch()
    try:
        single = _outcome(call, functions, torch.tensor)
        double = _outcome(call, functions, lambda a: torch.tensor(_widened(a)))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as refusal:
        _refused(call, refusal)
        return
    try:
        got = _outcome(call, ck.functional, _tensor)
    except ck.ShapeError:
        if any(v.size == 0 for v in single.values):
            raise SetAside("an empty result, which PyTorch gives, is refused") from None
        raise
    _same_form(got, single)
    for number, results in enumerate(zip(got.values, double.values, single.values, strict=True)):
        _near(f"result {number}", *results)
    if got.grad is not None:
        _near("gradient", got.grad, double.grad, single.grad)


def _same_form(got: Outcome, want: Outcome) -> None:
    """Compare what there is, and types."""
    if len(got.values) != len(want.values):
        raise Failure(f"{len(got.values)} results, expected {len(want.values)}")
    types = [v.dtype.name for v in got.values], [v.dtype.name for v in want.values]
    if types[0] != types[1]:
        raise Failure(f"results of types {types[0]}, expected {types[1]}")
    if (got.grad is None) != (want.grad is None):
        raise Failure(f"gradient {'missing' if got.grad is None else 'not expected'}")


def _near(what: str, got: np.ndarray, double: np.ndarray, single: np.ndarray) -> None:
    """Compare whole numbers exactly; others in norm, NaN and infinities at the same places.

    What overflows in one of PyTorch's types alone (sinh of 89 in float32) is left out.
    """
    if got.shape != single.shape:
        raise Failure(f"{what}: shape {got.shape}, expected {single.shape}")
    if got.dtype.kind != "f":
        return same(what, got, single)
    rounded = double.astype(single.dtype)
    agreed = np.isfinite(single) == np.isfinite(rounded)
    finite = np.isfinite(single) & np.isfinite(rounded)
    same(f"{what}, NaN and infinities", np.where(finite | ~agreed, 0, got),
         np.where(finite | ~agreed, 0, single))
    got, double, single = (np.where(finite, v, 0).astype(np.float64) for v in (got, double, single))
    close(what, got, double, allowed("call", own=error(single, double)))


def _torch() -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(1)
    return torch, torch.nn.functional


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _tensor(array: np.ndarray) -> ck.Tensor:
    """Return a tensor of the very array, with its strides."""
    return ck.Tensor(array) if array.dtype.kind == "f" else ck.tensor(array)


def _refused(call: Call, refusal: Exception) -> None:
    """Check a call that PyTorch refuses."""
    try:
        _outcome(call, ck.functional, _tensor)
    except REFUSALS:
        return
    raise Failure(f"PyTorch refuses, convkit does not: {str(refusal).splitlines()[0]}")


def _outcome(call: Call, functions: Any, tensor: Any) -> Outcome:
    """Call, and send gradients of known numbers back to the first argument."""
    args = [_given(a, tensor) for a in call.args]
    options = {k: _given(v, tensor) for k, v in call.options.items()}
    floating = isinstance(call.args[0], np.ndarray) and call.args[0].dtype.kind == "f"
    if floating:
        args[0].requires_grad_(True)
    target = getattr(type(args[0]), call.name) if call.method else getattr(functions, call.name)
    made = target(*args, **options)
    made = list(made) if isinstance(made, (tuple, list)) else [made]
    differentiable = [y for y in made if y.requires_grad]
    for y in differentiable:
        weights = np.cos(np.arange(math.prod(y.shape), dtype=np.float32)).reshape(tuple(y.shape))
        (y * tensor(weights)).sum().backward(retain_graph=True)
    grad = args[0].grad if floating else None
    return Outcome([_array(y) for y in made], None if grad is None else _array(grad))


def _given(value: Any, tensor: Any) -> Any:
    """Turn arrays into tensors, within tuples too."""
    if isinstance(value, np.ndarray):
        return tensor(value)
    if isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
        return tuple(_given(v, tensor) for v in value)
    return value


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach())


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
