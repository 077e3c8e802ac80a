"""The sides of the inference benchmark: functions that make a caller of an ONNX file.

Each takes the file, the batch and the number of threads, and returns a function from an
input (N, C, H, W) to the scores; None where the peer or what it needs is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["PEERS", "quantise", "versions"]

Call = Callable[[np.ndarray], np.ndarray]


def _has(*modules: str) -> bool:
    return all(importlib.util.find_spec(m) is not None for m in modules)


def versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("onnxruntime", "openvino")
            if _has(name)}


def onnxruntime_float32(path: Path, batch: int, threads: int) -> Call | None:
    """Return ONNX Runtime with all graph optimisations."""
    if not _has("onnxruntime"):
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _openvino(path: Path, batch: int, threads: int, precision: str) -> Call | None:
    if not _has("openvino"):
        return None
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    shape = model.inputs[0].partial_shape
    shape[0] = batch
    model.reshape(shape)
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()
    # Inputs are shared and results are views: the fastest way the API has.
    return lambda x: request.infer([x], share_inputs=True, share_outputs=True)[0]


def openvino_float32(path: Path, batch: int, threads: int) -> Call | None:
    """Return OpenVINO for latency: one stream, float32."""
    return _openvino(path, batch, threads, "f32")


def openvino_bfloat16(path: Path, batch: int, threads: int) -> Call | None:
    """Return the same with bfloat16 where the CPU has it."""
    return _openvino(path, batch, threads, "bf16")


def quantise(path: Path, images: np.ndarray) -> Path | None:
    """Return the file with int8 weights and activations (QDQ), made by ONNX Runtime's tool."""
    if not _has("onnxruntime"):
        return None
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(images[i:i + 1] for i in range(len(images)))

        def get_next(self):
            x = next(self.left, None)
            return None if x is None else {name: x}

    prepared, target = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ,
                    per_channel=True, weight_type=QuantType.QInt8,
                    activation_type=QuantType.QUInt8)
    return target


# Sides by the precision that they are the peers of.
PEERS = {
    "float32": {"onnxruntime": onnxruntime_float32, "openvino": openvino_float32},
    "bfloat16": {"openvino bf16": openvino_bfloat16},
    "int8": {"onnxruntime int8": onnxruntime_float32, "openvino int8": openvino_float32},
}
