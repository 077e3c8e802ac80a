"""Files: networks as .ckit, which is safetensors with a graph, as ONNX, and weights by name."""

from __future__ import annotations

from convkit.io import onnx
from convkit.io.ckit import load, max_format_version, save
from convkit.io.state_dict import load_state_dict, load_weights, save_state_dict

__all__ = ["load", "load_state_dict", "load_weights", "max_format_version", "onnx", "save",
           "save_state_dict"]
