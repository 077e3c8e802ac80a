"""Program: a graph made ready to run, again and again, from any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit import runtime
from convkit._precision import checked_precision, get_precision
from convkit.autograd import Tensor
from convkit.errors import DTypeError, ShapeError
from convkit.infer.check import MaxError
from convkit.infer.dims import BatchDim, Shape, show
from convkit.infer.graph import Graph, table
from convkit.infer.model_summary import steps
from convkit.infer.plan import make_plan
from convkit.ops.op import REGISTRY, Context

__all__ = ["Program"]

Outputs = np.ndarray | tuple[np.ndarray, ...] | dict[str, np.ndarray]


class Program:
    """A compiled network; `convkit.compile` and `convkit.load` make them.

    Calls take batches of any size. What a sample gives does not depend, to the bit, on its
    batch or on the number of threads. A Program may be called from several Python threads
    at once.

    Parameters
    ----------
    graph : Graph
        What to run; the passes of ``convkit.infer.passes`` are not applied here.
    threads : int, optional
        How many threads each call may use; by default what `convkit.set_num_threads` or
        ``with convkit.threads(n)`` says at the time of the call.
    metadata : dict, optional
        JSON values that belong to the model: labels, author, licence, ...
    precision : {"highest", "high", "medium"}, optional
        How convolutions and linear layers multiply (see `convkit.precision`); by default
        the setting at the time the Program is made.

    Attributes
    ----------
    graph : Graph
        The operations that are run.
    metadata : dict
        Kept in saved files. The key "labels" is what `labels` gives.
    threads : int or None
        As given.
    precision : str
        As given, or found.
    max_error : MaxError or None
        Largest difference from the model (or graph) that was compiled, on random numbers;
        None where nothing was compared.
    """

    def __init__(self, graph: Graph, threads: int | None = None,
                 metadata: dict[str, Any] | None = None, precision: str | None = None):
        self.graph = graph
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.threads = None if threads is None else runtime.checked_threads(threads)
        self.precision = get_precision() if precision is None else checked_precision(precision)
        self.max_error: MaxError | None = None
        self._plan = plan = make_plan(graph)
        self._slots: list[np.ndarray | None] = [None] * plan.n_slots
        for slot, value in plan.constants:
            self._slots[slot] = graph.constants[value].array
        self._caches: dict[int, dict] = {slot: {} for slot, _ in plan.constants}
        self._bound: dict[int, list[tuple]] = {}
        self._expected = [(port.name, graph.shape(port.value),
                           np.dtype(graph.values[port.value].dtype)) for port in graph.inputs]

    # -- what it is ---------------------------------------------------------------------

    @property
    def input_shapes(self) -> dict[str, Shape]:
        """Shape of every input by name; ``N`` stands for the batch."""
        return {p.name: self.graph.shape(p.value) for p in self.graph.inputs}

    @property
    def output_shapes(self) -> dict[str, Shape]:
        """Shape of every output by name; ``N`` stands for the batch."""
        return {p.name: self.graph.shape(p.value) for p in self.graph.outputs}

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, from ``metadata["labels"]``; None when there are none."""
        return self.metadata.get("labels")

    @property
    def preprocessing(self) -> Any:
        """What makes the network's input of images, as the file's metadata says; or None.

        A `convkit.data.preprocess.Pipeline`: call it with images (N, C, H, W) of uint8, or
        of floats from 0 to 1.

        Raises
        ------
        ModelFormatError
            When the metadata holds something else under "preprocessing".
        """
        from convkit.data.preprocess import Pipeline

        return Pipeline.from_metadata(self.metadata)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{k}: {show(s)}" for k, s in self.input_shapes.items())
        outputs = ", ".join(f"{k}: {show(s)}" for k, s in self.output_shapes.items())
        return (f"Program({inputs} -> {outputs}; {len(self.graph.nodes)} steps, "
                f"{self.graph.parameters():,} parameters)")

    def summary(self) -> str:
        """Return a table of the steps: shapes, parameters, operations, what is fused.

        Floating-point operations count for one sample, two for a multiply-add. A constant
        that several steps read counts where it is read first.
        """
        graph = self.graph
        rows = [("step", "op", "output", "parameters", "FLOPs", "fused")]
        total = 0
        for node, shape, new, work in steps(graph):
            total += work
            fused = (["add"] if node.op in ("conv", "linear") and node.input(3) is not None
                     else [])
            if node.attrs.get("activation"):
                fused.append(node.attrs["activation"])
            rows.append((node.name, node.op, show(shape),
                         f"{sum(graph.constants[v].array.size for v in new):,}", f"{work:,}",
                         " + ".join(fused)))
        rows.append(("total", "", "", f"{graph.parameters():,}", f"{total:,}", ""))
        inputs = [f"input {name}: {show(shape)}" for name, shape in self.input_shapes.items()]
        memory = f"intermediates of one sample at their peak: {self._plan.peak_bytes:,} bytes"
        return "\n".join([*inputs, table(rows, right=(3, 4)), memory])

    # -- running ------------------------------------------------------------------------

    def __call__(self, x: Any, *more: Any) -> Outputs:
        """Run on one array per input; the same as `run`."""
        return self.run((x, *more) if more else x)

    def run(self, x: Any, out: Any = None) -> Outputs:
        """Run the network on a batch.

        Parameters
        ----------
        x : array_like, tuple or list of them, or dict by input name
            One array of shape (N, ...) and the input's dtype (float32) per input, in any
            memory order. For a single input, the array itself. All have the same N >= 1.
        out : numpy.ndarray, or tuple or dict of them, optional
            Where to put the results, in the form in which they are returned.

        Returns
        -------
        numpy.ndarray, tuple or dict of numpy.ndarray
            As the model returned them: one array, several, or several by name. They are the
            caller's: later calls do not touch them.

        Raises
        ------
        ShapeError, DTypeError
            When an input (or `out`) has another shape or dtype than the Program expects;
            the text names both.
        """
        threads = self.threads or runtime.get_num_threads()
        bound = self._bound.get(threads) or self._bind(threads)
        slots = self._slots.copy()
        for slot, array in zip(self._plan.inputs, self._checked_inputs(x), strict=True):
            slots[slot] = array
        for forward, ctx, reads, attrs, writes, drops in bound:
            result = forward(ctx, *[slots[i] for i in reads], **attrs)
            if len(writes) == 1:
                slots[writes[0]] = result
            else:
                for slot, array in zip(writes, result, strict=True):
                    slots[slot] = array
            for slot in drops:
                slots[slot] = None
        return self._hand_out([slots[i] for i in self._plan.outputs], out)

    def _bind(self, threads: int) -> list[tuple]:
        """Return the steps with a context each, made once per number of threads."""
        bound = []
        for step in self._plan.steps:
            ctx = Context((False,) * len(step.reads), threads,
                          tuple([self._caches.get(slot) for slot in step.reads]),
                          self.precision)
            bound.append((REGISTRY[step.node.op].forward, ctx, step.reads, step.node.attrs,
                          step.writes, step.drops))
        self._bound[threads] = bound
        return bound

    # -- the edge -----------------------------------------------------------------------

    def _checked_inputs(self, x: Any) -> list[np.ndarray]:
        """Return one array per input, checked; raise ShapeError or DTypeError."""
        expected = self._expected
        if isinstance(x, Mapping):
            names = [name for name, _, _ in expected]
            if set(x) != set(names):
                raise ShapeError(f"expected inputs {names}, got {[str(k) for k in x]}")
            given: Sequence[Any] = [x[name] for name in names]
        elif len(expected) == 1 and not isinstance(x, tuple):
            given = (x,)
        elif not isinstance(x, (tuple, list)) or len(x) != len(expected):
            count = len(x) if isinstance(x, (tuple, list)) else 1
            raise ShapeError(f"expected {len(expected)} inputs "
                             f"({', '.join(name for name, _, _ in expected)}), got {count}")
        else:
            given = x
        arrays = [_as_input(value, *form) for value, form in zip(given, expected, strict=True)]
        batches = {name: len(a) for (name, shape, _), a in zip(expected, arrays, strict=True)
                   if shape[:1] == (BatchDim(),)}
        if len(set(batches.values())) > 1:
            raise ShapeError("expected the same number of samples in every input, got "
                             + ", ".join(f"{name}: {n}" for name, n in batches.items()))
        return arrays

    def _hand_out(self, results: list[np.ndarray], out: Any) -> Outputs:
        """Give results in the model's form, copied where memory is not the caller's."""
        for i in self._plan.copies:
            results[i] = results[i].copy(order="K")
        names = [port.name for port in self.graph.outputs]
        if out is not None:
            results = self._copy_out(names, results, out)
        if self.graph.form == "single":
            return results[0]
        return tuple(results) if self.graph.form == "tuple" else dict(
            zip(names, results, strict=True))

    def _copy_out(self, names: list[str], results: list[np.ndarray], out: Any) -> list:
        """Copy results into the caller's arrays and return those."""
        if isinstance(out, Mapping):
            targets = [out.get(name) for name in names] if set(out) == set(names) else []
        else:
            targets = list(out) if isinstance(out, (tuple, list)) else [out]
        if len(targets) != len(results):
            raise ShapeError(f"expected out to hold an array for each of {names}")
        for name, target, result in zip(names, targets, results, strict=True):
            if not isinstance(target, np.ndarray):
                raise TypeError(f"out for {name!r}: expected a NumPy array, "
                                f"got {type(target).__name__}")
            if target.shape != result.shape:
                raise ShapeError(f"out for {name!r}: expected shape {result.shape}, "
                                 f"got {target.shape}")
            if target.dtype != result.dtype:
                raise DTypeError(f"out for {name!r}: expected {result.dtype}, got {target.dtype}")
        for target, result in zip(targets, results, strict=True):
            np.copyto(target, result)
        return targets


def _as_input(x: Any, name: str, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Return `x` as an array of the expected sample shape and dtype."""
    if isinstance(x, Tensor):
        x = x.data
    if not isinstance(x, np.ndarray):
        x = np.asarray(x) if hasattr(x, "__array__") else np.asarray(x, dtype=dtype)
    if x.dtype != dtype:
        if x.dtype.newbyteorder("=") != dtype:
            raise DTypeError(f"input {name!r}: expected {dtype}, got {x.dtype}; "
                             f"convert with x.astype(np.{dtype})")
        x = x.astype(dtype)
    if shape[:1] == (BatchDim(),):
        if x.shape[1:] != shape[1:] or x.ndim != len(shape) or x.shape[0] < 1:
            raise ShapeError(f"input {name!r}: expected shape {show(shape)} with N of at "
                             f"least 1, got {x.shape}")
    elif x.shape != shape:
        raise ShapeError(f"input {name!r}: expected shape {show(shape)}, got {x.shape}")
    return x
