"""Batch normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from convkit import functional as F
from convkit._kernels.tape import count_up
from convkit.autograd import Tensor
from convkit.errors import ShapeError
from convkit.nn import init
from convkit.nn.linear import positive
from convkit.nn.module import Module, weight_and_bias
from convkit.nn.parameter import Parameter

__all__ = ["BatchNorm1d", "BatchNorm2d"]


class _BatchNorm(Module):
    """Base of BatchNorm1d and BatchNorm2d."""

    ranks: tuple[int, ...]
    _op: Any = None  # what takes the statistics in training, where not `batch_norm_train`

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
        affine: bool = True, track_running_stats: bool = True, *, dtype: Any = np.float32,
    ):
        super().__init__()
        self.num_features = n = positive(num_features, "num_features")
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.register_parameter("weight", Parameter(np.ones(n, dtype)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(n, dtype)) if affine else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", np.zeros(n, dtype) if tracked else None)
        self.register_buffer("running_var", np.ones(n, dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if tracked else None)

    def reset_running_stats(self) -> None:
        """Forget the running estimates."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set the affine part to the identity and forget the running estimates."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, input: Any) -> Tensor:
        """Normalise by the batch when training (or nothing is tracked), else by what is tracked."""
        shape = input.shape
        if len(shape) not in self.ranks:
            raise ShapeError(f"expected x with {' or '.join(map(str, self.ranks))} axes, "
                             f"got x of shape {shape}")
        if shape[1] != self.num_features:
            raise ShapeError(f"expected {self.num_features} channels, got x of shape {shape}")
        mean, var, batches = self._running()
        training = self.training or mean is None
        factor = self._count_batch(batches) if training and mean is not None else 0.0
        return F.batch_norm(input, mean, var, *weight_and_bias(self), training, factor, self.eps,
                            op=self._op)

    def _running(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the running estimates and the number of batches; see `weight_and_bias`."""
        own = self._buffers
        try:
            return own["running_mean"], own["running_var"], own["num_batches_tracked"]
        except KeyError:
            return self.running_mean, self.running_var, self.num_batches_tracked

    def _count_batch(self, batches: Tensor) -> float:
        """Count this batch and return its weight in the running estimates."""
        momentum = self.momentum
        count_up(batches)
        return 1.0 / batches.item() if momentum is None else momentum

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L); see `BatchNorm2d`."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W): each channel to mean 0 and variance 1.

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running estimates; None: all batches weigh the same,
        as in the paper.
    affine : bool
        Whether a learned factor and offset per channel follow.
    track_running_stats : bool
        Whether running estimates are kept for evaluation; without them every batch is
        normalised by itself.
    dtype : dtype_like
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None
        Factor and offset, shape (C,).
    running_mean, running_var, num_batches_tracked : Tensor or None
        The running estimates, shape (C,), and how many batches went into them.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", 2015.
    """

    ranks = (4,)
