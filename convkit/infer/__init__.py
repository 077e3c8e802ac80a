"""Inference: from a model to a Program.

`trace` runs a model and records its operations as a `Graph`; the passes in
``convkit.infer.passes`` make a smaller graph of the same meaning; `Program` runs it.
`compile` does all three and checks the result against the model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import convkit.ops  # noqa: F401  registers every operation
from convkit.infer.dims import BatchDim
from convkit.infer.graph import Constant, Editor, Graph, Node, Port, Value
from convkit.infer.program import Program
from convkit.infer.verify import verify

if TYPE_CHECKING:
    from convkit.infer.check import MaxError
    from convkit.infer.compiler import compile
    from convkit.infer.model_summary import ModelSummary, summary
    from convkit.infer.passes import PIPELINE, run_pipeline
    from convkit.infer.quantization.quantize import quantize
    from convkit.infer.quantization.report import LayerReport, QuantizationReport
    from convkit.infer.tracing import trace

__all__ = [
    "PIPELINE",
    "BatchDim",
    "Constant",
    "Editor",
    "Graph",
    "LayerReport",
    "MaxError",
    "ModelSummary",
    "Node",
    "Port",
    "Program",
    "QuantizationReport",
    "Value",
    "compile",
    "quantize",
    "run_pipeline",
    "summary",
    "trace",
    "verify",
]

# What running a file does not need is loaded when first asked for.
_HOMES = {"MaxError": "check", "compile": "compiler", "ModelSummary": "model_summary",
          "summary": "model_summary", "PIPELINE": "passes", "run_pipeline": "passes",
          "quantize": "quantization.quantize", "LayerReport": "quantization.report",
          "QuantizationReport": "quantization.report", "trace": "tracing"}
_MODULES = frozenset(("check", "compiler", "dot", "passes", "profile", "quantization"))


def __getattr__(name: str) -> Any:
    """Load a submodule, or something of one, on first use."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
