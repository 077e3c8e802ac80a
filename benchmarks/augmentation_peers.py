"""What a torchvision pipeline does on the CPU: Pillow and NumPy, one image after the other.

Each function here takes ranges of parameters and returns a peer: ``peer(images, rng)`` changes
a batch (N, H, W, 3) of uint8, or of float32 from 0 to 1. Pillow has no float images of several
channels, so it gets them a channel at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

Peer = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Range = tuple[float, float]

BILINEAR = Image.Resampling.BILINEAR
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def each(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Peer:
    """Return a peer that changes image by image."""
    def run(images, rng):
        return np.stack([change(image, rng) for image in images])
    return run


def by_pillow(draw: Callable[[np.random.Generator], Any],
              change: Callable[[Image.Image, Any], Image.Image]) -> Peer:
    """Return a peer that draws something for each image and has Pillow change it by that."""
    def one(image, rng):
        drawn = draw(rng)
        if image.dtype == np.uint8:
            return np.asarray(change(Image.fromarray(image), drawn))
        return np.stack([np.asarray(change(Image.fromarray(channel), drawn))
                         for channel in np.moveaxis(image, -1, 0)], axis=-1)
    return each(one)


def in_floats(change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
              clip: bool = True) -> Peer:
    """Return a peer that changes values from 0 to 1; bytes are scaled there and back."""
    def one(image, rng):
        if image.dtype == np.uint8:
            changed = change(image.astype(np.float32) / 255, rng)
            return (changed * 255).round().clip(0, 255).astype(np.uint8)
        changed = change(image, rng)
        return changed.clip(0, 1) if clip else changed
    return each(one)


# -- places ----------------------------------------------------------------------------------


def flip(p: float) -> Peer:
    """Return a peer that mirrors left and right."""
    return each(lambda image, rng: image[:, ::-1] if rng.random() < p else image)


def crop_and_flip(padding: int) -> Peer:
    """Return a peer that pads, cuts out and mirrors."""
    def one(image, rng):
        height, width = image.shape[:2]
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        top, left = rng.integers(2 * padding + 1, size=2)
        part = padded[top:top + height, left:left + width]
        return part[:, ::-1] if rng.random() < 0.5 else part
    return each(one)


def rotation(degrees: Range) -> Peer:
    """Return a peer that turns about the centre."""
    return by_pillow(lambda rng: rng.uniform(*degrees),
                     lambda image, angle: image.rotate(angle, BILINEAR))


def affine(degrees: Range, move: float, scale: Range, shear: Range) -> Peer:
    """Return a peer that turns, moves, scales and shears, by torchvision's matrix."""
    def draw(rng):
        return (rng.uniform(*degrees), rng.uniform(-move, move, 2), rng.uniform(*scale),
                rng.uniform(*shear))

    def change(image, drawn):
        angle, shift, factor, slant = drawn
        a, size = np.radians(angle), np.array(image.size)
        turned = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        back = np.linalg.inv(factor * turned @ [[1, -np.tan(np.radians(slant))], [0, 1]])
        offset = size / 2 - back @ (size / 2 + np.rint(shift * size))
        data = np.column_stack([back, offset]).ravel().tolist()
        return image.transform(image.size, Image.Transform.AFFINE, data, BILINEAR)
    return by_pillow(draw, change)


def resize(side: int) -> Peer:
    """Return a peer that scales to a square."""
    return by_pillow(lambda rng: None, lambda image, _: image.resize((side, side), BILINEAR))


def resized_crop(side: int, scale: Range, ratio: Range) -> Peer:
    """Return a peer that cuts out a part and scales it; ten tries, then the whole image."""
    def draw(rng):
        return [(rng.uniform(*scale), np.exp(rng.uniform(*np.log(ratio))), *rng.random(2))
                for _ in range(10)]

    def change(image, tries):
        whole = image.width
        for share, shape, x, y in tries:
            width = round((whole**2 * share * shape)**0.5)
            height = round((whole**2 * share / shape)**0.5)
            if 0 < width <= whole and 0 < height <= whole:
                left, top = int(x * (whole - width + 1)), int(y * (whole - height + 1))
                image = image.crop((left, top, left + width, top + height))
                break
        return image.resize((side, side), BILINEAR)
    return by_pillow(draw, change)


def short_side_crop(side: int, short_side: tuple[int, int]) -> Peer:
    """Return a peer that scales a square image and cuts out a square."""
    def draw(rng):
        length = int(rng.integers(short_side[0], short_side[1] + 1))
        return length, rng.integers(length - side + 1, size=2).tolist()

    def change(image, drawn):
        length, (left, top) = drawn
        return image.resize((length, length), BILINEAR).crop((left, top, left + side, top + side))
    return by_pillow(draw, change)


# -- colours ---------------------------------------------------------------------------------


def jitter(brightness: Range | None, contrast: Range | None, saturation: Range | None) -> Peer:
    """Return a peer that changes the wanted ones of the three in a random order."""
    limits = (brightness, contrast, saturation)
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

    def one(image, rng):
        steps = [i for i in rng.permutation(3) if limits[i] is not None]
        if image.dtype == np.uint8:
            picture = Image.fromarray(image)
            for i in steps:
                picture = kinds[i](picture).enhance(rng.uniform(*limits[i]))
            return np.asarray(picture)
        for i in steps:
            factor = np.float32(rng.uniform(*limits[i]))
            grey = (0, (image @ GREY).mean(), (image @ GREY)[..., None])[i]
            image = (factor * image + (1 - factor) * grey).clip(0, 1)
        return image
    return each(one)


def hue(turns: Range) -> Peer:
    """Return a peer that turns the hue: bytes in Pillow's HSV, floats in NumPy."""
    def one(image, rng):
        turn = rng.uniform(*turns)
        if image.dtype != np.uint8:
            return turned(image, np.float32(turn))
        h, s, v = Image.fromarray(image).convert("HSV").split()
        h = Image.fromarray(np.asarray(h) + np.uint8(int(turn * 255) % 256))
        return np.asarray(Image.merge("HSV", (h, s, v)).convert("RGB"))
    return each(one)


def turned(image: np.ndarray, turn: np.float32) -> np.ndarray:
    """Return floats with the hue turned."""
    r, g, b = np.moveaxis(image, -1, 0)
    high = image.max(axis=-1)
    span = high - image.min(axis=-1)
    safe = np.where(span == 0, np.float32(1), span)
    sixths = np.where(high == r, (g - b) / safe,
                      np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)) + 6 * turn
    place = (sixths[..., None] + np.array([5, 3, 1], np.float32)) % 6
    return high[..., None] - span[..., None] * np.minimum(place, 4 - place).clip(0, 1)


def grey(p: float) -> Peer:
    """Return a peer that drops the colour."""
    def one(image, rng):
        if rng.random() >= p:
            return image
        if image.dtype == np.uint8:
            return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
        return np.repeat((image @ GREY)[..., None], 3, axis=-1)
    return each(one)


def channel_drop(p: float) -> Peer:
    """Return a peer that sets a channel to 0."""
    def one(image, rng):
        image = image.copy()
        if rng.random() < p:
            image[..., rng.integers(3)] = 0
        return image
    return each(one)


def lighting(values: np.ndarray, vectors: np.ndarray, std: float) -> Peer:
    """Return a peer that adds multiples of the colours' components."""
    return in_floats(lambda image, rng: image + np.float32(
        vectors @ (values * rng.normal(0, std, 3))))


# -- rectangles, noise, filters --------------------------------------------------------------


def erasing(p: float, scale: Range, ratio: Range) -> Peer:
    """Return a peer that puts black over a rectangle; ten tries."""
    def one(image, rng):
        image = image.copy()
        rows, columns = image.shape[:2]
        for _ in range(10 if rng.random() < p else 0):
            area = rows * columns * rng.uniform(*scale)
            shape = np.exp(rng.uniform(*np.log(ratio)))
            height, width = round((area * shape)**0.5), round((area / shape)**0.5)
            if height < rows and width < columns:
                top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
                image[top:top + height, left:left + width] = 0
                break
        return image
    return each(one)


def cutout(length: int) -> Peer:
    """Return a peer that puts a black square anywhere."""
    def one(image, rng):
        image = image.copy()
        top, left = (int(rng.integers(n)) - length // 2 for n in image.shape[:2])
        image[max(top, 0):top + length, max(left, 0):left + length] = 0
        return image
    return each(one)


def noise(sigma: float) -> Peer:
    """Return a peer that adds normal noise."""
    return in_floats(lambda image, rng: image + np.float32(sigma) * rng.standard_normal(
        image.shape, np.float32))


def smoothed(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Return floats (H, W, ...) blurred along one axis and then the other, reflected at edges."""
    taps = np.exp(-np.arange(-radius, radius + 1)**2 / (2 * sigma**2))
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        pads = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.moveaxis(np.pad(image, pads, mode="reflect"), axis, 0)
        length = image.shape[axis]
        total = sum(tap * padded[k:k + length] for k, tap in enumerate(taps))
        image = np.moveaxis(total, 0, axis)
    return image


def blur(radius: int, sigma: float) -> Peer:
    """Return a peer that blurs by the formula."""
    return in_floats(lambda image, rng: smoothed(image, sigma, radius), clip=False)


def blur_by_boxes(sigma: float) -> Peer:
    """Return a peer that blurs by Pillow's boxes."""
    return by_pillow(lambda rng: None, lambda image, _: image.filter(
        ImageFilter.GaussianBlur(sigma)))


def sobel() -> Peer:
    """Return a peer that takes a quarter of the gradient's length."""
    def one(image, rng):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        across = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
        return np.hypot(across[:, 2:] - across[:, :-2], down[2:] - down[:-2]) / 4
    return in_floats(one, clip=False)


# -- mixes -----------------------------------------------------------------------------------


def mixup(shares: np.ndarray | None = None) -> Peer:
    """Return a peer that blends images with those before them, by given shares or drawn ones."""
    def run(images, rng):
        own = rng.beta(1, 1, len(images)) if shares is None else shares
        own = own.astype(np.float32)[:, None, None, None]
        mixed = own * images + (1 - own) * np.roll(images, 1, 0)
        return (mixed + 0.5).astype(np.uint8) if images.dtype == np.uint8 else mixed
    return run


def cutmix() -> Peer:
    """Return a peer that puts a box of the image before it over each image."""
    def run(images, rng):
        out, size = images.copy(), np.array(images.shape[1:3])
        for i in range(len(images)):
            half = (1 - rng.beta(1, 1))**0.5 * size / 2
            centre = rng.integers(size)
            (top, left), (bottom, right) = ((centre + sign * half).clip(0, size).astype(int)
                                            for sign in (-1, 1))
            out[i, top:bottom, left:right] = images[i - 1, top:bottom, left:right]
        return out
    return run


def cowmix(sigma: Range, share: Range) -> Peer:
    """Return a peer that mixes images by a mask of patches."""
    def run(images, rng):
        out = images.copy()
        for i in range(len(images)):
            width = np.exp(rng.uniform(*np.log(sigma)))
            field = smoothed(rng.standard_normal(images.shape[1:3], np.float32), width,
                             int(3 * width + 0.5))
            limit = field.mean() + NormalDist().inv_cdf(rng.uniform(*share)) * field.std()
            other = field > limit
            out[i, other] = images[i - 1, other]
        return out
    return run
