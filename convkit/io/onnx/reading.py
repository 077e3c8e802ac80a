"""`load`: from an ONNX file to a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.errors import ModelFormatError, ShapeError, UnsupportedOperatorError
from convkit.infer.dims import PROBES, BatchDim, Shape, at_batch, at_sizes
from convkit.infer.graph import Graph
from convkit.infer.open_dims import Symbol, make_points, symbols_in
from convkit.infer.ranges import read_dim
from convkit.infer.verify import verify
from convkit.io.onnx.importer import Importer, InputInfo
from convkit.io.onnx.join import join_graphs
from convkit.io.onnx.parse import check_model, read_model
from convkit.io.strict_json import parse_json

__all__ = ["from_model", "load", "read_metadata"]


def load(path: Any, input_shapes: Mapping[str, Sequence[int | str]] | None = None,
         values: Mapping[str, Any] | None = None) -> Graph:
    """Read an ONNX file (operator sets 7 to the newest that the onnx package knows).

    ``ck.compile(ck.io.onnx.load(path))`` gives a Program. A first axis whose size the file
    leaves open becomes the batch. float16 and bfloat16 models are computed in float32. The
    file is data: nothing in it is run, and external tensors must lie below its folder.

    Parameters
    ----------
    path : path_like
        The file.
    input_shapes : dict of str to tuple, optional
        Shapes of inputs by name, instead of those in the file: numbers, "N" for the batch in
        the first place, and ranges (low, high) of sizes after the first two, as
        `convkit.compile` takes them. Needed where the file leaves other sizes open.
    values : dict of str to array_like, optional
        Values of inputs that decide shapes (such as the target of a Reshape), which thus
        are no inputs of the graph.

    Returns
    -------
    Graph
        Inputs and outputs have the names they have in the file.

    Raises
    ------
    ModelFormatError
        When the file is not an ONNX model, is damaged or hostile, or breaks the rules of an
        operator; the text names the node.
    UnsupportedOperatorError
        When the model uses what convkit does not have; the text lists all of it, with counts
        and places.
    ImportError
        Without the onnx package (``pip install convkit[onnx]``).
    OSError
        When the file cannot be read.
    """
    model, folder, size = read_model(path)
    return _build(Importer(model, folder, size), input_shapes or {}, values or {})


def read_metadata(path: Any) -> dict[str, Any]:
    """Return an ONNX file's metadata, as `save` and others write it.

    Values that are JSON (a list of labels, say) are parsed, others are strings.

    Raises
    ------
    ModelFormatError
        When the file is no ONNX file, or names a key twice.
    """
    model, _, size = read_model(path)
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key in found:
            raise ModelFormatError(f"metadata: key {entry.key[:80]!r} appears twice")
        try:
            found[entry.key] = parse_json(entry.value.encode(), "metadata", size)
        except ModelFormatError:
            found[entry.key] = entry.value
    return found


def from_model(model: Any, input_shapes: Mapping[str, Sequence[int | str]] | None = None,
               values: Mapping[str, Any] | None = None) -> Graph:
    """Return the graph of an ``onnx.ModelProto``; otherwise as `load`.

    External tensors are not read.
    """
    check_model(model)
    return _build(Importer(model, None, model.ByteSize()), input_shapes or {}, values or {})


def _build(importer: Importer, shapes: Mapping[str, Any], values: Mapping[str, Any]) -> Graph:
    """Build for one batch, or for two where it is open, and check the result."""
    names = {i.name for i in importer.inputs}
    unknown = [n for n in (*shapes, *values) if n not in names]
    if unknown:
        raise ShapeError(f"the model has no input {unknown[0]!r}; it has {sorted(names)}")
    values = {n: np.asarray(v) for n, v in values.items()}
    symbols: dict[str, Symbol] = {}
    wanted = {i.name: _shape(i, shapes.get(i.name), symbols) for i in importer.inputs
              if i.name not in values}
    points = make_points(symbols_in(wanted.values()), PROBES)
    if any(not isinstance(d, int) for shape in wanted.values() for d in shape):
        graphs = [importer.build(
            {n: at_batch(at_sizes(s, p.sizes), p.batch) for n, s in wanted.items()}, values)
            for p in points]
        graph = join_graphs(graphs, points, [wanted[p.name] for p in graphs[0].inputs])
    else:
        graph = importer.build(wanted, values)
    try:
        verify(graph)
    except ShapeError as error:
        raise ModelFormatError(f"the graph does not hold together: {error}") from None
    return graph


def _shape(info: InputInfo, given: Sequence[Any] | None, symbols: dict[str, Symbol]) -> Shape:
    """Return an input's shape: sizes, the batch for an open first axis, and open sizes."""
    dims = info.dims if given is None else tuple(given)
    what = f"input {info.name!r:.80}"
    if dims is None:
        raise UnsupportedOperatorError(f"{what} has no shape in the file: give input_shapes")
    shape = tuple([BatchDim() if i == 0 and isinstance(d, str) else d if isinstance(d, str)
                   else read_dim(d, i, len(dims), symbols) for i, d in enumerate(dims)])
    if any(isinstance(d, str) for d in shape):
        raise UnsupportedOperatorError(
            f"{what} has open sizes other than the batch, {tuple(dims)}: give input_shapes, such "
            f"as {{{info.name!r:.80}: {tuple(d if isinstance(d, int) else 224 for d in dims)}}}, "
            "or with a range (low, high) for a size")
    if any(isinstance(d, int) and not 0 <= d < 2**31 for d in shape):
        raise ModelFormatError(f"{what} has shape {shape}")
    return shape
