"""Normalisation by statistics of the batch, of a sample or of its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit import runtime
from convkit._kernels import norm
from convkit._kernels.tape import to_change
from convkit.autograd import Tensor, apply, is_recomputing
from convkit.errors import ShapeError
from convkit.functional.arguments import shape_of
from convkit.ops import REGISTRY as OPS
from convkit.ops.group_norm import sample_moments

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm"]


def batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *, op: Any = None,
) -> Tensor:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C), (N, C, L) or (N, C, H, W).
    running_mean, running_var : Tensor, array or None
        Shape (C,): what is used unless `training`; updated in place when `training`, as
        ``(1 - momentum) * running + momentum * batch``, with the unbiased variance.
    weight, bias : Tensor or array, optional
        Shape (C,).
    training : bool
        Normalise by the batch's own mean and biased variance.
    momentum : float
        Weight of the new batch in the running estimates.
    eps : float
        Added to the variance.
    op : type of BatchNormTrain, optional
        What takes the statistics in training, where not of this batch alone.

    Raises
    ------
    ShapeError
        When there is a single value per channel to take a variance of.

    References
    ----------
    Ioffe and Szegedy, "Batch Normalization", 2015.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("expected running_mean and running_var unless training")
        return apply(OPS["batch_norm"], input, weight, bias, running_mean, running_var, eps=eps)
    y, mean, var, *total = apply(op or OPS["batch_norm_train"], input, weight, bias, eps=eps)
    if running_mean is not None or running_var is not None:
        mean = mean.data
        count = total[0].item() if total else math.prod(y.shape) // max(mean.size, 1)
        follow(running_mean, mean, running_var, var.data, momentum, count / max(count - 1, 1))
    return y


def follow(running_mean: Any, mean: np.ndarray, running_var: Any, var: np.ndarray,
           momentum: float, unbiased: float) -> None:
    """Move running estimates, where there are any, towards a batch's, in place."""
    if is_recomputing() or (running_mean is None and running_var is None):
        return
    arrays = to_change(running_mean), to_change(running_var)
    if norm.follow(arrays[0], mean, arrays[1], var, momentum, unbiased):
        return
    for array, batch, scale in zip(arrays, (mean, var), (1.0, unbiased), strict=True):
        if array is not None:
            np.multiply(array, 1 - momentum, out=array, casting="same_kind")
            np.add(array, batch * (momentum * scale), out=array, casting="same_kind")


def layer_norm(input: Any, normalized_shape: int | Sequence[int], weight: Any = None,
               bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalise over the last axes: (x - mean) / sqrt(var + eps) * weight + bias.

    Parameters
    ----------
    input : Tensor or array
        Of any shape that ends with `normalized_shape`.
    normalized_shape : int or sequence of int
        Sizes of the axes over which mean and biased variance are taken.
    weight, bias : Tensor or array, optional
        Of shape `normalized_shape`.
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        When a shape does not fit.

    References
    ----------
    Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    sizes = (normalized_shape,) if hasattr(normalized_shape, "__index__") else normalized_shape
    return apply(OPS["layer_norm"], input, weight, bias,
                 normalized_shape=tuple([n.__index__() for n in sizes]), eps=eps)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None,
               eps: float = 1e-5) -> Tensor:
    """Normalise each group of channels of each sample, then scale and shift each channel.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C), (N, C, L) or (N, C, H, W).
    num_groups : int
        Divides C; 1 takes all channels together, C each by itself.
    weight, bias : Tensor or array, optional
        Shape (C,).
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        When a shape does not fit, or the input is one value per group.

    References
    ----------
    Wu and He, "Group Normalization", 2018.
    """
    shape = shape_of(input)
    if math.prod(shape) == num_groups:
        raise ShapeError(f"expected more than 1 value per group, got x of shape {shape} "
                         f"for {num_groups} groups")
    return apply(OPS["group_norm"], input, weight, bias, num_groups=num_groups, eps=eps)


def instance_norm(
    input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample, then scale and shift it.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C, L) or (N, C, H, W).
    running_mean, running_var : Tensor, array or None
        Shape (C,): with `use_input_stats` updated in place towards the mean over the samples
        of their means and unbiased variances; without it, what is normalised by.
    weight, bias : Tensor or array, optional
        Shape (C,).
    use_input_stats : bool
        Normalise by the sample's own mean and biased variance.
    momentum : float
        Weight of the new batch in the running estimates.
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        When a shape does not fit, or there is a single value per channel.

    References
    ----------
    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016.
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    shape = shape_of(input)
    if len(shape) > 1 and math.prod(shape[2:]) == 1:
        raise ShapeError(f"expected more than 1 spatial element when training, got x of "
                         f"shape {shape}")
    y = apply(OPS["instance_norm"], input, weight, bias, eps=eps)
    if running_mean is not None or running_var is not None:
        pixels = math.prod(shape[2:])
        x = input.data if isinstance(input, Tensor) else input
        mean, var = sample_moments(x, runtime.get_num_threads())
        follow(running_mean, mean.mean(axis=0), running_var, var.mean(axis=0), momentum,
               pixels / max(pixels - 1, 1))
    return y


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> Tensor:
    """Divide by (k + alpha * mean)^beta, with the mean of x^2 over neighbouring channels.

    Parameters
    ----------
    input : Tensor or array
        Shape (N, C), (N, C, L) or (N, C, H, W).
    size : int
        How many channels the mean is over: size // 2 before, the rest from the channel on;
        those beyond the edges count as zeros.
    alpha, beta, k : float
        As in the formula.

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 3.3.
    """
    return apply(OPS["local_response_norm"], input, size=size, alpha=alpha, beta=beta, k=k)
