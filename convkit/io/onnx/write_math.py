"""Arithmetic, activations, reductions and the moving of elements as ONNX nodes."""

from __future__ import annotations

import numpy as np

from convkit.errors import UnsupportedOperatorError
from convkit.infer.dims import BatchDim
from convkit.io.onnx.types import elem_of
from convkit.io.onnx.writer import Step, Writer, writes
from convkit.ops.op import REGISTRY

__all__ = ["activated"]

LIMIT = 2**31 - 1


def activated(w: Writer, y: str, activation: str | None, args: tuple, dtype: str) -> str:
    """Return y with an activation applied that was fused into the step before."""
    if activation == "relu":
        return w.op("Relu", y)
    if activation == "relu6":
        return w.op("Clip", y, w.scalar(0, dtype), w.scalar(6, dtype))
    if activation == "leaky_relu":
        return w.op("LeakyRelu", y, alpha=args[0] if args else 0.01)
    if activation == "clamp":
        return w.op("Clip", y, *(w.scalar(v, dtype) for v in args))
    return y


# -- the same in both -------------------------------------------------------------------------


@writes("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf",
        "exp", "floor", "hardswish", "log", "mish", "neg", "reciprocal", "relu", "round", "selu",
        "sigmoid", "sign", "sin", "sinh", "softsign", "sqrt", "tan", "tanh",
        "sub", "mul", "matmul", "maximum", "minimum", "power", "eq", "lt", "le", "gt", "ge",
        "logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf", "where")
def same(w: Writer, s: Step) -> str:
    """Write the operator that the operation names as its own."""
    return w.op(REGISTRY[s.node.op].onnx, *s.ins)


# -- activations ------------------------------------------------------------------------------


@writes("add")
def add(w: Writer, s: Step) -> str:
    """Write Add, and what was fused into it."""
    return activated(w, w.op("Add", *s.ins), s.attrs.get("activation"),
                     s.attrs.get("activation_args", ()), s.dtype)


@writes("relu6")
def relu6(w: Writer, s: Step) -> str:
    """Write Clip."""
    return activated(w, s.ins[0], "relu6", (), s.dtype)


@writes("clamp", "hardtanh")
def clamp(w: Writer, s: Step) -> str:
    """Write Clip."""
    low, high = (s.attrs.get(n, s.attrs.get(f"{n}_val")) for n in ("min", "max"))
    if not s.dtype.startswith("float"):
        info = np.iinfo(s.dtype)
        low, high = (None if v is None else max(min(int(v), info.max), info.min)
                     for v in (low, high))
    return w.op("Clip", s.ins[0], *(None if v is None else w.scalar(v, s.dtype)
                                    for v in (low, high)))


@writes("silu")
def silu(w: Writer, s: Step) -> str:
    """Write X times its sigmoid."""
    return w.op("Mul", s.ins[0], w.op("Sigmoid", s.ins[0]))


@writes("logsigmoid")
def logsigmoid(w: Writer, s: Step) -> str:
    """Write -softplus(-x)."""
    return w.op("Neg", w.op("Softplus", w.op("Neg", s.ins[0])))


@writes("softplus")
def softplus(w: Writer, s: Step) -> str:
    """Write Softplus, scaled; above the threshold, x."""
    beta, threshold = s.attrs["beta"], s.attrs["threshold"]
    x = s.ins[0]
    inner = x if beta == 1 else w.op("Mul", x, w.scalar(beta, s.dtype))
    y = w.op("Softplus", inner)
    if beta != 1:
        y = w.op("Div", y, w.scalar(beta, s.dtype))
    if threshold >= 20:  # there, the two differ by less than a float32 shows
        return y
    return w.op("Where", w.op("Greater", inner, w.scalar(threshold, s.dtype)), x, y)


@writes("hardsigmoid")
def hardsigmoid(w: Writer, s: Step) -> str:
    """Write HardSigmoid with a slope of a sixth."""
    return w.op("HardSigmoid", s.ins[0], alpha=1 / 6, beta=0.5)


@writes("leaky_relu")
def leaky_relu(w: Writer, s: Step) -> str:
    """Write LeakyRelu."""
    return w.op("LeakyRelu", s.ins[0], alpha=s.attrs["negative_slope"])


@writes("elu")
def elu(w: Writer, s: Step) -> str:
    """Write Elu."""
    return w.op("Elu", s.ins[0], alpha=s.attrs["alpha"])


@writes("celu")
def celu(w: Writer, s: Step) -> str:
    """Write Celu, which is for float32 alone; else what it stands for."""
    x, alpha = s.ins[0], s.attrs["alpha"]
    if s.dtype == "float32":
        return w.op("Celu", x, alpha=alpha)
    zero, scale = w.scalar(0, s.dtype), w.scalar(alpha, s.dtype)
    below = w.op("Sub", w.op("Exp", w.op("Div", x, scale)), w.scalar(1, s.dtype))
    return w.op("Add", w.op("Max", x, zero), w.op("Min", w.op("Mul", scale, below), zero))


@writes("gelu")
def gelu(w: Writer, s: Step) -> str:
    """Write Gelu."""
    return w.op("Gelu", s.ins[0], approximate=s.attrs["approximate"])


@writes("prelu")
def prelu(w: Writer, s: Step) -> str:
    """Write PRelu, its slopes along the channels."""
    slope = s.ins[1]
    if s.rank > 2 and s.shapes[1] != (1,):
        slope = w.op("Unsqueeze", slope, w.ints(*range(1, s.rank - 1)))
    return w.op("PRelu", s.ins[0], slope)


@writes("softmax", "log_softmax")
def softmax(w: Writer, s: Step) -> str:
    """Write Softmax or LogSoftmax."""
    return w.op(REGISTRY[s.node.op].onnx, s.ins[0], axis=s.attrs["dim"])


# -- arithmetic -------------------------------------------------------------------------------


@writes("div")
def div(w: Writer, s: Step) -> str:
    """Write Div, and what rounds it."""
    rounding, integers = s.attrs["rounding_mode"], not s.dtype.startswith("float")
    a, b = s.ins
    if integers and rounding is None:
        raise UnsupportedOperatorError("a quotient of integers as a float has no form in ONNX")
    if integers and rounding == "floor":
        return w.op("Div", w.op("Sub", a, w.op("Mod", a, b)), b)
    y = w.op("Div", a, b)
    if integers or rounding is None:
        return y
    if rounding == "floor":
        return w.op("Floor", y)
    return w.op("Mul", w.op("Sign", y), w.op("Floor", w.op("Abs", y)))


@writes("fmod")
def fmod(w: Writer, s: Step) -> str:
    """Write Mod with the dividend's sign."""
    return w.op("Mod", *s.ins, fmod=1)


@writes("remainder")
def remainder(w: Writer, s: Step) -> str:
    """Write Mod with the divisor's sign, which ONNX has for integers only."""
    a, b = s.ins
    if not s.dtype.startswith("float"):
        return w.op("Mod", a, b)
    return w.op("Sub", a, w.op("Mul", b, w.op("Floor", w.op("Div", a, b))))


@writes("ne")
def ne(w: Writer, s: Step) -> str:
    """Write Not Equal."""
    return w.op("Not", w.op("Equal", *s.ins))


@writes("pow")
def pow_(w: Writer, s: Step) -> str:
    """Write Pow by a constant."""
    return w.op("Pow", s.ins[0], w.scalar(s.attrs["exponent"], s.dtype))


@writes("cast")
def cast(w: Writer, s: Step) -> str:
    """Write Cast."""
    return w.op("Cast", s.ins[0], to=elem_of(s.attrs["dtype"]))


@writes("quantize_linear")
def quantize(w: Writer, s: Step) -> str:
    """Write QuantizeLinear; limits other than the type's are kept by a Clip."""
    a, dtype = s.attrs, s.attrs["dtype"]
    if dtype == "int32":
        raise UnsupportedOperatorError("quantize_linear to int32 has no form in ONNX")
    zero = s.input(2) or w.constant(np.zeros(s.shapes[1], dtype), "zero_point")
    form = {"block_size": a["block_size"] or None, "axis": a["dim"] if s.shapes[1] else None}
    y = w.op("QuantizeLinear", *s.ins[:2], zero, **form)
    info = np.iinfo(dtype)
    low, high = a["quant_min"], a["quant_max"]
    if (low is None or low <= info.min) and (high is None or high >= info.max):
        return y
    return w.op("Clip", y, None if low is None else w.scalar(max(low, info.min), dtype),
                None if high is None else w.scalar(min(high, info.max), dtype))


@writes("dequantize_linear")
def dequantize(w: Writer, s: Step) -> str:
    """Write DequantizeLinear."""
    form = {"block_size": s.attrs["block_size"] or None,
            "axis": s.attrs["dim"] if s.shapes[1] else None}
    return w.op("DequantizeLinear", *s.ins[:2], s.input(2), **form)


# -- reductions -------------------------------------------------------------------------------


@writes("sum", "mean", "amax", "amin", "prod")
def reduce(w: Writer, s: Step) -> str:
    """Write ReduceSum and its kin, whose axes are an input."""
    dim = s.attrs["dim"]
    x = s.ins[0]
    if not s.dtype.startswith("float") and s.node.op in ("sum", "prod"):
        x = w.op("Cast", x, to=elem_of("int64"))
    if dim == () or s.rank == 0:
        return w.op("Identity", x)
    axes = range(s.rank) if dim is None else dim
    return w.op(REGISTRY[s.node.op].onnx, x, w.ints(*axes), keepdims=int(s.attrs["keepdim"]))


@writes("argmax", "argmin")
def arg_extreme(w: Writer, s: Step) -> str:
    """Write ArgMax or ArgMin; over all axes, of the flattened array."""
    name, x = REGISTRY[s.node.op].onnx, s.ins[0]
    if s.dtypes[0] == "bool":
        x = w.op("Cast", x, to=elem_of("uint8"))
    if s.attrs["dim"] is not None:
        return w.op(name, x, axis=s.attrs["dim"], keepdims=int(s.attrs["keepdim"]))
    y = w.op(name, w.op("Reshape", x, w.ints(-1)), axis=0, keepdims=0)
    return w.reshape(y, s.out)


@writes("topk")
def topk(w: Writer, s: Step) -> tuple[str, str]:
    """Write TopK."""
    return tuple(w.op("TopK", s.ins[0], w.ints(s.attrs["k"]), outputs=2, axis=s.attrs["dim"],
                      largest=int(s.attrs["largest"])))


@writes("cumsum")
def cumsum(w: Writer, s: Step) -> str:
    """Write CumSum."""
    x = s.ins[0] if s.dtype.startswith("float") else w.op("Cast", s.ins[0], to=elem_of("int64"))
    return w.op("CumSum", x, w.scalar(s.attrs["dim"], "int64"))


# -- moving elements --------------------------------------------------------------------------


@writes("reshape", "flatten")
def reshape(w: Writer, s: Step) -> str:
    """Write Reshape."""
    return w.reshape(s.ins[0], s.opened, s.shapes[0][:1] == s.out[:1] == (BatchDim(),))


@writes("permute")
def permute(w: Writer, s: Step) -> str:
    """Write Transpose."""
    return w.op("Transpose", s.ins[0], perm=[d % s.rank for d in s.attrs["dims"]])


@writes("concat")
def concat(w: Writer, s: Step) -> str:
    """Write Concat."""
    return w.op("Concat", *s.ins, axis=s.attrs["dim"])


@writes("slice")
def slice_(w: Writer, s: Step) -> str:
    """Write Slice of the axes that change; open ends are beyond every size."""
    cuts = []
    for i, (start, stop, step) in enumerate(zip(
            s.attrs["starts"], s.attrs["stops"], s.attrs["steps"], strict=True)):
        step = 1 if step is None else step
        if (start, stop, step) in ((None, None, 1), (0, None, 1)):
            continue
        start = (0 if step > 0 else LIMIT) if start is None else start
        stop = (LIMIT if step > 0 else -LIMIT) if stop is None else stop
        cuts.append((start, stop, i, step))
    if not cuts:
        return w.op("Identity", s.ins[0])
    return w.op("Slice", s.ins[0], *(w.ints(*column) for column in zip(*cuts, strict=True)))


@writes("expand")
def expand(w: Writer, s: Step) -> str:
    """Write Expand, in which 1 keeps an axis."""
    sizes = [1 if n == -1 or isinstance(d, BatchDim) else n
             for n, d in zip(s.attrs["shape"], s.out, strict=True)]
    return w.op("Expand", s.ins[0], w.ints(*sizes))


@writes("take")
def take(w: Writer, s: Step) -> str:
    """Write Gather."""
    return w.op("Gather", *_signed(w, s), axis=s.attrs["dim"])


@writes("gather")
def gather(w: Writer, s: Step) -> str:
    """Write GatherElements."""
    return w.op("GatherElements", *_signed(w, s), axis=s.attrs["dim"])


def _signed(w: Writer, s: Step) -> list[str]:
    """Return x and indices as int64 where they are of a type that ONNX does not index by."""
    x, indices = s.ins
    if s.dtypes[1] not in ("int32", "int64"):
        indices = w.op("Cast", indices, to=elem_of("int64"))
    return [x, indices]
