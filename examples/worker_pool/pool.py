"""A pool of processes, each with a Program of one thread, over one file mapped by all.

Workers load the file, whose pages they share; nothing but images and labels goes between
processes. Threads per Program times workers should not be more than the CPUs.

    python examples/worker_pool/pool.py --model digits.ckit --workers 2
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np

import convkit as ck
from convkit import data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from digits_model import as_input, ensure

BATCH = 64
_program: ck.Program | None = None


def start(model: str) -> None:
    """Load the model in a new worker."""
    global _program
    _program = ck.load(model, threads=1)
    _program.warm_up(BATCH)


def label(images: np.ndarray) -> np.ndarray:
    """Return the classes of a batch of images, in a worker."""
    return _program(as_input(_program, images)).argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("digits.ckit"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", choices=multiprocessing.get_all_start_methods(),
                        default="spawn")
    options = parser.parse_args()
    test = data.digits("test")
    images, labels = test.images[:, 0], test.labels
    batches = [images[i:i + BATCH] for i in range(0, len(images), BATCH)]
    model = str(ensure(options.model))
    context = multiprocessing.get_context(options.start)
    with context.Pool(options.workers, start, (model,)) as pool:
        pool.map(label, batches)
        begin = time.perf_counter()
        found = np.concatenate(pool.map(label, batches))
        spent = time.perf_counter() - begin
    print(f"{options.workers} workers: {len(images) / spent:.0f} images/s, "
          f"accuracy {np.mean(found == labels):.2%}")


if __name__ == "__main__":
    main()
