"""Batch inference over a folder of images on a Dask cluster.

Past one machine, an existing engine carries the work: Dask cuts the list of files, sends the
Program (which pickles as its file's bytes) to every worker once, and runs the parts again
whose worker is lost. Here the cluster is local; give ``--scheduler tcp://...`` for another.

    python examples/dask_batch/batch.py FOLDER --model digits.ckit --output labels.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from dask.distributed import Client, LocalCluster
from PIL import Image

import convkit as ck

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from digits_model import ensure, write_images

PART = 64


def label(program: ck.Program, paths: list[str], mean: float, std: float) -> list[str]:
    """Return the labels of some files; runs in a worker, which needs convkit and Pillow only."""
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            pixels.append(np.asarray(image.convert("L").resize((28, 28)), np.float32))
    scores = program((np.stack(pixels)[:, None] / 255 - mean) / std)
    return [program.labels[i] for i in scores.argmax(axis=1)]


def run(client: Client, program: ck.Program, paths: list[Path]) -> list[str]:
    """Return the files' labels, in order."""
    everywhere = client.scatter(program, broadcast=True)
    pixels = program.metadata["pixels"]
    parts = [client.submit(label, everywhere, [str(p) for p in paths[i:i + PART]],
                           pixels["mean"], pixels["std"], pure=False)
             for i in range(0, len(paths), PART)]
    return [name for part in client.gather(parts) for name in part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path,
                        help="with images; made and filled with digits where it is missing")
    parser.add_argument("--model", type=Path, default=Path("digits.ckit"))
    parser.add_argument("--output", type=Path, default=Path("labels.csv"))
    parser.add_argument("--scheduler", help="of a running cluster; else one is started here")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not options.folder.exists():
        write_images(options.folder, 200)
    paths = sorted(options.folder.glob("*.png"))
    program = ck.load(ensure(options.model), threads=1)
    cluster = options.scheduler or LocalCluster(
        n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        labels = run(client, program, paths)
    with open(options.output, "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *zip([p.name for p in paths], labels,
                                                            strict=True)])
    right = np.mean([p.stem.endswith(f"-{name}") for p, name in zip(paths, labels, strict=True)])
    print(f"{len(paths)} files, {right:.1%} labelled as their names say; {options.output}")


if __name__ == "__main__":
    main()
