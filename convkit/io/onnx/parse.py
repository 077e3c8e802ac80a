"""Reading an ONNX file: size first, then protobuf, then the parts that a model must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convkit.errors import ModelFormatError
from convkit.io.onnx.package import require_onnx

__all__ = ["check_model", "parse_bytes", "read_model"]

MAX_FILE = 2**31 - 1  # what one protobuf message may be
DOMAINS = ("", "ai.onnx")
MAX_NODES = 65_536


def read_model(path: Any) -> tuple[Any, Path, int]:
    """Return a file's ModelProto, its folder and its size.

    Raises
    ------
    ModelFormatError
        When the file is too large, no ONNX file, or lacks something a model must have.
    OSError
        When it cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_FILE:
        raise ModelFormatError(f"{path.name}: {size} bytes, an ONNX file has at most {MAX_FILE}")
    return parse_bytes(path.read_bytes()), path.parent, size


def parse_bytes(data: bytes) -> Any:
    """Return the ModelProto that some bytes hold, checked by `check_model`."""
    onnx = require_onnx()
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"not an ONNX file: {error}") from None
    check_model(model)
    return model


def check_model(model: Any) -> None:
    """Raise ModelFormatError for what no model may have."""
    onnx = require_onnx()
    newest = onnx.defs.onnx_opset_version()
    if not model.HasField("graph") or model.ir_version < 3:
        raise ModelFormatError("not an ONNX model: it has no graph, or an IR version below 3")
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in DOMAINS else entry.domain
        if domain in versions:
            raise ModelFormatError(f"operator set {domain!r:.80} is imported twice")
        versions[domain] = entry.version
    if not versions:
        raise ModelFormatError("the model imports no operators")
    if not 1 <= versions.get("", newest) <= newest:
        raise ModelFormatError(f"operator set {versions['']}: expected at most {newest}, the "
                               "newest that the installed onnx package knows")
    nodes = len(model.graph.node) + sum(len(f.node) for f in model.functions)
    if nodes > MAX_NODES:
        raise ModelFormatError(f"{nodes} nodes, expected at most {MAX_NODES}")
