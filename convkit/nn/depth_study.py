"""How activations fare through many layers, by how weights were drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor, no_grad
from convkit.nn import init

__all__ = ["LayerActivations", "activations_by_depth"]


class LayerActivations(NamedTuple):
    """What one layer gave."""

    mean: float
    std: float
    saturated: float  # share of values beyond 0.97 in size, where tanh's slope is below 0.06
    values: np.ndarray  # (samples, width), for histograms


def activations_by_depth(
    initialise: Callable[[Tensor], Any] | str = "xavier", *, layers: int = 6, width: int = 500,
    samples: int = 1000, activation: Callable[[Tensor], Tensor] = F.tanh, seed: int = 0,
) -> list[LayerActivations]:
    """Send normal numbers through a network without training and look at every layer.

    The lectures' experiment: six tanh layers of 500 units. Normal weights of deviation 0.01
    shrink the activations to nothing from layer to layer, and the gradients with them;
    deviation 1 saturates nearly all units; Xavier's weights keep their scale. With ReLU,
    Kaiming's do.

    Parameters
    ----------
    initialise : callable or str
        ``initialise(weight)`` fills a weight (width, width) in place; or "small" (normal, 0.01),
        "large" (normal, 1), "xavier" or "kaiming" (both normal).
    layers, width, samples : int
        Sizes, at least 1.
    activation : callable
        Applied after each layer.
    seed : int
        Of inputs and weights.

    Returns
    -------
    list of LayerActivations
        One for each layer.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010, section 4.2.1; He et al., "Delving deep into rectifiers", 2015, section
    2.2.
    """
    rng = np.random.default_rng(seed)
    known = {
        "small": lambda w: init.normal_(w, 0.0, 0.01, rng),
        "large": lambda w: init.normal_(w, 0.0, 1.0, rng),
        "xavier": lambda w: init.xavier_normal_(w, generator=rng),
        "kaiming": lambda w: init.kaiming_normal_(w, nonlinearity="relu", generator=rng),
    }
    if isinstance(initialise, str):
        if initialise not in known:
            raise ValueError(f"expected one of {', '.join(known)}, got {initialise!r}")
        initialise = known[initialise]
    if min(layers, width, samples) < 1:
        raise ValueError(f"expected layers, width and samples of at least 1, got {layers}, "
                         f"{width} and {samples}")
    x = Tensor(rng.standard_normal((samples, width), np.float32))
    found = []
    with no_grad():
        for _ in range(layers):
            weight = Tensor(np.empty((width, width), np.float32))
            initialise(weight)
            x = activation(F.linear(x, weight))
            wide = x.data.astype(np.float64)
            found.append(LayerActivations(float(wide.mean()), float(wide.std()),
                                          float((np.abs(wide) > 0.97).mean()), x.data))
    return found
