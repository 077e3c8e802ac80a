"""Mutated ONNX files: each is read into a sound graph or refused with one of two errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

import convkit as ck
from convkit.io.onnx import load
from fuzz.mutations import mutate_bytes
from fuzz.running import exercise

SUFFIX = ".onnx"
SLOWEST = 5.0  # seconds: far beyond what any file takes, even on a busy machine


def _tensor(name: str, array: Any) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def _model(nodes: list, inputs: dict, outputs: list[str], weights: dict, opset: int = 21,
           functions: list | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, T.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, T.INT32 if n == "places" else T.FLOAT, None)
         for n in outputs],
        [_tensor(n, a) for n, a in weights.items()])
    return helper.make_model(graph, functions=functions or [], ir_version=10, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("own", 1)])


def _classifier() -> onnx.ModelProto:
    """Convolutions, pools, norms, shape arithmetic with an open batch, a classifier."""
    rng = np.random.default_rng(0)
    f = np.float32
    n = helper.make_node
    return _model([
        n("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 1], name="conv"),
        n("BatchNormalization", ["c", "s", "s", "s", "v"], ["n"], epsilon=1e-3),
        n("Relu", ["n"], ["r"]),
        n("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], ceil_mode=1, auto_pad="SAME_UPPER"),
        n("AveragePool", ["m"], ["a"], kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
        n("Shape", ["a"], ["shape"]), n("Gather", ["shape", "zero"], ["batch"]),
        n("Unsqueeze", ["batch", "axis0"], ["batch1"]),
        n("Concat", ["batch1", "minus1"], ["target"], axis=0),
        n("Reshape", ["a", "target"], ["flat"]),
        n("Gemm", ["flat", "g"], ["y"], transB=1, alpha=0.5), n("Softmax", ["y"], ["p"], axis=1),
    ], {"x": ("N", 3, 8, 6)}, ["p"], {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(f), "b": np.ones(4, f),
        "s": np.ones(4, f), "v": np.full(4, 2, f), "zero": np.int64(0), "axis0": np.int64([0]),
        "minus1": np.int64([-1]), "g": rng.standard_normal((5, 96)).astype(f)})


def _mixture() -> onnx.ModelProto:
    """Resize, slices, quantisation, branches, functions, reductions, transposed convolution."""
    f, n = np.float32, helper.make_node
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, T.FLOAT, None)

    then = helper.make_graph([n("Relu", ["u"], ["t_out"])], "t", [], [value("t_out")])
    other = helper.make_graph([n("Neg", ["u"], ["e_out"])], "e", [], [value("e_out")])
    twice = helper.make_function("own", "Twice", ["q"], ["z"], [
        n("Add", ["q", "q"], ["t"]), n("LeakyRelu", ["t"], ["z"])],
        [helper.make_opsetid("", 21)])
    alpha = twice.node[1].attribute.add()
    alpha.name, alpha.type, alpha.ref_attr_name = "alpha", onnx.AttributeProto.FLOAT, "slope"
    twice.attribute.append("slope")
    return _model([
        n("ConvTranspose", ["x", "w"], ["d"], strides=[2, 2], output_padding=[1, 0]),
        n("Resize", ["d", "", "scales"], ["u"], mode="cubic", antialias=1),
        n("If", ["yes"], ["i"], then_branch=then, else_branch=other),
        n("Twice", ["i"], ["f"], domain="own", slope=0.2),
        n("Slice", ["f", "starts", "ends", "axes", "steps"], ["s"]),
        n("QuantizeLinear", ["s", "scale", "point"], ["q"]),
        n("DequantizeLinear", ["q", "scale", "point"], ["dq"]),
        n("Pad", ["dq", "pads"], ["pad"], mode="reflect"),
        n("TopK", ["pad", "k"], ["top", "place"], axis=-1),
        n("Split", ["top"], ["one", "two"], axis=1, num_outputs=2),
        n("Where", ["mask", "one", "two"], ["w0"]),
        n("Constant", [], ["c0"], value=_tensor("c", f(2))), n("Pow", ["w0", "c0"], ["pw"]),
        n("ReduceL2", ["pw", "axes"], ["l2"], keepdims=0),
        n("Expand", ["l2", "big"], ["y"]), n("Cast", ["place"], ["places"], to=T.INT32),
    ], {"x": (2, 3, 5, 4)}, ["y", "places"], {
        "w": np.ones((3, 2, 3, 3), f), "scales": f([1, 1, 0.7, 1.5]), "yes": np.bool_(True),
        "starts": np.int64([0, -1]), "ends": np.int64([9, -99]), "axes": np.int64([2, 3]),
        "steps": np.int64([2, -1]), "scale": f(0.5), "point": np.uint8(3),
        "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 0]), "k": np.int64([3]),
        "mask": np.array([True, False, True]), "big": np.int64([3, 2, 1])}, functions=[twice])


def _volume() -> onnx.ModelProto:
    """Layers over volumes, and operators that are functions of others."""
    f, n = np.float32, helper.make_node
    return _model([
        n("Conv", ["x", "w"], ["c"], pads=[1, 0, 1, 1, 1, 0], group=2),
        n("MaxPool", ["c"], ["m"], kernel_shape=[2, 2, 2], strides=[1, 2, 1]),
        n("MeanVarianceNormalization", ["m"], ["v"], axes=[0, 2]),
        n("GroupNormalization", ["v", "s", "s"], ["g"], num_groups=2),
        n("Tile", ["g", "reps"], ["t"]), n("Transpose", ["t"], ["y"], perm=[4, 1, 0, 2, 3]),
    ], {"x": (1, 4, 4, 5, 3)}, ["y"], {
        "w": np.ones((4, 2, 2, 2, 2), f), "s": np.ones(4, f),
        "reps": np.int64([1, 1, 2, 1, 1])})


def seeds() -> list[bytes]:
    """Return the files that are mutated."""
    return [m.SerializeToString() for m in (_classifier(), _mixture(), _volume())]


# -- mutations --------------------------------------------------------------------------------

NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 2**16, 2**31 - 1, 2**31, -2**31, 2**40, 2**63 - 1, -2**63)


def mutate_message(rng: random.Random, message: Any, depth: int = 0) -> None:
    """Change one field somewhere in a protobuf message."""
    fields = [f for f, _ in message.ListFields()]
    if rng.random() < 0.1 or not fields:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    many = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
    if field.type == field.TYPE_MESSAGE:
        children = getattr(message, field.name)
        if not many:
            return mutate_message(rng, children, depth + 1)
        choice = rng.random()
        if not len(children) or choice < 0.05:
            children.add()
        elif choice < 0.15:
            del children[rng.randrange(len(children))]
        elif choice < 0.25:
            children.add().CopyFrom(rng.choice(list(children)))
        elif choice < 0.3 and len(children) > 1:
            a, b = rng.sample(range(len(children)), 2)
            children[a].CopyFrom(children[b])
        else:
            mutate_message(rng, rng.choice(list(children)), depth + 1)
        return None
    value = _scalar(rng, field)
    try:
        if not many:
            setattr(message, field.name, value)
        else:
            values = getattr(message, field.name)
            match rng.randrange(3):
                case 0:
                    values.append(value)
                case 1 if len(values):
                    values.pop(rng.randrange(len(values)))
                case _ if len(values):
                    values[rng.randrange(len(values))] = value
    except (ValueError, TypeError, OverflowError):
        pass  # beyond what the field can hold
    return None


def _scalar(rng: random.Random, field: Any) -> Any:
    """Return a value that is likely to be wrong."""
    if field.type == field.TYPE_STRING:
        return rng.choice(("", "x", "w", "Conv", "Gemm", "Loop", "N", "../x", "c", "\0",
                           "value" * 99))
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\xff", b"\0" * 7, b"NOTSET", b"SAME_LOWER", rng.randbytes(16)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 0.3))
    if field.type == field.TYPE_ENUM:
        return rng.choice([v.number for v in field.enum_type.values])
    return rng.choice(NUMBERS)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a mutated file."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, data)
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutate_message(rng, model)
    return model.SerializeToString()


def check(path: Path, rng: random.Random) -> str:
    """Read a file, and run what is sound."""
    try:
        graph = load(path)
    except (ck.ModelFormatError, ck.UnsupportedOperatorError) as error:
        assert str(error)
        return type(error).__name__
    return exercise(graph, rng)
