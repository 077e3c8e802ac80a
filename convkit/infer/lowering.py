"""From a graph to the flat list of steps that compiled code runs.

Every operation is asked to `lower` itself: to emit steps that read and write places in memory.
One that has no compiled form for what it is given becomes a step that takes the GIL and calls
the operation's forward (`Lowered.python`).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from convkit._kernels import memory, runner
from convkit.infer import segments
from convkit.infer.chaining import RESIDUAL, Emitted, Y, join_chains, on_vectors
from convkit.infer.cost import flops
from convkit.infer.dims import BatchDim, Shape, at_batch
from convkit.infer.fusing import Following, nodes_done_before
from convkit.infer.graph import Constant, Graph, Node, StoredConstant
from convkit.infer.joining import follow, reserve
from convkit.infer.narrowing import narrow_values
from convkit.infer.places import Block, Operand
from convkit.infer.plan import plan_arena, plan_segments
from convkit.ops.layout import BFLOAT16, LAST_ORDER, dense_strides
from convkit.ops.op import REGISTRY, Context

__all__ = ["Lowered", "Lowering", "lower", "making"]

NOTHING, ARENA, OWN, ARRAYS = range(4)
# Operations that work on channels last. An input that only they read is wanted so; others are
# taken in logical order, as eager calls would find them.
WANT_LAST = frozenset((
    "conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool",
    "batch_norm", "affine", "prelu", "group_norm", "instance_norm", "local_response_norm",
    "upsample", "quant_conv", "quant_avg_pool"))
MOST_IDLE = 8
# Bytes of packed weights for each that they had.
PACKED = {"winograd": 4.0, "bf16": 0.5, "fp16": 0.5}

_lock = threading.Lock()


def making() -> threading.Lock:
    """Return the lock that is held while a Program is made ready, or its steps are cut."""
    return _lock


def _renew_lock() -> None:
    """Give a child a new one, because a thread that no longer exists may hold it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Output(NamedTuple):
    """How an output is handed out: an array with its axes in an order in memory."""

    shape: Shape
    dtype: np.dtype
    order: tuple[int, ...]


class Lowered(NamedTuple):
    """A graph made ready to run.

    Attributes
    ----------
    runner : convkit._kernels.runner.Runner
        The steps.
    nodes : tuple of int
        Position of each step's node in the graph; -1 for copies of results.
    algorithms : dict of int to str
        What computes the nodes that have a choice.
    parts : dict of int to int
        Nodes that are parts of another node's step.
    python : frozenset of int
        Nodes that Python computes, with the GIL.
    outputs : tuple of Output
        The arrays that the steps write.
    arena : (int, int)
        Bytes of intermediate values for each sample, and beside.
    reorders : int
        How many of the steps only bring values into another order in memory.
    kept : tuple
        What must live as long as the steps.
    """

    runner: Any
    nodes: tuple[int, ...]
    algorithms: dict[int, str]
    parts: dict[int, int]
    python: frozenset[int]
    outputs: tuple[Output, ...]
    arena: tuple[int, int]
    reorders: int
    kept: tuple

    @property
    def segments(self) -> tuple[segments.Segment, ...]:
        """How the steps are cut for calls with several samples; empty where they are not."""
        return tuple([segments.Segment(*s) for s in self.runner.segments()])


class Lowering:
    """What operations' `lower` methods are given, to emit steps and to place values.

    Attributes
    ----------
    precision : str
        Of the Program.
    threads : int
        How many threads may be used now, to pack weights.
    """

    def __init__(self, graph: Graph, precision: str, threads: int,
                 shared: dict[int, dict] | None = None):
        graph = on_vectors(graph, precision)
        self.precision = precision
        self.threads = threads
        self.algorithm = ""
        self._graph = graph
        self._node = self._result = -1
        self._reorders = 0
        self._emitted: list[Emitted] = []
        self._blocks: list[Block] = []
        self._values: dict[int, Operand] = {}
        self._caches: dict[int, dict] = {}
        # Of the graph's own constants, by the ids of what lives as long as the graph.
        self._shared: dict[int, dict] = {} if shared is None else shared
        self._own = {id(c) for c in graph.constants.values()}
        self._kept: list[np.ndarray] = []
        self._parts, self._wholes = reserve(graph)
        self._last_use = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs}
        self._handed_out = {port.value for port in graph.outputs}
        self._last_use.update(dict.fromkeys(self._handed_out, len(graph.nodes)))
        self._following = nodes_done_before(graph)
        self._narrow = narrow_values(graph, precision, self._following)

    # -- what operations use ----------------------------------------------------------------

    def new(self, shape: Shape, dtype: np.dtype, order: tuple[int, ...] | None = None) -> Operand:
        """Return a new dense place, with axes in an order (by default C's)."""
        order = tuple(range(len(shape))) if order is None else order
        size = math.prod(at_batch(shape, 1)) * dtype.itemsize
        growing = [isinstance(d, BatchDim) for d in shape]
        block = Block(*((size, 0) if True in growing else (0, size)))
        self._blocks.append(block)
        strides = None
        if True not in growing[1:] and (not order or order[0] == 0):
            strides = dense_strides(shape, order, dtype.itemsize)
        return Operand(block, tuple(shape), dtype, strides)

    def new_last(self, shape: Shape, dtype: np.dtype) -> Operand:
        """Return a new place with channels last."""
        return self.new(shape, dtype, LAST_ORDER[len(shape)])

    def step(self, step: Any, operands: tuple[Operand | None, ...],
             samples: tuple[int, int]) -> None:
        """Emit a step that works on `samples` (for each of the batch, and beside)."""
        for operand in operands:
            if operand is not None:
                operand.block.use(len(self._emitted))
                self._pin(operand.block)
        self._emitted.append(Emitted(self._node, step, operands, samples))

    def copy(self, x: Operand, y: Operand) -> Operand:
        """Emit a copy of all elements, and return where they are then."""
        self.step(runner.copy_step(x.shape[1:], x.strides, y.strides, x.dtype.itemsize), (x, y),
                  y.samples)
        return y

    def in_order(self, x: Operand, order: tuple[int, ...]) -> Operand:
        """Return the values dense with axes in an order: where they are, or copied."""
        if x.dense(order):
            return x
        self._reorders += x.order != order
        return self.copy(x, self.new(x.shape, x.dtype, order))

    def last(self, x: Operand) -> Operand:
        """Return the values dense with channels last: where they are, or copied."""
        return self.in_order(x, LAST_ORDER[len(x.shape)])

    def compact(self, x: Operand) -> Operand:
        """Return the values dense, with axes in the order that they have in memory."""
        return self.in_order(x, x.order)

    def constant(self, array: np.ndarray) -> Operand:
        """Return the place of an array."""
        return self._constant(Constant("", array))

    def _constant(self, constant: Constant) -> Operand:
        """Return the place of a constant; of one of a file, before it is read."""
        size = constant.size * constant.dtype.itemsize
        block = Block(0, size, "constant", constant=constant)
        if isinstance(constant, StoredConstant):
            order = tuple(range(len(constant.shape)))
            strides = dense_strides(constant.shape, order, constant.dtype.itemsize)
        else:
            self._pin(block)
            strides = block.array.strides
        return Operand(block, constant.shape, constant.dtype, strides)

    def _pin(self, block: Block) -> None:
        """Keep a constant's array, which steps are to read as it lies."""
        if block.kind == "constant" and block.array is None:
            array = block.constant.array
            block.array = array if array.flags.aligned else array.copy()
            self._kept.append(block.array)

    def cache(self, x: Operand) -> dict:
        """Return a dictionary for what is made of a constant: its packed forms."""
        constant = id(x.block.constant)
        if constant in self._own:
            return self._shared.setdefault(constant, {})
        return self._caches.setdefault(id(x.block), {})

    def result_dtype(self, dtype: np.dtype) -> np.dtype:
        """Return the type in which the present node's result is held, which is of `dtype`."""
        return BFLOAT16 if self._result in self._narrow else dtype

    def spent(self, x: Operand | None, dtype: np.dtype) -> bool:
        """Tell whether the present node's result, of `dtype`, may lie where its operand x does.

        That is a place with channels last, which nothing else reads from now on.
        """
        if (x is None or x.dtype != dtype or x.block.kind != "arena" or not x.whole()
                or not x.dense(LAST_ORDER[len(x.shape)])):
            return False
        node = self._graph.nodes[self._node]
        held = [v for v, place in self._values.items() if place.block is x.block]
        return (sum([v in held for v in node.inputs]) == 1 and self._result not in self._handed_out
                and all(self._last_use[v] <= self._node for v in held))

    def reserved(self) -> Operand | None:
        """Return the part of a concatenation that the present node's result is to lie in."""
        part = self._parts.get(self._result)
        return None if part is None else part.place(self)

    def joined(self, axis: int) -> Operand | None:
        """Return the present concatenation where its inputs lie, or are put, side by side.

        None where no block is reserved for it, or for one that begins as it does.
        """
        node = self._graph.nodes[self._node]
        if self._values[node.inputs[0]].pixel is None:
            return None  # the first decides on the order in memory, as in eager calls
        parts = [self._parts.get(v) for v in node.inputs]
        if follow(parts):
            whole, start = parts[0].whole, parts[0].start
        elif node.outputs[0] in self._wholes:
            whole, start = self._wholes[node.outputs[0]], 0
        else:
            return None
        first, place = start, whole.place(self)
        if axis != 1 or place.strides is None:
            return None
        for value, part in zip(node.inputs, parts, strict=True):
            x = self._values[value]
            y = place.part(1, start, start + x.shape[1])
            start += x.shape[1]
            if x.block is not place.block:
                self.copy(x, y)
                if part is not None and part.whole is whole:
                    self._values[value] = y
        return place.part(1, first, start)

    # -- the graph --------------------------------------------------------------------------

    def run(self) -> Lowered:
        """Lower all nodes and plan the memory."""
        graph = self._graph
        homes = self._place_inputs()
        for value, constant in graph.constants.items():
            self._values[value] = self._constant(constant)
        algorithms, python = {}, set()
        fused = {}
        for position, node in enumerate(graph.nodes):
            if position in fused:
                continue
            self._node, self.algorithm = position, ""
            following = self._following.get(position)
            if following is not None and self._compiled(node, following):
                fused[following.position] = position
            elif not self._compiled(node):
                python.add(position)
                self._python(node)
            if self.algorithm:
                algorithms[position] = self.algorithm
        parts = self._chain(homes)
        algorithms.update(dict.fromkeys(parts, "chain"))
        algorithms.update(dict.fromkeys(fused, "fused"))
        self._node = -1
        outputs = tuple([self._hand_out(i, self._values[port.value])
                         for i, port in enumerate(graph.outputs)])
        for _, block in homes:
            block.home.last = block.last
        placed = [b for b in self._blocks if b.kind == "arena" and b.first is not None]
        arena = plan_arena(placed)
        parts = {**fused, **parts}
        made = runner.Runner(
            [(e.step, len(e.operands), e.samples) for e in self._emitted], len(outputs), MOST_IDLE,
            _layout(self._emitted, homes, arena),
            _Cutting(graph, self._emitted, homes, placed, parts, algorithms))
        return Lowered(made, tuple([e.node for e in self._emitted]), algorithms, parts,
                       frozenset(python), outputs, arena, self._reorders, tuple(self._kept))

    def _chain(self, homes: list[tuple[tuple[int, ...], Block]]) -> dict[int, int]:
        """Join steps that make a chain; return which nodes are parts of which other's step."""
        handed_out = {self._values[port.value].block for port in self._graph.outputs}
        emitted, parts = join_chains(self._emitted, handed_out)
        if parts:
            self._emitted = []
            for block in (*self._blocks, *(b for _, b in homes)):
                block.first, block.last = None, -1
            for _, block in homes:
                block.home.use(-1)
            for e in emitted:
                self._node = e.node
                self.step(e.step, e.operands, e.samples)
        return parts

    def _place_inputs(self) -> list[tuple[tuple[int, ...], Block]]:
        """Give every input its block and the order of axes in which steps read it."""
        homes = []
        readers: dict[int, set[str]] = {}
        for node in self._graph.nodes:
            for value in node.inputs:
                readers.setdefault(value, set()).add(node.op)
        for index, port in enumerate(self._graph.inputs):
            shape = self._graph.shape(port.value)
            dtype = np.dtype(self._graph.values[port.value].dtype)
            order = tuple(range(len(shape)))
            if len(shape) in (3, 4) and readers.get(port.value, {""}) <= WANT_LAST:
                order = LAST_ORDER[len(shape)]
            home = self.new(shape, dtype, order)
            home.block.use(-1)
            block = Block(home.block.scaled, home.block.fixed, "input", index, home=home.block)
            self._values[port.value] = Operand(block, shape, dtype, home.strides)
            homes.append((order, block))
        return homes

    def _compiled(self, node: Node, following: Following | None = None) -> bool:
        """Let the operation emit its steps; return False where it has none for its inputs.

        They write the result of the node after it that they are to do as well, if there is one.
        """
        inputs, attrs, last = node.inputs, node.attrs, node
        if following is not None:
            inputs, attrs = following.inputs, {**attrs, **following.attrs}
            last = self._graph.nodes[following.position]
        operands = [None if v is None else self._values[v] for v in inputs]
        shapes = [self._graph.shape(v) for v in node.outputs]
        if (any(0 in shape for shape in shapes)
                or any(x is not None and not x.regular and not x.is_constant for x in operands)):
            return False
        self._result = last.outputs[0]
        y = REGISTRY[node.op].lower(self, *operands, **attrs)
        if y is None:
            return False
        made = y if isinstance(y, tuple) else (y,)
        if [v.shape for v in made] != shapes:
            raise AssertionError(f"{node.op}: lowered to {[v.shape for v in made]}, "
                                 f"expected {shapes}")
        self._values.update(zip(last.outputs, made, strict=True))
        return True

    def _python(self, node: Node) -> None:
        """Emit a step that calls the operation's forward."""
        operands = [None if v is None else self._values[v] for v in node.inputs]
        results = []
        for value in node.outputs:
            shape = self._graph.shape(value)
            like = operands[0]
            order = None
            if (like is not None and like.regular and len(like.shape) == len(shape)
                    and not any(isinstance(d, BatchDim) for d in shape[1:])):
                order = like.order
            results.append(self.new(shape, np.dtype(self._graph.values[value].dtype), order))
            self._values[value] = results[-1]
        caches = tuple([None if x is None or not x.is_constant else self.cache(x)
                        for x in operands])
        self.step(runner.python_step(_Call(node, operands, results, caches, self.precision)),
                  (*operands, *results), (1, 0))

    def _hand_out(self, index: int, x: Operand) -> Output:
        """See that an output lies in an array of its own."""
        if x.block.kind != "arena" or not x.whole():
            if x.regular:
                y = self.new(x.shape, x.dtype, x.order)
                x = self.copy(x, y)
            else:
                x = self._copy_by_python(x)
        x.block.kind, x.block.index = "output", len(self._graph.inputs) + index
        order = tuple(range(len(x.shape))) if x.strides is None else x.order
        return Output(x.shape, x.dtype, order)

    def _copy_by_python(self, x: Operand) -> Operand:
        """Copy what has no samples in front, or no elements."""
        y = self.new(x.shape, x.dtype)
        self.step(runner.python_step(_Copy(x, y)), (x, y), (1, 0))
        return y


def _layout(emitted: Sequence[Emitted], homes: list[tuple[tuple[int, ...], Block]],
            arena: tuple[int, int]) -> runner.Layout:
    """Return where everything lies by the plan made last."""
    return runner.Layout([[_address(x, arena) for x in e.operands] for e in emitted],
                         [(order, _place(block.home, arena)) for order, block in homes], *arena)


class _Cutting:
    """Cuts the steps of a runner, at its first call with several samples.

    A Program that only ever gets one is spared what takes a third of making it ready.
    """

    def __init__(self, graph: Graph, emitted: list[Emitted],
                 homes: list[tuple[tuple[int, ...], Block]], placed: list[Block],
                 parts: dict[int, int], algorithms: dict[int, str]):
        self._given: tuple | None = (graph, emitted, homes, placed, parts, algorithms)

    def __call__(self, made: runner.Runner) -> None:
        """Cut them, unless another thread has."""
        with making():
            if self._given is not None:
                made.cut(*_cut(*self._given))
                self._given = None


def _cut(graph: Graph, emitted: list[Emitted], homes: list[tuple[tuple[int, ...], Block]],
         placed: list[Block], parts: dict[int, int], algorithms: dict[int, str]
         ) -> tuple[runner.Layout | None, list[tuple]]:
    """Return where everything lies for segments, and these; None and [] where all are whole."""
    loads = _loads(graph, emitted, parts, algorithms)
    cuts = [s._replace(samples=0) if s.samples and _unrepeatable(emitted[s.first:s.stop], s.first)
            else s for s in
            segments.cut(loads, segments.crossing([b for b in placed if b.scaled], len(loads)))]
    if not any(s.samples for s in cuts):
        return None, []
    total, own = plan_segments(placed, cuts)
    return (_layout(emitted, homes, total),
            [(*s, size, sum([load.work for load in loads[s.first:s.stop]]))
             for s, size in zip(cuts, own, strict=True)])


def _unrepeatable(emitted: list[Emitted], first: int) -> bool:
    """Tell whether steps, from `first` on, must not run a second time on the same samples.

    They do where one of them is to recover; and would then add once more to what lay there before.
    """
    return any(e.step.recover is not None for e in emitted) and any(
        e.step.adds_in_place and e.operands[RESIDUAL] is e.operands[Y]
        and e.operands[Y].block.first < first for e in emitted)


def _loads(graph: Graph, emitted: list[Emitted], parts: dict[int, int],
           algorithms: dict[int, str]) -> list[segments.Load]:
    """Return what every step does for a sample; that of a node is its first step's."""
    weights = dict.fromkeys(range(-1, len(graph.nodes)), 0.0)
    work = dict(weights)
    for position, node in enumerate(graph.nodes):
        whole = parts.get(position, position)
        for value in node.inputs:
            if value in graph.constants:
                constant = graph.constants[value]
                weights[whole] += constant.size * constant.dtype.itemsize * PACKED.get(
                    algorithms.get(position, ""), 1.0)
        work[whole] += flops(graph, node) / 2
    return [segments.Load(segments.apart(e), segments.moved(e), weights.pop(e.node, 0.0),
                          work.pop(e.node, 0.0)) for e in emitted]


def _place(block: Block, arena: tuple[int, int]) -> tuple[int, int]:
    """Return where a block lies in the arena: bytes for each sample, and beside.

    What does not grow with the batch lies in front.
    """
    return (block.offset, arena[1]) if block.scaled else (0, block.offset)


def _address(x: Operand | None, arena: tuple[int, int]) -> tuple[int, int, int, int, int]:
    """Return an operand as the runner takes it."""
    if x is None:
        return NOTHING, 0, 0, 0, 0
    if x.block.kind == "constant":
        return NOTHING, 0, memory.address_of(x.block.array) + x.offset, 0, 0
    if x.block.own:
        return OWN, 0, x.offset, x.block.offset, 0
    if x.block.kind == "arena":
        scaled, fixed = _place(x.block, arena)
        return ARENA, scaled, fixed + x.offset, 0, x.block.scaled
    return ARRAYS + x.block.index, 0, x.offset, 0, x.block.scaled


class _View:
    """How to see an operand's memory as an array, for a given batch."""

    def __init__(self, x: Operand):
        self.shape, self.strides, self.dtype = x.shape, x.strides, x.dtype
        self.constant = x.constant

    def array(self, address: int, batch: int) -> np.ndarray:
        if self.constant is not None:
            return self.constant
        return runner.array_at(address, at_batch(self.shape, batch), self.strides, self.dtype)


class _Call:
    """A step that runs an operation's forward."""

    def __init__(self, node: Node, operands: list, results: list, caches: tuple, precision: str):
        self.forward, self.attrs = REGISTRY[node.op].forward, node.attrs
        self.operands = [None if x is None else _View(x) for x in operands]
        self.results = [_View(x) for x in results]
        self.caches, self.precision = caches, precision

    def __call__(self, addresses: list[int], batch: int, threads: int, scratch: int) -> None:
        ctx = Context((False,) * len(self.operands), threads, self.caches, self.precision)
        arrays = [None if view is None else view.array(address, batch) for view, address
                  in zip(self.operands, addresses[:len(self.operands)], strict=True)]
        made = self.forward(ctx, *arrays, **self.attrs)
        made = (made,) if len(self.results) == 1 else made
        for view, address, array in zip(self.results, addresses[len(self.operands):], made,
                                        strict=True):
            np.copyto(view.array(address, batch), array)


class _Copy:
    """A step that copies an operand whatever its form."""

    def __init__(self, x: Operand, y: Operand):
        self.x, self.y = _View(x), _View(y)

    def __call__(self, addresses: list[int], batch: int, threads: int, scratch: int) -> None:
        np.copyto(self.y.array(addresses[1], batch), self.x.array(addresses[0], batch))


def lower(graph: Graph, precision: str, threads: int, shared: dict[int, dict] | None = None
          ) -> Lowered:
    """Return a graph as steps bound to places in memory.

    `shared` keeps packed forms of the constants, for graphs that differ in sizes alone.
    """
    return Lowering(graph, precision, threads, shared).run()
