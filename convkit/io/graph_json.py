"""A graph as JSON and back, every field checked on the way back.

Values need no numbers in the file: inputs come first, then constants, then the outputs of
the nodes, in the order in which they are listed.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from convkit.errors import ConvkitError, ModelFormatError
from convkit.infer.dims import BatchDim, Dim, Shape, at_sizes, points_of, show
from convkit.infer.graph import Constant, Graph, Node, Port, Value, type_name
from convkit.infer.open_dims import OpenDim, Point, Symbol, Term
from convkit.infer.schema import SCHEMAS
from convkit.infer.verify import FORMS, check_input, check_open_attrs, infer_node
from convkit.ops.cast import DTYPES

__all__ = ["graph_from_json", "graph_to_json"]

MAX_NODES = 16_384
MAX_PORTS = 1024
MAX_NODE_INPUTS = 1024
MAX_NAME = 512
MAX_RANK = 8
MAX_DIM = 2**40
INPUT_DTYPES = tuple(dtype for dtype in DTYPES if dtype != "float64")
MAX_SIZES = 8
MAX_TERMS = 4
# Fields of a term in the order in which files list them, with their least values.
TERM = {"times": 1, "mul": 1, "add": 0, "by": 1, "slope": -1, "plus": -MAX_DIM}
INFINITIES = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


# -- writing --------------------------------------------------------------------------------


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """Return a graph as JSON values; constants are given by name only."""
    numbers: dict[int, int] = {}
    for value in (*(p.value for p in graph.inputs), *graph.constants,
                  *(v for node in graph.nodes for v in node.outputs)):
        numbers[value] = len(numbers)
    sizes = {s.name: [s.low, s.high, s.step] for s in graph.open_sizes()}
    return {
        **({"sizes": sizes} if sizes else {}),
        "inputs": [{"name": p.name, "shape": _shape_out(graph.shape(p.value)),
                    "dtype": _dtype_out(graph.values[p.value].dtype)} for p in graph.inputs],
        "constants": [c.name for c in graph.constants.values()],
        "nodes": [{
            "op": node.op, "name": node.name,
            "inputs": [None if v is None else numbers[v] for v in node.inputs],
            "attrs": {key: _attr_out(value) for key, value in node.attrs.items()},
            "shapes": [_shape_out(graph.shape(v)) for v in node.outputs],
        } for node in graph.nodes],
        "outputs": [{"name": p.name, "value": numbers[p.value]} for p in graph.outputs],
        "form": graph.form,
    }


def _dtype_out(dtype: str) -> str:
    """Return an input's type in files, where all floats are float32."""
    return "float32" if dtype == "float64" else dtype


def _shape_out(shape: Shape) -> list[Any]:
    if len(shape) > MAX_RANK:
        raise ValueError(f"a file takes values of at most {MAX_RANK} axes, got shape {show(shape)}")
    return [_size_out(d) for d in shape]


def _size_out(d: Dim) -> Any:
    """Return a size: a number, ``4N``, the name of an open size, or a formula of some."""
    if isinstance(d, OpenDim):
        return _formula_out(d) if d.symbol is None else d.symbol.name
    return str(d) if isinstance(d, BatchDim) else d


def _formula_out(d: OpenDim) -> dict[str, Any]:
    return {"factor": d.factor, "batch": d.batch, "terms": [
        [t.symbol.name, *(getattr(t, field) for field in TERM)] for t in d.terms]}


def _attr_out(value: Any) -> Any:
    """Return an attribute as JSON; floats that JSON lacks become the words of `INFINITIES`."""
    if isinstance(value, tuple):
        return [_attr_out(v) for v in value]
    if isinstance(value, OpenDim):
        return _formula_out(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


# -- reading --------------------------------------------------------------------------------


def graph_from_json(data: Any, constants: Mapping[str, Constant]) -> Graph:
    """Return the graph that JSON values describe.

    Parameters
    ----------
    data : object
        What was parsed.
    constants : dict of str to Constant
        The file's tensors; each must be named once by the graph's constants.

    Raises
    ------
    ModelFormatError
        When a field is missing, unknown, of the wrong type or out of range, a reference
        leads nowhere or forward, or a shape is not the one that follows.
    """
    try:
        return _read_graph(data, constants)
    except ModelFormatError:
        raise
    except ConvkitError as error:
        raise ModelFormatError(f"graph: {error}") from None


def _read_graph(data: Any, stored: Mapping[str, Constant]) -> Graph:
    fields = {"inputs", "constants", "nodes", "outputs", "form"}
    opened = isinstance(data, dict) and "sizes" in data
    _fields(data, "graph", fields | {"sizes"} if opened else fields)
    symbols = _read_symbols(data["sizes"]) if opened else {}
    values: dict[int, Value] = {}
    inputs = []
    for entry in _list(data["inputs"], "inputs", MAX_PORTS):
        _fields(entry, "input", {"name", "shape", "dtype"})
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in INPUT_DTYPES:
            raise ModelFormatError(f"input: expected dtype {', '.join(INPUT_DTYPES)}, "
                                   f"got {entry['dtype']!r:.40}")
        port = Port(_name(entry["name"], "input"), len(values))
        shape = _shape_in(entry["shape"], symbols)
        check_input(port.name, shape)
        inputs.append(port)
        values[port.value] = Value(shape, entry["dtype"])
    constants = {}
    for name in _list(data["constants"], "constants", len(stored)):
        if not isinstance(name, str) or name not in stored:
            raise ModelFormatError(f"constant {name!r:.80}: the file has no such tensor")
        constants[len(values)] = found = stored[name]
        values[len(values)] = Value(found.shape, type_name(found.dtype))
    names = {c.name for c in constants.values()}
    if len(names) != len(stored) or len(names) != len(constants):
        raise ModelFormatError(f"{len(stored)} tensors, of which the graph names {len(names)} in "
                               f"{len(constants)} constants; expected each once")
    points = points_of(values[p.value].shape for p in inputs)
    if len(points[0].sizes) != len(symbols):
        raise ModelFormatError("sizes: expected each to be that of an input")
    rules = _Rules(symbols, points, values)
    nodes = [_read_node(entry, i, values, rules)
             for i, entry in enumerate(_list(data["nodes"], "nodes", MAX_NODES))]
    outputs = []
    for entry in _list(data["outputs"], "outputs", MAX_PORTS):
        _fields(entry, "output", {"name", "value"})
        outputs.append(Port(_name(entry["name"], "output"),
                            _reference(entry["value"], len(values), "output")))
    if not isinstance(data["form"], str) or data["form"] not in FORMS:
        raise ModelFormatError(f"form: expected one of {', '.join(FORMS)}")
    _check_ports(inputs, outputs, data["form"])
    return Graph(tuple(inputs), constants, tuple(nodes), tuple(outputs), values, data["form"])


def _read_symbols(data: Any) -> dict[str, Symbol]:
    """Return the open sizes by name."""
    if not isinstance(data, dict) or not 0 < len(data) <= MAX_SIZES:
        raise ModelFormatError(f"sizes: expected an object of 1 to {MAX_SIZES} ranges")
    symbols = {}
    for name, span in data.items():
        if not (name.isascii() and name.isidentifier() and len(name) <= 16 and name != "N"):
            raise ModelFormatError(f"sizes: expected short words as names, got {name!r:.40}")
        if not (isinstance(span, list) and len(span) == 3
                and all(type(n) is int and 1 <= n < 2**31 for n in span) and span[0] < span[1]):
            raise ModelFormatError(f"sizes: expected [low, high, step] for {name}")
        symbols[name] = Symbol(name, *span)
    return symbols


def _read_node(entry: Any, position: int, values: dict[int, Value], rules: _Rules) -> Node:
    """Return a node with checked attributes; its outputs are added to `values`."""
    what = f"node {position}"
    _fields(entry, what, {"op", "name", "inputs", "attrs", "shapes"})
    op = entry["op"]
    if not isinstance(op, str) or op not in SCHEMAS:
        raise ModelFormatError(f"{what}: unknown operation {op!r:.80}")
    inputs = tuple([None if v is None else _reference(v, len(values), what)
                    for v in _list(entry["inputs"], what, MAX_NODE_INPUTS)])
    if not inputs or inputs[0] is None:
        raise ModelFormatError(f"{what} ({op}): the first input is missing")
    if not isinstance(entry["attrs"], dict):
        raise ModelFormatError(f"{what} ({op}): attrs: expected an object")
    attrs, results = rules.follow(what, op, [None if v is None else values[v] for v in inputs],
                                  entry["attrs"], entry["shapes"])
    outputs = tuple(range(len(values), len(values) + len(results)))
    values.update(zip(outputs, results, strict=True))
    return Node(op, inputs, outputs, dict(attrs), _name(entry["name"], what, empty=True))


class _Rules:
    """What follows from a node's operation, attributes and operands, worked out once.

    A network has many nodes that differ in nothing but their places in it. What is compared is how
    attributes and shapes are serialised, which tells 1, 1.0 and true apart.
    """

    def __init__(self, symbols: dict[str, Symbol], points: Sequence[Point],
                 values: dict[int, Value]):
        self._symbols, self._points = symbols, points
        self._known: dict[tuple, tuple[dict[str, Any], list[Value]]] = {}
        # Values that are equal are one object: nodes are known by the ids of their operands'.
        self._values: dict[tuple, Value] = {}
        for number, value in values.items():
            values[number] = self._one(value)

    def _one(self, value: Value) -> Value:
        return self._values.setdefault((value.shape, value.dtype), value)

    def follow(self, what: str, op: str, operands: list[Value | None], attrs: dict[str, Any],
               shapes: Any) -> tuple[dict[str, Any], list[Value]]:
        """Return checked attributes and the results, whose shapes are those declared."""
        key = (op, marshal.dumps((attrs, shapes), 2), *map(id, operands))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._check(what, op, operands, attrs, shapes)
        return found

    def _check(self, what: str, op: str, operands: list[Value | None], attrs: dict[str, Any],
               shapes: Any) -> tuple[dict[str, Any], list[Value]]:
        symbols, points = self._symbols, self._points
        checked = check_open_attrs(op, {k: _attr_in(v, symbols) for k, v in attrs.items()},
                                   len(operands[0].shape), points)
        declared = [_shape_in(s, symbols) for s in _list(shapes, what, 3)]
        try:
            results = infer_node(Node(op, (), (), checked), operands, points, checked=True)
        except Exception as error:  # whatever a shape rule makes of hostile sizes, it is the file
            raise ModelFormatError(f"{what} ({op}): {error}") from None
        if not _same_shapes([r.shape for r in results], declared, points):
            raise ModelFormatError(f"{what} ({op}): declared shapes {declared}, but "
                                   f"{[r.shape for r in results]} follow")
        return checked, [self._one(r) for r in results]


def _same_shapes(found: list[Shape], declared: list[Shape], points: Sequence[Point]) -> bool:
    """Tell whether shapes agree; of formulas only what they give counts."""
    return found == declared or (bool(points[0].sizes) and all(
        [at_sizes(s, p.sizes) for s in found] == [at_sizes(s, p.sizes) for s in declared]
        for p in points))


def _check_ports(inputs: list[Port], outputs: list[Port], form: str) -> None:
    """Check that ports are there and can be told apart."""
    for what, ports in (("input", inputs), ("output", outputs)):
        if not ports or len({p.name for p in ports}) != len(ports):
            raise ModelFormatError(f"expected at least one {what}, each with a name of its own")
    if form == "single" and len(outputs) != 1:
        raise ModelFormatError(f"form single with {len(outputs)} outputs")


# -- single fields --------------------------------------------------------------------------


def _fields(entry: Any, what: str, expected: set[str]) -> None:
    if not isinstance(entry, dict):
        raise ModelFormatError(f"{what}: expected an object, got {type(entry).__name__}")
    if entry.keys() != expected:
        wrong = sorted(entry.keys() ^ expected)[0]
        raise ModelFormatError(f"{what}: field {wrong!r:.80} is "
                               + ("missing" if wrong in expected else "unknown"))


def _list(value: Any, what: str, most: int) -> list:
    if not isinstance(value, list) or len(value) > most:
        raise ModelFormatError(f"{what}: expected a list of at most {most} entries")
    return value


def _name(value: Any, what: str, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not (value or empty):
        raise ModelFormatError(f"{what}: expected a name of 1 to {MAX_NAME} characters")
    return value


def _reference(value: Any, known: int, what: str) -> int:
    if type(value) is not int or not 0 <= value < known:
        raise ModelFormatError(f"{what}: value {value!r:.40} is not one of the {known} before it")
    return value


def _shape_in(value: Any, symbols: dict[str, Symbol]) -> Shape:
    """Read a shape: sizes, "N" or "4N" for the batch and multiples of it, and open sizes."""
    return tuple([d if type(d) is int and 0 <= d <= MAX_DIM else _dim(d, symbols)
                  for d in _list(value, "shape", MAX_RANK)])


def _dim(value: Any, symbols: dict[str, Symbol]) -> Dim:
    """Read a size that is no number."""
    if isinstance(value, str) and value in symbols:
        return OpenDim((Term(symbols[value]),))
    if isinstance(value, str) and len(value) <= 14 and value.endswith("N"):
        digits = value[:-1] or "1"
        if digits.isascii() and digits.isdigit() and str(BatchDim(int(digits))) == value:
            return BatchDim(int(digits))
    if isinstance(value, dict):
        return _formula(value, symbols)
    raise ModelFormatError(f"shape: expected a size or a multiple of N, got {value!r:.40}")


def _formula(value: dict[str, Any], symbols: dict[str, Symbol]) -> OpenDim:
    """Read a size that follows open ones."""
    _fields(value, "size", {"factor", "batch", "terms"})
    terms = []
    for entry in _list(value["terms"], "terms", MAX_TERMS):
        name, *numbers = _list(entry, "term", 1 + len(TERM)) or [None]
        if not isinstance(name, str) or name not in symbols or len(numbers) != len(TERM) or any(
                type(n) is not int or not low <= n <= MAX_DIM
                for n, low in zip(numbers, TERM.values(), strict=True)):
            raise ModelFormatError(f"term: expected an open size and {len(TERM)} numbers, "
                                   f"got {entry!r:.80}")
        terms.append(Term(symbols[name], *numbers))
    if not terms or type(value["batch"]) is not bool or type(value["factor"]) is not int \
            or not 1 <= value["factor"] <= MAX_DIM:
        raise ModelFormatError(f"size: expected factor, batch and terms, got {value!r:.80}")
    return OpenDim(tuple(terms), value["factor"], value["batch"])


def _attr_in(value: Any, symbols: dict[str, Symbol]) -> Any:
    """Return an attribute with lists as tuples and the words of `INFINITIES` as floats."""
    kind = type(value)
    if kind is list:
        return tuple([v if type(v) is int else _attr_in(v, symbols) for v in value])
    if kind is dict and symbols:
        found = _formula(value, symbols)
        if found.batch:
            raise ModelFormatError("attributes: expected sizes that do not follow the batch")
        return found
    return INFINITIES.get(value, value) if kind is str else value
