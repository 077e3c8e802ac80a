"""Element types: ONNX's numbers for them, and the types in which convkit holds their values.

Half-precision floats are computed in float32, and integers narrower than a byte are held in
bytes; everything else is held as it is.
"""

from __future__ import annotations

from convkit.errors import UnsupportedOperatorError
from convkit.io.onnx.package import require_onnx

__all__ = ["LEVELS", "elem_name", "elem_of", "held"]

_HELD = {
    "FLOAT": "float32", "FLOAT16": "float32", "BFLOAT16": "float32", "DOUBLE": "float64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8",
    "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "BOOL": "bool",
    "INT4": "int8", "UINT4": "uint8", "INT2": "int8", "UINT2": "uint8",
}

# Smallest and largest value of the integers narrower than a byte.
LEVELS = {"INT4": (-8, 7), "UINT4": (0, 15), "INT2": (-2, 1), "UINT2": (0, 3)}

_ELEM = {dtype: name for name, dtype in reversed(_HELD.items()) if name not in LEVELS}


def elem_name(elem: int) -> str:
    """Return ONNX's name of an element type."""
    try:
        return require_onnx().TensorProto.DataType.Name(elem)
    except ValueError:
        return str(elem)


def held(elem: int) -> str:
    """Return the NumPy type in which values of an ONNX element type are held.

    Raises
    ------
    UnsupportedOperatorError
        For strings, complex numbers and floats of eight bits or fewer.
    """
    name = elem_name(elem)
    if name not in _HELD:
        raise UnsupportedOperatorError(f"tensors of {name}")
    return _HELD[name]


def elem_of(dtype: str) -> int:
    """Return the ONNX element type of a NumPy type."""
    return require_onnx().TensorProto.DataType.Value(_ELEM[dtype])
