"""Several predictions instead of one: Monte Carlo dropout, ensembles, bagging, crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from convkit import functional as F
from convkit import nn, random
from convkit.autograd import Tensor, no_grad
from convkit.errors import ShapeError
from convkit.training.modes import evaluating

__all__ = ["CropAverage", "Ensemble", "Prediction", "bootstrap", "monte_carlo_dropout",
           "weight_noise"]


class Prediction(NamedTuple):
    """Mean and variance over several predictions of the same inputs."""

    mean: np.ndarray
    variance: np.ndarray


def monte_carlo_dropout(model: nn.Module, x: Any, samples: int = 30,
                        apply: Callable[[Tensor], Tensor] | None = None) -> Prediction:
    """Predict with dropout left on, again and again.

    Parameters
    ----------
    model : Module
        Its dropout layers are on, all else is in evaluation mode; every mode is as before
        afterwards.
    x : Tensor or array
        The model's input.
    samples : int
        How many predictions, at least 1.
    apply : callable, optional
        What is averaged, for example ``lambda y: F.softmax(y, 1)``; the output itself unless
        given.

    Returns
    -------
    Prediction
        In float64. The same seed (`convkit.manual_seed`) gives the same numbers.

    References
    ----------
    Gal and Ghahramani, "Dropout as a Bayesian Approximation", 2016.
    """
    if samples < 1:
        raise ValueError(f"expected at least 1 sample, got {samples}")
    with evaluating(model), no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Dropout, nn.DropConnectLinear)):
                module.training = True
        return _moments([model(x) for _ in range(samples)], apply)


def _moments(outputs: Sequence[Tensor], apply: Callable[[Tensor], Tensor] | None) -> Prediction:
    """Return mean and biased variance over outputs."""
    values = np.stack([np.asarray(y if apply is None else apply(y), np.float64) for y in outputs])
    return Prediction(values.mean(axis=0), values.var(axis=0))


def _known_average(average: str) -> str:
    if average not in ("probabilities", "scores"):
        raise ValueError(f"expected average of 'probabilities' or 'scores', got {average!r}")
    return average


class Ensemble(nn.Module):
    """Networks whose predictions are averaged.

    Parameters
    ----------
    models : sequence of Module
        At least one, with outputs of one shape.
    average : str
        "probabilities": the mean of the softmax over axis 1, as log-probabilities, so that a
        loss of scores stays right; "scores": the mean of the outputs.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", 2017.
    """

    def __init__(self, models: Sequence[nn.Module], average: str = "probabilities"):
        super().__init__()
        if not len(models):
            raise ValueError("expected at least one model")
        self.models = nn.ModuleList(models)
        self.average = _known_average(average)

    def forward(self, input: Any) -> Tensor:
        """Return the mean prediction."""
        total = None
        for model in self.models:
            y = model(input)
            y = F.softmax(y, 1) if self.average == "probabilities" else y
            total = y if total is None else total + y
        mean = total * (1 / len(self.models))
        return mean.log() if self.average == "probabilities" else mean

    def spread(self, input: Any) -> Prediction:
        """Return mean and variance of the members' softmax (or scores)."""
        apply = (lambda y: F.softmax(y, 1)) if self.average == "probabilities" else None
        with no_grad():
            return _moments([model(input) for model in self.models], apply)


class CropAverage(nn.Module):
    """A network whose predictions are averaged over several crops of each image.

    Takes (N, crops, C, H, W), as `data.augment.TenCrop` gives it.

    Parameters
    ----------
    model : Module
        From images (N, C, H, W) to scores (N, classes).
    average : str
        See `Ensemble`.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
    networks", 2012, section 4.1.
    """

    def __init__(self, model: nn.Module, average: str = "probabilities"):
        super().__init__()
        self.model = model
        self.average = _known_average(average)

    def forward(self, input: Any) -> Tensor:
        """Return the mean prediction, shape (N, classes)."""
        x = input if isinstance(input, Tensor) else Tensor(input)
        if x.ndim != 5:
            raise ShapeError(f"expected crops of shape (N, crops, C, H, W), got {x.shape}")
        scores = self.model(x.reshape(-1, *x.shape[2:]))
        by_image = scores.reshape(-1, x.shape[1], scores.shape[-1])
        if self.average == "scores":
            return by_image.mean(1)
        return F.softmax(by_image, 2).mean(1).log()


def bootstrap(samples: int, models: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw a training set for each member of a bagged ensemble.

    Parameters
    ----------
    samples : int
        Size of the data set.
    models : int
        How many members.
    seed : int
        Of the draws.

    Yields
    ------
    tuple of numpy.ndarray
        Indices drawn with replacement, as many as there are samples, for `data.Subset`; and
        those that were not drawn (about 37%), on which the member can be tested.

    References
    ----------
    Breiman, "Bagging Predictors", 1996.
    """
    if samples < 1 or models < 1:
        raise ValueError(f"expected at least 1 sample and 1 model, got {samples} and {models}")
    for child in np.random.SeedSequence(seed).spawn(models):
        drawn = np.random.default_rng(child).integers(0, samples, samples)
        yield drawn, np.setdiff1d(np.arange(samples), drawn)


@contextmanager
def weight_noise(model: nn.Module, std: float) -> Iterator[None]:
    """Add normal noise to all weights within a ``with`` block, and take it off at its end.

    Forward and backward belong into the block, the optimiser's step behind it: the gradient
    is that at the noisy weights, the step is taken from the clean ones.

    Parameters
    ----------
    model : Module
        Its parameters that require a gradient and have more than one axis get the noise.
    std : float
        Standard deviation, at least 0.

    References
    ----------
    Graves, "Practical Variational Inference for Neural Networks", 2011.
    """
    if not std >= 0:
        raise ValueError(f"expected a standard deviation of at least 0, got {std}")
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    clean = [np.array(p.data) for p in weights]
    for p in weights:
        noise = std * random.generator().standard_normal(p.shape)
        p.detach().add_(noise)
    try:
        yield
    finally:
        for p, values in zip(weights, clean, strict=True):
            p.detach().copy_(values)
