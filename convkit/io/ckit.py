"""The .ckit file: a network in one safetensors file, described in docs/ckit-format.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convkit.errors import ModelFormatError
from convkit.infer import Program, verify
from convkit.infer.graph import Graph, StoredConstant
from convkit.io.compression import compress_all, decompress_all
from convkit.io.graph_json import graph_from_json, graph_to_json
from convkit.io.safetensors_read import SafetensorsFile, named, open_bytes, open_file
from convkit.io.safetensors_write import file_parts, write_file
from convkit.io.storage import CODES, MODEL_TYPES, Decoded, StoredTensor, encode
from convkit.io.strict_json import parse_json

if TYPE_CHECKING:
    from convkit.infer.check import MaxError

__all__ = ["load", "max_format_version", "save"]

FORMAT = "ckit"
max_format_version = 2
KEYS = {"format", "format_version", "graph", "metadata"}
# What version 2 may hold besides (and open sizes); a file without is written as version 1.
COMPRESSION = "compression"
# Inputs that are stored in the type asked for; everything else stays float32.
WEIGHTS = {"conv": (1,), "conv_transpose": (1,), "linear": (1,), "matmul": (0, 1)}


def save(model: Any, path: Any, weights: str = "float32", metadata: dict[str, Any] | None = None,
         input_shape: Any = None, compress: bool = False) -> None:
    """Write a network to a .ckit file.

    The file is written beside its final place and renamed, so that the path always holds
    a whole file: the old one when anything fails.

    Parameters
    ----------
    model : Module, Program or Graph
        A Module is compiled first (batch norms folded, activations fused).
    path : path_like
        Where to write; by custom, the name ends in ``.ckit``.
    weights : {"float32", "float16", "bfloat16"}
        Storage of the weights of convolutions and matrix products. Biases and other
        vectors stay float32, and so does the arithmetic after loading.
    metadata : dict, optional
        JSON values to keep with the network, on top of the Program's own. By custom:
        "labels" (gives ``program.labels``), "preprocessing" (``program.preprocessing``),
        "author", "licence", "training" (an object of figures).
    input_shape : tuple of int, or list or dict of them, optional
        For a Module: as `convkit.compile` takes it.
    compress : bool
        Whether to compress the tensors without loss: a seventh (float32, float16) to a quarter
        (bfloat16) less on disk, but such weights are unpacked on loading instead of being
        mapped and shared between processes.

    Raises
    ------
    ValueError
        When `weights` is none of the three, a weight is too large for float16, or the
        metadata is not JSON.
    OSError
        When the file cannot be written.
    """
    write_file(path, *_contents(model, weights, metadata, input_shape, compress))


def program_to_bytes(program: Program) -> bytes:
    """Return a Program as the bytes of a .ckit file, which its pickle holds."""
    return b"".join(file_parts(*_contents(program, "float32", None, None, False)))


def program_from_bytes(content: bytes, threads: int | None, precision: str,
                       max_error: MaxError | None) -> Program:
    """Return the Program of `program_to_bytes`, with its settings."""
    program = _program(open_bytes(content), threads, precision)
    program.max_error = max_error
    return program


def _contents(model: Any, weights: str, metadata: dict[str, Any] | None, input_shape: Any,
              compress: bool) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return a file's tensors and fields; see `save`."""
    if weights not in CODES:
        raise ValueError(f"weights: expected one of {', '.join(CODES)}, got {weights!r}")
    program = model
    if not isinstance(model, (Program, Graph)):
        from convkit.infer.compiler import compile

        program = compile(model, input_shape)
    graph = program.graph if isinstance(program, Program) else program
    own = program.metadata if isinstance(program, Program) else {}
    verify(graph)
    tensors, entries = _stored(graph, weights), {}
    if compress:
        tensors, entries = compress_all(tensors)
    fields = {
        "format": FORMAT, "format_version": "2" if entries or graph.open_sizes() else "1",
        "graph": json.dumps(graph_to_json(graph), allow_nan=False, separators=(",", ":")),
        "metadata": _metadata_text({**own, **(metadata or {})})}
    if entries:
        fields[COMPRESSION] = json.dumps(entries, separators=(",", ":"))
    return tensors, fields


def _stored(graph: Graph, weights: str) -> dict[str, StoredTensor]:
    """Return every constant in its storage type."""
    heavy = {node.inputs[i] for node in graph.nodes for i in WEIGHTS.get(node.op, ())}
    stored = {}
    for value, constant in graph.constants.items():
        stored[constant.name] = encode(
            constant.array, weights if value in heavy else "float32", constant.name)
    return stored


def _metadata_text(metadata: dict[str, Any]) -> str:
    """Return metadata as JSON that reads back as it was."""
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from None
    if json.loads(text).keys() != metadata.keys():
        raise ValueError("metadata must have strings as keys")
    return text


def load(path: Any, threads: int | None = None, precision: str | None = None) -> Program:
    """Read a .ckit file.

    The file is mapped into memory: float32 weights are used where they lie and shared
    between processes, so the file must not be changed in place while the Program lives
    (`save` never does; it replaces). No code from the file is run, and every field is
    checked before it is used.

    Parameters
    ----------
    path : path_like
        The file.
    threads : int, optional
        Threads of each call; by default the process's setting at the time of the call.
    precision : {"highest", "high", "medium"}, optional
        How convolutions and linear layers multiply (see `convkit.precision`); by default
        the present setting.

    Returns
    -------
    Program
        Gives the same bits as the saved one where weights were stored as float32.

    Raises
    ------
    ModelFormatError
        When the file is not a .ckit file, is damaged or hostile, or was written in a newer
        version of the format than `max_format_version`.
    OSError
        When the file cannot be opened.
    """
    with named(path):
        return _program(open_file(path), threads, precision)


def _program(file: SafetensorsFile, threads: int | None, precision: str | None) -> Program:
    """Return the Program of an opened file."""
    fields = file.metadata
    version = _version(fields)
    keys = KEYS | {COMPRESSION} if version > 1 else KEYS
    if not KEYS <= fields.keys() <= keys:
        raise ModelFormatError(f"__metadata__: expected {sorted(keys)}, got "
                               f"{sorted(fields)[:8]!r:.200}")
    metadata = parse_json(fields["metadata"].encode(), "metadata", file.size)
    if not isinstance(metadata, dict):
        raise ModelFormatError("metadata: expected an object")
    data = parse_json(fields["graph"].encode(), "graph", file.size)
    if version < 2 and isinstance(data, dict) and "sizes" in data:
        raise ModelFormatError("graph: open sizes came with version 2 of the format")
    tensors = file.tensors(MODEL_TYPES)
    if COMPRESSION in fields:
        entries = parse_json(fields[COMPRESSION].encode(), COMPRESSION, file.size)
        tensors = decompress_all(tensors, entries, file.size)
    graph = graph_from_json(data, {name: StoredConstant(name, Decoded(tensor))
                                   for name, tensor in tensors.items()})
    return Program(graph, threads, metadata, precision)


def _version(fields: dict[str, str]) -> int:
    """Return a file's version; raise ModelFormatError unless this code can read it."""
    if fields.get("format") != FORMAT:
        raise ModelFormatError(f"not a .ckit file: its format is {fields.get('format')!r:.40}")
    version = fields.get("format_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
        raise ModelFormatError(f"format_version: expected a whole number, got {version!r:.40}")
    if int(version) > max_format_version:
        raise ModelFormatError(
            f"the file is in version {int(version)} of the format, this convkit reads up to "
            f"{max_format_version}: load it with a newer convkit")
    return int(version)
