"""Operators on integers: QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger and their kin.

The QLinear operators are read as what they stand for, a float layer between conversions, which
`fuse_quantized` makes one on bytes. The Integer operators are layers on bytes with int32 results
where weights and zero points are constants; what is not is computed in float64, which is exact.
"""

from __future__ import annotations

import numpy as np

from convkit.errors import UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, handles
from convkit.io.onnx.convolution import conv, padding_of
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.quantization import dequantized, quantized
from convkit.io.onnx.windows import windows

__all__: list[str] = []


@handles("QLinearConv")
def qlinear_conv(b: Builder, node: Operator) -> Val:
    """Return a convolution between conversions."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*node.inputs, None)[:9]
    if bias is not None:
        steps = b.op("mul", b.reshape(x_scale, ()), w_scale)
        bias = dequantized(b, bias, steps, None, 0)
    layer = Operator("Conv", node.opset, [
        dequantized(b, x, x_scale, x_zero, 0), dequantized(b, w, w_scale, w_zero, 0), bias],
        node.attrs, node.outputs)
    return quantized(b, conv(b, layer), y_scale, y_zero, 1)


@handles("QLinearMatMul")
def qlinear_matmul(b: Builder, node: Operator) -> Val:
    """Return a product between conversions."""
    a, a_scale, a_zero, c, c_scale, c_zero, y_scale, y_zero = node.inputs
    for scale, axes, what in ((a_scale, a.rank, "a"), (c_scale, c.rank, "b")):
        if scale.rank > 1 or (scale.size != 1 and axes != 2):
            raise UnsupportedOperatorError(f"QLinearMatMul with {what}_scale of {scale.shape}")
    product = b.op("matmul", dequantized(b, a, a_scale, a_zero, 0),
                   dequantized(b, c, c_scale, c_zero, 1))
    return quantized(b, product, y_scale, y_zero, 0)


@handles("ConvInteger")
def conv_integer(b: Builder, node: Operator) -> Val:
    """Return the sums of a convolution of integers, int32."""
    x, w, x_zero, w_zero = (*node.inputs, None, None)[:4]
    weight = _int8(w, w_zero, 0)
    if weight is not None and _is_byte(x, x_zero) and x.rank in (3, 4):
        form = windows(node, x.shape[2:], w.shape[2:])
        return b.op("quant_conv", x, *_layer(b, weight), stride=form.stride,
                    padding=padding_of(form, x.shape[2:]), dilation=form.dilation,
                    groups=node.attrs["group"], dtype="int32", x_scale=1.0, x_zero=_zero(x_zero))
    layer = Operator("Conv", node.opset, [_wide(b, x, x_zero, 0), _wide(b, w, w_zero, 0)],
                     node.attrs, node.outputs)
    return b.cast(conv(b, layer), "int32")


@handles("MatMulInteger")
def matmul_integer(b: Builder, node: Operator) -> Val:
    """Return the sums of a product of integers, int32."""
    a, c, a_zero, c_zero = (*node.inputs, None, None)[:4]
    weight = _int8(c, c_zero, 1)
    one = a_zero is None or a_zero.size == 1
    if weight is not None and c.rank == 2 and a.rank >= 2 and one and a.dtype in ("uint8", "int8"):
        weight = np.ascontiguousarray(weight.T)
        known = a_zero is None or a_zero.array is not None
        y = b.op("quant_linear", a, *_layer(b, weight), dtype="int32", x_scale=1.0,
                 x_zero=_zero(a_zero) if known else 0)
        if known:
            return y
        # The zero point is found when the network runs: its part is taken away after.
        sums = b.constant(weight.sum(axis=1, dtype=np.int32))
        return b.op("sub", y, b.op("mul", b.cast(b.reshape(a_zero, ()), "int32"), sums))
    rows = a.rank - 2 if a_zero is not None and a_zero.size > 1 else 0
    return b.cast(b.op("matmul", _wide(b, a, a_zero, rows), _wide(b, c, c_zero, c.rank - 1)),
                  "int32")


def _int8(w: Val, zero: Val | None, axis: int) -> np.ndarray | None:
    """Return a constant weight less its zero point where that fits int8."""
    if w.array is None or w.size == 0 or (zero is not None and zero.array is None):
        return None
    values = w.array.astype(np.int32)
    if zero is not None:
        form = [-1 if i == axis else 1 for i in range(w.rank)]
        values = values - zero.array.astype(np.int32).reshape(form if zero.size > 1 else ())
    if values.min() < -128 or values.max() > 127:
        return None
    return values.astype(np.int8)


def _is_byte(x: Val, zero: Val | None) -> bool:
    """Tell whether a value is bytes with one zero point that is known."""
    return x.dtype in ("uint8", "int8") and (zero is None or (
        zero.size == 1 and zero.array is not None))


def _zero(zero: Val | None) -> int:
    return 0 if zero is None else int(zero.array.reshape(-1)[0])


def _layer(b: Builder, weight: np.ndarray) -> tuple[Val, Val]:
    """Return weight and scales of a layer whose result is its sums."""
    return b.constant(weight), b.constant(np.ones(len(weight), np.float32))


def _wide(b: Builder, x: Val, zero: Val | None, axis: int) -> Val:
    """Return integers less their zero points along an axis, in float64."""
    wide = b.cast(x, "float64")
    if zero is None:
        return wide
    form = tuple([-1 if i == axis and zero.size > 1 else 1 for i in range(x.rank)])
    shape = tuple([zero.size if n == -1 else 1 for n in form])
    return b.op("sub", wide, b.reshape(b.cast(zero, "float64"), shape))


@handles("DynamicQuantizeLinear")
def dynamic_quantize(b: Builder, node: Operator) -> tuple[Val, Val, Val]:
    """Return uint8 numbers with the scale and the zero point of the range that they have."""
    x = node.input(0)
    nothing = b.like(0, x)
    high = b.op("maximum", b.op("amax", x, dim=None, keepdim=False), nothing)
    low = b.op("minimum", b.op("amin", x, dim=None, keepdim=False), nothing)
    scale = b.op("div", b.op("sub", high, low), b.like(255, x))
    zero = b.op("clamp", b.op("div", b.op("neg", low), scale), min=0.0, max=255.0)
    zero = b.cast(b.op("round", zero), "uint8")
    y = b.op("quantize_linear", x, scale, zero, dtype="uint8", dim=0, block_size=0)
    return y, scale, zero
