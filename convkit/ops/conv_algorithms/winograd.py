"""Winograd convolution: 3x3 and 5x5 kernels with stride 1 at a quarter or a third of the products.

Dilated ones are convolutions of every d-th row and column, each by itself. With stride 2 a 3x3
kernel needs 25 products of 36.
"""

from __future__ import annotations

import functools
import math
import os
from typing import ClassVar, NamedTuple

import numpy as np

from convkit._kernels import dispatch, memory, runner, winograd, winograd_grad
from convkit.ops.conv_algorithms.base import Algorithm, known_call
from convkit.ops.conv_algorithms.direct import Direct, sides
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Form", "Rates", "Winograd", "choose_form", "cost", "direct_cost", "winograd_cost"]


class Form(NamedTuple):
    """How tiles are cut and transformed, by sides: see _kernels/c/winograd.h."""

    tile: int       # pixels of a tile of the output
    step: int       # pixels of the input from one tile to the next
    side: int       # positions
    weights: int    # positions of a kernel


# The forms there are transforms for, by taps and stride. F(6x6, 3x3), which has the points of
# F(4x4, 5x5) and makes fewer products by a fifth only, is left out.
FORMS = {(3, 1): (Form(2, 2, 4, 4), Form(4, 4, 6, 6)), (5, 1): (Form(2, 2, 6, 6), Form(4, 4, 8, 8)),
         (3, 2): (Form(2, 4, 5, 4),)}
MOST_SIDE = 8
# The same for the gradient of the input. With stride 2 a tile of it begins with a pixel that only
# middle taps meet: where the padding is odd.
GRADIENT_FORMS = {**FORMS, (3, 2): (Form(4, 2, 5, 4),)}
VECTOR = 16
# Transformed weights that do not stay in the second-level cache come from farther away.
CACHED_WEIGHTS = 160 << 10


class Rates(NamedTuple):
    """The model behind what is chosen: multiply-adds of one sample, fitted to measured layers."""

    gain: float = 1.0       # how many products are made in the time of one multiply-add
    # Of each transformed value, in whole vectors: transforms move and add, and wait for memory.
    # Positions that share weights are pixels as they are, which cost nothing but their place.
    transform: float = 17.0
    weight: float = 8.0     # of each weight that comes from far, once for some samples or for each
    narrow: float = 0.0     # of each position of a tile with one vector of columns
    run: int = VECTOR       # channels are transformed in multiples of so many


FLOATS = Rates()
# Direct convolution reaches a little less of the multiply-add rate than the matrix products do.
DIRECT_COST = 1.15

_off = os.environ.get("CONVKIT_WINOGRAD", "1") == "0"


def whole_vectors(channels: int, vector: int = VECTOR) -> int:
    return -(-channels // vector) * vector


def cost(form: Form, channels: int, columns: int, out_size: tuple[int, int],
         dilation: tuple[int, int] = (1, 1), rates: Rates = FLOATS) -> float:
    """Return about how many multiply-adds one sample is worth with tiles of one form."""
    tiles = math.prod(d * -(-n // (d * form.tile)) for n, d in zip(out_size, dilation, strict=True))
    columns = whole_vectors(columns)
    transformed = (rates.transform * form.weights / form.side
                   * (whole_vectors(channels, rates.run) + columns))
    products = channels * columns / rates.gain + (rates.narrow if columns == VECTOR else 0.0)
    weights = form.weights ** 2 * channels * columns
    return (form.side ** 2 * tiles * (products + transformed)
            + (rates.weight * weights if weights > CACHED_WEIGHTS else 0.0))


def direct_cost(problem: ConvProblem, task: str) -> float:
    """Return the same for direct convolution."""
    depth, columns, out_size = _sizes(problem, task)
    taps = math.prod(problem.kernel)
    if task == "grad_input":
        taps /= math.prod(problem.stride)
    return DIRECT_COST * taps * depth * whole_vectors(columns) * math.prod(out_size)


@functools.lru_cache(maxsize=4096)
def choose_form(forms: tuple[Form, ...], channels: int, columns: int, out_size: tuple[int, int],
                dilation: tuple[int, int] = (1, 1)) -> Form:
    """Return the cheapest form by `cost`: small maps and many channels want small tiles."""
    return min(forms, key=lambda form: cost(form, channels, columns, out_size, dilation))


def winograd_cost(problem: ConvProblem, task: str, form: Form | None = None,
                  rates: Rates = FLOATS) -> float:
    """Return `cost` of a task, by default with the cheapest form."""
    return cost(form or _cheapest(problem, task), *_sizes(problem, task), problem.dilation, rates)


def forms_of(problem: ConvProblem, task: str) -> tuple[Form, ...]:
    """Return the forms that a task can be given."""
    forms = (GRADIENT_FORMS if task == "grad_input" else FORMS)[problem.kernel[0],
                                                               problem.stride[0]]
    if dispatch.has_tiles():
        # Beside tiles F(4x4, 5x5) has not been measured: what they are taken for stays as it was.
        return tuple(form for form in forms if form.side < MOST_SIDE)
    return forms


def _cheapest(problem: ConvProblem, task: str) -> Form:
    return choose_form(forms_of(problem, task), *_sizes(problem, task), problem.dilation)


class Winograd(Algorithm):
    """Transform tiles and weights, multiply position by position, transform back.

    Used for float32 at precision "high" and "medium"; the environment variable
    ``CONVKIT_WINOGRAD=0`` takes it from the candidates. Samples with values that the
    transforms cannot bear (infinities, NaN, sums near the ends of float32's range) are computed
    by direct convolution, each sample by itself, so that they come out as they do there; so is
    a whole gradient of the weight.
    """

    name = "winograd"
    gathers = True
    # Of the transformed numbers, as for `winograd.pack`.
    form: ClassVar[str] = "float32"

    @classmethod
    def refuses(cls, problem, task):
        """Refuse all but dense 3x3 and 5x5 float32 convolutions, below "highest"."""
        height, width = problem.kernel
        if height != width or (height, 1) not in FORMS:
            return f"kernel of {height}x{width}, transforms are for 3x3 and 5x5"
        reason = _refuses_stride(problem, task)
        if reason is not None:
            return reason
        if problem.groups != 1:
            return f"{problem.groups} groups, sums must run over all channels"
        if problem.dtype != np.float32:
            return f"{problem.dtype} is computed in its own format"
        if problem.precision == "highest":
            return "precision 'highest' asks for plain float32 products"
        return None

    @classmethod
    def declines(cls, problem, task):
        """Decline where transforms cost more than the multiplications they save."""
        if _off:
            return "CONVKIT_WINOGRAD=0"
        depth, columns, (height, width) = _sizes(problem, task)
        if winograd_cost(problem, task) >= direct_cost(problem, task):
            return (f"transforms of {depth} and {columns} channels on {height}x{width} pixels "
                    "cost more than they save")
        return None

    @classmethod
    def call(cls, problem, task):
        """Return the transforms, prepared."""
        key, origin, packing = cls._plan(problem, task)
        if task == "grad_weight":
            return winograd_grad.Gradient(*sides(problem, "forward"), problem.batch, *packing[:2],
                                          *origin, problem.dilation, cls.form,
                                          Direct.call(problem, task))
        return winograd.Convolution(*sides(problem, task), problem.batch, packing, *origin,
                                    problem.dilation, key,
                                    functools.partial(_redo, problem, task))

    @classmethod
    def forward(cls, problem, *arrays, **epilogue):
        """Convolve tile by tile."""
        known_call(cls, problem, "forward")(*arrays, **epilogue)

    @classmethod
    def grad_input(cls, problem, *arrays, **epilogue):
        """Convolve the output's gradient with the kernels turned and channels exchanged."""
        known_call(cls, problem, "grad_input")(*arrays, **epilogue)

    @classmethod
    def grad_weight(cls, problem, *arrays):
        """Sum tiles of x times tiles of the output's gradient, transform back once."""
        known_call(cls, problem, "grad_weight")(*arrays)

    @classmethod
    def adds_gradient(cls, problem):
        """Add always."""
        return True

    @classmethod
    def reads_parts(cls, problem):
        """Read parts always."""
        return True

    @classmethod
    def writes_parts(cls, problem):
        """Write parts always."""
        return True

    @classmethod
    def steps(cls, problem, task, weight, cache, threads, *, residual, x_pixel=None, y_pixel=None,
              **epilogue):
        """Return the transforms' step, which lets direct convolution redo single samples."""
        packed = cls._pack(problem, task, weight, cache, threads)
        fallback = _Fallback(problem, task, weight, packed, cache, residual, x_pixel, y_pixel,
                             epilogue)
        if not packed.bearable():
            return fallback.steps(threads) if x_pixel is None else None
        x, y = sides(problem, task)
        return [winograd.step(x, packed, y, *cls._plan(problem, task)[1], fallback,
                              dilation=problem.dilation, x_pixel=x_pixel, y_pixel=y_pixel,
                              **epilogue)]

    @classmethod
    def _form(cls, problem: ConvProblem, task: str) -> Form:
        """Return how tiles are cut."""
        return _cheapest(problem, task)

    @classmethod
    def _plan(cls, problem: ConvProblem, task: str) -> tuple[tuple, tuple[int, int], tuple]:
        """Return the key of transformed weights, `_origin` and how weights are transformed."""
        plan = problem.plans.get((cls.name, task))
        if plan is None:
            depth, columns, _ = _sizes(problem, task)
            taps, form = problem.kernel[0], cls._form(problem, task)
            steps, backward = (problem.in_channels * taps ** 2, taps ** 2), task == "grad_input"
            plan = problem.plans[cls.name, task] = (
                (cls.name, task, form), _origin(problem, task),
                (form.tile, taps, form.step, columns, depth,
                 *(steps[::-1] if backward else steps), backward, cls.form))
        return plan

    @classmethod
    def _pack(cls, problem: ConvProblem, task: str, weight: np.ndarray, cache: dict | None,
              threads: int) -> winograd.Weights:
        """Transform (or find transformed) weights."""
        key, _, how = cls._plan(problem, task)
        packed = None if cache is None else cache.get(key)
        if packed is None:
            packed = winograd.pack(weight, *how, threads)
            if cache is not None:
                cache[key] = packed
        return packed


def _refuses_stride(problem: ConvProblem, task: str) -> str | None:
    """Return why there are no transforms for a problem's stride."""
    if problem.stride == (1, 1):
        return None
    if problem.stride != (2, 2) or problem.kernel != (3, 3):
        return "stride must be 1, or with 3x3 kernels 2"
    if problem.dilation != (1, 1):
        return "with stride 2 the dilation must be 1"
    if task == "grad_weight":
        return "with stride 2 sums over tiles of the image are no faster"
    if task == "grad_input" and not all(before % 2 for before, _ in problem.padding):
        return "gradients of the input with stride 2 need an odd padding"
    return None


def _sizes(problem: ConvProblem, task: str) -> tuple[int, int, tuple[int, int]]:
    """Return the channels of a task's two sides, and the size that is cut into tiles."""
    if task == "grad_input":
        return problem.out_channels, problem.in_channels, problem.in_size
    return problem.in_channels, problem.out_channels, problem.out_size


def _blank(peak: float, x: np.ndarray) -> bool:
    """Tell whether sums are zero because a sample is, as when a Program is warmed up."""
    return peak == 0 and not x.any()


def _origin(problem: ConvProblem, task: str) -> tuple[int, int]:
    """Return where in the task's input the taps of its first result begin."""
    (top, _), (left, _) = problem.padding
    if task != "grad_input":
        return -top, -left
    if problem.stride != (1, 1):
        return top // 2, left // 2
    return tuple(before - d * (taps - 1) for before, d, taps in zip(
        (top, left), problem.dilation, problem.kernel, strict=True))


class _Fallback:
    """What a step calls where samples came up that transforms cannot bear."""

    def __init__(self, problem: ConvProblem, task: str, weight: np.ndarray,
                 packed: winograd.Weights, cache: dict | None, residual: bool,
                 x_pixel: int | None, y_pixel: int | None, epilogue: dict):
        self._make = lambda threads: Direct.steps(
            problem, task, weight, cache, threads, residual=residual, y_pixel=y_pixel,
            **epilogue)
        self._x, y = sides(problem, task)
        self._pixel = 4 * (x_pixel or self._x[2])
        self._y_bytes = 4 * math.prod(y[:2]) * (y_pixel or y[2])
        self._packed, self._steps = packed, None

    def steps(self, threads: int) -> list:
        """Return the steps of direct convolution; its weights are packed when first asked for."""
        if self._steps is None:
            self._steps = self._make(threads)
        return self._steps

    def __call__(self, addresses: list[int], samples: int, threads: int, scratch: int) -> None:
        x, bias, residual, y = addresses
        (height, width, _), y_bytes = self._x, self._y_bytes
        strides = (width * self._pixel, self._pixel, 4)
        peaks = runner.array_at(scratch, (samples,), None, np.dtype(np.float32))
        for n in winograd.outside(peaks, self._packed):
            one = np.ascontiguousarray(runner.array_at(
                x + n * height * width * self._pixel, self._x, strides, peaks.dtype))
            if _blank(peaks[n], one):
                continue
            for step in self.steps(threads):
                runner.run_step(step, (
                    memory.address_of(one), bias, residual + n * y_bytes if residual else 0,
                    y + n * y_bytes), 1, threads)


def _redo(problem: ConvProblem, task: str, peaks: np.ndarray | None, packed: winograd.Weights,
          x: np.ndarray, weight: np.ndarray, y: np.ndarray, cache: dict | None, threads: int,
          epilogue: dict) -> None:
    """Compute by direct convolution samples that transforms cannot bear; without peaks all."""
    again = getattr(Direct, task)
    if peaks is None:
        again(problem, x, weight, y, cache, threads, **epilogue)
        return
    residual, gathered = epilogue.pop("residual"), epilogue.pop("gathered")
    samples = [n for n in winograd.outside(peaks, packed) if not _blank(peaks[n], x[n:n + 1])]
    if gathered is not None and samples:
        gathered.clear()
    for n in samples:
        one = slice(n, n + 1)
        again(problem, x[one], weight, y[one], cache, threads, **epilogue,
              residual=None if residual is None else residual[one])
