"""Arithmetic with broadcasting, elementwise functions, sums and means, matrix products."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import binary, elementwise, matmul, memory, resample
from convkit._kernels.tape import PutOff
from convkit.errors import DTypeError, ShapeError
from convkit.ops import planner
from convkit.ops.conv import activation_arguments
from convkit.ops.deferred import Deferred, plain
from convkit.ops.layout import (
    FLOATS,
    axis_order,
    empty_ordered,
    in_order,
    like,
    logical,
    native,
    to_last,
)
from convkit.ops.linear import Linear, linear_problem
from convkit.ops.op import Context, Op, register
from convkit.ops.spatial import LIMIT, all_of

__all__ = [
    "Abs",
    "Add",
    "Div",
    "Exp",
    "Log",
    "MatMul",
    "Mean",
    "Mul",
    "Neg",
    "Pow",
    "Sqrt",
    "Sub",
    "Sum",
    "lower_function",
    "lower_reduction",
    "normalize_axes",
]


# -- shapes and types -----------------------------------------------------------------------


def broadcast_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an elementwise result; raise ShapeError where there is none."""
    if a == b:
        return a
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise ShapeError(f"shapes {a} and {b} do not broadcast together") from None


def normalize_axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """Return sorted non-negative axes for an int, a tuple of them, or None (all axes)."""
    if dim is None:
        return tuple(range(ndim))
    given = (dim,) if hasattr(dim, "__index__") else tuple(dim)
    axes = []
    for d in given:
        d = d.__index__()
        if not -ndim <= d < ndim:
            raise ShapeError(f"dim {d} is out of range for {ndim} axes")
        axes.append(d % ndim)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"dim {given} names an axis twice")
    return tuple(sorted(axes))


def _numbers(x: np.ndarray, what: str) -> np.ndarray:
    """Return `x` in native byte order; raise DTypeError unless it holds real numbers."""
    if x.dtype.kind not in "fiub" or x.dtype == np.float16:
        raise DTypeError(f"expected {what} of float32 or float64, got {x.dtype}")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def common_type(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring two operands to one type: a float wins over integers, float64 over float32."""
    if a.dtype == b.dtype and a.dtype.isnative and a.dtype.kind == "f" and a.dtype != np.float16:
        return a, b
    a, b = _numbers(a, "a"), _numbers(b, "b")
    floats = [x.dtype for x in (a, b) if x.dtype.kind == "f"]
    dtype = max(floats, key=lambda d: d.itemsize) if floats else np.result_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


# -- elementwise work -----------------------------------------------------------------------


_UFUNCS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


def _binary(name: str, a: np.ndarray, b: np.ndarray, threads: int) -> np.ndarray:
    """Return a op b in pooled memory, laid out as the operand of the result's shape.

    Integers, and operands that lie in memory in another order than the result, are NumPy's.
    """
    same = a.shape == b.shape
    shape = a.shape if same else broadcast_shape(a.shape, b.shape)
    model = a if same else next((x for x in (a, b) if x.shape == shape), None)
    order = None if model is None else axis_order(model)
    out = empty_ordered(shape, order, a.dtype)
    if a.dtype.kind == "f":
        views = [x if same or x.shape == shape else np.broadcast_to(x, shape) for x in (a, b)]
        views.append(out)
        if order is not None:
            views = [x.transpose(order) for x in views]
        if a.flags.aligned and b.flags.aligned and binary.run(name, *views, threads):
            return out
    return _UFUNCS[name](a, b, out=out)


def _lower_binary(builder: Any, name: str, a: Any, b: Any) -> Any:
    """Emit a step for a op b, laid out as the operand of the result's shape."""
    if a.dtype != b.dtype or a.dtype not in FLOATS:
        return None
    return _lower_pair(builder, a, b, a.dtype, lambda shape, *strides: binary.step(
        name, shape, *strides, a.dtype == np.float64))


def lower_function(builder: Any, function: np.ufunc, x: Any, y: Any = None,
                   result: np.dtype | None = None) -> Any:
    """Emit a step for one of NumPy's functions of one array or of two that broadcast.

    The function must be one that raises nothing on numbers of these types. None where the
    operands differ in type.
    """
    result = x.dtype if result is None else result
    if y is not None:
        return None if x.dtype != y.dtype else _lower_pair(
            builder, x, y, result, lambda *places: binary.loop_step(
                function, x.dtype, result, *places))
    if not x.shape or 0 in x.shape:
        return None
    size = math.prod(x.shape[1:])
    step = binary.loop_step(function, x.dtype, result, (size,), (size, 1))
    if step is None:
        return None
    x = builder.compact(x)
    out = builder.new(x.shape, result, x.order)
    builder.step(step, (x, out), out.samples)
    return out


def _lower_pair(builder: Any, a: Any, b: Any, result: np.dtype, make: Any) -> Any:
    """Emit what `make` returns for a sample's shape and the strides of two operands."""
    rank = max(len(a.shape), len(b.shape))
    sizes = [[1] * (rank - len(x.shape)) + list(x.shape) for x in (a, b)]
    shape = tuple([n if m == 1 else m for m, n in zip(*sizes, strict=True)])
    if not rank or 0 in shape:
        return None
    model = next((x for x in (a, b) if x.shape == shape and x.regular), None)
    if model is None or any(x.shape == shape and not x.regular for x in (a, b)):
        return None
    order = model.order
    item = a.dtype.itemsize
    strides = []
    for x, own in zip((a, b), sizes, strict=True):
        steps = (0,) * (rank - len(x.shape)) + x.strides
        strides.append([0 if own[i] == 1 else steps[i] // item for i in order])
    step = make([shape[i] for i in order[1:]], *strides)
    if step is None:
        return None
    y = builder.new(shape, result, order)
    builder.step(step, (a, b, y), y.samples)
    return y


def _unary(ufunc: np.ufunc, x: np.ndarray) -> np.ndarray:
    """Return ufunc(x) in pooled memory laid out as `x`."""
    return ufunc(x, out=like(x))


def _reduce(x: np.ndarray, axes: tuple[int, ...], keepdim: bool) -> np.ndarray:
    """Return the sum of `x` over `axes`.

    A dense array summed over all its axes is summed pairwise in the order of memory.
    Otherwise one axis is summed after the other, the innermost in memory first: the chains
    of rounding errors then have the length of an axis, not of their product, and what a
    sample gives does not depend on its batch.
    """
    if len(axes) == x.ndim and x.size:
        order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
        flat = x.transpose(order)
        if flat.flags.c_contiguous:
            total = np.add.reduce(flat.reshape(-1))
            return np.full((1,) * x.ndim if keepdim else (), total, x.dtype)
    for axis in sorted(axes, key=lambda i: abs(x.strides[i])):
        x = np.add.reduce(x, axis=axis, keepdims=True)
    return x if keepdim else x.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _sum(x: np.ndarray, axes: tuple[int, ...], keepdim: bool, threads: int) -> np.ndarray:
    """Return the sum over `axes`; over all spatial axes of images and signals, by a kernel."""
    if not _spatial(x.shape, x.dtype, axes):
        return _reduce(x, axes, keepdim)
    last = to_last(native(x), threads)
    last = last if last.ndim == 4 else last[:, None]
    y = memory.empty((len(last), 1, 1, last.shape[3]), x.dtype)
    resample.gather(last, y, all_of(last.shape[1]), all_of(last.shape[2]), threads)
    return y.reshape((*x.shape[:2], *[1] * len(axes)) if keepdim else x.shape[:2])


def _spatial(shape: tuple, dtype: np.dtype, axes: tuple[int, ...]) -> bool:
    """Tell whether axes are all but samples and channels, and of numbers that kernels take."""
    return (len(shape) in (3, 4) and axes == tuple(range(2, len(shape))) and dtype in FLOATS
            and 0 not in shape and max(shape[1:]) <= LIMIT)


def lower_reduction(b: Any, function: np.ufunc, x: Any, axes: tuple[int, ...],
                    keepdim: bool) -> Any:
    """Emit steps that reduce axes but the first, the innermost in memory first; None for others.

    Extremes keep every type, sums and products of whole numbers do not.
    """
    kept = x.dtype in FLOATS or function in (np.maximum, np.minimum)
    if not kept or 0 in axes or not x.regular:
        return None
    x = b.compact(x)
    shape, order = list(x.shape), x.order
    for axis in sorted(axes, key=order.index, reverse=True):
        at = order.index(axis)
        step = binary.reduce_step(
            function, x.dtype, math.prod(shape[i] for i in order[1:at]), shape[axis],
            math.prod(shape[i] for i in order[at + 1:]))
        shape[axis] = 1
        y = b.new(tuple(shape), x.dtype, order)
        b.step(step, (x, y), y.samples)
        x = y
    if keepdim or not axes:
        return x
    kept = [i for i in range(len(shape)) if i not in axes]
    return x.with_axes([shape[i] for i in kept], [x.strides[i] for i in kept])


def _lower_sum(b: Any, x: Any, axes: tuple[int, ...], keepdim: bool) -> Any:
    """Emit a step for `_sum`."""
    if not _spatial((1, *x.shape[1:]), x.dtype, axes):
        return lower_reduction(b, np.add, x, axes, keepdim)
    x = b.last(x)
    shape = (*x.shape[:2], *[1] * len(axes)) if keepdim else x.shape[:2]
    y = b.new(shape, x.dtype)
    sizes = (1, *x.shape[2:])[-2:]
    b.step(resample.step(False, x.shape[1], x.dtype.itemsize, all_of(sizes[0]), all_of(sizes[1])),
           (x, y), x.samples)
    return y


def sum_to(grad: np.ndarray, like_: tuple[tuple[int, ...], np.dtype]) -> np.ndarray:
    """Sum a gradient over the axes along which an operand was stretched."""
    shape, dtype = like_
    if grad.shape != shape:
        extra = grad.ndim - len(shape)
        axes = tuple(range(extra)) + tuple(
            i + extra for i, n in enumerate(shape) if n == 1 and grad.shape[i + extra] != 1)
        grad = _reduce(grad, axes, True).reshape(shape)
    return grad if grad.dtype == dtype else grad.astype(dtype)


def _kind(x: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    """Return what `sum_to` must know of an operand."""
    return x.shape, x.dtype


class _Binary(Op):
    """Base of the arithmetic operations on two broadcasting operands."""

    @staticmethod
    def shape(*shapes, **attrs):
        """Return the broadcast shape."""
        if attrs.get("activation") is not None and shapes[0] != shapes[1]:
            raise ShapeError(f"expected two arrays of one shape before a fused "
                             f"{attrs['activation']}, got {shapes[0]} and {shapes[1]}")
        return broadcast_shape(*shapes)

    @classmethod
    def lower(cls, builder, a, b, **attrs):
        """Emit the kernel's step for two operands of one floating type."""
        if attrs.get("rounding_mode") is not None:
            return None
        return _lower_binary(builder, cls.name, a, b)


@register
class Add(_Binary):
    """a + b.

    `activation` is a form that compiled programs use, for two floating-point arrays of one
    shape and type; it has no backward.
    """

    name = "add"
    onnx = "Add"
    passes_gradient = True
    defers = 2
    takes_deferred = True
    takes_masked = True

    @staticmethod
    def forward(ctx: Context, a, b, *, activation=None, activation_args=()):
        """Add with broadcasting; a batch norm's output that was put off stays so."""
        if isinstance(a, PutOff) or isinstance(b, PutOff):
            y = _put_off(a, b) if ctx.defer else None
            if y is not None:
                ctx.saved = _kind(a), _kind(b)
                return y
            a, b = plain(a), plain(b)
        if activation is not None:
            return _add_and_activate(ctx, a, b, activation, activation_args)
        ctx.saved = _kind(a), _kind(b)
        return _binary("add", *common_type(a, b), ctx.threads)

    @staticmethod
    def total(a, b, threads: int, owned: bool = False) -> np.ndarray:
        """Return the sum of two arrays, laid out as the first, and in its place if `owned`."""
        if owned and a.shape == b.shape and a.dtype == b.dtype and a.flags.writeable:
            order = axis_order(a)
            views = (a, b) if order is None else (a.transpose(order), b.transpose(order))
            if all(x.flags.c_contiguous for x in views):
                elementwise.add(*views, 0, views[0], threads)
                return a
        return _binary("add", a, b, threads)

    @classmethod
    def lower(cls, b, x, y, *, activation=None, activation_args=()):
        """Emit the kernel's step for two operands of one floating type."""
        if activation is None:
            return super().lower(b, x, y)
        if x.shape != y.shape or x.dtype != y.dtype or x.dtype not in FLOATS or not (
                x.regular and y.regular):
            return None
        order = x.order
        x, y = b.in_order(x, order), b.in_order(y, order)
        out = b.new(x.shape, x.dtype, order)
        b.step(elementwise.add_step(
            math.prod(x.shape[1:]), x.dtype == np.float64,
            **activation_arguments(activation, activation_args)), (x, y, out), out.samples)
        return out

    @staticmethod
    def backward(ctx, g):
        """Pass the gradient on to both."""
        ka, kb = ctx.saved
        return (sum_to(g, ka) if ctx.needs[0] else None,
                sum_to(g, kb) if ctx.needs[1] else None)


def _put_off(a: np.ndarray | PutOff, b: np.ndarray | PutOff) -> Deferred | None:
    """Return a + b, still to be computed, or None where that cannot wait."""
    for one, other in ((a, b), (b, a)):
        y = one.plus(other) if isinstance(one, Deferred) else None
        if y is not None:
            return y
    return None


def _add_and_activate(ctx: Context, a: np.ndarray, b: np.ndarray, activation: str, args: tuple
                      ) -> np.ndarray:
    """Return activation(a + b) in one pass, laid out as `a`."""
    if any(ctx.needs):
        raise ValueError("a fused activation has no backward: it is for compiled programs")
    a, b = common_type(a, b)
    if a.shape != b.shape:
        raise ShapeError(f"expected two arrays of one shape before a fused {activation}, "
                         f"got {a.shape} and {b.shape}")
    order = axis_order(a)
    a, b = in_order(a, order), in_order(b, order)
    out = memory.empty(a.shape, a.dtype)
    elementwise.add(a, b, out=out, threads=ctx.threads,
                    **activation_arguments(activation, args))
    return logical(out, order)


@register
class Sub(_Binary):
    """a - b."""

    name = "sub"
    onnx = "Sub"
    passes_gradient = True

    @staticmethod
    def forward(ctx: Context, a, b):
        """Subtract with broadcasting."""
        ctx.saved = _kind(a), _kind(b)
        return _binary("sub", *common_type(a, b), ctx.threads)

    @staticmethod
    def backward(ctx, g):
        """Pass the gradient on, negated for `b`."""
        ka, kb = ctx.saved
        return (sum_to(g, ka) if ctx.needs[0] else None,
                _unary(np.negative, sum_to(g, kb)) if ctx.needs[1] else None)


@register
class Mul(_Binary):
    """a * b."""

    name = "mul"
    onnx = "Mul"
    reads = (0, 1)

    @staticmethod
    def forward(ctx: Context, a, b):
        """Multiply with broadcasting."""
        if any(ctx.needs):
            ctx.saved = a, b
        return _binary("mul", *common_type(a, b), ctx.threads)

    @staticmethod
    def backward(ctx, g):
        """Multiply the gradient by the other factor."""
        a, b = ctx.saved
        return (sum_to(_binary("mul", *common_type(g, b), ctx.threads), _kind(a))
                if ctx.needs[0] else None,
                sum_to(_binary("mul", *common_type(g, a), ctx.threads), _kind(b))
                if ctx.needs[1] else None)


@register
class Div(_Binary):
    """a / b; integers are divided as float32.

    With `rounding_mode` the quotient is rounded towards zero ("trunc") or down ("floor"), and
    integers stay integers; x / 0 is then 0 for them.
    """

    name = "div"
    onnx = "Div"
    reads = (0, 1)

    @staticmethod
    def forward(ctx: Context, a, b, *, rounding_mode: str | None = None):
        """Divide with broadcasting; x / 0 is infinite or NaN, as IEEE 754 says."""
        if rounding_mode not in (None, "trunc", "floor"):
            raise ValueError(f"expected rounding_mode None, 'trunc' or 'floor', "
                             f"got {rounding_mode!r}")
        if any(ctx.needs):
            ctx.saved = a, b, rounding_mode
        x, y = common_type(a, b)
        if rounding_mode:
            return _rounded_quotient(x, y, rounding_mode, ctx.threads)
        if x.dtype.kind != "f":
            x, y = x.astype(np.float32), y.astype(np.float32)
        with np.errstate(all="ignore"):
            return _binary("div", x, y, ctx.threads)

    @staticmethod
    def backward(ctx, g):
        """Return g / b and -g a / b^2; zero where the quotient was rounded."""
        a, b, rounded = ctx.saved
        if rounded:
            return tuple(np.zeros(x.shape, x.dtype) if need else None
                         for x, need in zip((a, b), ctx.needs, strict=True))
        with np.errstate(all="ignore"):
            ga = _binary("div", *common_type(g, b), ctx.threads)
            gb = None
            if ctx.needs[1]:
                gb = _binary("mul", *common_type(ga, a), ctx.threads)
                gb = _binary("div", *common_type(gb, b), ctx.threads)
                gb = sum_to(_unary(np.negative, gb), _kind(b))
        return sum_to(ga, _kind(a)) if ctx.needs[0] else None, gb


def _rounded_quotient(x: np.ndarray, y: np.ndarray, mode: str, threads: int) -> np.ndarray:
    """Return x / y as a whole number."""
    with np.errstate(all="ignore"):
        if x.dtype.kind == "f":
            quotient = _binary("div", x, y, threads)
            return (np.trunc if mode == "trunc" else np.floor)(quotient, out=quotient)
        shape = broadcast_shape(x.shape, y.shape)
        quotient = np.floor_divide(x, y, out=memory.empty(shape, x.dtype))
        if mode == "trunc" and x.dtype.kind == "i":
            # Rounded down; one more where the signs differ and something was left over.
            quotient += (np.fmod(x, y) != 0) & ((x < 0) != (y < 0))
        return quotient


class _Unary(Op):
    """Base of the elementwise functions of one array."""

    function: ClassVar[np.ufunc]

    @staticmethod
    def shape(x, **attrs):
        """Return the input's shape."""
        return x

    @classmethod
    def lower(cls, b, x):
        """Emit NumPy's loop."""
        return lower_function(b, cls.function, x) if x.dtype in FLOATS else None


class _ReadsOutput(_Unary):
    """Base of those whose gradient is a function of the output."""

    reads_output = True

    @classmethod
    def forward(cls, ctx: Context, x):
        """Compute, and keep the output."""
        with np.errstate(all="ignore"):
            y = _unary(cls.function, native(x))
        if any(ctx.needs):
            ctx.saved = y
        return y


@register
class Neg(_Unary):
    """-x."""

    name = "neg"
    onnx = "Neg"
    function = np.negative

    @staticmethod
    def forward(ctx: Context, x):
        """Negate."""
        return _unary(np.negative, _numbers(x, "x"))

    @staticmethod
    def backward(ctx, g):
        """Negate the gradient."""
        return (_unary(np.negative, g),)


@register
class Exp(_ReadsOutput):
    """e to the power x."""

    name = "exp"
    onnx = "Exp"
    function = np.exp

    @staticmethod
    def backward(ctx, g):
        """Return g y."""
        return (_binary("mul", g, ctx.saved, ctx.threads),)


@register
class Log(_Unary):
    """Natural logarithm; -inf at 0, NaN below."""

    name = "log"
    onnx = "Log"
    reads = (0,)
    function = np.log

    @staticmethod
    def forward(ctx: Context, x):
        """Take the logarithm."""
        x = native(x)
        if any(ctx.needs):
            ctx.saved = x
        with np.errstate(all="ignore"):
            return _unary(np.log, x)

    @staticmethod
    def backward(ctx, g):
        """Return g / x."""
        with np.errstate(all="ignore"):
            return (_binary("div", g, ctx.saved, ctx.threads),)


@register
class Sqrt(_ReadsOutput):
    """Square root; NaN below 0."""

    name = "sqrt"
    onnx = "Sqrt"
    function = np.sqrt

    @staticmethod
    def backward(ctx, g):
        """Return g / (2 y)."""
        with np.errstate(all="ignore"):
            half = _binary("div", g, ctx.saved, ctx.threads)
        return (np.multiply(half, half.dtype.type(0.5), out=half),)


@register
class Abs(_Unary):
    """Absolute value; its gradient at 0 is 0."""

    name = "abs"
    onnx = "Abs"
    reads = (0,)
    function = np.absolute

    @staticmethod
    def forward(ctx: Context, x):
        """Take the absolute value."""
        x = _numbers(x, "x")
        if any(ctx.needs):
            ctx.saved = x
        return _unary(np.absolute, x)

    @staticmethod
    def backward(ctx, g):
        """Return g sign(x), where the sign of NaN is 0, as in PyTorch."""
        x = ctx.saved
        sign = np.subtract(x > 0, x < 0, out=like(x), dtype=x.dtype)
        return (np.multiply(sign, g, out=sign),)


@register
class Pow(_Unary):
    """x to a constant power."""

    name = "pow"
    onnx = "Pow"
    reads = (0,)

    @staticmethod
    def forward(ctx: Context, x, *, exponent: float):
        """Raise to the power `exponent`."""
        x = native(x)
        if any(ctx.needs):
            ctx.saved = x, exponent
        return _power(x, exponent)

    @staticmethod
    def lower(b, x, *, exponent: float):
        """Emit NumPy's loop."""
        if x.dtype not in FLOATS:
            return None
        if exponent == 2:
            return lower_function(b, np.square, x)
        return lower_function(b, np.power, x, b.constant(np.full((1,), exponent, x.dtype)))

    @staticmethod
    def backward(ctx, g):
        """Return g exponent x^(exponent - 1)."""
        x, exponent = ctx.saved
        if exponent == 0:
            gx = like(x)
            gx.fill(0)
            return (gx,)
        slope = _power(x, exponent - 1)
        np.multiply(slope, slope.dtype.type(exponent), out=slope)
        return (np.multiply(slope, g, out=slope),)


def _power(x: np.ndarray, exponent: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        if exponent == 2:
            return _unary(np.square, x)
        return np.power(x, x.dtype.type(exponent), out=like(x))


# -- sums and means -------------------------------------------------------------------------


class _Reduction(Op):
    """Base of sum and mean."""

    @staticmethod
    def shape(x, *, dim=None, keepdim=False):
        """Return the shape without the reduced axes (or with ones in their place)."""
        axes = normalize_axes(dim, len(x))
        if keepdim:
            return tuple(1 if i in axes else n for i, n in enumerate(x))
        return tuple(n for i, n in enumerate(x) if i not in axes)


def _form(x: np.ndarray, axes: tuple[int, ...]) -> tuple:
    """Return what `_spread` must know of the input, without keeping it alive."""
    return x.shape, axis_order(x), x.dtype, axes


def _spread(g: np.ndarray, form: tuple, mean: bool) -> np.ndarray:
    """Return the gradient stretched over the reduced axes, laid out as the input was."""
    shape, order, dtype, axes = form
    out = empty_ordered(shape, order, dtype)
    g = g.reshape([1 if i in axes else n for i, n in enumerate(shape)])
    if not mean:
        np.copyto(out, g)
        return out
    return np.divide(g, dtype.type(math.prod(shape[i] for i in axes) or 1), out=out)


@register
class Sum(_Reduction):
    """Sum over some axes (all for dim=None)."""

    name = "sum"
    onnx = "ReduceSum"

    @staticmethod
    def forward(ctx: Context, x, *, dim=None, keepdim=False):
        """Sum; integers are summed as int64."""
        axes = normalize_axes(dim, x.ndim)
        x = _numbers(x, "x")
        if any(ctx.needs):
            ctx.saved = _form(x, axes)
        return _sum(x if x.dtype.kind == "f" else x.astype(np.int64), axes, keepdim, ctx.threads)

    @staticmethod
    def lower(b, x, *, dim=None, keepdim=False):
        """Emit steps for sums over axes but the first."""
        return _lower_sum(b, x, normalize_axes(dim, len(x.shape)), keepdim)

    @staticmethod
    def backward(ctx, g):
        """Stretch the gradient over the summed axes."""
        return (_spread(g, ctx.saved, mean=False),)


@register
class Mean(_Reduction):
    """Mean over some axes (all for dim=None); NaN over no elements."""

    name = "mean"
    onnx = "ReduceMean"

    @staticmethod
    def forward(ctx: Context, x, *, dim=None, keepdim=False):
        """Average."""
        axes = normalize_axes(dim, x.ndim)
        x = native(x)
        if any(ctx.needs):
            ctx.saved = _form(x, axes)
        total = _sum(x, axes, keepdim, ctx.threads)
        count = math.prod(x.shape[i] for i in axes)
        with np.errstate(all="ignore"):
            return np.divide(total, x.dtype.type(count))

    @staticmethod
    def lower(b, x, *, dim=None, keepdim=False):
        """Emit steps for means over axes but the first."""
        axes = normalize_axes(dim, len(x.shape))
        total = _lower_sum(b, x, axes, keepdim)
        if total is None:
            return None
        count = np.full((1,) * len(total.shape), math.prod(x.shape[i] for i in axes), x.dtype)
        return _lower_binary(b, "div", total, b.constant(count))

    @staticmethod
    def backward(ctx, g):
        """Stretch the gradient over the averaged axes, divided by their size."""
        return (_spread(g, ctx.saved, mean=True),)


# -- matrix products ------------------------------------------------------------------------


@register
class MatMul(Op):
    """Matrix product over the last two axes, broadcast over the others."""

    name = "matmul"
    onnx = "MatMul"
    reads = (0, 1)

    @staticmethod
    def shape(a, b):
        """Return (..., rows of a, columns of b), as numpy.matmul does for vectors too."""
        if not a or not b:
            raise ShapeError(f"matmul needs at least one axis on each side, got {a} and {b}")
        rows = a if len(a) > 1 else (1, *a)
        columns = b if len(b) > 1 else (*b, 1)
        if rows[-1] != columns[-2]:
            raise ShapeError(f"cannot multiply matrices of shapes {a} and {b}: "
                             f"{rows[-1]} columns against {columns[-2]} rows")
        stack = broadcast_shape(rows[:-2], columns[:-2])
        return stack + (rows[-2:-1] if len(a) > 1 else ()) + (columns[-1:] if len(b) > 1 else ())

    @staticmethod
    def forward(ctx: Context, a, b):
        """Multiply."""
        shape = MatMul.shape(a.shape, b.shape)
        a, b = common_type(native(a, "a"), native(b, "b"))
        ctx.saved = a, b
        return _products(ctx, _rows(a), _columns(b)).reshape(shape)

    @staticmethod
    def lower(b, x, y):
        """Emit a step for products stacked by samples, where a linear layer's are direct."""
        rank = max(len(x.shape), len(y.shape))
        if x.dtype != y.dtype or x.dtype not in FLOATS or rank < 3 or 1 in (
                len(x.shape), len(y.shape)):
            return None
        own = [[1] * (rank - len(v.shape)) + list(v.shape[:-2]) for v in (x, y)]
        stack = [n if m == 1 else m for m, n in zip(*own, strict=True)]
        rows, depth, columns = matrix = *x.shape[-2:], y.shape[-1]
        if any(not isinstance(n, int) or n == 0 for n in (*stack[1:], *matrix)):
            return None
        problem = linear_problem(rows, (columns, depth), x.dtype, b.precision)
        if planner.choose(problem, "forward").name != "direct":
            return None
        x, y = _side_by_side(b, x, x.strides[-1:]), _side_by_side(b, y, y.strides[-2:])
        strides = [[0] * (rank - len(v.shape)) + list(v.strides) for v in (x, y)]
        for sizes, steps in zip(own, strides, strict=True):
            steps[:-2] = [0 if n == 1 else step for n, step in zip(sizes, steps[:-2], strict=True)]
        step = matmul.step(stack[1:], matrix, x.dtype, *strides)
        if step is None:
            return None
        out = b.new((*stack, rows, columns), x.dtype)
        b.step(step, (x, y, out), out.samples)
        return out

    @staticmethod
    def backward(ctx, g):
        """Return g b^T and a^T g, summed over broadcast axes."""
        a, b = ctx.saved
        rows, columns = _rows(a), _columns(b)
        g = g.reshape((*broadcast_shape(rows.shape[:-2], columns.shape[:-2]),
                       rows.shape[-2], columns.shape[-1]))
        ga = gb = None
        if ctx.needs[0]:
            ga = _products(ctx, g, columns.swapaxes(-1, -2))
            ga = sum_to(ga, _kind(rows)).reshape(a.shape)
        if ctx.needs[1]:
            gb = _products(ctx, rows.swapaxes(-1, -2), g)
            gb = sum_to(gb, _kind(columns)).reshape(b.shape)
        return ga, gb


def _side_by_side(b: Any, x: Any, innermost: tuple[int, ...]) -> Any:
    """Return matrices with numbers side by side along an axis of one of those strides."""
    item = x.dtype.itemsize
    if item in innermost and all(step > 0 and step % item == 0 for step in x.strides[-2:]):
        return x
    return b.in_order(x, tuple(range(len(x.shape))))


def _rows(a: np.ndarray) -> np.ndarray:
    return a[None] if a.ndim == 1 else a


def _columns(b: np.ndarray) -> np.ndarray:
    return b[:, None] if b.ndim == 1 else b


def _products(ctx: Context, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a b for stacks of matrices, each product run as a linear layer.

    NumPy's own product would bring in the threads of a second library, and bits that
    depend on their number.
    """
    stack = broadcast_shape(a.shape[:-2], b.shape[:-2])
    out = memory.empty((*stack, a.shape[-2], b.shape[-1]), a.dtype)
    if 0 in out.shape or a.shape[-1] == 0:
        out.fill(0)
        return out
    inner = Context((False, False), ctx.threads, (None, None), ctx.precision)
    a = np.broadcast_to(a, (*stack, *a.shape[-2:]))
    b = np.broadcast_to(b, (*stack, *b.shape[-2:]))
    for i in np.ndindex(stack):
        out[i] = Linear.forward(inner, a[i], b[i].T)
    return out
