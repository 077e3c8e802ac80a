"""What every step of preprocessing has, and how its arrays become JSON and back."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np

from convkit.autograd import Tensor, no_grad
from convkit.errors import DTypeError, ModelFormatError, ShapeError

__all__ = ["MAX_VALUES", "Step", "array_from_json", "array_to_json", "as_floats"]

# Numbers that one array in a model file's metadata may hold (8 MiB of float32): the file's
# header is limited, and is read whole.
MAX_VALUES = 1 << 21


def as_floats(images: Any) -> np.ndarray:
    """Return images (N, C, H, W) as floats; uint8 values are divided by 255.

    Raises
    ------
    DTypeError, ShapeError
        When they are neither uint8 nor floats, or of another rank.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ShapeError(f"expected images of shape (N, C, H, W), got {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype not in (np.float32, np.float64):
        raise DTypeError(f"expected images of uint8, float32 or float64, got {images.dtype}")
    return images


class Step:
    """One step: `fit` learns its arrays from training images, calling it applies them.

    A subclass names its arrays in `ARRAYS` and its settings in `SETTINGS`, and defines
    `_learn`, `_apply` (in operations that can be traced) and `_shapes`.
    """

    ARRAYS: tuple[str, ...] = ()
    SETTINGS: dict[str, type] = {}

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def fit(self, images: Any) -> Step:
        """Learn from training images (N, C, H, W), uint8 or floats from 0 to 1; returns self."""
        images = as_floats(images)
        if len(images) == 0:
            raise ShapeError("expected at least one image to learn from, got none")
        self.arrays = {name: np.ascontiguousarray(value, np.float32)
                       for name, value in self._learn(images).items()}
        return self

    def __call__(self, images: Any) -> np.ndarray:
        """Return transformed images, float32 (float64 for float64)."""
        with no_grad():
            return self.forward(Tensor(as_floats(images))).data

    def forward(self, images: Tensor) -> Tensor:
        """Return transformed images (N, C, H, W) of floats."""
        if not self.arrays:
            raise RuntimeError(f"{type(self).__name__} has not learned yet: call fit first")
        self.check(images.shape[1:])
        return self._apply(images)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError unless the arrays fit images of `shape` (C, H, W)."""
        for name, expected in self._shapes(shape).items():
            if self.arrays[name].shape != expected:
                raise ShapeError(f"expected {name} of shape {expected} for images of shape "
                                 f"{shape}, got {self.arrays[name].shape}")

    def to_json(self) -> dict[str, Any]:
        """Return settings and arrays as JSON values."""
        return {"kind": type(self).__name__,
                **{name: getattr(self, name) for name in self.SETTINGS},
                **{name: array_to_json(self.arrays[name], name) for name in self.ARRAYS}}

    @classmethod
    def from_json(cls, entry: dict[str, Any], shape: tuple[int, ...]) -> Step:
        """Return the step of an entry, checked against images of `shape` (C, H, W)."""
        if entry.keys() != {"kind", *cls.SETTINGS, *cls.ARRAYS}:
            raise ModelFormatError(f"{cls.__name__}: expected the fields "
                                   f"{', '.join([*cls.SETTINGS, *cls.ARRAYS])}")
        for name, kind in cls.SETTINGS.items():
            if type(entry[name]) is not kind:
                raise ModelFormatError(f"{cls.__name__}: expected {name} as {kind.__name__}")
        try:
            step = cls(**{name: entry[name] for name in cls.SETTINGS})
            step.arrays = {name: array_from_json(entry[name], name) for name in cls.ARRAYS}
            step.check(shape)
        except (ShapeError, ValueError) as error:
            raise ModelFormatError(f"{cls.__name__}: {error}") from None
        return step

    def _learn(self, images: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _apply(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError


def array_to_json(array: np.ndarray, name: str) -> dict[str, Any]:
    """Return an array as its shape and its little-endian float32 numbers in base64."""
    if array.size > MAX_VALUES:
        raise ValueError(f"{name}: {array.size} numbers are too many for a model file's "
                         f"metadata (at most {MAX_VALUES}); use fewer components, or compile "
                         "with Pipeline.module() in front of the network")
    data = base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": data}


def array_from_json(entry: Any, name: str) -> np.ndarray:
    """Return the array of an entry; raise ModelFormatError when it is not one."""
    if not isinstance(entry, dict) or entry.keys() != {"shape", "float32"}:
        raise ModelFormatError(f"{name}: expected shape and float32")
    shape, text = entry["shape"], entry["float32"]
    if not (isinstance(shape, list) and len(shape) <= 4
            and all(type(n) is int and 0 < n <= MAX_VALUES for n in shape)):
        raise ModelFormatError(f"{name}: expected a shape of at most 4 sizes")
    count = math.prod(shape)
    length = (4 * count + 2) // 3 * 4  # of base64
    if count > MAX_VALUES or not isinstance(text, str) or len(text) != length:
        raise ModelFormatError(f"{name}: expected {count} numbers")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ModelFormatError(f"{name}: not base64") from None
    if len(data) != 4 * count:
        raise ModelFormatError(f"{name}: expected {count} numbers")
    array = np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise ModelFormatError(f"{name}: expected finite numbers")
    return array
