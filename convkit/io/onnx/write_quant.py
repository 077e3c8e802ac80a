"""Quantised operations as ONNX nodes: float layers between conversions."""

from __future__ import annotations

import numpy as np

from convkit.io.onnx.write_layers import average, flat_pads
from convkit.io.onnx.write_math import activated
from convkit.io.onnx.writer import Step, Writer, writes

__all__: list[str] = []


def _real(w: Writer, x: str, dtype: str, scale: float, zero: int) -> str:
    """Return the numbers that bytes stand for."""
    return w.op("DequantizeLinear", x, w.scalar(scale, "float32"), w.scalar(zero, dtype))


def _held(w: Writer, s: Step, y: str) -> str:
    """Return a result in the form in which it is held."""
    a = s.attrs
    if a["dtype"] == "float32":
        return y
    return w.op("QuantizeLinear", y, w.scalar(a["y_scale"], "float32"),
                w.scalar(a["y_zero"], a["dtype"]))


def _layer(w: Writer, s: Step) -> tuple[str, str, str | None]:
    """Return input, weight and bias of a layer as floats."""
    a = s.attrs
    x = _real(w, s.ins[0], s.dtypes[0], a["x_scale"], a["x_zero"])
    weight = w.op("DequantizeLinear", s.ins[1], s.ins[2], axis=0)
    if s.input(3) is None:
        return x, weight, None
    steps = w.op("Mul", s.ins[2], w.scalar(a["x_scale"], "float32"))
    return x, weight, w.op("DequantizeLinear", s.ins[3], steps, axis=0)


def _end(w: Writer, s: Step, y: str) -> str:
    """Add the residual, activate and quantise."""
    a, residual = s.attrs, s.input(4)
    if residual is not None:
        if s.dtypes[4] != "float32":
            residual = _real(w, residual, s.dtypes[4], a["residual_scale"], a["residual_zero"])
        y = w.op("Add", y, residual)
    return _held(w, s, activated(w, y, a["activation"], a["activation_args"], "float32"))


def _sums(w: Writer, y: str, column: str | None) -> str:
    """Add the bias to int32 sums."""
    return y if column is None else w.op("Add", y, column)


@writes("quant_conv")
def quant_conv(w: Writer, s: Step) -> str:
    """Write Conv between conversions; ConvInteger for int32 results."""
    a = s.attrs
    form = {"kernel_shape": list(s.shapes[1][2:]), "strides": list(a["stride"]),
            "pads": flat_pads(a["padding"]), "dilations": list(a["dilation"]),
            "group": a["groups"]}
    if a["dtype"] == "int32":
        y = w.op("ConvInteger", s.ins[0], s.ins[1], w.scalar(a["x_zero"], s.dtypes[0]), **form)
        bias = s.input(3)
        return _sums(w, y, bias and w.reshape(bias, (-1, *(1,) * (s.rank - 2))))
    return _end(w, s, w.op("Conv", *_layer(w, s), **form))


@writes("quant_linear")
def quant_linear(w: Writer, s: Step) -> str:
    """Write Gemm or MatMul between conversions; MatMulInteger for int32 results."""
    a = s.attrs
    if a["dtype"] == "int32":
        weight = w.op("Transpose", s.ins[1], perm=[1, 0])
        y = w.op("MatMulInteger", s.ins[0], weight, w.scalar(a["x_zero"], s.dtypes[0]))
        return _sums(w, y, s.input(3))
    x, weight, bias = _layer(w, s)
    if s.rank == 2:
        return _end(w, s, w.op("Gemm", x, weight, bias, transB=1))
    y = w.op("MatMul", x, w.op("Transpose", weight, perm=[1, 0]))
    return _end(w, s, y if bias is None else w.op("Add", y, bias))


@writes("quant_add")
def quant_add(w: Writer, s: Step) -> str:
    """Write Add between conversions."""
    a = s.attrs
    y = w.op("Add", *[_real(w, x, dtype, a[f"{name}_scale"], a[f"{name}_zero"])
                      for x, dtype, name in zip(s.ins, s.dtypes, "ab", strict=True)])
    return _held(w, s, activated(w, y, a["activation"], a["activation_args"], "float32"))


@writes("quant_avg_pool")
def quant_avg_pool(w: Writer, s: Step) -> str:
    """Write AveragePool between conversions."""
    a = s.attrs
    x = _real(w, s.ins[0], s.dtypes[0], a["x_scale"], a["x_zero"])
    return _held(w, s, average(w, s, x))


@writes("lookup")
def lookup(w: Writer, s: Step) -> str:
    """Write Gather; int8 counts as the unsigned number of the same bits."""
    at = w.op("Cast", s.ins[0], to=6)
    if s.dtypes[0] == "int8":
        at = w.op("Mod", w.op("Add", at, w.constant(np.array(256, np.int32))),
                  w.constant(np.array(256, np.int32)))
    return w.op("Gather", s.ins[1], at, axis=0)
