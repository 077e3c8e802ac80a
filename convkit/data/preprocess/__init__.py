"""Preprocessing that is fitted on training images and then does the same to all images.

>>> prepare = preprocess.Pipeline([preprocess.Normalize()]).fit(train.images)
>>> loader = data.DataLoader(train, 128, preprocess=prepare)
>>> convkit.save(model, "net.ckit", input_shape=shape, metadata=prepare.metadata())
>>> convkit.load("net.ckit").preprocessing(test.images)
"""

from __future__ import annotations

from convkit.data.preprocess.pipeline import KEY, Pipeline
from convkit.data.preprocess.scaling import Center, MinMax, Normalize
from convkit.data.preprocess.step import Step, as_floats
from convkit.data.preprocess.whitening import PCAWhitening, ZCAWhitening

__all__ = [
    "KEY",
    "Center",
    "MinMax",
    "Normalize",
    "PCAWhitening",
    "Pipeline",
    "Step",
    "ZCAWhitening",
    "as_floats",
]
