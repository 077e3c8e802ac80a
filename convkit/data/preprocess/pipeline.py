"""Steps one after the other, as they are kept in a model file's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.autograd import Tensor, no_grad
from convkit.data.preprocess.scaling import Center, MinMax, Normalize
from convkit.data.preprocess.step import Step, array_to_json, as_floats
from convkit.data.preprocess.whitening import PCAWhitening, ZCAWhitening
from convkit.errors import ModelFormatError, ShapeError

__all__ = ["KEY", "Pipeline"]

# Where a model file's metadata keeps it.
KEY = "preprocessing"

KINDS = {kind.__name__: kind for kind in (Center, MinMax, Normalize, PCAWhitening, ZCAWhitening)}
MAX_STEPS = 16


class Pipeline:
    """Steps of preprocessing, fitted on training images and applied to all.

    Parameters
    ----------
    steps : sequence of Step

    Attributes
    ----------
    shape : tuple of int or None
        (C, H, W) of the images that it was fitted on.
    """

    def __init__(self, steps: Sequence[Step]):
        self.steps = list(steps)
        if len(self.steps) > MAX_STEPS or not all(isinstance(s, Step) for s in self.steps):
            raise ValueError(f"expected at most {MAX_STEPS} steps, got {steps!r}")
        self.shape: tuple[int, ...] | None = None

    def fit(self, images: Any) -> Pipeline:
        """Fit each step on what the ones before it give; returns self."""
        images = as_floats(images)
        self.shape = tuple(images.shape[1:])
        for number, step in enumerate(self.steps):
            step.fit(images)
            if number + 1 < len(self.steps):
                images = step(images)
        return self

    def __call__(self, images: Any) -> np.ndarray:
        """Return what the network takes, for images (N, C, H, W) of uint8 or floats 0 to 1."""
        with no_grad():
            return self._forward(Tensor(as_floats(images))).data

    def _forward(self, images: Tensor) -> Tensor:
        if self.shape is None:
            raise RuntimeError("the pipeline has not learned yet: call fit first")
        if tuple(images.shape[1:]) != self.shape:
            raise ShapeError(f"expected images of shape {self.shape}, got {images.shape[1:]}")
        for step in self.steps:
            images = step.forward(images)
        return images

    def module(self) -> Any:
        """Return a layer without parameters that does the same to floats from 0 to 1.

        In front of a network, ``compile(nn.Sequential(pipeline.module(), net), shape)``, it
        goes into the Program and its file as steps with weights, of any size: `metadata` holds
        at most 2^21 numbers an array. Bytes then need ``image=True``.
        """
        from convkit.data.preprocess.module import Preprocess

        return Preprocess(self._forward)

    def metadata(self) -> dict[str, Any]:
        """Return the entry for a model file's metadata (`convkit.save`)."""
        if self.shape is None:
            raise RuntimeError("the pipeline has not learned yet: call fit first")
        return {KEY: {"image": list(self.shape), "steps": [step.to_json() for step in self.steps]}}

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Pipeline | None:
        """Return the pipeline in a file's metadata, or None where there is none.

        Raises
        ------
        ModelFormatError
            When the entry is not what `metadata` writes, nor the mean and standard deviation
            that ``convkit train`` writes.
        """
        entry = metadata.get(KEY)
        if entry is None:
            return None
        if isinstance(entry, dict) and "mean" in entry:
            entry = _from_mean_and_std(entry)
        if not isinstance(entry, dict) or entry.keys() != {"image", "steps"}:
            raise ModelFormatError(f"metadata {KEY!r}: expected image and steps")
        shape, steps = entry["image"], entry["steps"]
        if not (isinstance(shape, list) and len(shape) == 3
                and all(type(n) is int and 0 < n < 1 << 20 for n in shape)):
            raise ModelFormatError(f"metadata {KEY!r}: expected image as three sizes")
        if not isinstance(steps, list) or len(steps) > MAX_STEPS:
            raise ModelFormatError(f"metadata {KEY!r}: expected at most {MAX_STEPS} steps")
        pipeline = cls([_step(step, tuple(shape)) for step in steps])
        pipeline.shape = tuple(shape)
        return pipeline


def _step(entry: Any, shape: tuple[int, ...]) -> Step:
    """Return a step of a closed list."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelFormatError(f"metadata {KEY!r}: expected a step of {', '.join(KINDS)}")
    return KINDS[kind].from_json(entry, shape)


def _from_mean_and_std(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry for the form that has only a mean and a standard deviation."""
    if entry.keys() - {"resize"} != {"channels", "height", "width", "mean", "std"}:
        raise ModelFormatError(f"metadata {KEY!r}: expected channels, height, width, mean, std")
    for name in ("mean", "std"):
        if not (isinstance(entry[name], list) and 0 < len(entry[name]) < 1 << 16
                and all(type(v) in (int, float) and abs(v) < 1e30 for v in entry[name])):
            raise ModelFormatError(f"metadata {KEY!r}: expected finite numbers as {name}")
    arrays = {name: array_to_json(np.array(entry[name], np.float32), name)
              for name in ("mean", "std")}
    return {"image": [entry[name] for name in ("channels", "height", "width")],
            "steps": [{"kind": "Normalize", "per": "channel", **arrays}]}
