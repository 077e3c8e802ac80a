"""Noise, blur, and edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import augment as kernels
from convkit.data.augment.base import Transform, between, like, span

__all__ = ["GaussianBlur", "GaussianNoise", "Sobel"]


class GaussianNoise(Transform):
    """Add normal noise to every value.

    Parameters
    ----------
    mean : float
    sigma : float or (float, float)
        Standard deviation, or its range; both for values from 0 to 1 (times 255 for uint8).
    clip : bool
        Cut float images to [0, 1]. uint8 ones always are.
    """

    def __init__(self, mean: float = 0.0, sigma: Any = 0.1, clip: bool = True):
        self.mean, self.clip = float(mean), bool(clip)
        sigma = (sigma, sigma) if isinstance(sigma, (int, float)) else sigma
        self.sigma = span(sigma, "sigma", 0, 1e6)

    def apply(self, images, labels, draws):
        """Add the noise."""
        top = 255.0 if images.dtype == np.uint8 else 1.0
        sigmas = (between(draws.uniform(1)[:, 0], self.sigma) * top).astype(np.float32)
        low, high = (0.0, top) if self.clip or top == 255 else (1.0, 0.0)
        out = like(images)
        stream = draws.child(0)
        kernels.noise(images, out, sigmas, self.mean * top, low, high, stream.ids, stream.key,
                      stream.stream, runtime.get_num_threads())
        return out, labels


def blurred(images: np.ndarray, sigmas: np.ndarray, radius: int) -> np.ndarray:
    """Return images blurred by Gaussians of their own sigma (N,), cut at `radius`."""
    out = like(images)
    kernels.blur(images, out, np.ascontiguousarray(sigmas, np.float64), radius,
                 runtime.get_num_threads())
    return out


class GaussianBlur(Transform):
    """Blur by a Gaussian of random width.

    Parameters
    ----------
    kernel_size : int
        Odd; of both sides.
    sigma : float or (float, float)
        Standard deviation in pixels, or its range.

    Notes
    -----
    Weights exp(-k^2 / 2 sigma^2), normalised to sum 1; beyond the frame the image is
    reflected, as in torchvision.
    """

    def __init__(self, kernel_size: int, sigma: Any = (0.1, 2.0)):
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"expected kernel_size as an odd int, got {kernel_size!r}")
        self.kernel_size = kernel_size
        sigma = (sigma, sigma) if isinstance(sigma, (int, float)) else sigma
        self.sigma = span(sigma, "sigma", 1e-3, 1e6)

    def apply(self, images, labels, draws):
        """Blur the images."""
        sigmas = between(draws.uniform(1)[:, 0], self.sigma)
        return blurred(images, sigmas, self.kernel_size // 2), labels


class Sobel(Transform):
    """Replace every channel by the length of its gradient.

    A quarter of the length of the vector of Sobel's two filters, so that a step of height 1
    gives 1; pixels beyond the frame are those at the edge. Bytes are cut at 255.
    """

    def apply(self, images, labels, draws):
        """Filter the images."""
        out = like(images)
        kernels.sobel(images, out, runtime.get_num_threads())
        return out, labels
