"""Augmentation by the words that ``convkit train`` takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from convkit.cli.options import UsageError, unknown
from convkit.data import augment as a

__all__ = ["HELP", "augmentation"]

HELP = ("change training images at random: flip, vflip, crop=PIXELS (of padding), "
        "resized-crop=SHARE (least area), short-side=LOW:HIGH (in pixels, then a crop), "
        "rotate=DEGREES, turn (by 90 degrees), translate=SHARE, scale=SHARE, shear=DEGREES, "
        "jitter=SHARE (brightness, contrast, saturation), hue=TURNS, lighting=STD (along the "
        "colours' components), grey=SHARE, drop=SHARE (of one channel), noise=STD, blur=SIGMA, "
        "sobel=SHARE (edges instead), erase=SHARE, cutout=PIXELS, mixup=ALPHA, cutmix=ALPHA, "
        "cowmix=SHARE, with commas between; may be given again")

# A word's value where none is given (None: one must be), and a function of the value.
Word = tuple[float | None, Callable[[Any], Any]]


def _words(images: Any) -> dict[str, Word]:
    """Return the words for these training images."""
    size, classes = images.images.shape[2:], len(images.classes)
    return {
        "flip": (0.5, a.RandomHorizontalFlip),
        "vflip": (0.5, a.RandomVerticalFlip),
        "crop": (4, lambda v: a.RandomCrop(size, padding=_whole(v))),
        "resized-crop": (0.08, lambda v: a.RandomResizedCrop(size, _range(v, 1))),
        "short-side": (None, lambda v: a.RandomShortSideCrop(size, _range(v, v))),
        "rotate": (15, a.RandomRotation),
        "turn": (1.0, lambda v: a.RandomApply([a.RandomRotation90()], v)),
        "translate": (0.1, lambda v: a.RandomTranslation((v, v))),
        "scale": (0.1, lambda v: a.RandomScale((1 - _part(v), 1 + v))),
        "shear": (10, a.RandomShear),
        "jitter": (0.2, lambda v: a.ColorJitter(v, v, v)),
        "hue": (0.1, a.RandomHue),
        "lighting": (0.1, lambda v: a.PCALighting(*a.color_components(images.images), v)),
        "grey": (0.1, a.RandomGrayscale),
        "drop": (0.1, a.RandomChannelDrop),
        "noise": (None, lambda v: a.GaussianNoise(sigma=v)),
        "blur": (1.0, lambda v: a.GaussianBlur(2 * math.ceil(3 * v) + 1, (v / 10, v))),
        "sobel": (0.1, lambda v: a.RandomApply([a.Sobel()], v)),
        "erase": (0.5, a.RandomErasing),
        "cutout": (None, lambda v: a.Cutout(_whole(v))),
        "mixup": (0.2, lambda v: a.MixUp(classes, v)),
        "cutmix": (1.0, lambda v: a.CutMix(classes, v)),
        "cowmix": (1.0, lambda v: a.CowMix(classes, p=v)),
    }


def augmentation(texts: Sequence[str] | None, images: Any) -> Any:
    """Return the transform that lists of words ask for, in their order; None without any.

    Raises
    ------
    UsageError
        When a word is unknown, or its value makes no sense.
    """
    if not texts:
        return None
    known = _words(images)
    transforms = []
    for word in (part.strip() for text in texts for part in text.split(",")):
        name, equals, text = word.partition("=")
        if name not in known:
            raise unknown("--augment: unknown word", name, known)
        value, make = known[name]
        try:
            if equals:
                value = _value(text)
            if value is None:
                raise ValueError(f"expected {name}=VALUE")
            transforms.append(make(value))
        except TypeError:
            raise UsageError(f"--augment {word}: expected one number") from None
        except ValueError as error:
            raise UsageError(f"--augment {word}: {error}") from None
    return a.Compose(transforms)


def _value(text: str) -> Any:
    """Return a number, or the two of a range."""
    numbers = tuple(map(float, text.split(":")))
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"expected a finite number, got {number}")
    return numbers if len(numbers) > 1 else numbers[0]


def _range(value: Any, high: Any) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, high)


def _part(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"expected a share from 0 to below 1, got {value:g}")
    return value


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"expected a whole number of pixels, got {value:g}")
    return int(value)
