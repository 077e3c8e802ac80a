"""From a ModelProto to a graph: walks the nodes, in their functions and branches too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from convkit.errors import ConvkitError, ModelFormatError, UnsupportedOperatorError
from convkit.infer.graph import Graph, Port, Value
from convkit.io.onnx.builder import Builder, NeedsValue
from convkit.io.onnx.handlers import HANDLERS
from convkit.io.onnx.node import Operator, Val, attributes, schema_of
from convkit.io.onnx.package import require_onnx
from convkit.io.onnx.parse import DOMAINS
from convkit.io.onnx.tensors import read_tensor
from convkit.io.onnx.types import held

__all__ = ["Importer", "InputInfo", "NeedsInputs"]

OLDEST = 6  # of older operator sets, only operators that have not changed until then
MAX_DEPTH = 8  # of functions and branches in one another
# Nodes walked, those of functions as often as they are called: no more than a file of its size
# could list itself, and MIN_STEPS for small files with functions.
MAX_STEPS, MIN_STEPS, NODE_BYTES = 65_536, 4096, 8


class InputInfo:
    """An input as the model declares it.

    Attributes
    ----------
    name : str
        Its name.
    elem : int
        ONNX's element type.
    dims : tuple of (int or str), or None
        Sizes, or names of sizes that are open; None where not even the rank is known.
    """

    def __init__(self, info: Any):
        self.name = info.name
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedOperatorError(
                f"input {info.name!r:.80} is a {str(kind).removesuffix('_type')}, not a tensor")
        tensor = info.type.tensor_type
        self.elem = tensor.elem_type
        self.dims: tuple[int | str, ...] | None = None
        if tensor.HasField("shape"):
            if len(tensor.shape.dim) > 16:
                raise ModelFormatError(f"input {info.name!r:.80} has {len(tensor.shape.dim)} axes")
            self.dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param
                              for d in tensor.shape.dim)


class Importer:
    """Builds graphs from one model, at given sizes of its inputs.

    Parameters
    ----------
    model : onnx.ModelProto
        Checked by `parse.check_model`.
    folder : Path or None
        Where its external data may lie.
    size : int
        The file's bytes.
    """

    def __init__(self, model: Any, folder: Path | None, size: int):
        self._graph, self._folder, self._size = model.graph, folder, size
        self._opsets = {"" if e.domain in DOMAINS else e.domain: e.version
                        for e in model.opset_import}
        self._functions = self._read_functions(model)
        self._weights = self._read_weights()
        self.inputs = [InputInfo(i) for i in self._graph.input if i.name not in self._weights]
        names = [i.name for i in self.inputs]
        if len(set(names)) != len(names) or "" in names:
            raise ModelFormatError("expected inputs with a name each of its own")
        if not self._graph.output:
            raise ModelFormatError("the graph has no outputs")
        self.outputs = [o.name for o in self._graph.output]

    def _read_functions(self, model: Any) -> dict[tuple[str, str], Any]:
        found = {}
        for f in model.functions:
            key = "" if f.domain in DOMAINS else f.domain, f.name
            if key in found:
                raise ModelFormatError(f"function {f.name!r:.80} is defined twice")
            found[key] = f
        return found

    def _read_weights(self) -> dict[str, tuple[np.ndarray, int]]:
        if self._graph.sparse_initializer:
            raise UnsupportedOperatorError("sparse initializers")
        found = {}
        for tensor in self._graph.initializer:
            if tensor.name in found or not tensor.name:
                raise ModelFormatError(f"initializer {tensor.name!r:.80} is defined twice, or has "
                                       "no name")
            what = f"initializer {tensor.name!r:.80}"
            found[tensor.name] = read_tensor(tensor, self._folder, what), tensor.data_type
        return found

    def build(self, shapes: dict[str, tuple[int, ...]],
              values: dict[str, np.ndarray] | None = None) -> Graph:
        """Return the graph for inputs of given shapes.

        Parameters
        ----------
        shapes : dict of str to tuple of int
            Of every input that is not in `values`.
        values : dict of str to numpy.ndarray, optional
            Inputs that are known beforehand, such as the target of a Reshape.

        Raises
        ------
        ModelFormatError, UnsupportedOperatorError
            The latter names every operator that is not supported.
        """
        steps = min(max(self._size // NODE_BYTES, MIN_STEPS), MAX_STEPS)
        walk = _Walk(Builder(self._size), self._opsets, self._functions, self._folder, steps)
        scope = {name: walk.builder.constant(array, name, elem)
                 for name, (array, elem) in self._weights.items()}
        ports = []
        for info in self.inputs:
            if values and info.name in values:
                array = np.array(values[info.name], held(info.elem))
                scope[info.name] = walk.builder.constant(array, info.name, info.elem)
                continue
            scope[info.name] = walk.builder.add_input(shapes[info.name], held(info.elem), info.elem)
            ports.append(Port(info.name, scope[info.name].number))
        walk.names = {p.value: p.name for p in ports}
        walk.nodes(self._graph.node, self.outputs, scope, {}, 0)
        walk.report()
        outputs = []
        for name in self.outputs:
            if not isinstance(scope.get(name), Val):
                raise ModelFormatError(f"output {name!r:.80} is never made")
            outputs.append(Port(name, scope[name].number))
        if len({p.name for p in outputs}) != len(outputs):
            raise ModelFormatError("expected outputs with a name each of its own")
        return _graph(walk.builder, ports, outputs)


def _graph(builder: Builder, ports: list[Port], outputs: list[Port]) -> Graph:
    """Return the graph without constants that no node reads."""
    alive = {v for node in builder.nodes for v in (*node.inputs, *node.outputs)}
    alive.update(p.value for p in (*ports, *outputs))
    values: dict[int, Value] = {v: info for v, info in builder.values.items() if v in alive}
    return Graph(tuple(ports), {v: c for v, c in builder.constants.items() if v in alive},
                 tuple(builder.nodes), tuple(outputs), values,
                 "single" if len(outputs) == 1 else "tuple")


class _Unsupported:
    """Stands for what a node that is not supported would have made."""


UNSUPPORTED = _Unsupported()
Scope = dict[str, "Val | _Unsupported | None"]  # None: an optional input that was left out


class _Walk:
    """One pass over a model's nodes; remembers what is not supported and goes on."""

    def __init__(self, builder: Builder, opsets: dict[str, int],
                 functions: dict[tuple[str, str], Any], folder: Path | None, steps: int):
        self.builder = builder
        self.names: dict[int, str] = {}
        self._opsets, self._functions, self._folder = opsets, functions, folder
        self._problems: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._needed: set[str] = set()
        self._steps_left = steps
        self._wanted: set[str] = set()      # what the nodes now walked over make for somebody

    def report(self) -> None:
        """Raise UnsupportedOperatorError that lists everything that is not supported."""
        if self._needed and not self._problems:
            raise NeedsInputs(self._needed)
        if not self._problems:
            return
        lines = []
        for what, count in sorted(self._problems.items()):
            places = self._places[what]
            more = f" and {count - len(places)} more" if count > len(places) else ""
            lines.append(f"{what} ({count}: {', '.join(places)}{more})")
        raise UnsupportedOperatorError(f"not supported: {'; '.join(lines)}")

    def _problem(self, what: str, place: str) -> None:
        self._problems[what] += 1
        places = self._places.setdefault(what, [])
        if len(places) < 3:
            places.append(place)

    def nodes(self, nodes: Any, outputs: Iterable[str], scope: Scope, bound: dict[str, Any],
              depth: int) -> None:
        """Walk over nodes; what they make enters the scope, and `outputs` leave it."""
        if depth > MAX_DEPTH:
            raise ModelFormatError(f"functions or branches in one another deeper than {MAX_DEPTH}")
        outer, self._wanted = self._wanted, _wanted(nodes, outputs)
        try:
            self._walk(nodes, scope, bound, depth)
        finally:
            self._wanted = outer

    def _walk(self, nodes: Any, scope: Scope, bound: dict[str, Any], depth: int) -> None:
        for node in nodes:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise ModelFormatError("functions expand to far more nodes than the file lists")
            place = repr((node.name or next(iter(node.output), "") or node.op_type)[:80])
            for name in node.input:
                if name and name not in scope:
                    raise ModelFormatError(f"node {place} reads {name[:80]!r}, which no node "
                                           "before it makes")
            results = self._node(node, scope, bound, depth, place)
            for i, name in enumerate(node.output):
                if not name:
                    continue
                if name in scope:
                    raise ModelFormatError(f"{name[:80]!r} is made twice")
                if results is None:
                    scope[name] = UNSUPPORTED
                elif i < len(results):
                    scope[name] = results[i]
                elif name in self._wanted:
                    self._problem(f"output {i} of {_title(node)}", place)
                    scope[name] = UNSUPPORTED

    def _node(self, node: Any, scope: Scope, bound, depth: int, place: str) -> tuple | None:
        """Return a node's results; None where something is not supported."""
        inputs = [scope[name] if name else None for name in node.input]
        if UNSUPPORTED in inputs:
            # Its own support is all that can be told of it.
            if not self._is_known(node):
                self._problem(_title(node), place)
            return None
        self.builder.label = node.name or next(iter(node.output), "")
        try:
            results = self._convert(node, inputs, scope, bound, depth)
        except NeedsValue as need:
            names = {self.names.get(n) for n in self.builder.sources(need.number)}
            if None in names or not names:
                self._problem(f"{_title(node)}, where {need}", place)
            else:
                self._needed |= names
            return None
        except UnsupportedOperatorError as error:
            self._problem(str(error) or _title(node), place)
            return None
        except ModelFormatError as error:
            raise ModelFormatError(f"node {place} ({_title(node)}): {error}") from None
        except Exception as error:  # whatever operations make of hostile sizes, it is the file
            text = error if isinstance(error, ConvkitError) else f"{error!r:.200}"
            raise ModelFormatError(f"node {place} ({_title(node)}): {text}") from error
        return results if isinstance(results, tuple) else (results,)

    def _is_known(self, node: Any) -> bool:
        """Tell whether an operator is one that can be converted."""
        domain = "" if node.domain in DOMAINS else node.domain
        if (domain, node.op_type) in self._functions:
            return True
        schema = self._schema(node.op_type) if not domain else None
        return schema is not None and (node.op_type in HANDLERS or node.op_type == "If"
                                       or schema.has_function)

    def _schema(self, op_type: str) -> Any:
        """Return an operator's schema; None where it is unknown or older than those handled."""
        opset = self._opsets.get("", 0)
        schema = schema_of("", op_type, opset) if opset else None
        if schema is not None and opset < OLDEST:
            later = schema_of("", op_type, OLDEST)
            if later is None or later.since_version != schema.since_version:
                return None
        return schema

    def _convert(self, node: Any, inputs: list, scope: Scope, bound, depth: int) -> Any:
        """Return what a node makes."""
        domain = "" if node.domain in DOMAINS else node.domain
        function = self._functions.get((domain, node.op_type))
        if function is not None:
            defaults = {a.name: a for a in function.attribute_proto}
            opsets = {"" if e.domain in DOMAINS else e.domain: e.version
                      for e in function.opset_import}
            return self._call(node, function, inputs, {**defaults, **_given(node, bound)}, depth,
                              {**self._opsets, **opsets})
        if not self._is_known(node):
            raise UnsupportedOperatorError(_title(node))
        schema = self._schema(node.op_type)
        _check_arity(node, schema)
        attrs = attributes(node, schema, bound, self._folder)
        if node.op_type == "If":
            return self._branch(attrs, inputs, scope, bound, depth)
        if node.op_type in HANDLERS:
            return HANDLERS[node.op_type](self.builder, Operator(
                node.op_type, self._opsets[""], inputs, attrs,
                tuple([name if name in self._wanted else "" for name in node.output])))
        defaults = {n: a.default_value for n, a in schema.attributes.items()
                    if a.default_value.name}
        return self._call(node, _body(schema, self._opsets[""]), inputs,
                          {**defaults, **_given(node, bound)}, depth, self._opsets)

    def _branch(self, attrs: dict[str, Any], inputs: list, scope: Scope, bound, depth: int
                ) -> tuple:
        """Return the results of the branch of an If whose condition is known."""
        chosen = self.builder.number(inputs[0], "the condition of If")
        graph = attrs["then_branch" if chosen else "else_branch"]
        inner = dict(scope)
        for tensor in graph.initializer:
            what = f"initializer {tensor.name!r:.80}"
            if tensor.name in inner:
                raise ModelFormatError(f"{what} is defined twice")
            array = read_tensor(tensor, self._folder, what)
            inner[tensor.name] = self.builder.constant(array, tensor.name, tensor.data_type)
        outputs = [o.name for o in graph.output]
        self.nodes(graph.node, outputs, inner, bound, depth + 1)
        return _named(inner, outputs)

    def _call(self, node: Any, function: Any, inputs: list, attrs: dict[str, Any], depth: int,
              opsets: dict[str, int]) -> tuple:
        """Return the results of a function, whose nodes are walked in place of the call."""
        if len(inputs) > len(function.input):
            raise ModelFormatError(f"{len(inputs)} inputs for a function of {len(function.input)}")
        inner: Scope = dict.fromkeys(function.input)
        inner.update(zip(function.input, inputs, strict=False))
        outer, self._opsets = self._opsets, opsets
        try:
            self.nodes(function.node, function.output, inner, attrs, depth + 1)
        finally:
            self._opsets = outer
        return _named(inner, function.output)


class NeedsInputs(UnsupportedOperatorError):
    """Inputs decide shapes, so their values must be given when the graph is built.

    Attributes
    ----------
    names : set of str
        The inputs' names.
    """

    def __init__(self, names: set[str]):
        super().__init__(f"the values of inputs {sorted(names)} decide shapes: give them as "
                         "`values`")
        self.names = names


def _wanted(nodes: Any, outputs: Iterable[str]) -> set[str]:
    """Return the names that nodes and what is within them read, and the outputs'."""
    names, left = set(outputs), list(nodes)
    while left:
        node = left.pop()
        names.update(node.input)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                names.update(o.name for o in graph.output)
                left.extend(graph.node)
    return names


def _title(node: Any) -> str:
    """Return an operator's name with its domain."""
    domain = "" if node.domain in DOMAINS else f"{node.domain[:80]}."
    return f"{domain}{node.op_type[:80]}"


def _given(node: Any, bound: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a call, those taken from the calling function looked up."""
    found = {}
    for attr in node.attribute:
        source = bound.get(attr.ref_attr_name) if attr.ref_attr_name else attr
        if source is not None:
            found[attr.name] = source
    return found


def _body(schema: Any, opset: int) -> Any:
    """Return the function that an operator's document defines it by, for an operator set."""
    fitting = [v for v in schema.function_opset_versions if v <= opset]
    if not fitting:
        return schema.function_body
    function = require_onnx().FunctionProto()
    function.ParseFromString(schema.get_function_with_opset_version(max(fitting)))
    return function


def _named(scope: Scope, names: Any) -> tuple:
    """Return values by name."""
    missing = [name for name in names if name not in scope]
    if missing:
        raise ModelFormatError(f"{missing[0][:80]!r} is returned but never made")
    return tuple([scope[name] for name in names])


def _check_arity(node: Any, schema: Any) -> None:
    """Raise ModelFormatError unless a node has as many inputs and outputs as it may have."""
    for what, names, low, high in (("inputs", node.input, schema.min_input, schema.max_input),
                                   ("outputs", node.output, schema.min_output, schema.max_output)):
        if not low <= len(names) <= high:
            raise ModelFormatError(f"{len(names)} {what}, expected {low} to {high}")
    for name, formal in zip(node.input[:schema.min_input], schema.inputs, strict=False):
        if not name and formal.option.name == "Single":
            raise ModelFormatError(f"input {formal.name!r} is missing")
