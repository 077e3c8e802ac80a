"""Pairs of images mixed, with their labels: MixUp, CutMix, CowMix."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit._kernels import memory
from convkit.data.augment.base import Transform, between, like, share, span
from convkit.data.augment.draws import Draws
from convkit.data.augment.filters import blurred
from convkit.errors import ShapeError

__all__ = ["CowMix", "CutMix", "MixUp", "soft_labels"]


def soft_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return labels as probabilities, float32 (N, classes).

    Parameters
    ----------
    labels : numpy.ndarray
        Class indices (N,), or probabilities (N, num_classes), which are returned as float32.
    """
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        return labels.astype(np.float32)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ShapeError(f"expected class indices (N,) or probabilities (N, {num_classes}), got "
                         f"{labels.dtype} of shape {labels.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"expected labels from 0 to {num_classes - 1}, "
                         f"got {labels.min()} to {labels.max()}")
    out = np.zeros((len(labels), num_classes), np.float32)
    out[np.arange(len(labels)), labels] = 1
    return out


class _Mix(Transform):
    """Mixes every image with the one before it in the batch, as torchvision does.

    Parameters
    ----------
    num_classes : int
        Labels come out as probabilities (N, num_classes), which `cross_entropy` takes.
    p : float
        How likely an image is mixed.
    """

    def __init__(self, num_classes: int, p: float):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"expected num_classes of at least 1, got {num_classes!r}")
        self.num_classes = num_classes
        self.p = share(p)

    def apply(self, images, labels, draws):
        """Mix the images and the labels."""
        partners = np.roll(np.arange(len(images)), 1)
        alone = draws.uniform(1)[:, 0] >= self.p
        images, shares = self._mixed(images, partners, alone, draws.child(0))
        if labels is None:
            return images, None
        soft = soft_labels(labels, self.num_classes)
        own = shares.astype(np.float32)[:, None]
        return images, own * soft + (1 - own) * soft[partners]

    def _mixed(self, images: np.ndarray, partners: np.ndarray, alone: np.ndarray,
               draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Return mixed images and the share (N,) of each image's own pixels."""
        raise NotImplementedError


def _alpha(alpha: float) -> float:
    if not 0 < alpha < np.inf:
        raise ValueError(f"expected alpha above 0, got {alpha!r}")
    return float(alpha)


class MixUp(_Mix):
    """Blend each image with another: l a + (1 - l) b with l of Beta(alpha, alpha).

    Parameters
    ----------
    num_classes : int
        Labels come out as probabilities (N, num_classes), which `cross_entropy` takes.
    alpha : float
    p : float
        How likely an image is mixed.

    Notes
    -----
    Zhang et al., "mixup: beyond empirical risk minimization", 2018. Each image draws its own
    l; its partner is the image before it in the batch.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, p: float = 1.0):
        super().__init__(num_classes, p)
        self.alpha = _alpha(alpha)

    def _mixed(self, images, partners, alone, draws):
        shares = np.where(alone, 1.0, draws.beta(self.alpha)).astype(np.float32)
        out = like(images)
        kernels.mix(images, out, partners, shares, runtime.get_num_threads())
        return out, shares


class CutMix(_Mix):
    """Put a box of another image over each image; labels mix by the areas seen.

    Parameters
    ----------
    num_classes : int
        Labels come out as probabilities (N, num_classes), which `cross_entropy` takes.
    alpha : float
        The box's share of the area is 1 - l with l of Beta(alpha, alpha), before it is cut
        off at the frame.
    p : float
        How likely an image is mixed.

    Notes
    -----
    Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable
    features", 2019.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, p: float = 1.0):
        super().__init__(num_classes, p)
        self.alpha = _alpha(alpha)

    def _mixed(self, images, partners, alone, draws):
        size = np.array(images.shape[1:3])
        half = np.sqrt(1 - np.where(alone, 1.0, draws.beta(self.alpha)))[:, None] * size / 2
        centre = np.floor(draws.child(2).uniform(2) * size)
        begin = np.clip(np.floor(centre - half), 0, size)
        end = np.clip(np.floor(centre + half), 0, size)
        end[alone] = begin[alone]
        boxes = np.concatenate([partners[:, None], begin, end], axis=1).astype(np.int64)
        out = like(images)
        kernels.paste(images, out, boxes, runtime.get_num_threads())
        return out, 1 - (end - begin).prod(axis=1) / size.prod()


class CowMix(_Mix):
    """Mix two images by a mask of irregular patches, like those on a cow.

    Parameters
    ----------
    num_classes : int
        Labels come out as probabilities (N, num_classes), which `cross_entropy` takes.
    sigma : (float, float)
        Range of the patches' size: the standard deviation of the blur, in pixels, drawn
        evenly in its logarithm.
    share : (float, float)
        Range of the share of an image's own pixels.
    p : float
        How likely an image is mixed.

    Notes
    -----
    French, Oliver and Salimans, "Milking CowMask for semi-supervised image classification",
    2020: normal noise is blurred by a Gaussian and cut at mean + sqrt(2) erfinv(2 s - 1)
    standard deviations, below which lies about the share s of it.
    """

    def __init__(self, num_classes: int, sigma: tuple[float, float] = (4.0, 16.0),
                 share: tuple[float, float] = (0.2, 0.8), p: float = 1.0):
        super().__init__(num_classes, p)
        self.sigma = span(sigma, "sigma", 0.1, 1e3)
        self.share = span(share, "share", 0, 1)

    def masks(self, draws: Draws, size: tuple[int, int]) -> np.ndarray:
        """Return masks, uint8 (N, height, width): 1 where an image's own pixels stay."""
        u = draws.uniform(2)
        sigmas = np.exp(between(u[:, 0], tuple(np.log(self.sigma))))
        shares = between(u[:, 1], self.share)
        flat = memory.zeros((len(draws), *size, 1), np.float32)
        noise = like(flat)
        stream = draws.child(0)
        kernels.noise(flat, noise, np.ones(len(draws), np.float32), 0.0, 1.0, 0.0, stream.ids,
                      stream.key, stream.stream, runtime.get_num_threads())
        smooth = blurred(noise, sigmas, int(3 * self.sigma[1] + 0.5))[..., 0].astype(np.float64)
        quantiles = np.array([NormalDist().inv_cdf(min(max(s, 1e-9), 1 - 1e-9)) for s in shares])
        limits = smooth.mean(axis=(1, 2)) + quantiles * smooth.std(axis=(1, 2))
        return np.ascontiguousarray(smooth <= limits[:, None, None], np.uint8)

    def _mixed(self, images, partners, alone, draws):
        masks = self.masks(draws, images.shape[1:3])
        masks[alone] = 1
        out = like(images)
        kernels.choose(images, out, partners, masks, runtime.get_num_threads())
        return out, masks.mean(axis=(1, 2))
