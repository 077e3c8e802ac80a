"""Images per second of augmentation: convkit's batches beside Pillow and NumPy, image by image.

The peers do what a torchvision pipeline does on the CPU: Pillow images, or NumPy arrays, one
after the other, on one thread; convkit runs on one thread and on `--threads`. Both sides draw
parameters from the same ranges. Results are compared for fixed parameters where both sides
define the same thing; where they do not, or where the place is left to chance, the record says so.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import augmentation_peers as peers
import numpy as np
from common import (
    Agreement,
    arguments,
    interleave,
    machine,
    on_threads,
    print_machine,
    print_table,
    set_threads,
    write_results,
)

from convkit.data import augment as A

# Pillow cuts off or rounds bytes between steps; convkit rounds once, at the end. A tenth more, as
# the largest byte of a result, which differences are relative to, may be below 255.
UNIT = 1.1 / 255
CHANCE = "each side draws places or values of its own"
# Beyond the frame Pillow fills, convkit blends with the fill over the last pixel.
MIDDLE = slice(0.25, 0.75)


class Same(NamedTuple):
    """Both sides without chance, and by how much bytes and floats may differ."""

    ours: A.Transform
    peer: peers.Peer
    bytes: float = UNIT
    floats: float = 1e-5
    part: slice = slice(0.0, 1.0)  # of both axes


class Case(NamedTuple):
    """What is timed, and what is compared: `Same`, or why nothing is."""

    ours: A.Transform
    peer: peers.Peer
    compared: Same | str
    dtypes: tuple[type, ...] = (np.uint8, np.float32)


def places(size: int) -> dict[str, Case]:
    """Return the cases that move pixels."""
    half, sides = size // 2, (size * 8 // 7, size * 15 // 7)
    whole, shapes = (1.0, 1.0), (3 / 4, 4 / 3)
    return {
        "flip": Case(A.RandomHorizontalFlip(), peers.flip(0.5),
                     Same(A.RandomHorizontalFlip(1), peers.flip(1), 0, 0)),
        "crop, flip": Case(A.Compose([A.RandomCrop(size, padding=4), A.RandomHorizontalFlip()]),
                           peers.crop_and_flip(4), CHANCE),
        "rotation": Case(A.RandomRotation(20), peers.rotation((-20, 20)),
                         Same(A.RandomRotation((13, 13)), peers.rotation((13, 13)), part=MIDDLE)),
        "affine": Case(A.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10),
                       peers.affine((-20, 20), 0.1, (0.8, 1.2), (-10, 10)),
                       Same(A.RandomAffine((13, 13), None, (1.1, 1.1), (7, 7)),
                            peers.affine((13, 13), 0, (1.1, 1.1), (7, 7)), part=MIDDLE)),
        "resize to half": Case(A.Resize(half), peers.resize(half),
                               Same(A.Resize(half), peers.resize(half))),
        "resized crop": Case(A.RandomResizedCrop(size),
                             peers.resized_crop(size, (0.08, 1.0), shapes),
                             Same(A.RandomResizedCrop(half, whole, whole),
                                  peers.resized_crop(half, whole, whole))),
        "short side, crop": Case(A.RandomShortSideCrop(size, sides),
                                 peers.short_side_crop(size, sides),
                                 Same(A.RandomShortSideCrop(half, (half, half)),
                                      peers.short_side_crop(half, (half, half)))),
    }


def colours(images: np.ndarray) -> dict[str, Case]:
    """Return the cases that change colours."""
    factor, one = (0.6, 1.4), (1.3, 1.3)
    components = A.color_components(images)
    return {
        "colour jitter": Case(A.ColorJitter(0.4, 0.4, 0.4), peers.jitter(factor, factor, factor),
                              Same(A.ColorJitter(contrast=one), peers.jitter(None, one, None),
                                   2 * UNIT, 1e-3)),  # greys by weights of 4 and 3 digits
        # Pillow holds the hue in a byte, a step of which is 6 units of a colour, and rounds twice.
        "hue": Case(A.RandomHue(0.2), peers.hue((-0.2, 0.2)),
                    Same(A.RandomHue((0.2, 0.2)), peers.hue((0.2, 0.2)), 12 * UNIT)),
        "grey": Case(A.RandomGrayscale(0.5), peers.grey(0.5),
                     Same(A.RandomGrayscale(1), peers.grey(1), floats=1e-3)),
        "channel drop": Case(A.RandomChannelDrop(0.5), peers.channel_drop(0.5), CHANCE),
        "PCA lighting": Case(A.PCALighting(*components), peers.lighting(*components, 0.1), CHANCE),
    }


def areas(size: int) -> dict[str, Case]:
    """Return the cases that erase, disturb and filter."""
    hole, scale, ratio = size // 4, (0.02, 0.33), (0.3, 3.3)
    return {
        "random erasing": Case(A.RandomErasing(0.5, scale, ratio),
                               peers.erasing(0.5, scale, ratio), CHANCE),
        "cutout": Case(A.Cutout(hole), peers.cutout(hole), CHANCE),
        "noise": Case(A.GaussianNoise(0, 0.1), peers.noise(0.1), CHANCE),
        "blur": Case(A.GaussianBlur(7, 1.0), peers.blur(3, 1.0),
                     Same(A.GaussianBlur(7, 1.0), peers.blur(3, 1.0))),
        "blur, boxes": Case(A.GaussianBlur(7, 1.0), peers.blur_by_boxes(1.0),
                            "Pillow approximates a Gaussian by boxes", (np.uint8,)),
        "Sobel": Case(A.Sobel(), peers.sobel(), Same(A.Sobel(), peers.sobel())),
    }


def mixes(size: int, images: np.ndarray) -> dict[str, Case]:
    """Return the cases that mix images with others."""
    count, sigma, share = len(images), (size / 16, size / 8), (0.2, 0.8)
    mixup = A.MixUp(count)
    _, soft = mixup(images, np.arange(count), seed=1)
    return {
        "MixUp": Case(mixup, peers.mixup(), Same(mixup, peers.mixup(np.diagonal(soft)))),
        "CutMix": Case(A.CutMix(count), peers.cutmix(), CHANCE),
        "CowMix": Case(A.CowMix(count, sigma, share), peers.cowmix(sigma, share), CHANCE),
    }


def difference(agreement: Agreement, what: str, same: Same, images: np.ndarray,
               rng: np.random.Generator) -> float:
    """Return by how much results differ, relative to the largest."""
    ours = same.ours(images.transpose(0, 3, 1, 2), seed=1).transpose(0, 2, 3, 1)
    theirs = same.peer(images, rng)
    rows, columns = (slice(int(same.part.start * n), int(same.part.stop * n))
                     for n in theirs.shape[1:3])
    return agreement.check(what, ours[:, rows, columns], theirs[:, rows, columns],
                           same.bytes if images.dtype == np.uint8 else same.floats)


def measured(case: Case, images: np.ndarray, options: Any, rng: np.random.Generator) -> dict:
    """Return images per second of both sides, and how many times as fast convkit is."""
    counts = sorted({1, options.threads})
    logical = images.transpose(0, 3, 1, 2)
    sides = {"peer": partial(case.peer, images, rng)}
    for threads in counts:
        sides[str(threads)] = on_threads(partial(case.ours, logical, seed=1), threads)
    times = interleave(sides, options.seconds, options.quick)
    rates = {name: len(images) / side["seconds"] for name, side in times.items()}
    return {"peer images per second": rates.pop("peer"), "images per second by threads": rates,
            "times as fast by threads": {name: 1 / times[name]["ratio"] for name in rates}}


def main() -> None:
    """Time every case on batches of small and of large images."""
    options = arguments(__doc__.splitlines()[0], seconds=2.0).parse_args()
    set_threads(options.threads)
    record = machine(options.threads)
    print_machine(record)
    rng = np.random.default_rng(0)
    agreement = Agreement(UNIT)
    results, table = [], []
    for count, size in ((128, 32), (32, 224)):
        images = rng.integers(0, 256, (count, size // 4, size // 4, 3), dtype=np.uint8)
        images = np.ascontiguousarray(images.repeat(4, 1).repeat(4, 2))
        logical = images.transpose(0, 3, 1, 2)
        cases = places(size) | colours(logical) | areas(size) | mixes(size, logical)
        for name, case in cases.items():
            for dtype in case.dtypes if options.only in name else ():
                batch = images if dtype == np.uint8 else images.astype(dtype) / np.float32(255)
                what = {"case": name, "size": size, "batch": count, "dtype": dtype.__name__}
                label = f"{name}, {size}x{size}, {dtype.__name__}"
                what |= ({"not compared": case.compared} if isinstance(case.compared, str) else {
                    "difference": difference(agreement, label, case.compared, batch, rng)})
                what |= measured(case, batch, options, rng)
                results.append(what)
                table.append((label, *(f"{rate:,.0f} ({what['times as fast by threads'][n]:.1f})"
                              for n, rate in what["images per second by threads"].items()),
                              f"{what['peer images per second']:,.0f}",
                              f"{what['difference']:.1e}" if "difference" in what else ""))
    threads = [f"threads: {n}" for n in sorted({1, options.threads})]
    print_table(("images/s (times as fast)", *threads, "Pillow or NumPy", "difference"), table)
    agreement.finish()
    write_results("augmentation", options, record, results)


if __name__ == "__main__":
    main()
