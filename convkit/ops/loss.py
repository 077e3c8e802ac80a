"""Losses over classes: cross entropy and negative log-likelihood; what all losses share.

Sums are taken in float64 in a fixed order. With ``reduction="none"`` the result has one number
for each loss, else it is a scalar. Nothing but the inputs and two numbers for each row (its
largest number and the logarithm of its sum) is kept for backward.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from convkit._kernels import loss as kernels
from convkit._kernels import memory
from convkit.errors import DTypeError, ShapeError
from convkit.ops.layout import in_order, native
from convkit.ops.op import Context, Op, register

__all__ = ["ClassLoss", "CrossEntropy", "NllLoss"]

Array = np.ndarray
Shape = tuple[int, ...]


# -- what all losses share ----------------------------------------------------------------------


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless a reduction is known."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"expected reduction of 'mean', 'sum' or 'none', got {reduction!r}")


def scalar(total: float, divisor: float, reduction: str, dtype: np.dtype) -> Array:
    """Return the sum or the mean as an array of no axes; a mean of nothing is NaN."""
    if reduction == "mean":
        total = total / divisor if divisor else math.nan if not total else math.copysign(
            math.inf, total)
    with np.errstate(over="ignore"):
        return np.asarray(total, dtype)


def factor_of(gy: Array, divisor: float, reduction: str) -> float:
    """Return the gradient of every single loss where the result is a scalar."""
    g = float(gy)
    if reduction == "sum":
        return g
    return g / divisor if divisor else math.nan


def same_type(a: Array | None, x: Array, what: str) -> Array | None:
    """Return an input in native byte order; raise DTypeError unless it has the type of `x`."""
    if a is None:
        return None
    a = native(a, what)
    if a.dtype != x.dtype:
        raise DTypeError(f"expected {what} of {x.dtype} like x, got {a.dtype}")
    return a


def no_gradient(ctx: Context, first: int, *names: str) -> None:
    """Raise RuntimeError where a gradient is wanted of an input that has none."""
    for need, name in zip(ctx.needs[first:], names, strict=False):
        if need:
            raise RuntimeError(f"the gradient of {name} is not defined; use {name}.detach()")


def shape_of(a: Array | None) -> Shape | None:
    """Return the shape of an input that may be missing."""
    return None if a is None else a.shape


# -- losses over classes ------------------------------------------------------------------------


def class_shape(x: Shape, target: Shape, weight: Shape | None, reduction: str,
                 probabilities: bool) -> Shape:
    """Return the result's shape; raise ShapeError where an input does not fit."""
    check_reduction(reduction)
    if len(x) < 2:
        raise ShapeError(f"expected x of shape (N, C, ...), got {x}")
    each = (x[0], *x[2:])
    if probabilities and target != x:
        raise ShapeError(f"expected target probabilities of shape {x} like x, got {target}")
    if not probabilities and target != each:
        raise ShapeError(
            f"expected target classes of shape {each} for x of shape {x}, got {target}")
    if weight is not None and weight != (x[1],):
        raise ShapeError(f"expected weight of shape ({x[1]},), one for each class, got {weight}")
    return each if reduction == "none" else ()


def classes_of(target: Array, classes: int, ignore_index: int | None) -> Array:
    """Return target classes as contiguous int64, all of them checked.

    The array is the op's own: what is changed later cannot lead a kernel astray.
    """
    if target.dtype.kind not in "iu":
        raise DTypeError(
            f"expected target classes of an integer type, or probabilities of the type of x; "
            f"got {target.dtype}")
    wrong = (target < 0) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        other = "" if ignore_index is None else f", or ignore_index={ignore_index}"
        raise IndexError(
            f"expected target classes from 0 to {classes - 1}{other}; "
            f"got {int(target[wrong].flat[0])}")
    return np.array(target, np.int64, order="C")


def rows_of(x: Array) -> Array:
    """Return `x` with its classes (axis 1) last, contiguous."""
    return in_order(np.moveaxis(x, 1, -1), None)


@register
class CrossEntropy(Op):
    """Cross entropy of log_softmax(x) over axis 1.

    Targets are classes (integers, of the shape of `x` without axis 1), or probabilities (the
    shape and type of `x`). With label smoothing e, a target t becomes (1 - e) t + e / C
    (Szegedy et al., "Rethinking the Inception Architecture", 2016). A mean divides by the sum
    of the class weights of the targets that count; with probabilities, by their number.
    """

    name = "cross_entropy"
    onnx = "SoftmaxCrossEntropyLoss"
    reads = (0, 1, 2)

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *,
              ignore_index: int = -100, label_smoothing: float = 0.0,
              reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x` without its axis 1."""
        return class_shape(x, target, weight, reduction, len(x) == len(target))

    @staticmethod
    def forward(ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                ignore_index: int = -100, label_smoothing: float = 0.0,
                reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        probabilities = target.dtype.kind == "f"
        each = class_shape(x.shape, target.shape, shape_of(weight), reduction, probabilities)
        no_gradient(ctx, 2, "weight")
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"expected label_smoothing from 0 to 1, got {label_smoothing}")
        x = native(x)
        rows = rows_of(x)
        if probabilities:
            target = rows_of(same_type(target, x, "target"))
        else:
            target = classes_of(target, x.shape[1], ignore_index)
        weight = same_type(weight, x, "weight")
        weight = None if weight is None else in_order(weight, None)
        most, log_sum = (memory.empty(rows.shape[:-1], x.dtype) for _ in range(2))
        losses = memory.empty(each, x.dtype) if reduction == "none" else None
        total, divisor = kernels.cross_entropy(
            rows, target, weight, ignore_index, label_smoothing, most, log_sum, losses,
            ctx.threads)
        if any(ctx.needs):
            ctx.saved = ((rows, target, weight, ignore_index, label_smoothing, most, log_sum),
                         divisor, reduction)
        return scalar(total, divisor, reduction, x.dtype) if losses is None else losses

    @staticmethod
    def backward(ctx: Context, gy: Array) -> tuple[Array | None, Array | None, None]:
        """Return the gradients of x and of target probabilities."""
        arguments, divisor, reduction = ctx.saved
        rows = arguments[0]
        each = in_order(gy, None) if reduction == "none" else None
        factor = 1.0 if reduction == "none" else factor_of(gy, divisor, reduction)
        gx, g_target = (memory.empty(rows.shape, rows.dtype) if need else None
                        for need in ctx.needs[:2])
        kernels.cross_entropy_grad(each, factor, *arguments, gx, g_target, ctx.threads)
        return (None if gx is None else np.moveaxis(gx, -1, 1),
                None if g_target is None else np.moveaxis(g_target, -1, 1), None)


class ClassLoss(Op):
    """A loss of scores whose targets are classes; `kernel` is its name among the kernels."""

    kernel: ClassVar[str] = ""
    reads = (0, 1, 2)

    @staticmethod
    def _inputs(ctx: Context, x: Array, target: Array, weight: Array | None,
                ignore_index: int | None) -> tuple[Array, Array, Array | None, int]:
        """Return the arguments of kernels that are arrays, and the class that does not count."""
        no_gradient(ctx, 2, "weight")
        x = native(x)
        target = classes_of(target, x.shape[1], ignore_index)
        weight = same_type(weight, x, "weight")
        return (rows_of(x), target, None if weight is None else in_order(weight, None),
                -1 if ignore_index is None else ignore_index)

    @classmethod
    def _run(cls, ctx: Context, parameters: tuple[float, ...], rows: Array, target: Array,
             weight: Array | None, ignore: int, reduction: str,
             kept: tuple[Array | None, Array | None] = (None, None)) -> Array:
        """Compute the losses, their sum or their mean."""
        losses = memory.empty(target.shape, rows.dtype) if reduction == "none" else None
        arguments = (rows, target, weight, *kept, ignore)
        total, divisor = kernels.class_loss(cls.kernel, parameters, *arguments, losses,
                                            ctx.threads)
        if any(ctx.needs):
            ctx.saved = parameters, arguments, divisor, reduction
        return scalar(total, divisor, reduction, rows.dtype) if losses is None else losses

    @classmethod
    def _gradient(cls, ctx: Context, gy: Array, shape: Shape) -> Array:
        """Return the array of a shape that the kernel's gradient fills."""
        parameters, arguments, divisor, reduction = ctx.saved
        each = in_order(gy, None) if reduction == "none" else None
        factor = 1.0 if reduction == "none" else factor_of(gy, divisor, reduction)
        out = memory.empty(shape, arguments[0].dtype)
        kernels.class_loss_grad(cls.kernel, parameters, each, factor, *arguments, out, ctx.threads)
        return out

    @classmethod
    def backward(cls, ctx: Context, gy: Array) -> tuple[Array, None, None]:
        """Return the gradient of x."""
        rows = ctx.saved[1][0]
        return np.moveaxis(cls._gradient(ctx, gy, rows.shape), -1, 1), None, None


@register
class NllLoss(ClassLoss):
    """Minus the number at each target's class, times the class's weight.

    `x` holds log-probabilities (N, C, ...), targets are classes (N, ...).
    """

    name = "nll_loss"
    onnx = "NegativeLogLikelihoodLoss"
    kernel = "nll"

    @staticmethod
    def shape(x: Shape, target: Shape, weight: Shape | None = None, *,
              ignore_index: int = -100, reduction: str = "mean") -> Shape:
        """Return () or, without reduction, the shape of `x` without its axis 1."""
        return class_shape(x, target, weight, reduction, False)

    @classmethod
    def forward(cls, ctx: Context, x: Array, target: Array, weight: Array | None = None, *,
                ignore_index: int = -100, reduction: str = "mean") -> Array:
        """Compute the losses, their sum or their mean."""
        class_shape(x.shape, target.shape, shape_of(weight), reduction, False)
        inputs = cls._inputs(ctx, x, target, weight, ignore_index)
        return cls._run(ctx, (), *inputs, reduction)
