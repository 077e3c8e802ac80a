"""Make docs/images/augmentation.png: what each transform does to photographs of CIFAR-10.

Run it as ``python docs/make_augmentation_images.py cifar-10-batches-bin``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from convkit import data
from convkit.data import augment as A

ZOOM, GAP, CAPTION, COLUMNS = 2, 4, 150, 8
SHOWN = (29, 4, 35, 6, 46, 24, 8, 52)  # a few clear photographs of different classes


def rows(train: data.ImageDataset) -> dict[str, A.Transform]:
    """Return the transforms that are shown, by caption."""
    return {
        "original": A.Compose([]),
        "RandomCrop(32, 4)": A.RandomCrop(32, padding=4),
        "  reflect": A.RandomCrop(32, padding=8, padding_mode="reflect"),
        "RandomHorizontalFlip": A.RandomHorizontalFlip(1),
        "RandomVerticalFlip": A.RandomVerticalFlip(1),
        "RandomRotation90": A.RandomRotation90((1, 2, 3)),
        "RandomRotation(30)": A.RandomRotation(30),
        "RandomTranslation(.2)": A.RandomTranslation((0.2, 0.2)),
        "RandomScale(.6, 1.4)": A.RandomScale((0.6, 1.4)),
        "RandomShear(25)": A.RandomShear(25),
        "RandomAffine, edge": A.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10,
                                             padding_mode="edge"),
        "RandomResizedCrop": A.RandomResizedCrop(32, scale=(0.2, 0.8)),
        "RandomShortSideCrop": A.RandomShortSideCrop(32, (34, 56)),
        "RandomBrightness(.5)": A.RandomBrightness(0.5),
        "RandomContrast(.7)": A.RandomContrast(0.7),
        "RandomSaturation(1)": A.RandomSaturation(1.0),
        "RandomHue(.3)": A.RandomHue(0.3),
        "ColorJitter": A.ColorJitter(0.4, 0.4, 0.4, 0.1),
        "RandomGrayscale": A.RandomGrayscale(1),
        "RandomChannelDrop": A.RandomChannelDrop(1),
        "PCALighting(std=3)": A.PCALighting(*A.color_components(train.images[:2000]), 3.0),
        "RandomErasing": A.RandomErasing(1, scale=(0.05, 0.3), value=128),
        "Cutout(14)": A.Cutout(14, value=128),
        "GaussianNoise(.1)": A.GaussianNoise(0, 0.1),
        "GaussianBlur(9)": A.GaussianBlur(9, (0.5, 2.0)),
        "Sobel": A.Sobel(),
        "MixUp": A.MixUp(10, 0.8),
        "CutMix": A.CutMix(10),
        "CowMix": A.CowMix(10, (2, 8)),
        "a recipe": A.Compose([A.RandomCrop(32, padding=4), A.RandomHorizontalFlip(),
                               A.RandomRotation(10), A.ColorJitter(0.3, 0.3, 0.3),
                               A.Cutout(8, value=128)]),
    }


def main() -> None:
    """Write the picture."""
    train = data.CIFAR10(sys.argv[1])
    images, labels = train.images[list(SHOWN)], train.labels[list(SHOWN)]
    shown = rows(train)
    side, half = 32 * ZOOM + GAP, (len(shown) + 1) // 2
    block = CAPTION + COLUMNS * side + GAP
    page = Image.new("RGB", (2 * block, half * side + GAP), "white")
    pen = ImageDraw.Draw(page)
    for number, (caption, transform) in enumerate(shown.items()):
        left, top = number // half * block, number % half * side + GAP
        pen.text((left + GAP, top + 26), caption, "black")
        changed, _ = transform(images, labels, seed=3)
        for column, image in enumerate(np.moveaxis(changed, 1, -1)):
            tile = Image.fromarray(np.ascontiguousarray(image)).resize((32 * ZOOM,) * 2, 0)
            page.paste(tile, (left + CAPTION + column * side, top))
    page.save(Path(__file__).parent / "images" / "augmentation.png", optimize=True)


if __name__ == "__main__":
    main()
