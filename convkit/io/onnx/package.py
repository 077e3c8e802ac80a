"""The onnx package, imported where it is needed."""

from __future__ import annotations

from typing import Any

__all__ = ["require_onnx"]


def require_onnx() -> Any:
    """Return the onnx module; raise ImportError that names the extra where it is missing."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("reading and writing ONNX files needs the onnx package: "
                          "pip install convkit[onnx]") from error
    return onnx
