"""Images per second of augmentation: convkit's batches beside Pillow and NumPy, image by image.

The peers do what a torchvision pipeline does on the CPU: Pillow images, or NumPy arrays, one
after the other, on one thread. Both sides get the same parameters of the same kind (an angle, a
crop); where a transform is not random, results are compared.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from common import (
    Agreement,
    arguments,
    interleave,
    machine,
    print_machine,
    print_table,
    set_threads,
    write_results,
)
from PIL import Image, ImageEnhance, ImageFilter

from convkit.data import augment as A


def by_pillow(change):
    """Return a function that changes a batch (N, H, W, 3), image by image, by Pillow."""
    def run(images: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])
    return run


def crop_and_flip(rng):
    """Return padding, a random crop and a random flip in NumPy."""
    def run(images: np.ndarray) -> np.ndarray:
        out = np.empty_like(images)
        height, width = images.shape[1:3]
        for i, image in enumerate(images):
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            top, left = rng.integers(9), rng.integers(9)
            part = padded[top:top + height, left:left + width]
            out[i] = part[:, ::-1] if rng.random() < 0.5 else part
        return out
    return run


def jitter(rng):
    """Return brightness, contrast and saturation in Pillow."""
    def change(image):
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = kind(image).enhance(rng.uniform(0.6, 1.4))
        return image
    return by_pillow(change)


def mixup(rng):
    """Return MixUp of images in NumPy."""
    def run(images: np.ndarray) -> np.ndarray:
        share = rng.beta(1, 1, (len(images), 1, 1, 1)).astype(np.float32)
        return (share * images + (1 - share) * np.roll(images, 1, 0) + 0.5).astype(np.uint8)
    return run


def noise(rng):
    """Return normal noise in NumPy."""
    def run(images: np.ndarray) -> np.ndarray:
        z = rng.standard_normal(images.shape, np.float32)
        return (images + 25.5 * z).round().clip(0, 255).astype(np.uint8)
    return run


def cases(size: int, rng) -> dict:
    """Return for each case convkit's transform, the peer, and the units they may differ by."""
    bilinear = Image.Resampling.BILINEAR
    half = size // 2
    return {
        "crop, flip": (A.Compose([A.RandomCrop(size, padding=4), A.RandomHorizontalFlip()]),
                       crop_and_flip(rng), None),
        "rotation": (A.RandomRotation(20),
                     by_pillow(lambda im: im.rotate(rng.uniform(-20, 20), bilinear)), None),
        "resize to half": (A.Resize(half),
                           by_pillow(lambda im: im.resize((half, half), bilinear)), 1.01),
        "colour jitter": (A.ColorJitter(0.4, 0.4, 0.4), jitter(rng), None),
        "blur": (A.GaussianBlur(7, 1.0),
                 by_pillow(lambda im: im.filter(ImageFilter.GaussianBlur(1.0))), None),
        "noise": (A.GaussianNoise(0, 0.1), noise(rng), None),
        "MixUp": (A.MixUp(10), mixup(rng), None),
    }


def main() -> None:
    """Time every case on batches of small and of large images."""
    options = arguments(__doc__.splitlines()[0], seconds=2.0).parse_args()
    set_threads(options.threads)
    record = machine(options.threads)
    print_machine(record)
    rng = np.random.default_rng(0)
    agreement = Agreement(1.01 / 255)
    results, table = [], []
    for count, size in ((128, 32), (32, 224)):
        images = rng.integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
        images = np.ascontiguousarray(images.repeat(4, 1).repeat(4, 2))
        logical = images.transpose(0, 3, 1, 2)
        for name, (ours, peer, bound) in cases(size, rng).items():
            if options.only not in name:
                continue
            if bound is not None:
                agreement.check(f"{name} {size}", ours(logical).transpose(0, 2, 3, 1),
                                peer(images))
            times = interleave({"convkit": partial(ours, logical, seed=1),
                                "peer": partial(peer, images)}, options.seconds, options.quick)
            rate = count / times["convkit"]["seconds"]
            other = count / times["peer"]["seconds"]
            results.append({"case": name, "size": size, "batch": count, "images per second": rate,
                            "peer images per second": other, "ratio": times["peer"]["ratio"]})
            table.append((f"{name}, {size}x{size}", f"{rate:,.0f}", f"{other:,.0f}",
                          f"{times['peer']['ratio']:.1f}"))
    print_table(("case", "convkit images/s", "Pillow or NumPy", "times as fast"), table)
    agreement.finish()
    write_results("augmentation", options, record, results)


if __name__ == "__main__":
    main()
