"""Ranges of a graph's values, found by running it on sample data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from convkit.infer.graph import Graph, Port
from convkit.infer.program import Program
from convkit.infer.quantization.scales import Range, scale_of

__all__ = ["METHODS", "Statistics", "batches_of", "calibrate", "values_of"]

BINS = 2048
BATCH = 32
METHODS = ("minmax", "percentile", "mse")
# Parts of the range that "mse" tries.
SHARES = np.linspace(0.3, 1.0, 71)

Arrays = tuple[np.ndarray, ...]


class Statistics:
    """What is known of one value.

    Attributes
    ----------
    low, high : float
        The smallest and the largest number.
    mean : numpy.ndarray
        Mean of each channel, in float64.
    """

    def __init__(self, axis: int = 1):
        self._axis = axis
        self.low, self.high = np.inf, -np.inf
        self.mean: Any = 0.0
        self._count = 0
        self._histogram = np.zeros(BINS)

    def see(self, x: np.ndarray) -> None:
        """Take note of a batch."""
        # NaN stays NaN
        self.low = float(np.minimum(self.low, x.min()))
        self.high = float(np.maximum(self.high, x.max()))
        axis = min(self._axis, x.ndim - 1)
        others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        means = x.mean(axis=others, dtype=np.float64)
        self._count += len(x)
        self.mean = self.mean + (means - self.mean) * (len(x) / self._count)

    def count(self, x: np.ndarray) -> None:
        """Add a batch to the histogram; after all batches were seen."""
        if self.low < self.high:    # in double: there may be fewer numbers of x's type than bins
            wide = x.astype(np.float64)
            self._histogram += np.histogram(wide, BINS, (self.low, self.high))[0]

    def range(self, method: str, percentile: float) -> Range:
        """Return the range that a method chooses."""
        if method == "minmax" or self.low >= self.high:
            return Range(self.low, self.high)
        edges = np.linspace(self.low, self.high, BINS + 1)
        if method == "percentile":
            return _percentile(edges, self._histogram, percentile)
        return _least_squares(edges, self._histogram)


def _percentile(edges: np.ndarray, histogram: np.ndarray, percentile: float) -> Range:
    """Cut the same share off both ends (one end, where zero is the other)."""
    below = np.cumsum(histogram) / histogram.sum()
    share = (100 - percentile) / 100 / (1 if edges[0] >= 0 else 2)
    last = int(np.searchsorted(below, 1 - share))
    first = 0 if edges[0] >= 0 else int(np.searchsorted(below, share, side="right"))
    return Range(float(edges[first]), float(edges[min(last + 1, BINS)]))


def _least_squares(edges: np.ndarray, histogram: np.ndarray) -> Range:
    """Choose the part of the range whose rounding and cutting off err least in square."""
    centres = (edges[:-1] + edges[1:]) / 2
    best, chosen = np.inf, Range(float(edges[0]), float(edges[-1]))
    for share in SHARES:
        r = Range(float(edges[0] * share), float(edges[-1] * share))
        scale, zero = scale_of(r)
        steps = np.clip(np.rint(centres / scale) + zero, 0, 255)
        # Rounding within a bin is not seen in its centre.
        inside = (steps > 0) & (steps < 255)
        error = ((steps - zero) * scale - centres) ** 2 + inside * (scale**2 / 12)
        total = float((error * histogram).sum())
        if total < best:
            best, chosen = total, r
    return chosen


# -- running --------------------------------------------------------------------------------


def batches_of(graph: Graph, data: Any) -> list[Arrays]:
    """Return calibration data as a list of batches, a tuple of arrays each.

    `data` is one array (N, ...), a tuple or dictionary of them for several inputs, or an
    iterable of such.
    """
    names = [p.name for p in graph.inputs]
    if not isinstance(data, (np.ndarray, tuple, dict)) and hasattr(data, "__iter__") \
            and not hasattr(data, "__array__"):
        found = [b for part in data for b in batches_of(graph, _without_labels(part, len(names)))]
    else:
        if isinstance(data, dict):
            arrays = [np.asarray(data[name]) for name in names]
        else:
            arrays = [np.asarray(a) for a in (data if isinstance(data, tuple) else (data,))]
        if len(arrays) != len(names):
            raise ValueError(f"expected calibration data for the inputs {names}, got "
                             f"{len(arrays)} arrays")
        arrays = [a.astype(graph.values[p.value].dtype, copy=False)
                  for a, p in zip(arrays, graph.inputs, strict=True)]
        found = [tuple([a[i:i + BATCH] for a in arrays])
                 for i in range(0, len(arrays[0]), BATCH)]
    if not found:
        raise ValueError("expected calibration data of at least one sample")
    return found


def _without_labels(part: Any, inputs: int) -> Any:
    """Return a data loader's batch without what follows the inputs."""
    if isinstance(part, (tuple, list)) and len(part) > inputs:
        return tuple(part[:inputs])
    return tuple(part) if isinstance(part, list) else part


def values_of(graph: Graph, values: list[int], batches: list[Arrays], threads: int | None,
              precision: str | None = None) -> Iterator[list[np.ndarray]]:
    """Run a graph and yield some of its values for each batch."""
    tapped = Graph(graph.inputs, graph.constants, graph.nodes,
                   tuple([Port(f"v{v}", v) for v in values]), graph.values, "tuple")
    program = Program(tapped, threads, None, precision)
    for batch in batches:
        yield list(program.run(batch))


def calibrate(graph: Graph, values: list[int], batches: list[Arrays], method: str,
              threads: int | None) -> dict[int, Statistics]:
    """Return statistics of some values over all batches."""
    linear = {node.inputs[0] for node in graph.nodes if node.op == "linear"}
    found = {v: Statistics(-1 if v in linear else 1) for v in values}
    passes: list[Callable] = [Statistics.see]
    if method != "minmax":
        passes.append(Statistics.count)
    for note in passes:
        for arrays in values_of(graph, values, batches, threads):
            for v, array in zip(values, arrays, strict=True):
                note(found[v], array)
        for s in found.values():
            if not (np.isfinite(s.low) and np.isfinite(s.high)):
                raise ValueError("the calibration data makes values infinite or NaN")
    return found
