"""Activations: functions of one variable, PReLU, softmax and log-softmax.

Elementwise functions run over the array as it lies in memory, so that a channels-last array
stays one. Each keeps for backward the array that the layers around it keep anyway: its
output where the gradient can be had from that, else its input.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from convkit._kernels import elementwise, memory, norm, softmax
from convkit.errors import DTypeError, ShapeError
from convkit.ops.activated import Activated, Held, gradient, is_spread_later, source_of
from convkit.ops.deferred import ACTIVATIONS, Deferred, Masked, plain, space_for_gradient
from convkit.ops.halves import Narrow
from convkit.ops.kept import LEAST_BYTES, Kept, Remade, Rounded, keep, restored
from convkit.ops.layout import (
    FLOATS,
    axis_order,
    from_last,
    in_order,
    logical,
    native,
    to_last,
)
from convkit.ops.op import Context, Op, register

__all__ = [
    "Celu",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "LeakyRelu",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "Prelu",
    "Relu",
    "Relu6",
    "Selu",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "apply_kernel",
    "lower_kernel",
]


# -- functions of one variable ----------------------------------------------------------------


def apply_kernel(kernel: str, x: np.ndarray, threads: int, parameters: tuple) -> np.ndarray:
    """Return f(x), laid out in memory as `x` is."""
    order = axis_order(x)
    flat = in_order(x, order, threads)
    y = memory.empty(flat.shape, x.dtype)
    elementwise.unary(kernel, flat, y, threads, *parameters)
    return logical(y, order)


def lower_kernel(b: Any, x: Any, kernel: str, parameters: tuple) -> Any:
    """Emit a step for f(x), laid out in memory as `x` is."""
    x = b.compact(x)
    y = b.new(x.shape, x.dtype, x.order)
    b.step(elementwise.unary_step(kernel, math.prod(x.shape[1:]), x.dtype == np.float64,
                                  *parameters), (x, y), x.samples)
    return y


def _map_grad(kernel: str, gy: np.ndarray, saved: np.ndarray, threads: int,
              parameters: tuple, owned: bool) -> np.ndarray:
    """Return gy * f', laid out in memory as `saved` is; over `gy` where that is `owned`."""
    order = axis_order(saved)
    flat, gy = in_order(saved, order, threads), in_order(gy, order, threads)
    gx = space_for_gradient(gy, flat, owned)
    elementwise.unary_grad(kernel, gy, flat, gx, threads, *parameters)
    return logical(gx, order)


class _Unary(Op):
    """A function of one variable; `kernel` is its name among the kernels."""

    kernel: ClassVar[str] = ""

    @staticmethod
    def shape(x: tuple[int, ...], **attrs: Any) -> tuple[int, ...]:
        """Return the input's shape."""
        return x

    @classmethod
    def call(cls) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters, for the attributes given."""
        return cls.kernel, ()

    @classmethod
    def forward(cls, ctx: Context, x: np.ndarray, **attrs: Any) -> np.ndarray:
        """Compute f(x), laid out in memory as `x` is."""
        kernel, parameters = cls.call(**attrs)
        x = native(x)
        y = apply_kernel(kernel, x, ctx.threads, parameters)
        if ctx.needs[0]:
            ctx.saved = (y if cls.reads_output else x, kernel, parameters)
        return y

    @classmethod
    def lower(cls, b: Any, x: Any, **attrs: Any) -> Any:
        """Emit the kernel's step."""
        kernel, parameters = cls.call(**attrs)
        return lower_kernel(b, x, kernel, parameters) if x.dtype in FLOATS else None

    @staticmethod
    def backward(ctx: Context, gy: np.ndarray) -> tuple[np.ndarray]:
        """Return the gradient of x, from what forward saved."""
        saved, kernel, parameters = ctx.saved
        return (_map_grad(kernel, gy, saved, ctx.threads, parameters, ctx.owned),)


class _FromOutput(_Unary):
    """A function whose gradient is computed from its value."""

    reads_output = True


class _FromInput(_Unary):
    """A function whose gradient is computed from its argument."""

    reads = (0,)


class _Absorbing(_FromOutput):
    """One that is computed together with a batch norm and an addition before it.

    Or with what reads it (`ops.activated`).
    """

    defers = 1
    takes_deferred = True
    takes_masked = True

    @classmethod
    def forward(cls, ctx: Context, x: np.ndarray | Narrow, **attrs: Any) -> np.ndarray | Narrow:
        """Compute f(x), laid out in memory as `x` is."""
        put_off = isinstance(x, Deferred) and x.kernel is None
        if put_off:
            y = x.activated(cls.kernel)
        else:
            source = source_of(x, ctx.precision) if ctx.defer else None
            if source is not None:
                y = Activated(source, cls.kernel, ctx.threads)
                ctx.saved = y.held, False, None
                return y
            x = native(x if x.__class__ is np.ndarray else plain(x))
            y = apply_kernel(cls.kernel, x, ctx.threads, ())
        if ctx.needs[0]:
            # Where the mask can be told from the norm's input, the value is not kept.
            value, order = (x, None) if put_off and not x.adds else cls._kept(ctx, x, y)
            ctx.saved = value, put_off, order
        return y

    @classmethod
    def _kept(cls, ctx: Context, x: np.ndarray | Deferred, y: np.ndarray | Deferred
              ) -> tuple[np.ndarray | Narrow | Kept, tuple[int, ...] | None]:
        """Return what to keep of the value `y` of `x`, and the order of its axes in memory."""
        if y.__class__ is Deferred or y.nbytes < LEAST_BYTES:
            return y, None
        order = axis_order(y)
        flat = y if order is None else y.transpose(order)
        if not isinstance(x, Deferred):
            made = memory.noted(x if order is None else x.transpose(order))
            if isinstance(made, Remade) and made.kernel is None:
                memory.note(flat, Remade(made.norm_input, cls.kernel))
        kept = keep(flat, ctx.precision, ctx.threads)
        return (kept, order) if isinstance(kept, Kept) else (y, None)

    @classmethod
    def reads_halves(cls, ctx: Context, gy: Any) -> bool | None:
        """Tell whether the values were put off and are bfloat16, or those of the norm before.

        What is still to be spread over windows is handed on so: whoever is before reads it.
        """
        value, put_off, _ = ctx.saved
        if put_off:
            return isinstance(value, Rounded) or (value.__class__ is Deferred and value.narrow)
        if value.__class__ is not Held:
            return False
        return None if is_spread_later(gy, value) else True

    @classmethod
    def backward(cls, ctx: Context, gy: np.ndarray | Narrow) -> tuple[np.ndarray | Narrow]:
        """Return the gradient of x; where x was a batch norm's output, that masks it."""
        value, put_off, order = ctx.saved
        if put_off:
            if value.__class__ is Deferred and value.adds:
                value = value.kept()
            return (Masked(gy, value, cls.kernel, ctx.threads, ctx.owned),)
        if value.__class__ is Held:
            return (gradient(gy, value, ctx.threads, ctx.owned),)
        gy = gy if gy.__class__ is np.ndarray else plain(gy)
        if isinstance(value, Rounded):
            return (cls._masked(gy, value, order, ctx.threads, ctx.owned),)
        if isinstance(value, Kept):
            shape = gy.shape if order is None else tuple([gy.shape[i] for i in order])
            value = logical(restored(value, shape, ctx.threads), order)
        return (_map_grad(cls.kernel, gy, value, ctx.threads, (), ctx.owned),)


    @classmethod
    def _masked(cls, gy: np.ndarray, value: Rounded, order: tuple[int, ...] | None, threads: int,
                owned: bool) -> np.ndarray:
        """Return the gradient of x from a value kept as bfloat16, which nobody turns into floats.

        That is what batch norm's pass back does before it takes its sums, which are left here.
        """
        gy = in_order(gy, order, threads)
        gx, none = space_for_gradient(gy, gy, owned), np.zeros(gy.shape[-1], gy.dtype)
        norm.masked_sums(gy, value.halves, ACTIVATIONS[cls.kernel][1], none, none, none,
                         value.halves, gx, threads)
        return logical(gx, order)


@register
class Relu(_Absorbing):
    """max(x, 0). The gradient at 0 is 0."""

    name = kernel = "relu"
    onnx = "Relu"


@register
class Relu6(_Absorbing):
    """min(max(x, 0), 6). The gradient at 0 and at 6 is 0."""

    name = kernel = "relu6"
    onnx = "Clip"


@register
class LeakyRelu(_FromOutput):
    """X where x > 0, else negative_slope * x.

    The output tells the sign of x unless the slope is negative: then the input is kept, as a
    copy, because the tape watches the output only.
    """

    name = kernel = "leaky_relu"
    onnx = "LeakyRelu"

    @classmethod
    def call(cls, *, negative_slope: float = 0.01) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        return cls.kernel, (negative_slope,)

    @classmethod
    def forward(cls, ctx: Context, x: np.ndarray, *, negative_slope: float = 0.01) -> np.ndarray:
        """Compute the function, laid out in memory as `x` is."""
        y = super().forward(ctx, x, negative_slope=negative_slope)
        if ctx.needs[0] and negative_slope < 0:
            ctx.saved = (native(x).copy(order="K"), cls.kernel, (negative_slope,))
        return y


@register
class Elu(_FromInput):
    """X where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2015)."""

    name = kernel = "elu"
    onnx = "Elu"

    @classmethod
    def call(cls, *, alpha: float = 1.0) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        return cls.kernel, (alpha,)


@register
class Sigmoid(_FromOutput):
    """1 / (1 + exp(-x))."""

    name = kernel = "sigmoid"
    onnx = "Sigmoid"


@register
class Tanh(_FromOutput):
    """The hyperbolic tangent."""

    name = kernel = "tanh"
    onnx = "Tanh"


@register
class Silu(_FromInput):
    """X / (1 + exp(-x)) (Elfwing et al., 2017)."""

    name = kernel = "silu"
    onnx = "Swish"


@register
class Gelu(_FromInput):
    """X times the normal distribution function (Hendrycks and Gimpel, 2016).

    ``approximate="tanh"`` computes it as 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    """

    name = kernel = "gelu"
    onnx = "Gelu"

    @classmethod
    def call(cls, *, approximate: str = "none") -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        if approximate not in ("none", "tanh"):
            raise ValueError(f"expected approximate of 'none' or 'tanh', got {approximate!r}")
        return "gelu" if approximate == "none" else "gelu_tanh", ()


@register
class HardSwish(_FromInput):
    """X * relu6(x + 3) / 6 (Howard et al., 2019)."""

    name = kernel = "hardswish"
    onnx = "HardSwish"


@register
class HardSigmoid(_FromOutput):
    """relu6(x + 3) / 6."""

    name = kernel = "hardsigmoid"
    onnx = "HardSigmoid"


@register
class HardTanh(_FromInput):
    """min(max(x, min_val), max_val). The gradient at the limits is 0."""

    name = kernel = "hardtanh"
    onnx = "Clip"

    @classmethod
    def call(cls, *, min_val: float = -1.0, max_val: float = 1.0) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        return cls.kernel, (min_val, max_val)


@register
class Selu(_FromInput):
    """ELU of alpha 1.6733 times 1.0507 (Klambauer et al., 2017)."""

    name = kernel = "selu"
    onnx = "Selu"


@register
class Celu(_FromInput):
    """X where x > 0, else alpha * (exp(x / alpha) - 1) (Barron, 2017)."""

    name = kernel = "celu"
    onnx = "Celu"

    @classmethod
    def call(cls, *, alpha: float = 1.0) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        if alpha == 0:
            raise ValueError("expected an alpha other than 0")
        return cls.kernel, (alpha,)


@register
class Softplus(_FromInput):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""

    name = kernel = "softplus"
    onnx = "Softplus"

    @classmethod
    def call(cls, *, beta: float = 1.0, threshold: float = 20.0) -> tuple[str, tuple[float, ...]]:
        """Return the kernel's name and its parameters."""
        return cls.kernel, (beta, threshold)


@register
class LogSigmoid(_FromInput):
    """log(1 / (1 + exp(-x)))."""

    name = kernel = "logsigmoid"


@register
class Softsign(_FromInput):
    """X / (1 + |x|)."""

    name = kernel = "softsign"
    onnx = "Softsign"


@register
class Mish(_FromInput):
    """X * tanh(log(1 + exp(x))) (Misra, "Mish: A Self Regularized Activation Function", 2019)."""

    name = kernel = "mish"
    onnx = "Mish"


# -- PReLU --------------------------------------------------------------------------------------


@register
class Prelu(Op):
    """X where x > 0, else weight * x, with one weight or one per channel (He et al., 2015)."""

    name = "prelu"
    onnx = "PRelu"
    reads = (0, 1)

    @staticmethod
    def shape(x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
        """Return the input's shape."""
        channels = x[1] if len(x) > 1 else 1
        if len(weight) != 1 or weight[0] not in (1, channels):
            raise ShapeError(
                f"expected a weight of shape (1,) or ({channels},) for x of shape {x}, "
                f"got shape {weight}")
        return x

    @staticmethod
    def forward(ctx: Context, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Compute the function; the result is channels-last in memory."""
        Prelu.shape(x.shape, weight.shape)
        x, weight = native(x), native(weight, "weight")
        if weight.dtype != x.dtype:
            raise DTypeError(f"expected weight of {x.dtype} like x, got {weight.dtype}")
        pixels = _channels_in_last_axis(x)
        y = memory.empty(pixels.shape, x.dtype)
        norm.prelu(pixels, _per_channel(weight, pixels), y, ctx.threads)
        if any(ctx.needs):
            ctx.saved = (pixels, weight, x.ndim)
        return _channels_in_axis_one(y, x.ndim)

    @staticmethod
    def lower(b: Any, x: Any, weight: Any) -> Any:
        """Emit the kernel's step, where the weight is a constant."""
        if (weight.constant is None or x.dtype not in FLOATS or weight.dtype != x.dtype
                or not 2 <= len(x.shape) <= 4):
            return None
        x = b.last(x)
        y = b.new_last(x.shape, x.dtype)
        slopes = np.broadcast_to(weight.constant, (x.shape[1],))
        b.step(norm.prelu_step(math.prod(x.shape[2:]), x.dtype == np.float64, slopes), (x, y),
               x.samples)
        return y

    @staticmethod
    def backward(ctx: Context, gy: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the gradients of x and weight."""
        pixels, weight, ndim = ctx.saved
        gx = memory.empty(pixels.shape, pixels.dtype)
        slopes = norm.prelu_grad(_channels_in_last_axis(gy), pixels,
                                 _per_channel(weight, pixels), gx, ctx.threads)
        if weight.size == 1:
            slopes = slopes.sum(keepdims=True)
        return (_channels_in_axis_one(gx, ndim) if ctx.needs[0] else None,
                slopes.astype(weight.dtype) if ctx.needs[1] else None)


def _per_channel(weight: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return one weight per channel."""
    return np.broadcast_to(weight, pixels.shape[-1:])


def _channels_in_last_axis(x: np.ndarray) -> np.ndarray:
    """Return `x` with axis 1 last and contiguous; arrays of fewer axes get one of length 1."""
    if x.ndim < 2:
        return in_order(x, None)[..., None]
    if x.ndim <= 4:
        return to_last(x)
    return in_order(np.moveaxis(x, 1, -1), None)


def _channels_in_axis_one(y: np.ndarray, ndim: int) -> np.ndarray:
    """Undo `_channels_in_last_axis` as a view."""
    if ndim < 2:
        return y[..., 0]
    return from_last(y) if ndim <= 4 else np.moveaxis(y, -1, 1)


# -- softmax ------------------------------------------------------------------------------------


class _Normalised(Op):
    """Softmax or its logarithm along one axis.

    The kernels run along the last axis in memory. Over the channels of a channels-last array
    that is no copy, nor over the last axis of an array in C order.
    """

    reads_output = True
    log: ClassVar[bool] = False

    @staticmethod
    def shape(x: tuple[int, ...], *, dim: int = -1) -> tuple[int, ...]:
        """Return the input's shape."""
        _axis(dim, len(x))
        return x

    @classmethod
    def forward(cls, ctx: Context, x: np.ndarray, *, dim: int = -1) -> np.ndarray:
        """Compute the function; the axis `dim` of the result is its last in memory."""
        dim = _axis(dim, x.ndim)
        moved = in_order(np.moveaxis(np.atleast_1d(native(x)), dim, -1), None, ctx.threads)
        out = memory.empty(moved.shape, moved.dtype)
        softmax.softmax(moved, out, ctx.threads, cls.log)
        if ctx.needs[0]:
            ctx.saved = (out, dim)
        return np.moveaxis(out, -1, dim) if x.ndim else out[0]

    @classmethod
    def lower(cls, b: Any, x: Any, *, dim: int = -1) -> Any:
        """Emit the kernel's step on an array whose axis `dim` is the last in memory."""
        dim = _axis(dim, len(x.shape))
        if x.dtype not in FLOATS or dim == 0:
            return None
        order = (*[i for i in range(len(x.shape)) if i != dim], dim)
        x = b.in_order(x, order)
        y = b.new(x.shape, x.dtype, order)
        b.step(softmax.step(math.prod(x.shape[1:]) // x.shape[dim], x.shape[dim],
                            x.dtype == np.float64, cls.log), (x, y), x.samples)
        return y

    @classmethod
    def backward(cls, ctx: Context, gy: np.ndarray) -> tuple[np.ndarray]:
        """Return the gradient of x, from the values."""
        values, dim = ctx.saved
        moved = in_order(np.moveaxis(np.atleast_1d(gy), dim, -1), None, ctx.threads)
        gx = memory.empty(values.shape, values.dtype)
        softmax.softmax_grad(moved, values, gx, ctx.threads, cls.log)
        return (np.moveaxis(gx, -1, dim) if gy.ndim else gx[0],)


@register
class Softmax(_Normalised):
    """exp(x) / sum(exp(x)) along an axis."""

    name = "softmax"
    onnx = "Softmax"


@register
class LogSoftmax(_Normalised):
    """X - log(sum(exp(x))) along an axis."""

    name = "log_softmax"
    onnx = "LogSoftmax"
    log = True


def _axis(dim: int, ndim: int) -> int:
    """Return a non-negative axis; raise ShapeError where there is no such axis."""
    last = max(ndim, 1)
    if not -last <= dim < last:
        raise ShapeError(f"dim {dim} is out of range for {ndim} axes")
    return dim % last
