"""`compile`: trace, passes, self-check, Program."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit.infer.check import MaxError, compare, refuse_absurd
from convkit.infer.dims import at_batch, at_sizes
from convkit.infer.graph import Graph
from convkit.infer.image_input import with_images, with_layout
from convkit.infer.passes import run_pipeline
from convkit.infer.program import Program
from convkit.infer.tracing import Run, own_constants, random_inputs, trace_and_run
from convkit.infer.verify import verify

__all__ = ["compile"]

CHECK_BATCH = 2


def compile(model_or_graph: Any, input_shape: Any = None, *, precision: str | None = None,
            threads: int | None = None, check: bool = True, example: Any = None,
            metadata: dict[str, Any] | None = None, image: Any = None,
            layout: str | None = None) -> Program:
    """Make a Program from a model or a graph.

    Batch norms are folded into the layers before (or after) them, activations and residual
    additions are fused into the steps whose results they take, and what depends on
    constants alone is computed once.

    Parameters
    ----------
    model_or_graph : Module, callable or Graph
        A model is run in eval mode on two small batches to see what it does; its training
        flags are as before afterwards.
    input_shape : tuple of int, list or dict of them, optional
        The full shape of the input, batch first: ``(1, 3, 32, 32)``. The Program takes
        any batch, whatever its size here. Height and width may be ranges, ``(1, 3, (32, 512),
        (32, 512))``: the Program then takes every size in them. A list of shapes (or a
        dictionary by argument name) for several inputs. May be left out with `example`, for a
        Graph, and for a model with an attribute ``input_shape``.
    precision : {"highest", "high", "medium", "int8"}, optional
        How convolutions and linear layers multiply (see `convkit.precision`); by default
        the present setting. "int8" for graphs that are quantised (ONNX files with
        QuantizeLinear, say); see `convkit.quantize` for others.
    threads : int, optional
        Threads of each call; by default the process's setting at the time of the call.
    check : bool
        Whether to compare the Program with the model itself (or the Graph as given) on
        seeded random numbers (or `example`), and keep the difference as
        ``program.max_error``.
    example : array_like, list or dict of array_like, optional
        Sample input to trace and check with instead of random numbers.
    metadata : dict, optional
        JSON values to go with the model, such as ``{"labels": [...]}``.
    image : True, dict or convkit.data.preprocess.Pipeline, optional
        Makes the Program take images of uint8, (N, H, W, C), instead of the model's input
        (N, C, H, W): True divides them by 255, ``{"mean": ..., "std": ...}`` also subtracts
        and divides (numbers for values from 0 to 1, as torchvision's ``Normalize``), and a
        pipeline of scaling steps does what it does. The scale goes into the first
        convolution's weights, the rest is one pass over the bytes.
    layout : {"NHWC", "NCHW"}, optional
        How the Program's inputs are laid out: by default "NHWC" for images of uint8, else
        "NCHW". `input_shape` and `example` are the model's own all the same.

    Returns
    -------
    Program

    Raises
    ------
    ShapeError, UnsupportedOperatorError
        When the model cannot be traced; the text says why.
    ConvkitError
        When the check finds a difference of more than 1e-3 ("medium": 0.1, float64: 1e-10)
        of the largest output, which no rounding explains.
    """
    if isinstance(model_or_graph, Program):
        model_or_graph = model_or_graph.graph
    if isinstance(model_or_graph, Graph):
        graph, runs, traced = model_or_graph, None, None
        verify(graph)
    else:
        graph, runs = trace_and_run(model_or_graph, input_shape, example)
        traced = graph
    if image is not None or layout is not None:
        graph = with_layout(graph, layout) if image is None else with_images(graph, image, layout)
        runs = example = None
    optimised = run_pipeline(graph)
    if traced is not None:
        optimised = own_constants(optimised, traced)
    program = Program(optimised, threads, metadata, precision)
    if check:
        if runs is None:
            inputs = _inputs(graph, example)
            plain = Program(graph, threads, precision="highest")
            runs = [Run(inputs, _outputs(plain, inputs))]
        errors = [compare(run.outputs, _outputs(program, run.inputs)) for run in runs]
        program.max_error = MaxError(*map(max, zip(*errors, strict=True)))
        refuse_absurd(program.max_error, _judged_as(graph), program.precision)
    return program


def _judged_as(graph: Graph) -> str:
    """Return the format by which a graph's rounding is judged."""
    given = {graph.values[p.value].dtype for p in graph.inputs}
    return "float64" if given == {"float64"} else "float32"


def _inputs(graph: Graph, example: Any) -> list[np.ndarray]:
    """Return what to compare a graph on: the example, or seeded random numbers."""
    if example is None:
        sizes = {s.name: s.low for s in graph.open_sizes()}
        shapes = [at_batch(at_sizes(graph.shape(p.value), sizes), CHECK_BATCH)
                  for p in graph.inputs]
        images = {node.inputs[0] for node in graph.nodes if node.op == "image"}
        return [_as_bytes(x) if p.value in images else _as_type(x, graph.values[p.value].dtype)
                for x, p in zip(random_inputs(shapes), graph.inputs, strict=True)]
    given = example if isinstance(example, (dict, tuple, list)) else [example]
    return [np.asarray(x) for x in (given.values() if isinstance(given, dict) else given)]


def _as_bytes(x: np.ndarray) -> np.ndarray:
    """Return random numbers as pixels."""
    return np.clip(128 + 50 * x, 0, 255).astype(np.uint8)


def _as_type(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return random numbers as floats or booleans; zeros for integers, which may be indices."""
    kind = np.dtype(dtype).kind
    if kind in "iu":
        return np.zeros(x.shape, dtype)
    return x > 0 if kind == "b" else x.astype(dtype)


def _outputs(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run a Program and list its outputs."""
    outputs = program.run(tuple(inputs))
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, tuple) else [outputs]
