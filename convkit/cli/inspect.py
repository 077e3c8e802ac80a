"""``convkit inspect``: what is in a .ckit file."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from convkit.cli.options import print_json

__all__ = ["add_parser", "run"]


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "inspect", help="show what is in a .ckit file",
        description="Show a .ckit file's inputs, outputs, steps, parameters and metadata.")
    parser.add_argument("model", metavar="MODEL", help="a .ckit file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the file's summary."""
    import convkit

    program = convkit.load(args.model)
    size = Path(args.model).stat().st_size
    stored = _stored(args.model)
    if args.json:
        print_json({**_as_json(program, size), **stored})
        return
    print(f"{args.model}: {size:,} bytes, {program.graph.parameters():,} parameters")
    print(f"format version {stored['format_version']}, tensors "
          + ", ".join(f"{code}: {n:,} bytes" for code, n in stored["stored_bytes"].items())
          + (f", {stored['compressed']} of them compressed" if stored["compressed"] else ""))
    print(program.summary())
    for name, shape in program.output_shapes.items():
        print(f"output {name}: {tuple(shape)}")
    for key, value in program.metadata.items():
        print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")


def _stored(path: str) -> dict[str, Any]:
    """Return the version, the bytes by storage type (unpacked) and the compressed tensors."""
    from convkit.io.safetensors_read import open_file
    from convkit.io.storage import MODEL_TYPES

    file = open_file(path)
    entries = json.loads(file.metadata.get("compression", "{}"))
    sizes: dict[str, int] = {}
    for name, tensor in file.tensors(MODEL_TYPES).items():
        code, shape = tensor.dtype, tensor.shape
        if name in entries:
            code, shape = entries[name]["dtype"], entries[name]["shape"]
        sizes[code] = sizes.get(code, 0) + math.prod(shape) * MODEL_TYPES[code].itemsize
    return {"format_version": int(file.metadata["format_version"]), "stored_bytes": sizes,
            "compressed": len(entries)}


def _as_json(program: Any, size: int) -> dict[str, Any]:
    """Return the summary as JSON values; the batch's size is the string "N"."""
    graph = program.graph

    def plain(shape: tuple) -> list[int | str]:
        return [n if isinstance(n, int) else str(n) for n in shape]

    return {
        "bytes": size,
        "parameters": graph.parameters(),
        "inputs": {name: plain(shape) for name, shape in program.input_shapes.items()},
        "outputs": {name: plain(shape) for name, shape in program.output_shapes.items()},
        "nodes": [{"op": node.op, "name": node.name, "attributes": node.attrs,
                   "output": plain(graph.shape(node.outputs[0]))} for node in graph.nodes],
        "metadata": program.metadata,
    }
