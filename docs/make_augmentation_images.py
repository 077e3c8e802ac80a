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

ZOOM, GAP, CAPTION, COLUMNS = 2, 4, 150, 6
SIDE = 32 * ZOOM + GAP
SHOWN = (29, 4, 35, 6, 8, 52)  # a few clear photographs of different classes


def rows(train: data.ImageDataset) -> dict[str, A.Transform]:
    """Return the transforms that are shown, by caption."""
    return {
        "original": A.Compose([]),
        "RandomCrop(32, 4)": A.RandomCrop(32, padding=4),
        "  reflect": A.RandomCrop(32, padding=8, padding_mode="reflect"),
        "CenterCrop(20)": A.CenterCrop(20),
        "FiveCrop(18) of one": A.FiveCrop(18),
        "TenCrop(18) of one": A.TenCrop(18),
        "Pad(8), symmetric": A.Pad(8, padding_mode="symmetric"),
        "Resize((16, 32))": A.Resize((16, 32)),
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
        "RandomApply(Sobel)": A.RandomApply([A.Sobel()]),
        "OneOf(4 colourings)": A.OneOf([A.RandomGrayscale(1), A.RandomChannelDrop(1),
                                        A.RandomHue((0.3, 0.3)), A.RandomContrast((2, 2))]),
        "a recipe (Compose)": A.Compose([
            A.RandomCrop(32, padding=4), A.RandomHorizontalFlip(), A.RandomRotation(10),
            A.ColorJitter(0.3, 0.3, 0.3), A.Cutout(8, value=128)]),
    }


def tiles(changed: np.ndarray) -> list[np.ndarray]:
    """Return the pictures (H, W, C) of a row: every image, or every crop of the second one."""
    images = changed[1] if changed.ndim == 5 else changed
    return list(np.ascontiguousarray(np.moveaxis(images, 1, -1)))


def zoomed(image: np.ndarray) -> Image.Image:
    """Return an image as large as the page has it: at most 32 of its pixels, larger ones shrunk."""
    picture = Image.fromarray(image)
    if max(image.shape[:2]) > 32:
        return picture.resize((32 * ZOOM,) * 2, Image.Resampling.BILINEAR)
    return picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST)


def size(shown: dict[str, A.Transform]) -> tuple[int, int]:
    """Return the page's width and height."""
    return 2 * (CAPTION + COLUMNS * SIDE + GAP), (len(shown) + 1) // 2 * SIDE + GAP


def main() -> None:
    """Write the picture."""
    train = data.CIFAR10(sys.argv[1])
    images, labels = train.images[list(SHOWN)], train.labels[list(SHOWN)]
    shown = rows(train)
    page = Image.new("RGB", size(shown), "white")
    pen = ImageDraw.Draw(page)
    for number, (caption, transform) in enumerate(shown.items()):
        column, row = divmod(number, (len(shown) + 1) // 2)
        left, top = column * page.width // 2, row * SIDE + GAP
        pen.text((left + GAP, top + 26), caption, "black")
        changed, _ = transform(images, labels, seed=3)
        pictures = tiles(changed)
        step = COLUMNS * SIDE // max(COLUMNS, len(pictures))
        for place, image in enumerate(pictures):
            page.paste(zoomed(image), (left + CAPTION + place * step, top))
    page.save(Path(__file__).parent / "images" / "augmentation.png", optimize=True)


if __name__ == "__main__":
    main()
