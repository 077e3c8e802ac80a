"""A desktop program's core: label image files from disk, off the main thread.

The main thread stays free (here it draws a progress line); the network runs in another one,
which is no hindrance to it, because a Program leaves Python while it computes.

    python examples/desktop/classify.py FOLDER --model digits.ckit --top 3
"""

from __future__ import annotations

import argparse
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

import convkit as ck

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from digits_model import SIZE, as_input, ensure, write_images

BATCH = 32


def read(path: Path) -> np.ndarray | None:
    """Return a file's grey pixels, or None where it is no image."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L").resize((SIZE, SIZE)))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None


def work(program: ck.Program, paths: list[Path], top: int, results: queue.Queue) -> None:
    """Label files, put (path, [(label, share), ...]) for each into `results`, then None."""
    try:
        label(program, paths, top, results)
    finally:
        results.put(None)   # also after an error: nobody is to wait for ever


def label(program: ck.Program, paths: list[Path], top: int, results: queue.Queue) -> None:
    """Label files a batch at a time."""
    for first in range(0, len(paths), BATCH):
        found = [(path, pixels) for path in paths[first:first + BATCH]
                 if (pixels := read(path)) is not None]
        if found:
            scores = program(as_input(program, np.stack([pixels for _, pixels in found])))
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            for (path, _), row in zip(found, shares, strict=True):
                best = np.argsort(row)[::-1][:top]
                results.put((path, [(program.labels[i], float(row[i])) for i in best]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path,
                        help="with images; made and filled with digits where it is missing")
    parser.add_argument("--model", type=Path, default=Path("digits.ckit"))
    parser.add_argument("--top", type=int, default=3)
    options = parser.parse_args()
    if not options.folder.exists():
        write_images(options.folder, 40)
    paths = sorted(p for p in options.folder.iterdir() if p.is_file())
    program = ck.load(ensure(options.model))
    results: queue.Queue = queue.Queue()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work, program, paths, options.top, results)
        done = 0
        while (item := results.get()) is not None:
            path, best = item
            done += 1
            print(f"[{done}/{len(paths)}] {path.name}: "
                  + ", ".join(f"{label} {share:.1%}" for label, share in best))
        worker.result()     # raises what went wrong there
    if done < len(paths):
        print(f"{len(paths) - done} files are no images")


if __name__ == "__main__":
    main()
