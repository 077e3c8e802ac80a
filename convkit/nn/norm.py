"""Normalisation of each sample by itself: layer, group, instance and local response norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit import functional as F
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.nn import init
from convkit.nn.batchnorm import _BatchNorm
from convkit.nn.linear import positive
from convkit.nn.module import Module
from convkit.nn.parameter import Parameter

__all__ = ["GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm", "LocalResponseNorm"]


class _Affine(Module):
    """Base of the layers with a learned factor and offset of one shape."""

    def _make(self, shape: tuple[int, ...], weight: bool, bias: bool, dtype: Any) -> None:
        self.register_parameter("weight", Parameter(np.ones(shape, dtype)) if weight else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, dtype)) if bias else None)

    def reset_parameters(self) -> None:
        """Set the affine part to the identity."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class LayerNorm(_Affine):
    """Normalises over the last axes of each sample (or token, or pixel).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Sizes of the last axes.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether a learned factor and offset per element follow.
    bias : bool
        Whether there is an offset.
    dtype : dtype_like
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None
        Of shape `normalized_shape`.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5,
                 elementwise_affine: bool = True, bias: bool = True, *, dtype: Any = np.float32):
        super().__init__()
        sizes = (normalized_shape,) if not isinstance(normalized_shape, Sequence) \
            else normalized_shape
        self.normalized_shape = tuple(positive(n, "normalized_shape") for n in sizes)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._make(self.normalized_shape, elementwise_affine, elementwise_affine and bias, dtype)

    def forward(self, input: Any) -> Tensor:
        """Normalise over the last axes."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (f"{self.normalized_shape}, eps={self.eps}, "
                f"elementwise_affine={self.elementwise_affine}")


class GroupNorm(_Affine):
    """Normalises each group of channels of each sample of (N, C), (N, C, L) or (N, C, H, W).

    Parameters
    ----------
    num_groups : int
        Divides `num_channels`.
    num_channels : int
        C.
    eps : float
        Added to the variance.
    affine : bool
        Whether a learned factor and offset per channel follow.
    dtype : dtype_like
        float32 or float64.

    Raises
    ------
    ValueError
        When the groups do not divide the channels.

    References
    ----------
    Wu and He, "Group Normalization", 2018.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5,
                 affine: bool = True, *, dtype: Any = np.float32):
        super().__init__()
        self.num_groups = positive(num_groups, "num_groups")
        self.num_channels = positive(num_channels, "num_channels")
        if num_channels % num_groups:
            raise ValueError(f"expected num_groups that divides {num_channels} channels, "
                             f"got {num_groups}")
        self.eps = eps
        self.affine = affine
        self._make((num_channels,), affine, affine, dtype)

    def forward(self, input: Any) -> Tensor:
        """Normalise each group."""
        shape = input.shape
        if len(shape) < 2 or shape[1] != self.num_channels:
            raise ShapeError(f"expected {self.num_channels} channels, got x of shape {shape}")
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(_BatchNorm):
    """Base of InstanceNorm1d and InstanceNorm2d."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1,
                 affine: bool = False, track_running_stats: bool = False, *,
                 dtype: Any = np.float32):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype=dtype)

    def forward(self, input: Any) -> Tensor:
        """Normalise by the sample, or in evaluation by what is tracked."""
        rank = len(input.shape)
        if rank not in self.ranks:
            raise ShapeError(f"expected x with {' or '.join(map(str, self.ranks))} axes, "
                             f"got x of shape {input.shape}")
        channels = input.shape[rank - self.ranks[-1] + 1]
        if channels != self.num_features:
            raise ShapeError(f"expected {self.num_features} channels, got x of "
                             f"shape {input.shape}")
        if rank == self.ranks[-1]:
            return self._normalise(input)
        y = self._normalise(input.reshape(1, *input.shape))
        return y.reshape(input.shape)

    def _normalise(self, input: Any) -> Tensor:
        own = self.training or self.running_mean is None
        return F.instance_norm(input, self.running_mean, self.running_var, self.weight, self.bias,
                               own, self.momentum, self.eps)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L) or (C, L); see `InstanceNorm2d`."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each sample of (N, C, H, W) or (C, H, W).

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float
        Weight of the new batch in the running estimates.
    affine : bool
        Whether a learned factor and offset per channel follow.
    track_running_stats : bool
        Whether running estimates are kept, by which evaluation then normalises.
    dtype : dtype_like
        float32 or float64.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016.
    """

    ranks = (3, 4)


class LocalResponseNorm(Module):
    """Divides by (k + alpha * mean)^beta, the mean of x^2 over neighbouring channels.

    Parameters
    ----------
    size : int
        How many channels the mean is over.
    alpha, beta, k : float
        See `functional.local_response_norm`.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 3.3: there size 5, alpha 5e-4 (1e-4 on the sum), beta 0.75, k 2.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size = positive(size, "size")
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Any) -> Tensor:
        """Normalise each pixel's channels."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
