"""Draw bars of a result file of the inference benchmark.

For example: ``python benchmarks/plot_inference.py benchmarks/results/FILE.json docs/images``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bars
import inference


def ratios(record: dict[str, Any], path: Path) -> None:
    """Plot how many times as fast as its fastest peer every precision is, by network."""
    results, machine = record["results"], record["machine"]
    found = {}
    for precision in bars.COLOURS:
        if f"convkit {precision}" in results[0]["timing"]:
            best = [inference.best(result, precision) for result in results]
            found[precision] = (f"{precision} / {inference.peer_kind(precision)}",
                                [ratio[0] if ratio else 0 for ratio in best])
    bars.draw([f"{r['network']}, batch {r['batch']}" for r in results], found, path,
              label="times as fast as the fastest peer of that precision",
              title=f"Inference, {machine['threads']} threads, "
                    f"{machine['instruction set in use']}")


if __name__ == "__main__":
    bars.draw_file(__doc__.splitlines()[0], "inference", {"inference.png": ratios})
