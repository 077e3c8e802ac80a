"""From a model to a graph: run it twice, record its operations, join the two records.

The model runs in eval mode on two batches of different size and different data. What is the
same in both runs is constant, what grows with the batch is tied to it, and everything else
depends on the data in a way that a graph cannot hold: an error says what and where.

Where the input's height or width are open within a range, those two runs are at different
sizes, and more follow at many others in which only shapes are computed. An attribute that
differs from run to run must follow the open sizes by a formula (`dims.join_size`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import memory
from convkit.autograd import Tensor, no_grad, tracing
from convkit.errors import ShapeError, UnsupportedOperatorError
from convkit.infer.dims import (
    PROBES,
    BatchDim,
    Dim,
    Shape,
    at_batch,
    at_sizes,
    join,
    join_size,
    terms_of,
)
from convkit.infer.graph import Constant, Graph, Node, Port, Value, type_name
from convkit.infer.open_dims import OpenDim, Point, Term, make_points, symbols_in
from convkit.infer.ranges import is_shape, read_shapes
from convkit.infer.schema import SCHEMAS, complete
from convkit.infer.verify import verify
from convkit.ops.op import REGISTRY

__all__ = ["Run", "join_attr", "own_constants", "random_inputs", "trace", "trace_and_run"]


class Run(NamedTuple):
    """What a model was run on, and what it gave."""

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


@dataclass
class _Call:
    """One recorded operation: inputs and outputs are value numbers of its record."""

    op: str
    inputs: tuple[int | None, ...]
    attrs: dict[str, Any]
    outputs: tuple[int, ...]


def _forget(numbers: dict[int, int], address: int, _: weakref.ref) -> None:
    """Forget an array that is gone: its address may be used again.

    Not a method, or a record and its arrays would live on until Python looks for cycles.
    """
    numbers.pop(address, None)


class _Record:
    """Everything one run of the model did; the tracer given to ``autograd.tracing``.

    A value is known by the array object that holds it, so a tensor detached from another
    is the same value. What operations make is forgotten with the model's last use of it: only
    inputs, constants and outputs are kept.
    """

    def __init__(self, names: dict[int, str], run: Callable | None = None):
        self.run = run
        self.calls: list[_Call] = []
        self.values: list[tuple[tuple[int, ...], np.dtype]] = []
        self.arrays: dict[int, np.ndarray] = {}
        self.constants: list[int] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self._names = names
        self._numbers: dict[int, int] = {}
        self._versions: dict[int, tuple[list[int], int]] = {}
        self._watched: list[weakref.ref] = []

    def add(self, x: Any, keep: bool = False) -> int:
        """Give a new value its number."""
        array = _array(x)
        self.values.append((array.shape, array.dtype))
        self._numbers[id(array)] = number = len(self.values) - 1
        if keep or isinstance(array, np.generic):  # of single numbers there are no weak references
            self.arrays[number] = array
        else:
            self._watched.append(weakref.ref(array, partial(_forget, self._numbers, id(array))))
        if isinstance(x, Tensor):
            self._versions[number] = x._cell, x._cell[0]
        return number

    def number(self, x: Any) -> int:
        """Return a value's number; one that no operation made is a constant."""
        found = self._numbers.get(id(_array(x)))
        if found is None:
            found = self.add(x, keep=True)
            self.constants.append(found)
        elif found in self._versions:
            cell, version = self._versions[found]
            if cell[0] != version:
                raise UnsupportedOperatorError(
                    "a tensor was changed in place, which a graph cannot hold; write x = x + y "
                    "for x.add_(y)")
        return found

    def name(self, number: int) -> str | None:
        """Return the state_dict name of a constant, None when it has none."""
        return self._names.get(id(self.arrays[number]))

    def record(self, op, inputs, attrs, outputs) -> None:
        """Take note of one operation."""
        if REGISTRY.get(op.name) is not op or op.name not in SCHEMAS:
            raise UnsupportedOperatorError(
                f"operation {op.name or op.__name__!r} cannot be part of an inference graph")
        numbers = tuple([None if x is None else self.number(x) for x in inputs])
        self.calls.append(_Call(op.name, numbers, complete(op.name, attrs),
                                tuple([self.add(t) for t in outputs])))

    def decide(self, x: Tensor) -> None:
        """Warn where Python takes a number or a truth value from what follows from the input."""
        found = self._numbers.get(id(_array(x)))
        if found is None or found not in self._following():
            return
        warnings.warn("a number or truth value that depends on the input was taken out of a tensor "
                      "while the model was traced: the graph keeps what it was, and which way it "
                      "decided, for every input", stacklevel=4)

    def _following(self) -> set[int]:
        """Return the values that follow from the inputs."""
        following = set(self.inputs)
        for call in self.calls:
            if following.intersection(call.inputs):
                following.update(call.outputs)
        return following


def _array(x: Any) -> np.ndarray:
    return x.data if isinstance(x, Tensor) else np.asarray(x)


def trace(model: Any, input_shape: Any = None, example: Any = None) -> Graph:
    """Run a model in eval mode and return what it did as a graph.

    Parameters
    ----------
    model : Module or callable
        Called with one Tensor per input; returns a Tensor, or a tuple, list or dictionary
        of them. Training flags are as before afterwards.
    input_shape : tuple of int, list or dict of them, optional
        The full shape, batch first: ``(1, 3, 32, 32)``. The batch stays open, so its size
        here does not matter. A list of shapes, or a dictionary of them by argument name,
        for several inputs. A size after the first two may be a range instead:
        ``(1, 3, (32, 512), (32, 512))``, or with a step, ``(32, 512, 32)``; see
        `convkit.infer.ranges`.
    example : array_like, list or dict of array_like, optional
        Sample input (with the batch axis) to run the model on instead of random numbers;
        its shape then is the input shape.

    Returns
    -------
    Graph
        Constants are named as in the model's state_dict.

    Raises
    ------
    ShapeError
        When the graph depends on the data or on the batch's size in a way that a graph
        cannot hold, or an operation does not accept its inputs.
    UnsupportedOperatorError
        When the model uses an operation without a place in inference graphs.
    """
    graph, _ = trace_and_run(model, input_shape, example)
    return own_constants(graph, graph)


def own_constants(graph: Graph, traced: Graph) -> Graph:
    """Return a graph with read-only copies of arrays that may be the model's.

    It then stays what it is when the model is trained on. Arrays that passes have made of those
    of the `traced` graph are taken as they are.
    """
    lent = {id(c.array) for c in traced.constants.values()}
    constants = {}
    for value, constant in graph.constants.items():
        array = constant.array
        if id(array) in lent or not array.flags.owndata:
            array = array.copy()
        array.flags.writeable = False
        constants[value] = Constant(constant.name, array)
    return dataclasses.replace(graph, constants=constants)


def trace_and_run(
    model: Any, input_shape: Any = None, example: Any = None,
) -> tuple[Graph, list[Run]]:
    """Return the graph, and what the model was run on and gave.

    That is one run, or, where sizes are open, two at different sizes. Constants are the model's
    own arrays, for `own_constants`.
    """
    held = memory.stats()["held"]
    names, shapes, arrays = _samples(model, input_shape, example)
    points = make_points(symbols_in(shapes), PROBES)
    records, forms = [], []
    for turn, point in enumerate(points):
        if turn < len(PROBES):
            given = [_rebatch(x, point.batch, turn) for x in arrays] if arrays is not None \
                else _random_batch(shapes, point, turn)
            record, form = _run(model, given)
        else:
            record, form = _run(model, [_imagined(_at(s, point), np.float32) for s in shapes],
                                _imagine)
        records.append(record)
        forms.append(form)
    other = next((f for f in forms if f != forms[0]), None)
    if other is not None:
        raise ShapeError(f"the model's outputs depend on the data or the batch: "
                         f"{forms[0]} against {other}")
    memory.trim(held)
    graph = _join(records, points, names, shapes, *forms[0])
    verify(graph)
    kept = records[:len(PROBES) if graph.open_sizes() else 1]
    return graph, [Run([r.arrays[i] for i in r.inputs], [r.arrays[i] for i in r.outputs])
                   for r in kept]


# -- inputs ---------------------------------------------------------------------------------


def random_inputs(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    """Return float32 arrays of standard normal numbers, the same for every call."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def _samples(model: Any, input_shape: Any, example: Any
             ) -> tuple[list[str], list[Shape], list[np.ndarray] | None]:
    """Return the inputs' names, their shapes, and arrays where an example is given."""
    if example is not None:
        given = example if isinstance(example, (dict, tuple, list)) else [example]
    else:
        if input_shape is None:
            input_shape = getattr(model, "input_shape", None)
        if input_shape is None:
            raise ValueError("expected input_shape, the full shape of the model's input with the "
                             "batch first, such as (1, 3, 32, 32)")
        if hasattr(input_shape, "shape"):
            raise ShapeError(f"expected input_shape to be a shape, got an array of shape "
                             f"{tuple(input_shape.shape)}: pass that, or example=")
        given = [input_shape] if is_shape(input_shape) else input_shape
    values = list(given.values() if isinstance(given, dict) else given)
    names = list(given) if isinstance(given, dict) else _argument_names(model, len(values))
    if example is None:
        return names, [(BatchDim(), *shape[1:]) for shape in read_shapes(values)], None
    arrays = [_array(x) for x in values]
    for x in arrays:
        if x.ndim < 1 or x.dtype.kind != "f" or x.size == 0:
            raise ShapeError(f"expected example arrays of floating-point numbers with the batch "
                             f"first, got shape {x.shape} of {x.dtype}")
    return names, [(BatchDim(), *x.shape[1:]) for x in arrays], arrays


def _at(shape: Shape, point: Point) -> tuple[int, ...]:
    return at_batch(at_sizes(shape, point.sizes), point.batch)


def _random_batch(shapes: list[Shape], point: Point, turn: int) -> list[np.ndarray]:
    """Return random inputs at a point."""
    return [_rebatch(x, point.batch, turn)
            for x in random_inputs([(1, *_at(s, point)[1:]) for s in shapes])]


def _argument_names(model: Any, count: int) -> list[str]:
    """Return the names of the first arguments of forward, or input, input1, ..."""
    call = getattr(model, "forward", model)
    with contextlib.suppress(TypeError, ValueError):
        positional = [p.name for p in inspect.signature(call).parameters.values()
                      if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(positional) >= count:
            return positional[:count]
    return ["input" if i == 0 else f"input{i}" for i in range(count)]


def _rebatch(x: np.ndarray, batch: int, turn: int) -> np.ndarray:
    """Return `batch` samples made from those of `x`, different ones at each turn."""
    out = np.resize(x, (batch, *x.shape[1:]))
    for i in range(batch):
        out[i] *= 1 - 0.1 * (i + turn)
    return out


# -- one run --------------------------------------------------------------------------------


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a module tree in eval mode within the block."""
    modules = list(model.modules()) if hasattr(model, "modules") else []
    before = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m, flag in zip(modules, before, strict=True):
            m.training = flag


def _constant_names(model: Any) -> dict[int, str]:
    """Return the state_dict name of every array that is a parameter or buffer."""
    found: dict[int, str] = {}
    for listing in ("named_parameters", "named_buffers"):
        for name, value in getattr(model, listing, tuple)():
            if value is not None:
                found.setdefault(id(_array(value)), name)
    return found


def _imagined(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _imagine(op: Any, arrays: list[np.ndarray | None], attrs: dict[str, Any]) -> Any:
    """Return arrays of the shapes and types that an operation would give, without its work."""
    if op.name not in SCHEMAS:
        raise UnsupportedOperatorError(
            f"operation {op.name or op.__name__!r} cannot be part of an inference graph")
    schema, attrs = SCHEMAS[op.name], complete(op.name, attrs)
    dtypes = [None if x is None else type_name(x.dtype) for x in arrays]
    first = op.shape(*[None if x is None else x.shape for x in arrays], **attrs)
    dtype = schema.result(dtypes, attrs)
    made = [_imagined(first, dtype),
            *(_imagined(*more) for more in schema.extras(first, dtype, attrs))]
    return made[0] if len(made) == 1 else tuple(made)


def _run(model: Any, arrays: list[np.ndarray], run: Callable | None = None
         ) -> tuple[_Record, tuple[str, list[str]]]:
    """Run the model once; return the record, and the outputs' form and names."""
    record = _Record(_constant_names(model), run)
    tensors = [Tensor(x) for x in arrays]
    record.inputs = [record.add(t, keep=True) for t in tensors]
    with _evaluating(model), no_grad(), tracing(record):
        result = model(*tensors)
    if isinstance(result, dict):
        form, names, values = "dict", [str(k) for k in result], list(result.values())
    elif isinstance(result, (tuple, list)):
        form, values = "tuple", list(result)
        names = [f"output{i}" for i in range(len(values))]
    else:
        form, names, values = "single", ["output"], [result]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"expected the model to return tensors, got {type(value).__name__}")
    if not values:
        raise TypeError("expected the model to return at least one tensor")
    record.outputs = [record.number(t) for t in values]
    record.arrays.update(zip(record.outputs, map(_array, values), strict=True))
    return record, (form, names)


# -- many runs into one graph ---------------------------------------------------------------


def _join(records: list[_Record], points: Sequence[Point], names: list[str], shapes: list[Shape],
          form: str, output_names: list[str]) -> Graph:
    """Return the graph that all records are runs of."""
    first = records[0]
    for other in records[1:]:
        _check_same_calls(first, other)
    known: dict[Term, None] = dict.fromkeys(terms_of(shapes))
    values: dict[int, Value] = dict(zip(first.inputs, map(Value, shapes), strict=True))
    for number, (_, dtype) in enumerate(first.values):
        shape = values[number].shape if number in values else _join_value(
            records, points, number, known)
        values[number] = Value(shape, type_name(dtype))
        known.update(dict.fromkeys(terms_of(shape)))
    layer_names = _Names()
    constants = _join_constants(records, values)
    nodes = []
    for position, calls in enumerate(zip(*(r.calls for r in records), strict=True)):
        x = calls[0]
        attrs = {key: join_attr(position, calls, key, values, points, known) for key in x.attrs}
        layer = next((c.name.rpartition(".")[0] for v in x.inputs
                      if (c := constants.get(v)) and "." in c.name), x.op)
        nodes.append(Node(x.op, x.inputs, x.outputs, attrs, layer_names.unique(layer)))
    return Graph(
        tuple(Port(n, v) for n, v in zip(names, first.inputs, strict=True)), constants,
        tuple(nodes), tuple(Port(n, v) for n, v in zip(output_names, first.outputs, strict=True)),
        values, form)


class _Names:
    """Hands out names, with a number where one is taken."""

    def __init__(self):
        self._taken: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Return the name, or name_1, name_2, ... from the second time on."""
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return f"{name}_{count}" if count else name


def _check_same_calls(a: _Record, b: _Record) -> None:
    """Raise ShapeError unless both runs did the same operations on the same values."""
    for i, (x, y) in enumerate(zip(a.calls, b.calls, strict=False)):
        if (x.op, x.inputs, x.outputs) != (y.op, y.inputs, y.outputs):
            raise ShapeError(f"the model does different things on different inputs: operation {i} "
                             f"is {x.op} of values {x.inputs} in one run and {y.op} of values "
                             f"{y.inputs} in another")
    if len(a.calls) != len(b.calls) or a.outputs != b.outputs or a.constants != b.constants:
        raise ShapeError(f"the model does different things on different inputs: "
                         f"{len(a.calls)} operations in one run, {len(b.calls)} in another")


def _join_value(records: list[_Record], points: Sequence[Point], number: int,
                known: Collection[Term]) -> Shape:
    """Return a value's shape with the batch, and open sizes, left open."""
    try:
        return join([r.values[number][0] for r in records], points, known)
    except ShapeError as error:
        raise ShapeError(f"{_place(records[0], number)}: {error}") from None


def _place(record: _Record, number: int) -> str:
    for i, call in enumerate(record.calls):
        if number in call.outputs:
            return f"operation {i} ({call.op})"
    return "an array that no recorded operation made"


def _join_constants(records: list[_Record], values: dict[int, Value]) -> dict[int, Constant]:
    """Return the constants, named and as floats; raise ShapeError where the runs differ."""
    constants, names, a = {}, _Names(), records[0]
    whole = {v for call in a.calls for i, v in enumerate(call.inputs)
             if v is not None and not SCHEMAS[call.op].takes_floats(i)}
    floating = {v for call in a.calls if any(
        v is not None and a.values[v][1].kind == "f" for v in (*call.inputs, *call.outputs))
        for v in call.inputs}
    named = [a.name(v) for v in a.constants]
    for name in named:
        if name:
            names.unique(name)
    for number, name in zip(a.constants, named, strict=True):
        x = a.arrays[number]
        if not all(_same(x, r.arrays[number]) for r in records[1:]):
            raise ShapeError(
                f"an array of shape {x.shape} depends on the input but was not made by recorded "
                "operations (NumPy on t.data or t.numpy()?), so it cannot be part of a graph")
        # Integers become what operations turn them into where they meet floats, unless they must
        # be integers.
        if x.dtype.kind in "iub" and number in floating and number not in whole:
            x = x.astype(np.float32)
        values[number] = Value(x.shape, type_name(x.dtype))
        constants[number] = Constant(name or names.unique("constant"), x)
    return constants


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return x is y or (x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes())


def join_attr(position: int, calls: Sequence[_Call], key: str, values: dict[int, Value],
              points: Sequence[Point], known: Collection[Term] = ()) -> Any:
    """Return an attribute that holds for every batch and every open size.

    Parameters
    ----------
    position : int
        Of the operation, for errors.
    calls : sequence
        The operation at each of `points`; all that is used is `op`, `inputs`, `outputs` and
        `attrs`.
    key : str
        The attribute's name.
    values : dict of int to Value
        What is known of all values.
    points : sequence of Point
        A batch and a value of every open size each.
    known : collection of Term
        Terms of open sizes that occur in shapes.
    """
    x = calls[0]
    found = [call.attrs[key] for call in calls]
    if key == "shape" and x.op == "reshape":
        return _open_shape(position, x.attrs[key], values[x.outputs[0]])
    if all(f == found[0] for f in found):
        return found[0]
    if key == "shape" and x.op == "expand":
        found = _kept_sizes(found, values[x.inputs[0]].shape, values[x.outputs[0]].shape)
        if all(f == found[0] for f in found):
            return found[0]
    if key == "stops" and x.op == "slice":
        return tuple([_open_stop(position, stops, d, points, known) for *stops, d
                      in zip(*found, values[x.inputs[0]].shape, strict=True)])
    try:
        return _join_numbers(found, points, known)
    except ShapeError:
        other = next(f for f in found if f != found[0])
        raise ShapeError(
            f"operation {position} ({x.op}): attribute {key} depends on the data or the batch: "
            f"{found[0]} in one run, {other} in another") from None


def _join_numbers(found: Sequence[Any], points: Sequence[Point], known: Collection[Term]) -> Any:
    """Return numbers, or tuples of them, that follow the open sizes; else raise ShapeError."""
    if all(f == found[0] for f in found):
        return found[0]
    if all(isinstance(f, tuple) and len(f) == len(found[0]) for f in found):
        return tuple([_join_numbers(entries, points, known)
                      for entries in zip(*found, strict=True)])
    if all(type(f) is int for f in found):
        size = join_size(found, points, known)
        if isinstance(size, OpenDim) and not size.batch:
            return size
    raise ShapeError("no number that follows the open sizes")


def _open_shape(position: int, shape: tuple[int, ...], result: Value) -> tuple:
    """Return a reshape's target with -1 where the batch is; as it is where there is none.

    Sizes that follow open ones stand there as such, unless there is but one size to fill in.
    """
    batch = [i for i, d in enumerate(result.shape)
             if isinstance(d, BatchDim) or (isinstance(d, OpenDim) and d.batch)]
    free = batch or [i for i, d in enumerate(result.shape) if isinstance(d, OpenDim)][:1]
    if not free:
        return shape
    if len(batch) > 1:
        raise ShapeError(f"operation {position} (reshape): the batch is in {len(batch)} axes of "
                         f"{result.shape}, expected one")
    return tuple([-1 if i == free[0] else d for i, d in enumerate(result.shape)])


def _kept_sizes(found: Sequence[tuple[int, ...]], before: Shape, after: Shape
                ) -> list[tuple[int, ...]]:
    """Return targets of an expansion with -1 where an axis is as long as it was."""
    extra = len(after) - len(before)
    kept = [i >= extra and before[i - extra] == d for i, d in enumerate(after)]
    return [tuple([-1 if k else n for n, k in zip(shape, kept, strict=True)]) for shape in found]


def _open_stop(position: int, stops: Sequence[int | None], size: Dim, points: Sequence[Point],
               known: Collection[Term]) -> int | OpenDim | None:
    """Return a slice's stop: None for one that follows the size of the whole axis."""
    if all(stop == stops[0] for stop in stops):
        return stops[0]
    if not isinstance(size, int) and all(
            stop == _at((size,), p)[0] for stop, p in zip(stops, points, strict=True)):
        return None
    follows = join_size(stops, points, known) if None not in stops else None
    if isinstance(follows, OpenDim) and not follows.batch:
        return follows
    raise ShapeError(f"operation {position} (slice): where it stops depends on the batch: "
                     f"{stops[0]} for {points[0].batch} samples, {stops[1]} for "
                     f"{points[1].batch}")
