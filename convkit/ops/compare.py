"""Comparisons and logic, whose results are booleans, and choosing by them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from convkit._kernels import elements, memory
from convkit.errors import DTypeError
from convkit.ops.layout import like
from convkit.ops.math import broadcast_shape, common_type, lower_function, sum_to
from convkit.ops.op import Context, Op, register

__all__ = ["Where"]


class _Test(Op):
    """Base of what gives booleans; none has a gradient."""

    differentiable = 0
    ufunc: ClassVar[np.ufunc]


class _Comparison(_Test):
    """Two broadcasting operands compared by value, in their common type."""

    @staticmethod
    def shape(a, b):
        """Return the broadcast shape."""
        return broadcast_shape(a, b)

    @classmethod
    def forward(cls, ctx: Context, a, b):
        """Compare."""
        a, b = common_type(a, b)
        return _into(cls.ufunc, a, b)

    @classmethod
    def lower(cls, b, x, y):
        """Emit NumPy's loop, for operands of one type."""
        return lower_function(b, cls.ufunc, x, y, np.dtype(bool))


class _Logic(_Test):
    """Two broadcasting operands as truth values."""

    @staticmethod
    def shape(a, b):
        """Return the broadcast shape."""
        return broadcast_shape(a, b)

    @classmethod
    def forward(cls, ctx: Context, a, b):
        """Combine."""
        return _into(cls.ufunc, a, b)

    @classmethod
    def lower(cls, b, x, y):
        """Emit NumPy's loop, for operands of one type."""
        return lower_function(b, cls.ufunc, x, y, np.dtype(bool))


class _Property(_Test):
    """A question about every element."""

    @staticmethod
    def shape(x):
        """Return the input's shape."""
        return x

    @classmethod
    def forward(cls, ctx: Context, x):
        """Ask."""
        return cls.ufunc(x, out=like(x, np.dtype(bool)))

    @classmethod
    def lower(cls, b, x):
        """Emit NumPy's loop."""
        return lower_function(b, cls.ufunc, x, result=np.dtype(bool))


def _into(ufunc: np.ufunc, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ufunc(a, b) as booleans, laid out as the operand of the result's shape."""
    shape = broadcast_shape(a.shape, b.shape)
    whole = next((x for x in (a, b) if x.shape == shape), None)
    boolean = np.dtype(bool)
    out = memory.empty(shape, boolean) if whole is None else like(whole, boolean)
    return ufunc(a, b, out=out)


_TABLE: tuple[tuple[str, str | None, type, np.ufunc, str], ...] = (
    ("eq", "Equal", _Comparison, np.equal, "Whether a == b."),
    ("ne", None, _Comparison, np.not_equal, "Whether a != b."),
    ("lt", "Less", _Comparison, np.less, "Whether a < b."),
    ("le", "LessOrEqual", _Comparison, np.less_equal, "Whether a <= b."),
    ("gt", "Greater", _Comparison, np.greater, "Whether a > b."),
    ("ge", "GreaterOrEqual", _Comparison, np.greater_equal, "Whether a >= b."),
    ("logical_and", "And", _Logic, np.logical_and, "Whether both are true."),
    ("logical_or", "Or", _Logic, np.logical_or, "Whether one of the two is true."),
    ("logical_xor", "Xor", _Logic, np.logical_xor, "Whether exactly one of the two is true."),
    ("logical_not", "Not", _Property, np.logical_not, "Whether x is false."),
    ("isnan", "IsNaN", _Property, np.isnan, "Whether x is not a number."),
    ("isinf", "IsInf", _Property, np.isinf, "Whether x is infinite."),
)

for _name, _onnx, _base, _ufunc, _doc in _TABLE:
    register(type(_name.title().replace("_", ""), (_base,), {
        "__doc__": _doc, "__module__": __name__, "name": _name, "onnx": _onnx,
        "ufunc": staticmethod(_ufunc)}))


@register
class Where(Op):
    """The elements of `a` where `condition` is true, those of `b` elsewhere."""

    name = "where"
    onnx = "Where"
    reads = (0,)

    @staticmethod
    def shape(condition, a, b):
        """Return the broadcast shape of all three."""
        return broadcast_shape(condition, broadcast_shape(a, b))

    @staticmethod
    def forward(ctx: Context, condition, a, b):
        """Choose, with broadcasting."""
        if condition.dtype.kind != "b":
            raise DTypeError(f"expected condition of bool, got {condition.dtype}")
        a, b = common_type(a, b)
        if any(ctx.needs):
            ctx.saved = condition, (a.shape, a.dtype), (b.shape, b.dtype)
        out = memory.empty(Where.shape(condition.shape, a.shape, b.shape), a.dtype)
        np.copyto(out, b)
        np.copyto(out, a, where=condition)
        return out

    @staticmethod
    def lower(b, condition, x, y):
        """Emit a step, laid out as the first operand of the result's shape."""
        operands = (condition, x, y)
        rank = max(len(v.shape) for v in operands)
        sizes = [[1] * (rank - len(v.shape)) + list(v.shape) for v in operands]
        shape = tuple([next((n for n in axis if n != 1), 1) for axis in zip(*sizes, strict=True)])
        whole = [v for v in operands if v.shape == shape]
        if (condition.dtype.kind != "b" or x.dtype != y.dtype or not whole
                or any(n == 0 for n in shape) or not all(v.regular for v in whole)):
            return None
        order = whole[0].order
        strides = [[0 if own[i] == 1 else ((0,) * (rank - len(v.shape)) + v.strides)[i]
                    for i in order] for v, own in zip(operands, sizes, strict=True)]
        step = elements.where_step([shape[i] for i in order[1:]], strides, x.dtype.itemsize)
        if step is None:
            return None
        out = b.new(shape, x.dtype, order)
        b.step(step, (*operands, out), out.samples)
        return out

    @staticmethod
    def backward(ctx: Context, g):
        """Hand each gradient to the operand that was chosen."""
        condition, a, b = ctx.saved
        zero = g.dtype.type(0)
        return (None, sum_to(np.where(condition, g, zero), a) if ctx.needs[1] else None,
                sum_to(np.where(condition, zero, g), b) if ctx.needs[2] else None)
