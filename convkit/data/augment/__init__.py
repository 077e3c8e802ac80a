"""Augmentation of batches of images in compiled code, with seeds.

>>> from convkit.data import augment
>>> transform = augment.Compose([
...     augment.RandomCrop(32, padding=4),
...     augment.RandomHorizontalFlip(),
...     augment.ColorJitter(0.2, 0.2, 0.2),
...     augment.MixUp(num_classes=10, alpha=0.2),
... ])
>>> loader = data.DataLoader(train, 128, shuffle=True, seed=0, transform=transform)

A transform works on images (N, C, H, W) of uint8, or of float32 from 0 to 1. What an image
becomes is a function of the seed, the epoch and the sample's position in the data set.
"""

from __future__ import annotations

from convkit.data.augment.affine import (
    RandomAffine,
    RandomRotation,
    RandomScale,
    RandomShear,
    RandomTranslation,
)
from convkit.data.augment.base import Transform
from convkit.data.augment.color import (
    ColorJitter,
    PCALighting,
    RandomBrightness,
    RandomChannelDrop,
    RandomContrast,
    RandomGrayscale,
    RandomHue,
    RandomSaturation,
    color_components,
)
from convkit.data.augment.compose import Compose, OneOf, RandomApply
from convkit.data.augment.crop import CenterCrop, FiveCrop, Pad, RandomCrop, TenCrop
from convkit.data.augment.draws import Draws
from convkit.data.augment.erase import Cutout, RandomErasing
from convkit.data.augment.filters import GaussianBlur, GaussianNoise, Sobel
from convkit.data.augment.flip import RandomHorizontalFlip, RandomRotation90, RandomVerticalFlip
from convkit.data.augment.mix import CowMix, CutMix, MixUp, soft_labels
from convkit.data.augment.resize import RandomResizedCrop, RandomShortSideCrop, Resize

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CowMix",
    "CutMix",
    "Cutout",
    "Draws",
    "FiveCrop",
    "GaussianBlur",
    "GaussianNoise",
    "MixUp",
    "OneOf",
    "PCALighting",
    "Pad",
    "RandomAffine",
    "RandomApply",
    "RandomBrightness",
    "RandomChannelDrop",
    "RandomContrast",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomHue",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomRotation90",
    "RandomSaturation",
    "RandomScale",
    "RandomShear",
    "RandomShortSideCrop",
    "RandomTranslation",
    "RandomVerticalFlip",
    "Resize",
    "Sobel",
    "TenCrop",
    "Transform",
    "color_components",
    "soft_labels",
]
