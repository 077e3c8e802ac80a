"""What onnxruntime makes of a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["onnxruntime_result"]


def onnxruntime_result(path: Path, *arrays: np.ndarray) -> Any:
    """Return onnxruntime's output (a list where there are several); None where it is not installed.

    Its optimiser is off: it folds a Pad into the AveragePool after it where the pad is no smaller
    than the window, and then refuses its own node; and int8 files are to be run as they stand.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {p.name: np.ascontiguousarray(a)
             for p, a in zip(session.get_inputs(), arrays, strict=True)}
    made = session.run(None, feeds)
    return made[0] if len(made) == 1 else made
