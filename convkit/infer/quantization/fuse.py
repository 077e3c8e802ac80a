"""Layers between DequantizeLinear and QuantizeLinear as operations on bytes.

A graph says "quantised" by its conversions: a layer whose input and weight come from
dequantize_linear and whose result goes to quantize_linear stands for one on integers, and is
made one here. What has no such form keeps its conversions, so any graph stays right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from convkit.infer.dims import is_open, points_of
from convkit.infer.graph import Graph, Growing, Node, Port, Value
from convkit.infer.schema import complete
from convkit.infer.verify import infer_node
from convkit.ops.levels import BYTES
from convkit.ops.op import REGISTRY, Context

__all__ = ["LOOKUPS", "MOVES", "fuse_quantized", "is_average"]

# Operations that only move (or choose) elements: bytes as well as the numbers they stand for.
MOVES = ("max_pool", "reshape", "flatten", "permute", "slice", "take", "pad")
# Functions of one number: a table of 256 for bytes.
LOOKUPS = ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid",
           "hardtanh", "clamp", "elu", "selu", "celu", "gelu", "mish", "softplus", "softsign",
           "logsigmoid", "abs", "neg", "exp", "sqrt", "erf")
AVERAGES = ("avg_pool", "adaptive_avg_pool", "mean")
# Sums of products of bytes below this always fit int32.
MOST_PRODUCTS = (2**31 - 1) // (255 * 128)


class Real(NamedTuple):
    """What real numbers a value of bytes stands for: (q - zero) * scale."""

    value: int
    dtype: str
    scale: float
    zero: int

    def same(self, other: Target) -> bool:
        """Tell whether a result is held in the same form."""
        return self[1:] == (other.dtype, other.scale, other.zero)


class Target(NamedTuple):
    """How a step's result is held, and the number of its value."""

    value: int
    dtype: str
    scale: float
    zero: int


class Weight(NamedTuple):
    """A quantised constant: integers, and scales along an axis (None: one for all)."""

    array: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int | None
    value: int | None  # of the constant, where `array` is one
    name: str


def fuse_quantized(graph: Graph) -> Graph:
    """Return the graph with operations between conversions made quantised ones.

    These are conv, linear and matmul with a constant int8 weight (and bias, residual,
    activation), add, avg_pool, concat, functions of one number (by look-up), and whatever moves
    elements. Biases in float are rounded to int32 in steps of the scales' product.
    """
    if not any(node.op == "dequantize_linear" for node in graph.nodes):
        return graph
    return _Fuser(graph).run()


class _Fuser(Growing):
    """Walks the nodes in order and writes the new ones."""

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.graph = graph
        self.nodes: list[Node] = []
        self.real: dict[int, Real] = {}
        self.weights: dict[int, Weight] = {}
        self._pending: dict[int, Node] = {}  # conversions that nobody has needed as yet
        self._aliases: dict[int, int] = {}
        self._taken: set[int] = set()  # quantize_linear nodes that became part of a step
        self._uses = graph.uses()
        self._points = points_of(graph.shape(p.value) for p in graph.inputs)
        self._readers = {v: node for node in graph.nodes for v in node.inputs if v is not None}

    def run(self) -> Graph:
        """Return the new graph."""
        for node in self.graph.nodes:
            if id(node) not in self._taken and not RULES.get(node.op, _no_rule)(self, node):
                self._keep(node)
        outputs = []
        for port in self.graph.outputs:
            self.needed(port.value)
            outputs.append(Port(port.name, self.resolve(port.value)))
        alive = {v for n in self.nodes for v in (*n.inputs, *n.outputs) if v is not None}
        alive.update(p.value for p in (*self.graph.inputs, *outputs))
        return Graph(self.graph.inputs, {v: c for v, c in self.constants.items() if v in alive},
                     tuple(self.nodes), tuple(outputs),
                     {v: i for v, i in self.values.items() if v in alive}, self.graph.form)

    # -- values -------------------------------------------------------------------------

    def resolve(self, value: int | None) -> int | None:
        """Return the value that is read where `value` is named."""
        while value in self._aliases:
            value = self._aliases[value]
        return value

    def array(self, value: int | None) -> np.ndarray | None:
        """Return a constant's array, None when the value is none."""
        constant = self.constants.get(self.resolve(value)) if value is not None else None
        return None if constant is None else constant.array

    def needed(self, value: int) -> None:
        """See that a value of floats is there."""
        node = self._pending.pop(value, None)
        if node is not None:
            self._keep(node)

    def alias(self, value: int, source: int) -> None:
        """Let all who read `value` read `source`."""
        self._aliases[value] = source

    def defer(self, node: Node) -> None:
        """Keep a node back until its result is needed."""
        self._pending[node.outputs[0]] = node

    def levels(self, node: Node) -> tuple[float, int] | None:
        """Return scale and zero point of a conversion where they are constants, one for all."""
        scale = self.array(node.inputs[1])
        zero = self.array(node.input(2))
        if scale is None or scale.size != 1 or (node.input(2) is not None and zero is None):
            return None
        number = float(scale.reshape(-1)[0])
        if scale.dtype != np.float32 or not 1e-38 < number < 1e38:
            return None
        return number, 0 if zero is None else int(zero.reshape(-1)[0])

    def target(self, node: Node) -> Target:
        """Return how a node's result is to be held; a conversion after it becomes part of it."""
        value = node.outputs[0]
        reader = self._readers.get(value)
        if self._uses[value] == 1 and reader is not None and reader.op == "quantize_linear":
            form = quantises_to(self, reader)
            if form is not None:
                self._taken.add(id(reader))
                return Target(reader.outputs[0], *form)
        return Target(value, "float32", 1.0, 0)

    def follows(self, node: Node) -> bool:
        """Tell whether `target` would give bytes."""
        reader = self._readers.get(node.outputs[0])
        return (self._uses[node.outputs[0]] == 1 and reader is not None
                and reader.op == "quantize_linear" and quantises_to(self, reader) is not None)

    # -- nodes --------------------------------------------------------------------------

    def _keep(self, node: Node) -> None:
        """Write a node as it is, after what it reads."""
        for value in node.inputs:
            if value is not None:
                self.needed(value)
        self.nodes.append(dataclasses.replace(
            node, inputs=tuple([self.resolve(v) for v in node.inputs])))

    def emit(self, op: str, inputs: tuple[int | None, ...], attrs: dict[str, Any], output: int,
             name: str) -> None:
        """Write a new node."""
        while inputs[-1] is None:
            inputs = inputs[:-1]
        inputs = tuple([self.resolve(v) for v in inputs])
        node = Node(op, inputs, (output,), complete(op, attrs), name)
        (self.values[output],) = infer_node(
            node, [None if v is None else self.values[v] for v in inputs], self._points)
        self.nodes.append(node)

    def look_up(self, x: Real, target: Target, function: Callable[[np.ndarray], np.ndarray],
                name: str) -> None:
        """Write a function of the numbers that bytes stand for as a table."""
        bits = np.arange(256, dtype=np.uint8).view(x.dtype)
        numbers = (bits.astype(np.float32) - np.float32(x.zero)) * np.float32(x.scale)
        with np.errstate(all="ignore"):
            y = function(numbers).astype(np.float64) / target.scale
        info = np.iinfo(target.dtype)
        table = np.clip(np.nan_to_num(np.rint(y)) + target.zero, info.min, info.max)
        number = self.add_constant(table.astype(target.dtype), f"{name}.table")
        self.emit("lookup", (x.value, number), {}, target.value, name)


def _no_rule(f: _Fuser, node: Node) -> bool:
    return False


# -- conversions ----------------------------------------------------------------------------


def quantises_to(f: _Fuser, node: Node) -> tuple[str, float, int] | None:
    """Return (dtype, scale, zero) of a quantize_linear to bytes with one scale; else None."""
    a = node.attrs
    found = f.levels(node)
    if found is None or a["dtype"] not in BYTES or a["quant_min"] is not None \
            or a["quant_max"] is not None:
        return None
    return a["dtype"], *found


def _quantize(f: _Fuser, node: Node) -> bool:
    """Bring bytes to bytes: nothing where the form is the same, else a table."""
    x, form = f.real.get(node.inputs[0]), quantises_to(f, node)
    if x is None or form is None:
        return False
    target = Target(node.outputs[0], *form)
    if x.same(target):
        f.alias(target.value, x.value)
    else:
        f.look_up(x, target, lambda v: v, node.name)
    return True


def _dequantize(f: _Fuser, node: Node) -> bool:
    """Note what the result stands for; it is computed where somebody needs it."""
    array, out = f.array(node.inputs[0]), node.outputs[0]
    if array is not None:
        weight = _constant_weight(f, node, array)
        if weight is not None:
            f.weights[out] = weight
            f.defer(node)
        return weight is not None
    source = f.resolve(node.inputs[0])
    found = f.levels(node)
    if found is None or f.values[source].dtype not in BYTES or f.values[out].dtype != "float32":
        return False
    f.real[out] = Real(source, f.values[source].dtype, *found)
    f.defer(node)
    return True


def _constant_weight(f: _Fuser, node: Node, array: np.ndarray) -> Weight | None:
    scale, zero = f.array(node.inputs[1]), f.array(node.input(2))
    if scale is None or node.attrs["block_size"] or (node.input(2) is not None and zero is None):
        return None
    zero = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    axis = node.attrs["dim"] % max(array.ndim, 1) if scale.size > 1 else None
    value = f.resolve(node.inputs[0])
    return Weight(array, scale.reshape(-1), zero.reshape(-1), axis, value, f.constants[value].name)


# -- layers ---------------------------------------------------------------------------------


def _layer(f: _Fuser, node: Node) -> bool:
    """Write a convolution, a linear layer, or a product with a constant matrix."""
    x = f.real.get(node.inputs[0])
    weight = f.weights.get(node.input(1))
    if x is None or weight is None or node.attrs.get("padding_mode", "zeros") != "zeros":
        return False
    if node.op == "matmul":
        weight = _transposed(weight)
    found = None if weight is None else _int8(weight)
    if found is None or is_open(node.attrs):
        return False
    array, scale = found
    if array.size == 0 or math.prod(array.shape[1:]) > MOST_PRODUCTS:
        return False
    bias = _bias(f, node.input(2), np.float64(x.scale) * scale)
    if bias is _NOT_CONSTANT:
        return False
    residual, more = node.input(3), {}
    added = f.real.get(residual)
    if added is not None:
        residual = added.value
        more = {"residual_scale": added.scale, "residual_zero": added.zero}
    elif residual is not None:
        if f.values[residual].dtype != "float32":
            return False
        f.needed(residual)
    target = f.target(node)
    geometry = ({k: node.attrs[k] for k in ("stride", "padding", "dilation", "groups")}
                if node.op == "conv" else {})
    fused = {k: node.attrs[k] for k in ("activation", "activation_args") if k in node.attrs}
    kept = weight.value if array is weight.array else None
    inputs = (x.value, f.add_constant(array, weight.name) if kept is None else kept,
              f.add_constant(scale.astype(np.float32), f"{weight.name}.scale"),
              None if bias is None
              else f.add_constant(bias, f"{node.name or weight.name}.int_bias"),
              residual)
    f.emit("quant_conv" if node.op == "conv" else "quant_linear", inputs, {
        **geometry, "x_scale": x.scale, "x_zero": x.zero, "dtype": target.dtype,
        "y_scale": target.scale, "y_zero": target.zero, **more, **fused}, target.value, node.name)
    return True


def _transposed(weight: Weight) -> Weight | None:
    if weight.array.ndim != 2:
        return None
    axis = None if weight.axis is None else 1 - weight.axis
    return weight._replace(array=np.ascontiguousarray(weight.array.T), axis=axis, value=None)


def _int8(weight: Weight) -> tuple[np.ndarray, np.ndarray] | None:
    """Return int8 values and one scale for each row; None where there are none."""
    if weight.axis not in (0, None) or weight.array.dtype.name not in BYTES \
            or weight.array.ndim < 2:
        return None
    array = weight.array
    if weight.array.dtype != np.int8 or weight.zero.any():
        array = array - weight.zero.reshape(-1, *(1,) * (array.ndim - 1))
        if array.min(initial=0) < -128 or array.max(initial=0) > 127:
            return None
    scale = np.broadcast_to(weight.scale.astype(np.float64), len(array))
    return array.astype(np.int8, copy=False), scale


_NOT_CONSTANT = object()


def _bias(f: _Fuser, value: int | None, steps: np.ndarray) -> Any:
    """Return a bias in whole steps; None for none."""
    if value is None:
        return None
    held = f.weights.get(value)
    if held is not None and held.array.dtype == np.int32 and not held.zero.any() \
            and np.allclose(held.scale, steps, rtol=1e-5):
        return held.array
    real = f.array(value)
    if held is not None:
        real = (held.array - held.zero.astype(np.float64)) * held.scale
    if real is None:
        return _NOT_CONSTANT
    bias = np.rint(real.astype(np.float64) / steps)
    return np.clip(bias, -2**31, 2**31 - 1).astype(np.int32)


# -- between layers -------------------------------------------------------------------------


def _add(f: _Fuser, node: Node) -> bool:
    """Write the sum of two quantised values."""
    a, b = (f.real.get(v) for v in node.inputs)
    if a is None or b is None or f.values[a.value].shape != f.values[b.value].shape:
        return False
    target = f.target(node)
    fused = {k: node.attrs[k] for k in ("activation", "activation_args") if k in node.attrs}
    f.emit("quant_add", (a.value, b.value), {
        "a_scale": a.scale, "a_zero": a.zero, "b_scale": b.scale, "b_zero": b.zero,
        "dtype": target.dtype, "y_scale": target.scale, "y_zero": target.zero, **fused},
        target.value, node.name)
    return True


def _average(f: _Fuser, node: Node) -> bool:
    """Write average pooling; adaptive pooling where all windows are alike."""
    x = f.real.get(node.inputs[0])
    pool = None if x is None else _windows(node, f.values[x.value].shape)
    if pool is None:
        return False
    target = f.target(node)
    flat = node.op == "mean" and not node.attrs["keepdim"]
    pooled = f.add_value(Value((), target.dtype)) if flat else target.value
    f.emit("quant_avg_pool", (x.value,), {
        **pool, "x_scale": x.scale, "x_zero": x.zero, "dtype": target.dtype,
        "y_scale": target.scale, "y_zero": target.zero}, pooled, node.name)
    if flat:
        f.emit("flatten", (pooled,), {"start_dim": 1}, target.value, node.name)
    return True


def is_average(node: Node, shape: tuple) -> bool:
    """Tell whether a node is a mean over windows that bytes can be averaged over."""
    return node.op in AVERAGES and _windows(node, shape) is not None


def _windows(node: Node, shape: tuple) -> dict[str, Any] | None:
    """Return quant_avg_pool's attributes for a pooling node; None where it has none."""
    a, sizes = node.attrs, shape[2:]
    if node.op == "avg_pool":
        if a["divisor_override"] is not None or is_open(a):
            return None
        return {k: v for k, v in a.items() if k != "divisor_override"}
    if node.op == "mean":
        if a["dim"] is None or len(shape) not in (3, 4) \
                or sorted(d % len(shape) for d in a["dim"]) != list(range(2, len(shape))):
            return None
        outputs = (1,) * len(sizes)
    else:
        outputs = a["output_size"]
    if is_open(sizes) or any(n % m for n, m in zip(sizes, outputs, strict=True)):
        return None
    kernel = tuple([n // m for n, m in zip(sizes, outputs, strict=True)])
    return {"kernel_size": kernel, "stride": kernel, "padding": (0,) * len(kernel)}


def _move(f: _Fuser, node: Node) -> bool:
    """Move elements as bytes; the conversion comes after it."""
    x = f.real.get(node.inputs[0])
    weight = f.weights.get(node.inputs[0])
    if weight is not None and node.op == "permute" and node.attrs["dims"] == (1, 0):
        f.weights[node.outputs[0]] = _transposed(weight)
        f.defer(node)
        return True
    if x is None or node.attrs.get("return_indices") or any(
            v is not None and f.array(v) is None for v in node.inputs[1:]):
        return False
    out = node.outputs[0]
    attrs = node.attrs
    if node.op == "pad" and attrs["mode"] == "constant":
        if attrs["value"] != 0:
            return False
        attrs = {**attrs, "value": float(x.zero)}
    moved = f.add_value(Value(f.values[out].shape, x.dtype))
    f.emit(node.op, (x.value, *node.inputs[1:]), attrs, moved, node.name)
    f.real[out] = x._replace(value=moved)
    f.defer(_conversion(f, f.real[out], out, node.name))
    return True


def _conversion(f: _Fuser, x: Real, out: int, name: str) -> Node:
    """Return the node that makes floats of bytes."""
    scale = f.add_constant(np.array(x.scale, np.float32), f"{name}.scale")
    zero = f.add_constant(np.array(x.zero, x.dtype), f"{name}.zero")
    return Node("dequantize_linear", (x.value, scale, zero), (out,),
                complete("dequantize_linear", {"dim": 0}), name)


def _concat(f: _Fuser, node: Node) -> bool:
    """Put quantised values side by side, each brought to the result's form."""
    parts = [f.real.get(v) for v in node.inputs]
    if any(p is None for p in parts) or not f.follows(node):
        return False
    target = f.target(node)
    values = []
    for part in parts:
        value = part.value
        if not part.same(target):
            value = f.add_value(Value(f.values[part.value].shape, target.dtype))
            f.look_up(part, target._replace(value=value), lambda v: v, node.name)
        values.append(value)
    f.emit("concat", tuple(values), node.attrs, target.value, node.name)
    return True


def _function(f: _Fuser, node: Node) -> bool:
    """Write a function of one number as a table."""
    x = f.real.get(node.inputs[0])
    if x is None or not f.follows(node):
        return False
    ctx = Context((False,), 1, (None,), "highest")
    f.look_up(x, f.target(node), lambda v: REGISTRY[node.op].forward(ctx, v, **node.attrs),
              node.name)
    return True


RULES: dict[str, Callable[[_Fuser, Node], bool]] = {
    "quantize_linear": _quantize, "dequantize_linear": _dequantize,
    "conv": _layer, "linear": _layer, "matmul": _layer, "add": _add, "concat": _concat,
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(MOVES, _move), **dict.fromkeys(LOOKUPS, _function),
}
