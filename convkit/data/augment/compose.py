"""Transforms put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.data.augment.base import Transform, like, share
from convkit.data.augment.geometry import Geometry
from convkit.errors import ShapeError

__all__ = ["Compose", "OneOf", "RandomApply"]


def _checked(transforms: Sequence[Transform]) -> list[Transform]:
    transforms = list(transforms)
    for one in transforms:
        if not isinstance(one, Transform):
            raise TypeError(f"expected transforms of convkit.data.augment, got {one!r}")
    return transforms


class Compose(Transform):
    """One transform after the other.

    Neighbouring affine maps (flips, crops, rotations and so on) that read beyond the frame in
    the same way are multiplied, and the image is resampled once: faster, and without the blur
    of several interpolations. So what one of them moves out of the frame and the next moves
    back is still there, and a rotation after a crop sees what lies around the crop.

    Parameters
    ----------
    transforms : sequence of Transform
    """

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = _checked(transforms)
        self._stages = _stages(self.transforms)

    def apply(self, images, labels, draws):
        """Apply the transforms."""
        for place, stage in self._stages:
            images, labels = stage.apply(images, labels,
                                         draws if place is None else draws.child(place))
        return images, labels


def _stages(transforms: list[Transform]) -> list[tuple[int | None, Transform]]:
    """Return the transforms with runs of affine maps put together.

    A run draws as its parts would alone: it knows their places, so its own is None.
    """
    stages: list[tuple[int | None, Transform]] = []
    for place, one in enumerate(transforms):
        last = stages[-1][1] if stages else None
        if not one.geometric:
            stages.append((place, one))
            continue
        joined = last.sampling.joined(one.sampling) if isinstance(last, Geometry) else None
        if joined is None:
            stages.append((None, Geometry([one], [place], one.sampling)))
        else:
            stages[-1] = None, Geometry([*last.parts, one], [*last.places, place], joined)
    return stages


def _scatter(images: np.ndarray, labels: Any, parts: list[tuple[np.ndarray, np.ndarray, Any]]):
    """Put transformed parts of a batch, (positions, images, labels), together."""
    sizes = {part.shape[1:] for _, part, _ in parts}
    if len(sizes) > 1:
        raise ShapeError("expected transforms that give images of one size, got "
                         + ", ".join(f"{s[0]}x{s[1]}" for s in sorted(sizes)))
    out = like(images, next(iter(sizes), images.shape[1:])[:2])
    for positions, part, _ in parts:
        out[positions] = part
    if labels is None:
        return out, None
    if any(part.shape[1:] != labels.shape[1:] for _, _, part in parts):
        raise ShapeError("expected transforms that leave labels as they are; MixUp, CutMix and "
                         "CowMix have a probability of their own")
    merged = labels.copy()
    for positions, _, part in parts:
        merged[positions] = part
    return out, merged


class RandomApply(Transform):
    """Apply transforms to each image with probability `p`, and leave the others as they are.

    Parameters
    ----------
    transforms : sequence of Transform
        They keep the images' size.
    p : float
    """

    def __init__(self, transforms: Sequence[Transform], p: float = 0.5):
        self.p = share(p)
        self._inner = Compose(transforms)
        stages = self._inner._stages
        self.geometric = len(stages) == 1 and isinstance(stages[0][1], Geometry)
        if self.geometric:
            self.sampling = stages[0][1].sampling

    def _chosen(self, draws) -> np.ndarray:
        return draws.uniform(1)[:, 0] < self.p

    def maps(self, draws, size):
        """Return the maps; the identity for images that are left alone."""
        matrices, out = self._inner._stages[0][1].maps(draws.child(0), size)
        if out != size:
            raise ShapeError(f"expected transforms that keep the size {size[0]}x{size[1]}, "
                             f"got {out[0]}x{out[1]}")
        matrices[~self._chosen(draws)] = np.eye(2, 3)
        return matrices, size

    def apply(self, images, labels, draws):
        """Transform the chosen images."""
        chosen = np.flatnonzero(self._chosen(draws))
        rest = np.flatnonzero(~self._chosen(draws))
        part, part_labels = self._inner.apply(
            images[chosen], None if labels is None else labels[chosen],
            draws.take(chosen).child(0))
        return _scatter(images, labels, [
            (rest, images[rest], None if labels is None else labels[rest]),
            (chosen, part, part_labels)])


class OneOf(Transform):
    """Apply one of several transforms to each image, chosen at random.

    Parameters
    ----------
    transforms : sequence of Transform
        All give images of one size.
    p : sequence of float, optional
        How likely each is, in proportion; alike by default.
    """

    def __init__(self, transforms: Sequence[Transform], p: Sequence[float] | None = None):
        self.transforms = _checked(transforms)
        weights = np.ones(len(self.transforms)) if p is None else np.asarray(p, float)
        if weights.shape != (len(self.transforms),) or not (weights >= 0).all() or not (
                0 < weights.sum() < np.inf):
            raise ValueError(f"expected p as {len(self.transforms)} shares of at least 0, "
                             f"got {p!r}")
        self.p = weights / weights.sum()

    def apply(self, images, labels, draws):
        """Transform each group of images by its transform."""
        ends = np.cumsum(self.p)[:-1]
        choice = np.searchsorted(ends, draws.uniform(1)[:, 0], side="right")
        parts = []
        for number, transform in enumerate(self.transforms):
            chosen = np.flatnonzero(choice == number)
            if chosen.size:
                parts.append((chosen, *transform.apply(
                    images[chosen], None if labels is None else labels[chosen],
                    draws.take(chosen).child(number))))
        return _scatter(images, labels, parts)
