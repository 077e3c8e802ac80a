"""Reading an ONNX file: size first, then protobuf, then the parts that a model must have."""

from __future__ import annotations

import stat
from collections.abc import Sequence
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
    state = path.stat()
    size = state.st_size
    if not stat.S_ISREG(state.st_mode):
        raise ModelFormatError(f"{path.name}: not a file")
    if size > MAX_FILE:
        raise ModelFormatError(f"{path.name}: {size} bytes, an ONNX file has at most {MAX_FILE}")
    return parse_bytes(path.read_bytes()), path.parent, size


def parse_bytes(data: bytes) -> Any:
    """Return the ModelProto that some bytes hold, checked by `check_model`."""
    onnx = require_onnx()
    from google.protobuf.message import DecodeError

    _refuse_bombs(memoryview(data))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"not an ONNX file: {error}") from None
    _check_texts(model)
    check_model(model)
    return model


def _check_texts(model: Any) -> None:
    """Raise ModelFormatError where a name is not UTF-8: protobuf hands it out as bytes."""
    tensor = require_onnx().TensorProto
    todo = [model]
    while todo:
        message = todo.pop()
        if isinstance(message, tensor):  # whose data is not looked at here
            todo.extend(message.external_data)
            texts = [message.name]
        else:
            texts = []
            for field, value in message.ListFields():
                many = value if isinstance(value, Sequence) and not isinstance(
                    value, (str, bytes)) else (value,)
                if field.type == field.TYPE_STRING:
                    texts.extend(many)
                elif field.type == field.TYPE_MESSAGE:
                    todo.extend(many)
        if not all(isinstance(text, str) for text in texts):
            raise ModelFormatError("a name is not UTF-8")


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


# -- what the parts of a message would become ---------------------------------------------------

MAX_ENTRIES = 2**19
# Which fields hold messages made of many small ones: of a model its graph and functions, of
# those their nodes, of nodes their attributes.
_MODEL, _GRAPH, _FUNCTION, _NODE = "model", "graph", "function", "node"
_INNER = {(_MODEL, 7): _GRAPH, (_MODEL, 25): _FUNCTION, (_GRAPH, 1): _NODE, (_FUNCTION, 7): _NODE}


def _refuse_bombs(data: memoryview) -> None:
    """Raise ModelFormatError for a file of so many tiny parts that parsing would exhaust memory.

    An empty part takes two bytes in the file and over a hundred once it is parsed.
    """
    todo, entries = [(_MODEL, 0, len(data))], 0
    while todo:
        kind, at, end = todo.pop()
        while at < end:
            entries += 1
            if entries > MAX_ENTRIES:
                raise ModelFormatError(f"more than {MAX_ENTRIES} fields")
            tag, at = _varint(data, at, end)
            wire = tag & 7
            if wire == 0:
                _, at = _varint(data, at, end)
            elif wire == 2:
                size, at = _varint(data, at, end)
                inner = _INNER.get((kind, tag >> 3))
                if inner is not None:
                    todo.append((inner, at, min(at + size, end)))
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                break  # not for this scan to judge: protobuf will


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it; the end where it is cut short."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
