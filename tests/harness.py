"""What tests share: one-line checks of an operation, arrays in odd forms, subprocesses.

The main entry is `check_op`: shape, dtype, values, every gradient, bit-equality over
threads and central differences of one operation on one set of inputs.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tolerances import GRADCHECK, assert_close, tolerance

import convkit
import convkit.ops
from convkit import autograd, runtime
from convkit.ops.op import REGISTRY, Op

__all__ = [
    "LAYOUTS",
    "TF",
    "Run",
    "assert_same_bits",
    "check_batch_invariance",
    "check_op",
    "lay_out",
    "pytorch",
    "random_array",
    "run_op",
    "run_python",
]

Array = np.ndarray


# -- arrays ---------------------------------------------------------------------------------


def _channels_last(a: Array) -> Array:
    """Return the values of (N, C, spatial...) in memory order (N, spatial..., C)."""
    if a.ndim < 3:
        return np.array(a, order="C")
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def _strided(a: Array) -> Array:
    """Return the values as a view with a gap after every element and row."""
    base = np.full([2 * n + 1 for n in a.shape], 99, a.dtype)
    view = base[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def _reversed(a: Array) -> Array:
    """Return the values as a view with negative strides."""
    flip = (slice(None, None, -1),) * a.ndim
    return np.array(a[flip], order="C")[flip]


def _read_only(a: Array) -> Array:
    """Return a copy that cannot be written to."""
    out = np.array(a)
    out.flags.writeable = False
    return out


def _byte_swapped(a: Array) -> Array:
    """Return the values in the other byte order."""
    return a.astype(a.dtype.newbyteorder("S"))


def _misaligned(a: Array) -> Array:
    """Return the values at an address that is no multiple of the element's size."""
    raw = np.empty(a.nbytes + 1, np.uint8)
    out = np.ndarray(a.shape, a.dtype, buffer=raw.data, offset=1)
    out[...] = a
    return out


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda a: np.array(a, order="C"),
    "channels_last": _channels_last,
    "fortran": lambda a: np.array(a, order="F"),
    "strided": _strided,
    "reversed": _reversed,
    "read_only": _read_only,
    "byte_swapped": _byte_swapped,
    "misaligned": _misaligned,
}


def lay_out(a: Array, layout: str) -> Array:
    """Return the values of `a` in one of the forms of `LAYOUTS`."""
    return LAYOUTS[layout](a)


def random_array(shape: Sequence[int], dtype: Any = np.float32, layout: str = "contiguous",
                 seed: int | np.random.Generator = 0) -> Array:
    """Return standard normal values of a shape in one of the forms of `LAYOUTS`."""
    rng = np.random.default_rng(seed)
    return lay_out(rng.standard_normal(tuple(shape)).astype(dtype), layout)


def assert_same_bits(a: Any, b: Any, what: str = "results") -> None:
    """Assert that two arrays (or nested tuples of arrays and None) are equal to the bit."""
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b), f"{what}: {len(a)} and {len(b)} results"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(x, y, f"{what}[{i}]")
        return
    if a is None or b is None:
        assert a is None and b is None, f"{what}: only one of the two exists"
        return
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype, f"{what}: dtypes {a.dtype} and {b.dtype}"
    assert a.shape == b.shape, f"{what}: shapes {a.shape} and {b.shape}"
    if a.tobytes() != b.tobytes():
        with np.errstate(invalid="ignore"):
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
        raise AssertionError(
            f"{what}: {np.count_nonzero(a != b)} of {a.size} elements differ "
            f"by up to {np.nanmax(apart):.3g}")


# -- running an operation -------------------------------------------------------------------


class Run(NamedTuple):
    """Outputs and input gradients (None where not asked for) of one call."""

    outputs: tuple[Array, ...]
    grads: tuple[Array | None, ...]


def run_op(op: type[Op], inputs: Sequence, attrs: dict, wrt: Iterable[int], gy: Array | None,
           threads: int = 1, cached: bool = False) -> Run:
    """Run forward, and backward where `wrt` names inputs, through the tape."""
    kind = autograd._Cached if cached else autograd.Tensor
    wrt = set(wrt)
    args = [None if a is None else kind(a, requires_grad=i in wrt) for i, a in enumerate(inputs)]
    with runtime.threads(threads):
        result = autograd.apply(op, *args, **attrs)
        outputs = result if isinstance(result, tuple) else (result,)
        if cached:  # once more, now that packed forms of the inputs are kept
            with autograd.no_grad():
                again = autograd.apply(op, *args, **attrs)
            assert_same_bits([y.data for y in outputs],
                             [y.data for y in (again if isinstance(again, tuple) else (again,))],
                             f"{op.name}: forward with fresh and with kept packed inputs")
        if wrt:
            assert outputs[0].requires_grad, f"{op.name}: the output does not require grad"
            outputs[0].backward(gy)
    grads = tuple(None if a is None or a.grad is None else a.grad.data for a in args)
    return Run(tuple(y.data for y in outputs), grads)


def _as_outputs(result: Any) -> tuple[Array, ...]:
    return tuple(result) if isinstance(result, tuple) else (result,)


def _is_float(a: Any) -> bool:
    return a is not None and np.asarray(a).dtype.kind == "f"


def _materialise(inputs: Sequence, seed: int) -> list[Array | None]:
    """Replace shapes by random arrays."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(a) if isinstance(a, tuple) else a for a in inputs]


def _cast(inputs: Sequence, dtype: np.dtype) -> list[Array | None]:
    """Cast the floating-point inputs and leave the others."""
    return [np.asarray(a).astype(dtype) if _is_float(a) else a for a in inputs]


def check_op(op: type[Op] | str, inputs: Sequence, attrs: dict | None = None, *,
             torch: Callable | None = None, kind: str = "",
             dtypes: Sequence = ("float32", "float64"),
             layouts: Sequence[str] = ("contiguous", "channels_last"),
             wrt: Sequence[int] | None = None, gradcheck: bool = True,
             threads: Sequence[int] = (1, 2), seed: int = 0) -> None:
    """Check an operation's shape, dtype, values and gradients on one set of inputs.

    Parameters
    ----------
    op : type of Op or str
        The operation or its registry name; its meaning is ``convkit.reference.<name>``.
    inputs : sequence
        Per input an array, None, or a shape (a tuple) for standard normal values.
        Floating-point arrays are cast to each dtype in turn, others are left alone.
    attrs : dict, optional
        The operation's attributes.
    torch : callable, optional
        ``torch(*tensors) -> tensor`` (or a tuple) with the attributes bound: the same in
        PyTorch. Values and gradients are compared where PyTorch is installed.
    kind : str
        "" for sums of products, "elementwise" or "highest": the row of the tolerance table.
    dtypes, layouts
        What to run; layouts as in `LAYOUTS`.
    wrt : sequence of int, optional
        Inputs to differentiate by; default: those for which the reference has a gradient.
    gradcheck : bool
        Whether to compare float64 gradients with central differences of the operation
        itself, along a random direction per input.
    threads : sequence of int
        Thread counts whose results must agree to the bit.
    seed : int
        Of random inputs, upstream gradients and directions.
    """
    from convkit import reference

    op = REGISTRY[op] if isinstance(op, str) else op
    attrs = attrs or {}
    values = _materialise(inputs, seed)
    for dtype in map(np.dtype, dtypes):
        arrays = _cast(values, dtype)
        want = _as_outputs(getattr(reference, op.name)(*arrays, **attrs))
        gy = random_array(want[0].shape, dtype, seed=seed + 1)
        grads = _reference_grads(reference, op, gy, arrays, attrs, wrt)
        active = [i for i, g in enumerate(grads) if g is not None]
        _check_shape(op, arrays, attrs, want[0].shape)
        for layout in layouts:
            what = f"{op.name}[{dtype.name}, {layout}]"
            laid = [lay_out(a, layout) if _is_float(a) else a for a in arrays]
            before = [None if a is None else np.array(a) for a in laid]
            runs = [run_op(op, laid, attrs, active, lay_out(gy, layout), n,
                         cached=layout == "channels_last") for n in threads]
            for n, other in zip(threads[1:], runs[1:], strict=True):
                assert_same_bits(runs[0], other, f"{what}: {threads[0]} and {n} threads")
            assert_same_bits(laid, before, f"{what}: inputs before and after")
            _compare(runs[0], want, grads, dtype, kind, what)
        _check_single_gradients(op, arrays, attrs, active, gy, what)
        if torch is not None and (module := pytorch()) is not None:
            _compare_torch(module, torch, arrays, active, gy, want, grads, op.name)
        if gradcheck and dtype == np.float64:
            for i in active:
                _check_direction(op, arrays, attrs, i, gy, seed + 2 + i)


def _reference_grads(reference, op, gy, arrays, attrs, wrt) -> tuple[Array | None, ...]:
    """Return the reference's gradients, kept for the wanted inputs only."""
    if not op.differentiable or not any(map(_is_float, arrays)):
        return (None,) * len(arrays)
    grads = getattr(reference, op.name + "_grad")(gy, *arrays, **attrs)
    grads, rest = grads[:len(arrays)], grads[len(arrays):]
    assert len(grads) == len(arrays), f"reference.{op.name}_grad gives {len(grads)} gradients"
    assert all(g is None for g in rest), "the reference has gradients for inputs not given"
    return tuple(g if wrt is None or i in wrt else None for i, g in enumerate(grads))


def _check_shape(op, arrays, attrs, want) -> None:
    shapes = [None if a is None else np.shape(a) for a in arrays]
    got = tuple(op.shape(*shapes, **attrs))
    assert got == tuple(want), f"{op.name}.shape gives {got}, expected {tuple(want)}"
    assert all(type(n) is int for n in got), f"{op.name}.shape gives no plain ints: {got!r}"


def _compare(run: Run, want, grads, dtype, kind, what) -> None:
    """Compare outputs and gradients with the reference's."""
    assert len(run.outputs) == len(want), f"{what}: {len(run.outputs)} outputs"
    for i, (y, r) in enumerate(zip(run.outputs, want, strict=True)):
        expected = dtype if np.asarray(r).dtype.kind == "f" else np.asarray(r).dtype
        assert y.dtype == expected, f"{what}: output {i} is {y.dtype}, expected {expected}"
        assert_close(y, r, tolerance(kind or "forward", dtype), f"{what}: output {i}")
    row = f"{kind}_gradient" if kind else "gradient"
    for i, (g, r) in enumerate(zip(run.grads, grads, strict=True)):
        if r is None:
            assert g is None, f"{what}: input {i} got a gradient that nobody asked for"
            continue
        assert g is not None, f"{what}: no gradient for input {i}"
        assert g.dtype == dtype, f"{what}: gradient {i} is {g.dtype}"
        assert_close(g, r, tolerance(row, dtype), f"{what}: gradient {i}")


def _check_single_gradients(op, arrays, attrs, active, gy, what) -> None:
    """A gradient's bits do not depend on which other gradients are wanted."""
    if len(active) < 2:
        return
    together = run_op(op, arrays, attrs, active, gy)
    for i in active:
        alone = run_op(op, arrays, attrs, [i], gy)
        assert_same_bits(alone.grads[i], together.grads[i], f"{what}: gradient {i} asked for alone")
        others = [j for j, g in enumerate(alone.grads) if g is not None and j != i]
        assert not others, f"{what}: inputs {others} got gradients that nobody asked for"


def _check_direction(op, arrays, attrs, i, gy, seed) -> None:
    """Compare one input's float64 gradient with a central difference along a direction."""
    grad = run_op(op, arrays, attrs, [i], gy).grads[i]
    _check_slope(lambda moved: run_op(op, moved, attrs, (), None).outputs[0], arrays, i, gy, grad,
                 seed, op.name)


def _check_slope(function, arrays, i, gy, grad, seed, what) -> None:
    direction = random_array(np.shape(arrays[i]), np.float64, seed=seed)
    step = GRADCHECK["step"]

    def weighted(sign: float) -> tuple[float, float]:
        moved = list(arrays)
        moved[i] = arrays[i] + sign * step * direction
        terms = function(moved) * gy
        return float(terms.sum()), float(np.abs(terms).sum())

    (above, size), (below, _) = weighted(1.0), weighted(-1.0)
    numeric = (above - below) / (2 * step)
    exact = float((grad * direction).sum())
    allowed = GRADCHECK["relative"] * float(np.linalg.norm(grad)) + GRADCHECK["roundoff"] * size
    assert abs(numeric - exact) <= allowed, (
        f"{what}: derivative by input {i} along a random direction is {exact!r}, central "
        f"difference {numeric!r} (allowed error {allowed:.3g})")


def check_gradients(function: Callable, *arrays: Array, seed: int = 0) -> None:
    """Compare float64 gradients of a function of Tensors with central differences.

    Along a random direction for each array; what is random in `function` follows from one seed.
    """
    convkit.manual_seed(seed)
    tensors = [autograd.Tensor(a, requires_grad=True) for a in arrays]
    y = function(*tensors)
    assert y.dtype == np.float64, "central differences need float64"
    gy = random_array(y.shape, np.float64, seed=seed + 1)
    y.backward(gy)

    def values(moved: list[Array]) -> Array:
        convkit.manual_seed(seed)
        return function(*map(autograd.Tensor, moved)).data

    for i, t in enumerate(tensors):
        _check_slope(values, arrays, i, gy, t.grad.data, seed + 2 + i, function)


def pytorch() -> Any:
    """Return PyTorch, on one thread, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


class _Functional:
    """torch.nn.functional, loaded when a function of it is called.

    That takes seconds, also in the many children that need something else of a test's module.
    """

    def __getattr__(self, name: str) -> Callable:
        def function(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module("torch.nn.functional"), name)(*args, **kwargs)

        return function


TF = _Functional()


def _compare_torch(torch, function, arrays, active, gy, want, grads, name) -> None:
    """Compare the reference's outputs and gradients with PyTorch's in float64."""
    tensors = []
    for i, a in enumerate(arrays):
        wide = a.astype(np.float64) if _is_float(a) else a
        t = None if a is None else torch.from_numpy(np.array(wide))
        tensors.append(t.requires_grad_() if i in active else t)
    outputs = _as_outputs(function(*tensors))
    bounds = tolerance("forward", np.float64)
    for i, (r, t) in enumerate(zip(want, outputs, strict=False)):
        assert_close(r, t.detach().numpy(), bounds, f"reference.{name} beside PyTorch: output {i}")
    if not active:
        return
    outputs[0].backward(torch.from_numpy(gy.astype(np.float64)))
    bounds = tolerance("gradient", np.float64)
    for i in active:
        assert_close(grads[i], tensors[i].grad.numpy(), bounds,
                     f"reference.{name}_grad beside PyTorch: gradient {i}")


def check_batch_invariance(fn: Callable[[Array], Any], x: Array) -> None:
    """Assert that a sample's result has the same bits alone, in a pair and in the batch.

    `fn` maps an array (N, ...) to an array or Tensor (N, ...) and may use any threads.
    """
    whole = np.asarray(getattr(y := fn(x), "data", y))
    for i in range(len(x)):
        alone = fn(x[i:i + 1])
        assert_same_bits(np.asarray(getattr(alone, "data", alone)), whole[i:i + 1],
                         f"sample {i} alone and in a batch of {len(x)}")
    if len(x) > 2:
        pair = fn(x[1:3])
        assert_same_bits(np.asarray(getattr(pair, "data", pair)), whole[1:3],
                         f"samples 1 and 2 as a pair and in a batch of {len(x)}")


# -- subprocesses ---------------------------------------------------------------------------


def run_python(code: str, env: dict[str, str] | None = None, *, check: bool = True,
               timeout: float = 120) -> subprocess.CompletedProcess:
    """Run Python code in a fresh interpreter that imports this same convkit.

    Parameters
    ----------
    code : str
        The program; common indentation is removed.
    env : dict, optional
        Environment variables to set, for example ``{"CONVKIT_ISA": "generic"}``.
    check : bool
        Whether a non-zero exit status fails the test, with the child's stderr as message.
    timeout : float
        Seconds after which the child is killed and the test fails.
    """
    root = str(Path(convkit.__file__).resolve().parents[1])
    variables = {k: v for k, v in os.environ.items() if not k.startswith("CONVKIT_")}
    path = [root, str(Path(__file__).parent), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
    variables.update(env or {})
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=variables,
                          capture_output=True, text=True, timeout=timeout, check=False)
    if check:
        assert done.returncode == 0, f"child exited with {done.returncode}:\n{done.stderr}"
    return done
