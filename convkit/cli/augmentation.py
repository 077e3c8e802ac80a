"""Augmentation by the words that ``convkit train`` takes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

from convkit.cli.options import UsageError

__all__ = ["HELP", "augmentation"]

HELP = ("change training images at random: flip, vflip, crop=PIXELS (of padding), rotate=DEGREES, "
        "turn (by 90 degrees), translate=SHARE, scale=SHARE, shear=DEGREES, jitter=SHARE "
        "(brightness, contrast, saturation), hue=TURNS, grey=SHARE, drop=SHARE (of one channel), "
        "noise=STD, blur=SIGMA, erase=SHARE, cutout=PIXELS, mixup=ALPHA, cutmix=ALPHA, "
        "cowmix=SHARE, with commas between; may be given again")

# Word -> (its value where none is given, or None; a function of value, image size, classes).
WORDS: dict[str, tuple[float | None, Callable[..., Any]]] = {
    "flip": (0.5, lambda a, v, size, classes: a.RandomHorizontalFlip(v)),
    "vflip": (0.5, lambda a, v, size, classes: a.RandomVerticalFlip(v)),
    "crop": (4, lambda a, v, size, classes: a.RandomCrop(size, padding=_whole("crop", v))),
    "rotate": (15, lambda a, v, size, classes: a.RandomRotation(v)),
    "turn": (1.0, lambda a, v, size, classes: a.RandomApply([a.RandomRotation90()], v)),
    "translate": (0.1, lambda a, v, size, classes: a.RandomTranslation((v, v))),
    "scale": (0.1, lambda a, v, size, classes: a.RandomScale((1 - _part(v), 1 + v))),
    "shear": (10, lambda a, v, size, classes: a.RandomShear(v)),
    "jitter": (0.2, lambda a, v, size, classes: a.ColorJitter(v, v, v)),
    "hue": (0.1, lambda a, v, size, classes: a.RandomHue(v)),
    "grey": (0.1, lambda a, v, size, classes: a.RandomGrayscale(v)),
    "drop": (0.1, lambda a, v, size, classes: a.RandomChannelDrop(v)),
    "noise": (None, lambda a, v, size, classes: a.GaussianNoise(v)),
    "blur": (1.0, lambda a, v, size, classes: a.GaussianBlur(2 * math.ceil(3 * v) + 1,
                                                             (v / 10, v))),
    "erase": (0.5, lambda a, v, size, classes: a.RandomErasing(v)),
    "cutout": (None, lambda a, v, size, classes: a.Cutout(_whole("cutout", v))),
    "mixup": (0.2, lambda a, v, size, classes: a.MixUp(classes, v)),
    "cutmix": (1.0, lambda a, v, size, classes: a.CutMix(classes, v)),
    "cowmix": (1.0, lambda a, v, size, classes: a.CowMix(classes, p=v)),
}


def augmentation(words: Sequence[str], size: tuple[int, int], classes: int) -> Any:
    """Return the transform that words ask for, in their order; None without any.

    Parameters
    ----------
    words : sequence of str
        Each "NAME" or "NAME=VALUE", or several with commas between.
    size : (height, width)
        Of the images.
    classes : int
        How many there are.

    Raises
    ------
    UsageError
        When a word is unknown, or its value makes no sense.
    """
    if not words:
        return None
    from convkit.data import augment

    transforms = []
    for word in (part.strip() for text in words for part in text.split(",")):
        name, equals, text = word.partition("=")
        if name not in WORDS:
            close = difflib.get_close_matches(name, WORDS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"--augment: unknown word {name!r}; {hint}known are "
                             + ", ".join(WORDS))
        value, make = WORDS[name]
        try:
            value = float(text) if equals else value
            if value is None:
                raise ValueError(f"expected {name}=VALUE")
            if not math.isfinite(value):
                raise ValueError(f"expected a finite number, got {value}")
            transforms.append(make(augment, value, size, classes))
        except ValueError as error:
            raise UsageError(f"--augment {word}: {error}") from None
    return augment.Compose(transforms)


def _part(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"expected a share from 0 to below 1, got {value:g}")
    return value


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"expected a whole number of pixels, got {value:g}")
    return int(value)
