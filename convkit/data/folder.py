"""Images in one folder for each class."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from convkit import runtime
from convkit.data.dataset import ImageDataset
from convkit.errors import DataFormatError, ShapeError

__all__ = ["ImageFolder", "load_image"]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}


def _pillow() -> Any:
    """Import Pillow, or say which extra brings it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: "
                          "pip install 'convkit[train]'") from error
    return Image


def load_image(path: str | Path, size: tuple[int, int] | None = None,
               channels: int = 3) -> np.ndarray:
    """Read an image file.

    Parameters
    ----------
    path : path-like
    size : (height, width), optional
        The image is scaled (bilinear, antialiased) so that it just covers this size, and
        its centre is cut out.
    channels : {3, 1}
        Red, green, blue; or grey.

    Returns
    -------
    numpy.ndarray of uint8, shape (channels, H, W)
        Channels-last in memory.

    Raises
    ------
    ImportError
        When Pillow is not installed.
    FileNotFoundError
        When there is no such file.
    DataFormatError
        When it is no image that can be read, is damaged, or has too many pixels.
    """
    image_module = _pillow()
    if channels not in MODES:
        raise ShapeError(f"expected 1 or 3 channels, got {channels}")
    try:
        with image_module.open(path) as opened:
            most = image_module.MAX_IMAGE_PIXELS
            if most is not None and opened.width * opened.height > most:
                raise ValueError(f"{opened.width} x {opened.height} pixels, at most {most}")
            image = _eight_bits(opened, image_module).convert(MODES[channels])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise DataFormatError(f"{path}: cannot be read as an image ({error})") from error
    if size is not None:
        image = _cover(image, size, image_module)
    return np.array(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def _eight_bits(image: Any, image_module: Any) -> Any:
    """Return grey of 16 bits (I) as the upper 8 of them, which Pillow would cut off at 255."""
    if not image.mode.startswith("I"):
        return image
    return image_module.fromarray((np.clip(image, 0, 2**16 - 1) >> 8).astype(np.uint8))


def _cover(image: Any, size: tuple[int, int], image_module: Any) -> Any:
    """Scale the largest centred part of the image with the wanted proportions to `size`."""
    height, width = size
    if height < 1 or width < 1:
        raise ShapeError(f"expected a size of at least (1, 1), got {tuple(size)}")
    if (image.height, image.width) == (height, width):
        return image
    scale = min(image.width / width, image.height / height)
    left = (image.width - width * scale) / 2
    top = (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return image.resize((width, height), image_module.Resampling.BILINEAR, box=box)


class ImageFolder(ImageDataset):
    """Images sorted into class folders: ``root/cat/1.jpg``, ``root/dog/2.png``, ...

    All images are decoded into memory once, by as many threads as convkit may use.

    Parameters
    ----------
    root : path-like
        Every folder in it is a class, in alphabetical order; images are looked for at any
        depth below.
    size : (height, width), optional
        What images are scaled and cut to, as in `load_image`. Without it all must have the
        same size.
    channels : {3, 1}
        Colour or grey.
    transform : callable, optional
        Applied to the float32 image of an item.

    Attributes
    ----------
    paths : list of pathlib.Path
        Where each image came from.

    Raises
    ------
    ImportError
        When Pillow is not installed.
    FileNotFoundError
        When there is no such folder, no class folder in it, or a class without images.
    ShapeError
        When sizes differ and `size` is not given.
    DataFormatError
        When an image cannot be read; the text names the file.
    """

    def __init__(self, root: str | Path, size: tuple[int, int] | None = None, channels: int = 3,
                 transform: Callable[[np.ndarray], Any] | None = None):
        _pillow()
        classes, self.paths, labels = _list_images(Path(root))
        images = None
        with ThreadPoolExecutor(runtime.get_num_threads()) as pool:
            decoded = pool.map(lambda path: load_image(path, size, channels), self.paths)
            for i, image in enumerate(decoded):
                last = image.transpose(1, 2, 0)
                if images is None:
                    images = np.empty((len(self.paths), *last.shape), np.uint8)
                if images.shape[1:] != last.shape:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise ShapeError(
                        f"expected images of one size or size=(height, width), got "
                        f"{images.shape[1]}x{images.shape[2]} in {self.paths[0]} and "
                        f"{last.shape[0]}x{last.shape[1]} in {self.paths[i]}")
                images[i] = last
        super().__init__(images.transpose(0, 3, 1, 2), labels, classes, transform)


def _list_images(root: Path) -> tuple[list[str], list[Path], np.ndarray]:
    """Return the classes' names, the paths of all images and the label of each."""
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder of class folders, got {root}")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"expected a folder for each class in {root}, found none")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.rglob("*")
                       if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found:
            raise FileNotFoundError(f"expected images ({' '.join(EXTENSIONS)}) in {folder}, "
                                    "found none")
        paths += found
        labels += [label] * len(found)
    return [f.name for f in folders], paths, np.array(labels, np.int64)
