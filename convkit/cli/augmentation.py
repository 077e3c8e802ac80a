"""Augmentation by the words that ``convkit train`` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from convkit.cli.words import Words, made

__all__ = ["HELP", "augmentation"]

HELP = ("change training images at random: flip, vflip, crop=PIXELS (of padding), "
        "resized-crop=SHARE (least area), short-side=PIXELS (or LOW:HIGH, then a crop), "
        "rotate=DEGREES, turn (by 90 degrees), translate=SHARE, scale=SHARE, shear=DEGREES, "
        "jitter=SHARE (brightness, contrast, saturation), hue=TURNS, lighting=STD (along the "
        "colours' components), grey=SHARE, drop=SHARE (of one channel), noise=STD, blur=SIGMA, "
        "sobel=SHARE (edges instead), erase=SHARE, cutout=PIXELS, mixup=ALPHA, cutmix=ALPHA, "
        "cowmix=SHARE, with commas between; may be given again")

# Each function gets the value, the module `augment` and the training images.
WORDS: Words = {
    "flip": (0.5, lambda v, a, images: a.RandomHorizontalFlip(v)),
    "vflip": (0.5, lambda v, a, images: a.RandomVerticalFlip(v)),
    "crop": (4, lambda v, a, images: a.RandomCrop(_size(images), padding=_whole(v))),
    "resized-crop": (0.08, lambda v, a, images: a.RandomResizedCrop(
        _size(images), v if isinstance(v, tuple) else (v, 1))),
    "short-side": (None, lambda v, a, images: a.RandomShortSideCrop(
        _size(images), v if isinstance(v, tuple) else (max(_size(images)), v))),
    "rotate": (15, lambda v, a, images: a.RandomRotation(v)),
    "turn": (1.0, lambda v, a, images: a.RandomApply([a.RandomRotation90()], v)),
    "translate": (0.1, lambda v, a, images: a.RandomTranslation((v, v))),
    "scale": (0.1, lambda v, a, images: a.RandomScale((1 - _part(v), 1 + v))),
    "shear": (10, lambda v, a, images: a.RandomShear(v)),
    "jitter": (0.2, lambda v, a, images: a.ColorJitter(v, v, v)),
    "hue": (0.1, lambda v, a, images: a.RandomHue(v)),
    "lighting": (0.1, lambda v, a, images: a.PCALighting(*a.color_components(images.images), v)),
    "grey": (0.1, lambda v, a, images: a.RandomGrayscale(v)),
    "drop": (0.1, lambda v, a, images: a.RandomChannelDrop(v)),
    "noise": (None, lambda v, a, images: a.GaussianNoise(sigma=v)),
    "blur": (1.0, lambda v, a, images: a.GaussianBlur(2 * math.ceil(3 * v) + 1, (v / 10, v))),
    "sobel": (0.1, lambda v, a, images: a.RandomApply([a.Sobel()], v)),
    "erase": (0.5, lambda v, a, images: a.RandomErasing(v)),
    "cutout": (None, lambda v, a, images: a.Cutout(_whole(v))),
    "mixup": (0.2, lambda v, a, images: a.MixUp(len(images.classes), v)),
    "cutmix": (1.0, lambda v, a, images: a.CutMix(len(images.classes), v)),
    "cowmix": (1.0, lambda v, a, images: a.CowMix(len(images.classes), p=v)),
}


def augmentation(words: Sequence[str] | None, images: Any) -> Any:
    """Return the transform that words ask for, in their order; None without any.

    Parameters
    ----------
    words : sequence of str or None
        See `made`.
    images : ImageDataset
        Those trained on.

    Raises
    ------
    UsageError
        When a word is unknown, or its value makes no sense.
    """
    if not words:
        return None
    from convkit.data import augment

    return augment.Compose(list(made("--augment", words, WORDS, augment, images)))


def _size(images: Any) -> tuple[int, int]:
    return images.images.shape[2:]


def _part(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"expected a share from 0 to below 1, got {value:g}")
    return value


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"expected a whole number of pixels, got {value:g}")
    return int(value)
