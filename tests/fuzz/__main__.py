"""Run mutated files of one kind from the command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import arrays, ckit_files, data_files, images, onnx_files, weights
from fuzz.running import run

KINDS = {"ckit": ckit_files, "onnx": onnx_files, "weights": weights, "arrays": arrays,
         "images": images, "data": data_files}


def main() -> int:
    """Run until the time or the cases are over; a failing case stays in the folder."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, help="how many (default: until the time is over)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{args.kind}-"))
    print(f"the file at hand is in {folder}", flush=True)
    outcomes, slowest = run(KINDS[args.kind], folder, args.seed, args.cases,
                            None if args.cases else args.seconds)
    print(f"{args.kind}, seed {args.seed}: {sum(outcomes.values())} files, {dict(outcomes)}, "
          f"slowest {slowest * 1e3:.0f} ms")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
