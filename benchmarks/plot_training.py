"""Draw bars of a result file of the training benchmark.

For example: ``python benchmarks/plot_training.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bars


def ratios(record: dict[str, Any], path: Path) -> None:
    """Plot how many times as fast as PyTorch's fastest form every network trains."""
    results, machine = record["results"], record["machine"]
    if "precisions" not in results[0]:
        raise SystemExit("the file holds no table of the training benchmark")
    bars.draw([f"{r['network']} b{r['batch']}" for r in results], bars.beside_pytorch(results),
              path, label="times as fast as PyTorch's fastest form", row=0.7,
              title=f"One training step, {machine['threads']} threads, "
                    f"{machine['instruction set in use']}")


if __name__ == "__main__":
    bars.draw_file(__doc__.splitlines()[0], "training", {"training-ratios.png": ratios})
