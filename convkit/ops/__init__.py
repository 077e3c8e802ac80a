"""Operations by family: validation, choice of algorithm, forward and backward.

Importing this package registers every operation.
"""

from __future__ import annotations

from convkit.ops import (
    activation,
    affine,
    arithmetic,
    cast,
    compare,
    conv,
    focal_loss,
    functions,
    gather,
    group_norm,
    image,
    layer_norm,
    linear,
    loss,
    margin_loss,
    math,
    norm,
    pad,
    pointwise_loss,
    pool,
    quant_conv,
    quant_math,
    quantize,
    reduce,
    resample,
    resize,
    response_norm,
    shape,
    unpool,
)
from convkit.ops.op import REGISTRY, Context, Op, register

__all__ = ["REGISTRY", "Context", "Op", "register", "activation", "affine", "arithmetic", "cast",
           "compare", "conv", "focal_loss", "functions", "gather", "group_norm", "image",
           "layer_norm", "linear", "loss", "margin_loss", "math", "norm", "pad", "pointwise_loss",
           "pool", "quant_conv", "quant_math", "quantize", "reduce", "resample", "resize",
           "response_norm", "shape", "unpool"]
