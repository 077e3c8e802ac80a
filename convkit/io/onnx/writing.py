"""`save`: from a model or a graph to an ONNX file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from convkit._version import __version__
from convkit.errors import ConvkitError, UnsupportedOperatorError
from convkit.infer import Program, compile, verify
from convkit.infer.dims import Shape, points_of
from convkit.infer.graph import Graph
from convkit.io.atomic import write_atomically
from convkit.io.onnx import write_layers, write_math, write_quant  # noqa: F401  enter their rules
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.types import elem_of
from convkit.io.onnx.writer import RULES, Step, Writer, tensor

__all__ = ["save", "to_model"]

OPSET = 21  # the oldest operator set in which every operator used has its present meaning
NEWEST = 28  # the newest of which that was checked
MAX_BYTES = 2**31 - 1


def save(model: Any, path: Any, input_shape: Any = None, opset: int = OPSET,
         metadata: dict[str, Any] | None = None) -> None:
    """Write a network to an ONNX file.

    The file is written beside its final place and renamed, so that the path always holds a
    whole file. It is checked by ``onnx.checker`` before.

    Parameters
    ----------
    model : Module, Program or Graph
        A Module is compiled first: batch norms are folded.
    path : path_like
        Where to write; by custom, the name ends in ``.onnx``.
    input_shape : tuple of int, or list or dict of them, optional
        For a Module: as `convkit.compile` takes it.
    opset : int
        Version of ONNX's operators, from 21 on.
    metadata : dict, optional
        JSON values kept with the model, on top of the Program's own.

    Raises
    ------
    UnsupportedOperatorError
        When operations have no form in ONNX, or none that holds for every open size; all are
        listed.
    ValueError
        For an opset that cannot be written, and for networks of 2 GiB or more.
    OSError
        When the file cannot be written.
    """
    proto = to_model(model, input_shape, opset, metadata)
    if proto.ByteSize() > MAX_BYTES:
        raise ValueError(f"the model has {proto.ByteSize():,} bytes; one ONNX file holds at most "
                         f"{MAX_BYTES:,}")
    write_atomically(Path(path), [proto.SerializeToString()])


def to_model(model: Any, input_shape: Any = None, opset: int = OPSET,
             metadata: dict[str, Any] | None = None) -> Any:
    """Return the ``onnx.ModelProto`` that `save` writes; its parameters are those of `save`."""
    onnx = require_onnx()
    newest = min(NEWEST, onnx.defs.onnx_opset_version())
    if not OPSET <= opset <= newest:
        raise ValueError(f"opset: expected {OPSET} to {newest}, got {opset}")
    program = model if isinstance(model, (Program, Graph)) else compile(model, input_shape)
    graph = program.graph if isinstance(program, Program) else program
    own = program.metadata if isinstance(program, Program) else {}
    verify(graph)
    opsets = [onnx.helper.make_opsetid("", opset)]
    written = _written_open(graph) if graph.open_sizes() else _written(graph, graph)
    body = _proto(graph, *written)
    proto = onnx.helper.make_model(
        body, opset_imports=opsets, producer_name="convkit", producer_version=__version__,
        ir_version=onnx.helper.find_min_ir_version_for(opsets))
    onnx.helper.set_model_props(proto, {
        str(k): v if isinstance(v, str) else json.dumps(v, allow_nan=False)
        for k, v in {**own, **(metadata or {})}.items()})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _written_open(graph: Graph) -> tuple[Writer, dict[int, str]]:
    """Do what `_written` does for a graph with open sizes.

    It is written at several sizes; where all are alike, what is written holds for every size.
    """
    points = points_of(graph.shape(p.value) for p in graph.inputs)
    written = (_written(graph.at_size(**points[i].sizes), graph)
               for i in (0, 1, len(points) // 2, -1))
    first, names = next(written)
    for other, _ in written:
        found = _differences(first, other)
        if found:
            raise UnsupportedOperatorError(
                f"{', '.join(found)}: no form in ONNX for sizes that are open "
                f"({graph.open_sizes()[0]}); export graph.at_size(...)")
    return first, names


def _differences(a: Writer, b: Writer) -> list[str]:
    """Return the names of layers that were written in two ways."""
    ours, theirs = ({c.name: c.SerializeToString() for c in w.constants} for w in (a, b))
    uneven = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    found = [(x or y).name for x, y in itertools.zip_longest(a.nodes, b.nodes)
             if x != y or uneven.intersection(x.input)]
    return list(dict.fromkeys(name.rpartition("/")[0] for name in found))


def _written(graph: Graph, opened: Graph) -> tuple[Writer, dict[int, str]]:
    """Write the nodes of a graph, and the constants that they need besides its own.

    Also returns the names of the graph's values. `opened` tells which sizes are open.
    """
    w = Writer({p.name for p in (*graph.inputs, *graph.outputs)})
    names = {p.value: p.name for p in graph.inputs}
    names.update((value, w.name(c.name)) for value, c in graph.constants.items())
    _write_nodes(graph, w, names, opened)
    for port in graph.outputs:
        w.nodes.append(require_onnx().helper.make_node("Identity", [names[port.value]],
                                                       [port.name]))
    _rename_outputs(w.nodes, len(graph.outputs))
    return w, names


def _proto(graph: Graph, w: Writer, names: dict[int, str]) -> Any:
    """Return what was written, with the graph's own constants, as a GraphProto."""
    own = [tensor(names[value], c.array) for value, c in graph.constants.items()]
    return require_onnx().helper.make_graph(
        w.nodes, "convkit", [_info(graph, p) for p in graph.inputs],
        [_info(graph, p) for p in graph.outputs], own + w.constants)


def _write_nodes(graph: Graph, w: Writer, names: dict[int, str], opened: Graph) -> None:
    """Write every node by its rule; raise UnsupportedOperatorError that lists what has none."""
    problems: dict[str, int] = {}
    for node in graph.nodes:
        if any(v is not None and v not in names for v in node.inputs):
            continue  # reads what could not be written
        w.label = node.name or node.op
        try:
            if node.op not in RULES:
                raise UnsupportedOperatorError(f"{node.op} has no form in ONNX")
            step = Step(graph, node, names, opened.shape(node.outputs[0]))
            step.bring_together(w)
            made = RULES[node.op](w, step)
        except ConvkitError as error:
            problems[str(error)] = problems.get(str(error), 0) + 1
            continue
        made = (made,) if isinstance(made, str) else tuple(made)
        names.update(zip(node.outputs, made, strict=True))
    if problems:
        raise UnsupportedOperatorError("; ".join(
            f"{text} ({count} times)" if count > 1 else text for text, count in problems.items()))


def _rename_outputs(nodes: list[Any], count: int) -> None:
    """Let nodes make outputs under their final names instead of through an Identity."""
    body, tail = nodes[:-count], nodes[-count:]
    makers = {name: node for node in body for name in node.output}
    wanted = [n.input[0] for n in tail]
    for identity in tail:
        source, name = identity.input[0], identity.output[0]
        if source not in makers or wanted.count(source) > 1:
            continue
        for node in body:
            for field in (node.input, node.output):
                for i, other in enumerate(field):
                    if other == source:
                        field[i] = name
        nodes.remove(identity)


def _info(graph: Graph, port: Any) -> Any:
    """Return a port's name, element type and shape."""
    value = graph.values[port.value]
    return require_onnx().helper.make_tensor_value_info(
        port.name, elem_of(value.dtype), _dims(value.shape))


def _dims(shape: Shape) -> list[int | str]:
    return [d if isinstance(d, int) else str(d) for d in shape]
