"""Inference: from a model to a Program.

`trace` runs a model and records its operations as a `Graph`; the passes in
``convkit.infer.passes`` make a smaller graph of the same meaning; `Program` runs it.
`compile` does all three and checks the result against the model.
"""

from __future__ import annotations

import convkit.ops  # noqa: F401  registers every operation
from convkit.infer.check import MaxError
from convkit.infer.compiler import compile
from convkit.infer.dims import BatchDim
from convkit.infer.graph import Constant, Editor, Graph, Node, Port, Value
from convkit.infer.model_summary import ModelSummary, summary
from convkit.infer.passes import PIPELINE, run_pipeline
from convkit.infer.program import Program
from convkit.infer.quantization.quantize import quantize
from convkit.infer.quantization.report import LayerReport, QuantizationReport
from convkit.infer.trace import trace
from convkit.infer.verify import verify

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
