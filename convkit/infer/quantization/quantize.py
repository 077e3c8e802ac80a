"""`quantize`: from a float network and sample data to a Program on bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from convkit.infer.compiler import compile
from convkit.infer.graph import Graph
from convkit.infer.passes import run_pipeline
from convkit.infer.program import Program
from convkit.infer.quantization.calibrate import (
    METHODS,
    Arrays,
    Statistics,
    batches_of,
    calibrate,
    values_of,
)
from convkit.infer.quantization.insert import (
    insert_conversions,
    layers_of,
    values_to_quantise,
)
from convkit.infer.quantization.report import LayerReport, QuantizationReport, signal_to_noise

__all__ = ["quantize"]

# Samples on which layers are compared one by one.
PROBED = 64


def quantize(model: Any, calibration_data: Any, *, method: str = "minmax",
             percentile: float = 99.99, bias_correction: bool = True, skip: Iterable[str] = (),
             max_error: float | None = None, labels: Any = None, input_shape: Any = None,
             precision: str | None = None, threads: int | None = None) -> Program:
    """Make a Program whose convolutions and linear layers multiply bytes.

    Post-training static quantisation: weights become int8 with one scale for each output
    channel, values between layers uint8 with one scale and zero point, both found on sample
    data. Batch norms are folded before. Sums are exact, so results have the same bits on every
    CPU and for any number of threads.

    Parameters
    ----------
    model : Module, Program or Graph
        The float network.
    calibration_data : array_like, tuple, dict or iterable of them
        Inputs as the network gets them, of the kind that it will see: some hundred samples. A
        data loader may be given; what its batches hold after the inputs is not looked at.
    method : {"minmax", "percentile", "mse"}
        How the range of a value is chosen: all that was seen; all but a share at the ends; or
        so that the sum of squared rounding errors is least.
    percentile : float
        For "percentile": how much of the numbers the range is to hold, in percent.
    bias_correction : bool
        Whether the mean error that rounding the weights makes is taken from the biases.
    skip : iterable of str
        Names of layers (as in the report and in ``print(program.graph)``) that stay float.
    max_error : float, optional
        How large the relative error of the output (see the report) may be on the data: the
        layers to which the output is most sensitive stay float, as many as it takes.
    labels : array_like of int, optional
        The right class of each sample of the calibration data: the report then says how often
        the network finds it, before and after.
    input_shape : tuple of int, optional
        For a Module: as `convkit.compile` takes it; by default that of the data.
    precision : {"highest", "high", "medium"}, optional
        Of the layers that stay float.
    threads : int, optional
        Threads of each call.

    Returns
    -------
    Program
        With ``precision`` "int8" and the report as ``quantization``.

    Raises
    ------
    ValueError
        When there is no data, or `skip` names no layer.

    References
    ----------
    Jacob and others, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018. Nagel and others, "A White Paper on Neural Network
    Quantization", 2021.
    """
    if method not in METHODS:
        raise ValueError(f"expected method {', '.join(map(repr, METHODS))}, got {method!r}")
    if not 50 < percentile <= 100:
        raise ValueError(f"expected a percentile above 50 and at most 100, got {percentile}")
    if max_error is not None and not max_error > 0:
        raise ValueError(f"expected max_error to be positive, got {max_error}")
    if not isinstance(calibration_data, (np.ndarray, tuple, list, dict)):
        calibration_data = (np.asarray(calibration_data)
                            if hasattr(calibration_data, "__array__") else list(calibration_data))
    base = _compiled(model, calibration_data, input_shape, precision, threads)
    work = _Work(base, batches_of(base.graph, calibration_data), method, percentile,
                 bias_correction)
    names = layers_of(base.graph)
    unknown = [name for name in skip if name not in names]
    if unknown:
        raise ValueError(f"no layer {unknown[0]!r} to skip; layers are {', '.join(names)}")
    kept = set(skip)
    program = work.program(kept)
    if max_error is not None and work.error(program) > max_error:
        program, kept = work.within(max_error, kept)
    program.quantization = work.report(program, kept, labels)
    return program


def _compiled(model: Any, data: Any, input_shape: Any, precision: str | None,
              threads: int | None) -> Program:
    """Return the float Program to start from."""
    if isinstance(model, Program):
        program = model
    elif isinstance(model, Graph):
        program = compile(model, precision=precision, threads=threads, check=False)
    else:
        if input_shape is None:
            first = data
            while isinstance(first, (list, tuple)) and first:
                first = first[0]
            input_shape = ({k: (1, *np.shape(v)[1:]) for k, v in first.items()}
                           if isinstance(first, dict) else (1, *np.shape(first)[1:]))
        program = compile(model, input_shape, precision=precision, threads=threads)
    if program.quantized:
        raise ValueError("expected a float network, got one that is quantised already")
    return Program(program.graph, threads or program.threads, program.metadata,
                   precision or program.precision)


class _Work:
    """A float Program with what calibration found, from which quantised ones are made."""

    def __init__(self, base: Program, batches: list[Arrays], method: str, percentile: float,
                 bias_correction: bool):
        self.base, self.batches, self.method = base, batches, method
        self.layers = layers_of(base.graph)
        self._percentile, self._correct = percentile, bias_correction
        graph = base.graph
        everything = set(self.layers.values())
        wanted = values_to_quantise(graph, everything)
        inputs = [graph.nodes[i].inputs[0] for i in sorted(everything)]
        self._statistics: dict[int, Statistics] = calibrate(
            graph, list(dict.fromkeys([*wanted, *inputs])), batches, method, base.threads)

    def program(self, kept: set[str]) -> Program:
        """Return the Program with all layers quantised but those named."""
        graph = self.base.graph
        chosen = {position for name, position in self.layers.items() if name not in kept}
        ranges = {v: self._statistics[v].range(self.method, self._percentile)
                  for v in values_to_quantise(graph, chosen)}
        made = insert_conversions(graph, chosen, ranges,
                                  self._statistics if self._correct else None)
        return Program(run_pipeline(made), self.base.threads, self.base.metadata,
                       self.base.precision)

    def _some(self) -> list[Arrays]:
        """Return the batches on which Programs are compared."""
        found, count = [], 0
        for batch in self.batches:
            found.append(batch)
            count += len(batch[0])
            if count >= PROBED:
                break
        return found

    def error(self, program: Program) -> float:
        """Return the largest relative error of a Program's outputs."""
        graph = self.base.graph
        outputs = [p.value for p in graph.outputs]
        noise, signal = np.zeros(len(outputs)), np.zeros(len(outputs))
        exact = values_of(graph, outputs, self._some(), self.base.threads, self.base.precision)
        got = values_of(program.graph, [p.value for p in program.graph.outputs], self._some(),
                        self.base.threads, self.base.precision)
        for a, b in zip(exact, got, strict=True):
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                noise[i] += np.square(x.astype(np.float64) - y).sum()
                signal[i] += np.square(x, dtype=np.float64).sum()
        return float(np.sqrt((noise / np.maximum(signal, 1e-300)).max()))

    def within(self, max_error: float, kept: set[str]) -> tuple[Program, set[str]]:
        """Leave the most sensitive layers float until the error is within its bound."""
        rest = [name for name in self.layers if name not in kept]
        alone = {name: self.error(self.program(set(self.layers) - {name})) for name in rest}
        for name in sorted(rest, key=alone.__getitem__, reverse=True):
            kept = kept | {name}
            program = self.program(kept)
            if self.error(program) <= max_error:
                break
        return program, kept

    # -- the report ---------------------------------------------------------------------

    def report(self, program: Program, kept: set[str], labels: Any) -> QuantizationReport:
        """Compare a Program with the float one, layer by layer."""
        graph = self.base.graph
        exact = {name: graph.nodes[i].outputs[0] for name, i in self.layers.items()}
        layers = []
        snr = self._noise(program, exact)
        for name, position in self.layers.items():
            layers.append(LayerReport(name, graph.nodes[position].op, name not in kept,
                                      snr[name]))
        accuracy = None
        if labels is not None:
            accuracy = (_accuracy(self.base, self.batches, labels),
                        _accuracy(program, self.batches, labels))
        return QuantizationReport(tuple(layers), self.error(program),
                                  sum(len(b[0]) for b in self.batches), self.method, accuracy)

    def _noise(self, program: Program, exact: dict[str, int]) -> dict[str, float]:
        """Return the signal-to-noise ratio of every layer's result."""
        by_name = _layer_nodes(program.graph)
        order = [node.name or node.op for node in self.base.graph.nodes]
        pairs = {}
        seen: dict[str, int] = {}
        for name, position in sorted(self.layers.items(), key=lambda item: item[1]):
            label = order[position]
            k = seen[label] = seen.get(label, -1) + 1
            pairs[name] = by_name[label][k]
        floats = values_of(self.base.graph, list(exact.values()), self._some(),
                           self.base.threads, self.base.precision)
        bytes_ = values_of(program.graph, [n.outputs[0] for n in pairs.values()], self._some(),
                           self.base.threads, self.base.precision)
        want: dict[str, list] = {name: [] for name in exact}
        got: dict[str, list] = {name: [] for name in exact}
        for a, b in zip(floats, bytes_, strict=True):
            for name, x, y in zip(exact, a, b, strict=True):
                attrs = pairs[name].attrs
                if y.dtype != np.float32:
                    y = (y.astype(np.float32) - attrs["y_zero"]) * np.float32(attrs["y_scale"])
                want[name].append(x.reshape(-1))
                got[name].append(y.reshape(-1))
        return {name: signal_to_noise(np.concatenate(want[name]), np.concatenate(got[name]))
                for name in exact}


def _layer_nodes(graph: Graph) -> dict[str, list]:
    """Return the nodes of layers by their name."""
    found: dict[str, list] = {}
    for node in graph.nodes:
        if node.op in ("conv", "linear", "quant_conv", "quant_linear"):
            found.setdefault(node.name or node.op.removeprefix("quant_"), []).append(node)
    return found


def _accuracy(program: Program, batches: list[Arrays], labels: Any) -> float:
    """Return how often the largest output is the right one."""
    labels = np.asarray(labels).reshape(-1)
    total = sum(len(b[0]) for b in batches)
    if len(labels) != total:
        raise ValueError(f"expected {total} labels, one for each sample, got {len(labels)}")
    graph = program.graph
    found = [arrays[0].argmax(axis=-1) for arrays in values_of(
        graph, [graph.outputs[0].value], batches, program.threads)]
    return float((np.concatenate(found) == labels).mean())
