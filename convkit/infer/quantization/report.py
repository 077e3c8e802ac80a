"""What quantisation did to a network: error of every layer, accuracy before and after."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convkit.infer.graph import table

__all__ = ["LayerReport", "QuantizationReport", "signal_to_noise"]


def signal_to_noise(exact: np.ndarray, got: np.ndarray) -> float:
    """Return 10 log10(sum of exact^2 / sum of (exact - got)^2), in dB."""
    signal = float(np.square(exact, dtype=np.float64).sum())
    noise = float(np.square(exact.astype(np.float64) - got).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes
    ----------
    name : str
        As in the graph; what `skip` takes.
    op : str
        conv or linear.
    quantized : bool
        Whether it runs on bytes.
    snr : float
        Signal-to-noise ratio of its result, in dB, after all layers before it. Each bit
        of precision is worth 6 dB.
    """

    name: str
    op: str
    quantized: bool
    snr: float


@dataclass(frozen=True)
class QuantizationReport:
    """What `convkit.quantize` found; printing it shows a table.

    Attributes
    ----------
    layers : tuple of LayerReport
        In running order.
    error : float
        Norm of the outputs' difference from float32 over their norm, the largest of all outputs.
    samples : int
        How many samples were used.
    method : str
        How ranges were chosen.
    accuracy : tuple of (float, float) or None
        Share of right answers before and after, where labels were given.
    """

    layers: tuple[LayerReport, ...]
    error: float
    samples: int
    method: str
    accuracy: tuple[float, float] | None = None

    @property
    def worst(self) -> LayerReport | None:
        """The quantised layer with the lowest signal-to-noise ratio."""
        return min((x for x in self.layers if x.quantized), key=lambda x: x.snr, default=None)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the layers left in higher precision."""
        return tuple([x.name for x in self.layers if not x.quantized])

    def __str__(self) -> str:
        rows = [("layer", "op", "precision", "signal to noise (dB)")]
        rows += [(x.name, x.op, "int8" if x.quantized else "float", f"{x.snr:.1f}")
                 for x in self.layers]
        lines = [table(rows, right=(3,)), f"ranges by {self.method} over {self.samples} samples; "
                 f"relative error of the output: {self.error:.3g}"]
        if self.worst is not None:
            lines.append(f"worst layer: {self.worst.name} at {self.worst.snr:.1f} dB")
        if self.accuracy is not None:
            before, after = self.accuracy
            lines.append(f"accuracy: {before:.2%} before, {after:.2%} after "
                         f"({100 * (after - before):+.2f} points)")
        return "\n".join(lines)
