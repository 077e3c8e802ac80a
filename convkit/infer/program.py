"""Program: a graph made ready to run, again and again, from any thread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import runtime
from convkit._kernels import memory
from convkit._precision import checked_precision, get_precision
from convkit.autograd import Tensor
from convkit.errors import DTypeError, ShapeError
from convkit.infer.by_size import BySize
from convkit.infer.dims import BatchDim, Shape, at_batch, show
from convkit.infer.graph import Graph
from convkit.infer.image_input import image_layout
from convkit.infer.lowering import Lowered, Output, lower, making
from convkit.ops.layout import empty_ordered, form_in_memory

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from convkit.infer.check import MaxError
    from convkit.infer.profile import Profile

__all__ = ["Program"]

# Calls that `run_async` has under way at a time, for each Program.
ASYNC_CALLS = 4

Outputs = np.ndarray | tuple[np.ndarray, ...] | dict[str, np.ndarray]


# Layers on bytes.
QUANTIZED = frozenset(("quant_conv", "quant_linear"))


class Program:
    """A compiled network; `convkit.compile` and `convkit.load` make them.

    Calls take batches of any size. What a sample gives does not depend, to the bit, on its
    batch or on the number of threads. A Program may be called from several Python threads
    at once, works in the children of a fork, and can be pickled.

    Parameters
    ----------
    graph : Graph
        What to run; the passes of ``convkit.infer.passes`` are not applied here.
    threads : int, optional
        How many threads each call may use; by default what `convkit.set_num_threads` or
        ``with convkit.threads(n)`` says at the time of the call.
    metadata : dict, optional
        JSON values that belong to the model: labels, author, licence, ...
    precision : {"highest", "high", "medium", "int8"}, optional
        How convolutions and linear layers multiply (see `convkit.precision`); by default
        the setting at the time the Program is made. "int8" for quantised graphs alone.

    Attributes
    ----------
    graph : Graph
        The operations that are run.
    metadata : dict
        Kept in saved files. The key "labels" is what `labels` gives.
    threads : int or None
        As given.
    precision : str
        As given, or found; "int8" where `quantized`.
    quantized : bool
        Whether there are layers that multiply bytes; those in floats then have the precision
        that was asked for.
    quantization : convkit.infer.QuantizationReport or None
        What `convkit.quantize` found, where it made the Program.
    max_error : MaxError or None
        Largest difference from the model (or graph) that was compiled, on random numbers;
        None where nothing was compared.
    """

    def __init__(self, graph: Graph, threads: int | None = None,
                 metadata: dict[str, Any] | None = None, precision: str | None = None):
        self.graph = graph
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.threads = None if threads is None else runtime.checked_threads(threads)
        self.quantized = any(node.op in QUANTIZED for node in graph.nodes)
        given = None if precision == "int8" and self.quantized else precision
        self._of_floats = get_precision() if given is None else checked_precision(given)
        self.precision = "int8" if self.quantized else self._of_floats
        self.quantization: Any = None
        self.max_error: MaxError | None = None
        self._lowered: Lowered | None = None
        self._caches: dict[int, dict] = {}
        self._by_size = BySize(graph, self._at_size) if graph.open_sizes() else None
        self._executor: tuple[int, ThreadPoolExecutor] | None = None
        self._expected = [(port.name, graph.shape(port.value),
                           np.dtype(graph.values[port.value].dtype)) for port in graph.inputs]
        # Type and sizes behind the batch of what most calls get: one array, which needs no more.
        _, shape, dtype = self._expected[0] if len(self._expected) == 1 else ("", (), None)
        self._alone = (dtype, shape[1:]) if shape[:1] == _OPEN else (None, ())
        self._made: tuple[int, list[tuple]] = (0, [])

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
    def image_layout(self) -> str | None:
        """How images of uint8 are taken, "NHWC" or "NCHW"; None where floats are taken."""
        return image_layout(self.graph)

    @property
    def preprocessing(self) -> Any:
        """What makes the network's input of images, as the file's metadata says; or None.

        A `convkit.data.preprocess.Pipeline`: call it with images (N, C, H, W) of uint8, or
        of floats from 0 to 1. None for Programs that take images themselves
        (``compile(..., image=...)``).

        Raises
        ------
        ModelFormatError
            When the metadata holds something else under "preprocessing".
        """
        from convkit.data.preprocess import Pipeline

        return None if self.image_layout else Pipeline.from_metadata(self.metadata)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{k}: {show(s)}" for k, s in self.input_shapes.items())
        outputs = ", ".join(f"{k}: {show(s)}" for k, s in self.output_shapes.items())
        return (f"Program({inputs} -> {outputs}; {len(self.graph.nodes)} steps, "
                f"{self.graph.parameters():,} parameters)")

    def summary(self) -> str:
        """Return a table of the steps: shapes, bytes, parameters, operations, algorithms.

        Floating-point operations count for one sample, two for a multiply-add; bytes are
        those of one sample's result. A constant that several steps read counts where it is
        read first. The algorithm "python" marks operations without compiled steps, which take
        the GIL. The last line counts the steps that only bring values into another order in
        memory: none between convolutions. Where sizes are open, the figures are those of the
        largest.
        """
        from convkit.infer.program_table import program_table

        if self._by_size is not None:
            sizes = "; ".join(map(str, self.graph.open_sizes()))
            return f"open sizes, here the largest: {sizes}\n{self._by_size.largest().summary()}"
        return program_table(self.graph, self._ready())

    def plot(self) -> str:
        """Return a drawing of the steps as text in the DOT language.

        Boxes show what is fused, weights and algorithms, arrows the shapes: write it to a file
        for ``dot -Tsvg``, or hand it to any viewer of DOT.
        """
        from convkit.infer.dot import dot
        from convkit.infer.program_table import algorithm_of

        lowered = (self if self._by_size is None else self._by_size.largest())._ready()
        return dot(self.graph, {i: algorithm_of(lowered, i) for i in range(len(self.graph.nodes))})

    def profile(self, x: Any, repeats: int = 10) -> Profile:
        """Measure where the time of a call goes.

        Parameters
        ----------
        x
            As for `run`.
        repeats : int
            How often to run; after one run that does not count.

        Returns
        -------
        Profile
            Time, share, GFLOP/s and algorithm of every node; `print` shows a table.
        """
        from convkit.infer.profile import measure

        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            raise ValueError(f"expected repeats of at least 1, got {repeats!r}")
        if self._by_size is not None:
            return self._by_size.program(x).profile(x, repeats)
        lowered = self._ready()
        arrays, batch = self._checked_inputs(x)
        threads = self.threads or runtime.get_num_threads()
        made = self._new_results(lowered.outputs, batch)
        return measure(self.graph, lowered, arrays, made, batch, threads, repeats)

    # -- running ------------------------------------------------------------------------

    def __call__(self, x: Any, *more: Any) -> Outputs:
        """Run on one array per input; the same as `run`."""
        return self.run((x, *more) if more else x)

    def run(self, x: Any, out: Any = None) -> Outputs:
        """Run the network on a batch.

        All operations run one after the other in compiled code, with the GIL released once
        (but for those that `summary` marks "python").

        Parameters
        ----------
        x : array_like, tuple or list of them, or dict by input name
            One array of shape (N, ...) and the input's dtype (float32) per input, in any
            memory order; channels last is taken as it lies. For a single input, the array
            itself. All have the same N >= 1. Anything with ``__array__`` or ``__dlpack__``
            will do.
        out : numpy.ndarray, or tuple or dict of them, optional
            Where to put the results, in the form in which they are returned. They are
            written there directly where the layout in memory is that of a new result.

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
        if self._by_size is not None:
            return self._by_size.program(x).run(x, out)
        lowered = self._lowered or self._ready()
        arrays, batch = self._checked_inputs(x)
        threads = self.threads or runtime.get_num_threads()
        if out is None:
            made = self._new_results(lowered.outputs, batch)
            lowered.runner.run(arrays, made, batch, threads)
            return made[0] if self.graph.form == "single" else self._form(made)
        targets = self._targets(out, lowered.outputs, batch)
        made = tuple([target if _writes_directly(target, output, arrays)
                      else self._new(output, batch)
                      for target, output in zip(targets, lowered.outputs, strict=True)])
        lowered.runner.run(arrays, made, batch, threads)
        for target, array in zip(targets, made, strict=True):
            if target is not array:
                np.copyto(target, array)
        return self._form(targets)

    async def run_async(self, x: Any, out: Any = None) -> Outputs:
        """Run the network in a thread of its own, while other coroutines go on.

        At most four calls of a Program run so at a time, others wait. Arguments, results and
        errors are those of `run`.
        """
        import asyncio
        import contextvars

        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._threads_for_async(), run, self.run, x, out)

    def warm_up(self, batch: int = 1) -> None:
        """Do now what the first call would have to: pack weights, get memory for a batch.

        Where sizes are open, this is done for the largest.
        """
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"expected a batch of at least 1, got {batch!r}")
        self.run(tuple([np.zeros(at_batch(shape, batch), dtype)
                        for _, shape, dtype in self._expected]))

    def trim(self) -> None:
        """Give back the memory that calls have left for later ones.

        Intermediate values lie in an arena; each of the calls that run at the same time has
        one, and they are kept. This frees those that are not in use, and what the process's
        pool of arrays holds.
        """
        for program in (self, *(self._by_size.programs() if self._by_size is not None else ())):
            program.free_arenas()
        memory.trim()

    def free_arenas(self) -> None:
        """Give the arenas that are not in use to the process's pool."""
        if self._lowered is not None:
            self._lowered.runner.trim()

    def __reduce__(self):
        """Pickle as the bytes of a .ckit file, with this Program's settings."""
        from convkit.io.ckit import program_from_bytes, program_to_bytes

        if any(value.dtype == "float64" for value in self.graph.values.values()):
            # The file keeps float32: these go as Python objects.
            return Program, (self.graph, self.threads, self.metadata, self._of_floats)
        return program_from_bytes, (program_to_bytes(self), self.threads, self._of_floats,
                                    self.max_error)

    def _ready(self) -> Lowered:
        """Return the steps, made at the first call: choose algorithms, pack weights, plan."""
        if self._lowered is None:
            with making():
                if self._lowered is None:
                    self._lowered = lower(self.graph, self._of_floats,
                                          self.threads or runtime.get_num_threads(),
                                          self._caches)
        return self._lowered

    def _at_size(self, graph: Graph) -> Program:
        """Return the Program for one choice of open sizes; they share packed weights."""
        program = Program(graph, self.threads, None, self._of_floats)
        program._caches = self._caches
        return program

    def _threads_for_async(self) -> ThreadPoolExecutor:
        """Return the executor of `run_async`; after a fork, a new one."""
        from concurrent.futures import ThreadPoolExecutor

        if self._executor is None or self._executor[0] != os.getpid():
            self._executor = (os.getpid(), ThreadPoolExecutor(ASYNC_CALLS, "convkit"))
        return self._executor[1]

    # -- the edge -----------------------------------------------------------------------

    def _checked_inputs(self, x: Any) -> tuple[tuple[np.ndarray, ...], int]:
        """Return one array per input, checked, and the batch; raise ShapeError or DTypeError."""
        dtype, sizes = self._alone
        if (type(x) is np.ndarray and x.dtype is dtype and x.shape[1:] == sizes and x.ndim
                and len(x)):
            return (x,), len(x)
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
        arrays = tuple([_as_input(value, *form)
                        for value, form in zip(given, expected, strict=True)])
        batches = {name: len(a) for (name, shape, _), a in zip(expected, arrays, strict=True)
                   if shape[:1] == _OPEN}
        if len(set(batches.values())) > 1:
            raise ShapeError("expected the same number of samples in every input, got "
                             + ", ".join(f"{name}: {n}" for name, n in batches.items()))
        return arrays, next(iter(batches.values()), 1)

    def _new_results(self, outputs: tuple[Output, ...], batch: int) -> tuple[np.ndarray, ...]:
        """Return new arrays for all outputs; how large they are is kept for the next call."""
        made_for, forms = self._made
        if made_for != batch:
            forms = [form_in_memory(at_batch(o.shape, batch), o.order, o.dtype) for o in outputs]
            self._made = batch, forms
        return tuple([memory.empty(shape, dtype).transpose(back) for shape, dtype, back in forms])

    @staticmethod
    def _new(output: Output, batch: int) -> np.ndarray:
        """Return a new array for an output."""
        return empty_ordered(at_batch(output.shape, batch), output.order, output.dtype)

    def _form(self, results: Sequence[np.ndarray]) -> Outputs:
        """Return results in the model's form."""
        if self.graph.form == "single":
            return results[0]
        if self.graph.form == "tuple":
            return tuple(results)
        return {port.name: r for port, r in zip(self.graph.outputs, results, strict=True)}

    def _targets(self, out: Any, outputs: tuple[Output, ...], batch: int) -> list[np.ndarray]:
        """Return the caller's arrays, checked, in the order of the outputs."""
        names = [port.name for port in self.graph.outputs]
        if isinstance(out, Mapping):
            targets = [out.get(name) for name in names] if set(out) == set(names) else []
        else:
            targets = list(out) if isinstance(out, (tuple, list)) else [out]
        if len(targets) != len(outputs):
            raise ShapeError(f"expected out to hold an array for each of {names}")
        for name, target, output in zip(names, targets, outputs, strict=True):
            if not isinstance(target, np.ndarray):
                raise TypeError(f"out for {name!r}: expected a NumPy array, "
                                f"got {type(target).__name__}")
            shape = at_batch(output.shape, batch)
            if target.shape != shape:
                raise ShapeError(f"out for {name!r}: expected shape {shape}, "
                                 f"got {target.shape}")
            if target.dtype != output.dtype:
                raise DTypeError(f"out for {name!r}: expected {output.dtype}, got {target.dtype}")
            if not target.flags.writeable:
                raise ValueError(f"out for {name!r}: the array is read-only")
        return targets


_OPEN = (BatchDim(),)


def _writes_directly(target: np.ndarray, output: Output, inputs: Sequence[np.ndarray]) -> bool:
    """Tell whether steps can write into the caller's array: it lies as theirs, and apart."""
    return (target.transpose(output.order).flags.c_contiguous and target.flags.aligned
            and target.dtype.isnative
            and not any(np.may_share_memory(target, x) for x in inputs))


def _as_input(x: Any, name: str, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """Return `x` as an array of the expected sample shape and dtype."""
    if isinstance(x, Tensor):
        x = x.data
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__array__"):
            x = np.asarray(x)
        elif hasattr(x, "__dlpack__"):
            x = np.from_dlpack(x)
        else:
            x = np.asarray(x, dtype=dtype)
    if x.dtype != dtype:
        if x.dtype.newbyteorder("=") != dtype:
            raise DTypeError(f"input {name!r}: expected {dtype}, got {x.dtype}; "
                             f"convert with x.astype(np.{dtype})")
        x = x.astype(dtype)
    if shape[:1] == _OPEN:
        if x.shape[1:] != shape[1:] or x.ndim != len(shape) or x.shape[0] < 1:
            raise ShapeError(f"input {name!r}: expected shape {show(shape)} with N of at "
                             f"least 1, got {x.shape}")
    elif x.shape != shape:
        raise ShapeError(f"input {name!r}: expected shape {show(shape)}, got {x.shape}")
    return x
