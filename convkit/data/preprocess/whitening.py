"""Whitening: values without correlation and of variance 1."""

from __future__ import annotations

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor, no_grad
from convkit.data.preprocess.scaling import per_what
from convkit.data.preprocess.step import Step
from convkit.errors import ShapeError

__all__ = ["PCAWhitening", "ZCAWhitening"]


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
        values = images.reshape(len(images), groups, features).astype(np.float64)
        mean = values.mean(axis=0)
        directions = np.empty((groups, components, features))
        variances = np.empty((groups, components))
        for g in range(groups):
            centred = values[:, g] - mean[g]
            spread, vectors = np.linalg.eigh(centred.T @ centred / len(images))
            directions[g] = vectors[:, ::-1][:, :components].T
            variances[g] = np.maximum(spread[::-1][:components], 0)
        return {"mean": mean, "directions": directions, "variances": variances}

    def check(self, shape):
        """Raise unless the arrays fit images of `shape` (C, H, W) and can be divided by."""
        super().check(shape)
        if not ((self.arrays["variances"] + self.eps) > 0).all():
            raise ValueError("expected variances above 0; give an eps")

    def _scores(self, images: np.ndarray) -> list[np.ndarray]:
        """Return each group's white components (N, components)."""
        groups, features, _ = self._layout(images.shape[1:])
        values = images.reshape(len(images), groups, features)
        mean, directions, variances = (self.arrays[name] for name in self.ARRAYS)
        scale = 1 / np.sqrt(variances.astype(np.float64) + self.eps)
        return [_product(values[:, g] - mean[g].astype(images.dtype),
                         directions[g] * scale[g][:, None]) for g in range(groups)]


def _product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return x weight^T; a sample's row does not depend on the others in the batch."""
    with no_grad():
        return F.linear(Tensor(np.ascontiguousarray(x)),
                        Tensor(np.ascontiguousarray(weight, x.dtype))).data


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

    def _apply(self, images: np.ndarray) -> np.ndarray:
        scores = np.concatenate(self._scores(images), axis=1)
        return scores.reshape(images.shape) if scores.size == images.size else scores


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

    def _apply(self, images: np.ndarray) -> np.ndarray:
        directions = self.arrays["directions"]
        back = [_product(scores, directions[g].T) for g, scores in enumerate(self._scores(images))]
        return np.concatenate(back, axis=1).reshape(images.shape)
