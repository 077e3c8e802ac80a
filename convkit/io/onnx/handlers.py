"""Every operator that is understood: importing the families fills the table."""

from __future__ import annotations

from convkit.io.onnx import (  # noqa: F401
    convolution,
    einsum,
    elementwise,
    integer,
    normalization,
    pooling,
    quantization,
    reductions,
    resizing,
    shapes,
)
from convkit.io.onnx.builder import HANDLERS

__all__ = ["HANDLERS"]
