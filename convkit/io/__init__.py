"""Files: networks as .ckit, which is safetensors with a graph, and as ONNX."""

from __future__ import annotations

from convkit.io import onnx
from convkit.io.ckit import load, max_format_version, save

__all__ = ["load", "max_format_version", "onnx", "save"]
