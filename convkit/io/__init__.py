"""Files: networks as .ckit, which is safetensors with a graph, as ONNX, and weights by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convkit.io import onnx
from convkit.io.ckit import load, max_format_version, save

if TYPE_CHECKING:
    from convkit.io.state_dict import load_state_dict, load_weights, save_state_dict

__all__ = ["load", "load_state_dict", "load_weights", "max_format_version", "onnx", "save",
           "save_state_dict"]


def __getattr__(name: str) -> Any:
    """Load the functions for weights by name when first asked for one."""
    if name not in ("load_state_dict", "load_weights", "save_state_dict", "state_dict"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.state_dict")
    return module if name == "state_dict" else getattr(module, name)
