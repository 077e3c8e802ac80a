"""Normalisations: by running statistics, per sample, per group, over trailing axes."""

from __future__ import annotations

from collections.abc import Callable

from convkit.errors import ModelFormatError, UnsupportedOperatorError
from convkit.io.onnx.builder import Builder, axis_of, handles
from convkit.io.onnx.node import Operator, Val

__all__: list[str] = []


def _flat(b: Builder, x: Val, function: Callable[[Val], Val]) -> Val:
    """Apply a function of (N, C, L) or (N, C, H, W) to an array of more axes."""
    if x.rank <= 4:
        return function(x)
    size = 1
    for n in x.shape[2:]:
        size *= n
    return b.reshape(function(b.reshape(x, (*x.shape[:2], size))), x.shape)


@handles("BatchNormalization")
def batch_norm(b: Builder, node: Operator):
    """Return normalisation by given statistics, or (training_mode) by those of the batch."""
    x, *rest = node.inputs
    scale, bias, mean, var = (b.cast(v, x.dtype) for v in rest)
    eps = node.attrs["epsilon"]
    if not node.attrs.get("spatial", 1):
        raise UnsupportedOperatorError("BatchNormalization with spatial=0")
    if not node.attrs.get("training_mode", 0):
        if any(node.wants(i) for i in (1, 2, 3, 4)):
            raise UnsupportedOperatorError("BatchNormalization with outputs for training")
        if x.rank == 1:
            raise UnsupportedOperatorError("BatchNormalization of one axis")
        return _flat(b, x, lambda x: b.op("batch_norm", x, scale, bias, mean, var, eps=eps))
    if x.rank > 4:
        raise UnsupportedOperatorError("BatchNormalization of volumes in training")
    y, own_mean, own_var = b.op("batch_norm_train", x, scale, bias, eps=eps)
    momentum = b.like(node.attrs["momentum"], x)
    rest = b.like(1 - node.attrs["momentum"], x)
    running = [b.op("add", b.op("mul", old, momentum), b.op("mul", new, rest))
               for old, new in ((mean, own_mean), (var, own_var))]
    return (y, *running)[:max(len(node.outputs), 1)]


@handles("InstanceNormalization")
def instance_norm(b: Builder, node: Operator) -> Val:
    """Return normalisation of every sample's every channel."""
    x, scale, bias = node.inputs
    return _flat(b, x, lambda x: b.op("instance_norm", x, scale, bias, eps=node.attrs["epsilon"]))


@handles("GroupNormalization")
def group_norm(b: Builder, node: Operator) -> Val:
    """Return normalisation over groups of channels; before opset 21, scales are per group."""
    x, scale, bias = node.inputs
    groups = node.attrs["num_groups"]
    if groups < 1 or x.rank < 3 or x.shape[1] % groups:
        raise ModelFormatError(f"{groups} groups do not divide x of shape {x.shape}")
    if node.opset < 21 and scale.size == groups != x.shape[1]:
        share = x.shape[1] // groups
        scale, bias = (b.reshape(b.op("expand", b.reshape(v, (groups, 1)), shape=(groups, share)),
                                 (groups * share,)) for v in (scale, bias))
    return _flat(b, x, lambda x: b.op("group_norm", x, b.cast(scale, x.dtype),
                                      b.cast(bias, x.dtype), num_groups=groups,
                                      eps=node.attrs["epsilon"]))


@handles("LayerNormalization")
def layer_norm(b: Builder, node: Operator):
    """Return normalisation over the axes from `axis` on; mean and inverse deviation on request."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    axis, eps = axis_of(node.attrs["axis"], x.rank), node.attrs["epsilon"]
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = b.op("layer_norm", x, scale, bias, normalized_shape=shape, eps=eps)
    else:
        y = b.op("mul", b.op("layer_norm", x, normalized_shape=shape, eps=eps), scale)
        y = y if bias is None else b.op("add", y, bias)
    if not (node.wants(1) or node.wants(2)):
        return y
    axes = tuple(range(axis, x.rank))
    mean = b.op("mean", x, dim=axes, keepdim=True)
    apart = b.op("sub", x, mean)
    var = b.op("mean", b.op("mul", apart, apart), dim=axes, keepdim=True)
    deviation = b.op("sqrt", b.op("add", var, b.like(eps, var)))
    return y, mean, b.op("reciprocal", deviation)


@handles("RMSNormalization")
def rms_norm(b: Builder, node: Operator) -> Val:
    """Return division by the root of the mean square over the axes from `axis` on."""
    x, scale = node.inputs
    axes = tuple(range(axis_of(node.attrs["axis"], x.rank), x.rank))
    mean = b.op("mean", b.op("mul", x, x), dim=axes, keepdim=True)
    root = b.op("sqrt", b.op("add", mean, b.like(node.attrs["epsilon"], mean)))
    return b.op("mul", b.op("div", x, root), scale)


@handles("LRN")
def local_response_norm(b: Builder, node: Operator) -> Val:
    """Return division by a sum of squares over neighbouring channels (Krizhevsky et al., 2012)."""
    x, size = node.input(0), node.attrs["size"]
    if size % 2 == 0:
        raise UnsupportedOperatorError("LRN over an even number of channels")
    return _flat(b, x, lambda x: b.op(
        "local_response_norm", x, size=size, alpha=node.attrs["alpha"], beta=node.attrs["beta"],
        k=node.attrs["bias"]))


@handles("LpNormalization")
def lp_norm(b: Builder, node: Operator) -> Val:
    """Return division by the 1- or 2-norm along an axis; zeros stay zeros."""
    x, axis = node.input(0), axis_of(node.attrs["axis"], node.input(0).rank)
    size = b.op("abs", x)
    if node.attrs["p"] == 2:
        size = b.op("mul", x, x)
    size = b.op("sum", size, dim=(axis,), keepdim=True)
    if node.attrs["p"] == 2:
        size = b.op("sqrt", size)
    zero = b.op("eq", size, b.like(0, size))
    return b.op("div", x, b.op("where", zero, b.like(1, size), size))
