"""ONNX files: `load` reads one into a graph, `save` writes one, `Backend` runs models.

Needs the onnx package (``pip install convkit[onnx]``), which is imported when it is used.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Backend", "from_model", "load", "read_metadata", "save", "to_model"]

_HOMES = {"load": "reading", "from_model": "reading", "read_metadata": "reading",
          "save": "writing", "to_model": "writing", "Backend": "backend"}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
