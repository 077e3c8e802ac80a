"""One ONNX node with its attributes checked against the operator's schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.tensors import read_tensor

__all__ = ["Operator", "Val", "attributes", "schema_of"]

MAX_TEXT = 4096


@dataclass(frozen=True, eq=False)
class Val:
    """A value while a graph is built.

    Attributes
    ----------
    number : int
        Its number in the graph.
    shape : tuple of int
        Plain sizes.
    dtype : str
        The type in which it is held.
    elem : int
        The ONNX element type it was declared with.
    array : numpy.ndarray or None
        The value itself where it is known.
    """

    number: int
    shape: tuple[int, ...]
    dtype: str
    elem: int
    array: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.startswith("float")


@dataclass(frozen=True, eq=False)
class Operator:
    """What a handler gets: a node's inputs and checked attributes.

    Attributes
    ----------
    type : str
        The operator's name.
    opset : int
        The version of the operators in force.
    inputs : list of (Val or None)
        Its inputs; those left out are None.
    attrs : dict
        Attributes by name: numbers, strings, tuples, arrays and graphs.
    outputs : tuple of str
        Names of the outputs; empty for those that nobody wants.
    """

    type: str
    opset: int
    inputs: list[Val | None]
    attrs: dict[str, Any]
    outputs: tuple[str, ...]

    def input(self, index: int) -> Val | None:
        """Return an input, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def wants(self, index: int) -> bool:
        """Tell whether somebody wants an output."""
        return index < len(self.outputs) and bool(self.outputs[index])


def schema_of(domain: str, op_type: str, opset: int) -> Any:
    """Return ONNX's schema of an operator, None where there is none."""
    onnx = require_onnx()
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def attributes(node: Any, schema: Any, bound: dict[str, Any], folder: Any) -> dict[str, Any]:
    """Return a node's attributes, checked against its schema, defaults filled in.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    schema : onnx.defs.OpSchema
        Its operator's schema.
    bound : dict
        Attributes of the function that the node stands in, as AttributeProtos by name.
    folder : Path or None
        Where external data may lie.
    """
    onnx = require_onnx()
    values: dict[str, Any] = {}
    for given in node.attribute:
        if given.name in values:
            raise ModelFormatError(f"attribute {given.name!r:.80} is given twice")
        known = schema.attributes.get(given.name)
        if known is None:
            raise ModelFormatError(f"unknown attribute {given.name!r:.80}")
        source = given
        if given.ref_attr_name:
            if given.ref_attr_name not in bound:
                continue
            source = bound[given.ref_attr_name]
        if int(source.type) != int(known.type.value):
            raise ModelFormatError(f"attribute {given.name!r:.80} has the wrong type")
        values[given.name] = _value(onnx, source, folder)
    for name, known in schema.attributes.items():
        if name in values:
            continue
        if known.required:
            raise ModelFormatError(f"attribute {name!r} is missing")
        if known.default_value.name:
            values[name] = _value(onnx, known.default_value, folder)
    return values


def _value(onnx: Any, attr: Any, folder: Any) -> Any:
    """Return an attribute's value as Python's."""
    kinds = onnx.AttributeProto
    match attr.type:
        case kinds.FLOAT:
            return attr.f
        case kinds.INT:
            return attr.i
        case kinds.STRING:
            return _text(attr.s)
        case kinds.FLOATS:
            return tuple(attr.floats)
        case kinds.INTS:
            return tuple(attr.ints)
        case kinds.STRINGS:
            return tuple(_text(s) for s in attr.strings)
        case kinds.TENSOR:
            return attr.t, read_tensor(attr.t, folder, f"attribute {attr.name!r:.80}")
        case kinds.GRAPH:
            return attr.g
    raise UnsupportedOperatorError(f"attribute {attr.name!r:.80} of a type that is not supported")


def _text(raw: bytes) -> str:
    if len(raw) > MAX_TEXT:
        raise ModelFormatError(f"a string attribute of {len(raw)} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFormatError("a string attribute is not UTF-8") from None
