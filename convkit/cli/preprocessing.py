"""What turns an image into a network's input, as kept in a .ckit file's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit import data
from convkit.data.preprocess import KEY, Pipeline
from convkit.errors import ModelFormatError, ShapeError

__all__ = ["Preprocessing"]

FIELDS = ("channels", "height", "width", "mean", "std")


@dataclass(frozen=True)
class AsBytes:
    """Turns values from 0 to 1, (N, C, H, W), back into bytes in a Program's own layout."""

    layout: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return uint8 images."""
        pixels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
        return pixels.transpose(0, 2, 3, 1) if self.layout == "NHWC" else pixels


@dataclass(frozen=True)
class Preprocessing:
    """Images are scaled to [0, 1], then ``(image - mean) / std`` by channel, or a pipeline.

    Attributes
    ----------
    channels, height, width : int
    mean, std : list of float
        One value for each channel.
    pipeline : callable, optional
        What is done instead: a `Pipeline`, for files whose metadata holds one, or `AsBytes`.
    resize : int, optional
        What the shorter side of an image file is scaled to before its middle is cut out; by
        default the largest middle part is scaled to the network's size.
    """

    channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]
    pipeline: Pipeline | AsBytes | None = None
    resize: int | None = None

    @classmethod
    def of(cls, train: data.ImageDataset) -> Preprocessing:
        """Return what suits a training set: its own mean and standard deviation."""
        mean, std = train.statistics()
        # A channel without variation is centred, not blown up.
        return cls(*train.images.shape[1:], mean, [s if s > 1e-6 else 1.0 for s in std])

    @classmethod
    def from_program(cls, program: Any) -> Preprocessing:
        """Return what a file's metadata says, or no normalisation where it says nothing.

        Raises
        ------
        ModelFormatError
            When the network takes no images, or the metadata does not fit it.
        """
        shapes = list(program.input_shapes.values())
        shape = tuple(shapes[0][1:])
        if program.image_layout == "NHWC" and len(shape) == 3:
            shape = shape[2], *shape[:2]
        if len(shapes) != 1 or len(shape) != 3 or not all(isinstance(n, int) for n in shape):
            raise ModelFormatError("expected a network with one input (N, C, H, W), got inputs "
                                   + ", ".join(str(tuple(s)) for s in shapes))
        if program.image_layout is not None:
            return cls(*shape, [], [], AsBytes(program.image_layout))
        entry = program.metadata.get(KEY)
        if entry is None:
            return cls(*shape, [0.0] * shape[0], [1.0] * shape[0])
        if isinstance(entry, dict) and "steps" in entry:
            pipeline = Pipeline.from_metadata(program.metadata)
            if pipeline.shape != shape:
                raise ModelFormatError(f"metadata {KEY!r}: does not fit an input of shape {shape}")
            return cls(*shape, [], [], pipeline)
        if not isinstance(entry, dict) or entry.keys() - {"resize"} != set(FIELDS):
            raise ModelFormatError(f"metadata {KEY!r}: expected the fields {', '.join(FIELDS)}")
        least = max(shape[1:])
        resize = entry.get("resize")
        if resize is not None and (type(resize) is not int or not least <= resize <= 8 * least):
            raise ModelFormatError(f"metadata {KEY!r}: expected a resize from {least} to "
                                   f"{8 * least}")
        if (entry["channels"], entry["height"], entry["width"]) != shape:
            raise ModelFormatError(f"metadata {KEY!r}: does not fit an input of shape {shape}")
        for name in ("mean", "std"):
            if not _numbers(entry[name], shape[0]) or (name == "std" and min(entry[name]) <= 0):
                raise ModelFormatError(
                    f"metadata {KEY!r}: expected {shape[0]} finite numbers as {name}")
        return cls(**entry)

    def metadata(self) -> dict[str, Any]:
        """Return the entry for a file's metadata."""
        if self.pipeline is not None:
            return self.pipeline.metadata()
        fields = {name: getattr(self, name) for name in FIELDS}
        return {KEY: fields if self.resize is None else {**fields, "resize": self.resize}}

    def read(self, path: Any) -> np.ndarray:
        """Return an image file's pixels (C, height, width), scaled and cut to size."""
        size = (self.height, self.width)
        if self.resize is None:
            return data.load_image(path, size, self.channels)
        scale = self.resize / min(size)
        image = data.load_image(path, (round(scale * size[0]), round(scale * size[1])),
                                self.channels)
        top, left = ((whole - part) // 2 for whole, part in zip(image.shape[1:], size,
                                                                strict=True))
        return image[:, top:top + self.height, left:left + self.width]

    def loader(self, dataset: Any, batch_size: int, **options: Any) -> data.DataLoader:
        """Return a loader whose batches are the network's inputs.

        Raises
        ------
        ShapeError
            When the images have another size.
        """
        images = getattr(dataset, "images", None)
        shape = (self.channels, self.height, self.width)
        if images is not None and images.shape[1:] != shape:
            raise ShapeError(f"expected images of shape {shape}, got {images.shape[1:]}")
        if self.pipeline is not None:
            return data.DataLoader(dataset, batch_size, preprocess=self.pipeline, **options)
        return data.DataLoader(dataset, batch_size, mean=self.mean, std=self.std, **options)

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Return network input for images (N, C, H, W): uint8, or floats from 0 to 1."""
        dataset = data.TensorDataset(images)
        (batch,), = self.loader(dataset, len(images), prefetch=0)
        return batch.numpy()


def _numbers(values: Any, count: int) -> bool:
    """Tell whether a metadata field is a list of `count` finite numbers."""
    return (isinstance(values, list) and len(values) == count
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
                    for v in values))
