"""QuantizeLinear and DequantizeLinear, evaluated as they are written."""

from __future__ import annotations

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, handles
from convkit.io.onnx.node import Operator, Val
from convkit.io.onnx.types import LEVELS, elem_name, held
from convkit.ops.quantize import TYPES

__all__ = ["dequantized", "quantized"]


def _place(node: Operator, x: Val, scale: Val) -> dict[str, int]:
    """Return the axis of the scale and the size of blocks."""
    block = node.attrs.get("block_size", 0)
    axis = node.attrs.get("axis", 1)
    if block < 0:
        raise ModelFormatError(f"block_size {block}")
    if scale.size == 1 and not block:
        return {"dim": 0, "block_size": 0}
    if not -x.rank <= axis < x.rank:
        raise ModelFormatError(f"axis {axis} is out of range for {x.rank} axes")
    return {"dim": axis, "block_size": block}


def _scalar(b: Builder, v: Val | None) -> Val | None:
    """Return a scale or zero point of one element as a number."""
    return v if v is None or v.size != 1 or v.rank > 1 else b.reshape(v, ())


@handles("QuantizeLinear")
def quantize(b: Builder, node: Operator) -> Val:
    """Return round(x / scale) + zero point, saturated to the output's type."""
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    elem = node.attrs.get("output_dtype", 0) or (2 if zero is None else zero.elem)
    name, dtype = elem_name(elem), held(elem)
    if dtype not in TYPES:
        raise UnsupportedOperatorError(f"QuantizeLinear to {name}")
    low, high = LEVELS.get(name, (None, None))
    place = _place(node, x, scale)
    x = x if x.is_float else b.cast(x, "float32")
    return b.op("quantize_linear", x, _scalar(b, b.cast(scale, x.dtype)), _scalar(b, zero),
                dtype=dtype, quant_min=low, quant_max=high, **place)


def quantized(b: Builder, x: Val, scale: Val, zero: Val, dim: int) -> Val:
    """Return x in steps of scale, in the type of its zero point."""
    return b.op("quantize_linear", x, _scalar(b, b.cast(scale, x.dtype)), _scalar(b, zero),
                dtype=zero.dtype, dim=dim if scale.size > 1 else 0, block_size=0)


@handles("DequantizeLinear")
def dequantize(b: Builder, node: Operator) -> Val:
    """Return (x - zero point) * scale."""
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    if x.is_float:
        raise UnsupportedOperatorError("DequantizeLinear of floats")
    return _dequantized(b, x, scale, zero, **_place(node, x, scale))


def dequantized(b: Builder, x: Val, scale: Val, zero: Val | None, dim: int) -> Val:
    """Return what x stands for, in float32, with scales along an axis or one for all."""
    return _dequantized(b, x, b.cast(scale, "float32"), zero,
                        dim=dim if scale.size > 1 else 0, block_size=0)


def _dequantized(b: Builder, x: Val, scale: Val, zero: Val | None, **place: int) -> Val:
    scale, zero = _scalar(b, scale), _scalar(b, zero)
    # Weights and biases stay as they are, for layers that multiply integers.
    if x.array is not None and (x.rank >= 2 or x.dtype == "int32"):
        return b.record("dequantize_linear", x, scale, zero, **place)
    return b.op("dequantize_linear", x, scale, zero, **place)
