"""Whitening: values without correlation and of variance 1."""

from __future__ import annotations

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.data.preprocess.scaling import per_what
from convkit.data.preprocess.step import Step
from convkit.errors import ShapeError

__all__ = ["PCAWhitening", "ZCAWhitening"]

# Samples of which products are taken at once, so that memory holds few of them in float64.
BLOCK = 1024


class _Whitening(Step):
    """Rotates to principal components and divides by their standard deviations."""

    ARRAYS = ("mean", "directions", "variances")
    SETTINGS = {"per": str, "eps": float, "components": int}

    def __init__(self, per: str = "dataset", eps: float = 1e-5, components: int = 0):
        super().__init__()
        self.per = per_what(per)
        self.eps = float(eps)
        self.components = int(components)
        if not 0 <= self.eps < np.inf or self.components < 0:
            raise ValueError(f"expected eps and components of at least 0, got {eps!r} and "
                             f"{components!r}")

    def _layout(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return how many groups there are, and features and components of each."""
        groups = shape[0] if self.per == "channel" else 1
        features = int(np.prod(shape)) // groups
        if self.components > features:
            raise ShapeError(f"expected at most {features} components, got {self.components}")
        return groups, features, self.components or features

    def _shapes(self, shape):
        groups, features, components = self._layout(shape)
        return {"mean": (groups, features), "directions": (groups, components, features),
                "variances": (groups, components)}

    def _learn(self, images):
        groups, features, components = self._layout(images.shape[1:])
        directions = np.empty((groups, components, features))
        variances = np.empty((groups, components))
        means = np.empty((groups, features))
        for g, values in enumerate(np.moveaxis(images.reshape(len(images), groups, -1), 1, 0)):
            means[g], covariance = _moments(values)
            spread, vectors = np.linalg.eigh(covariance)
            directions[g] = vectors[:, ::-1][:, :components].T
            variances[g] = np.maximum(spread[::-1][:components], 0)
        return {"mean": means, "directions": directions, "variances": variances}

    def check(self, shape):
        """Raise unless the arrays fit images of `shape` (C, H, W) and can be divided by."""
        super().check(shape)
        if not ((self.arrays["variances"] + self.eps) > 0).all():
            raise ValueError("expected variances above 0; give an eps")

    def _scores(self, images: Tensor) -> list[Tensor]:
        """Return each group's white components (N, components)."""
        groups, features, _ = self._layout(images.shape[1:])
        values = images.reshape(-1, groups, features)
        mean, directions, variances = (self.arrays[name] for name in self.ARRAYS)
        scale = 1 / np.sqrt(variances.astype(np.float64) + self.eps)
        return [F.linear(values[:, g] - mean[g].astype(images.dtype),
                         _weight(directions[g] * scale[g][:, None], images)) for g in range(groups)]


def _weight(values: np.ndarray, images: Tensor) -> Tensor:
    return Tensor(np.ascontiguousarray(values, images.dtype))


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance over samples (N, features), a block of them at a time."""
    mean = values.mean(axis=0, dtype=np.float64)
    total = np.zeros((len(mean), len(mean)))
    for start in range(0, len(values), BLOCK):
        centred = values[start:start + BLOCK] - mean
        total += centred.T @ centred
    return mean, total / len(values)


class PCAWhitening(_Whitening):
    """Give the white principal components.

    Parameters
    ----------
    per : {"dataset", "channel"}
        All values of an image together (C H W features), or each channel's (H W) apart.
    eps : float
        Added to the variances, so that directions that hardly vary are not blown up.
    components : int
        How many, those of largest variance first; 0 for all.

    Notes
    -----
    ``diag(1 / sqrt(variance + eps)) U^T (x - mean)``. The result has shape
    (N, groups * components), or the images' shape where there are as many components as values.
    """

    def _apply(self, images: Tensor) -> Tensor:
        scores = F.concat(self._scores(images), 1)
        whole = scores.shape[1] == np.prod(images.shape[1:])
        return scores.reshape(-1, *images.shape[1:]) if whole else scores


class ZCAWhitening(_Whitening):
    """Whiten images so that they stay as near as possible to what they were.

    Parameters
    ----------
    per, eps, components
        As in `PCAWhitening`.

    Notes
    -----
    ``U diag(1 / sqrt(variance + eps)) U^T (x - mean)``: the white values turned back
    (Bell and Sejnowski, 1997; Krizhevsky, 2009).
    """

    def _apply(self, images: Tensor) -> Tensor:
        directions = self.arrays["directions"]
        back = [F.linear(scores, _weight(directions[g].T, images))
                for g, scores in enumerate(self._scores(images))]
        return F.concat(back, 1).reshape(-1, *images.shape[1:])
