"""Convolution on bfloat16 tiles (AMX), plain and split."""

from __future__ import annotations

from convkit._kernels import dispatch
from convkit.ops.conv_algorithms.tiled import Tiled
from convkit.ops.conv_problem import ConvProblem

__all__ = ["Bfloat16", "SplitBfloat16"]

# Tiles multiply about five times as many split values a cycle as vectors multiply floats: a
# share of a tile that is used below this is no gain.
LEAST_USED = 0.25


class _Tiles(Tiled):
    """What both forms share: when tiles pay."""

    @classmethod
    def refuses(cls, problem, task):
        """Refuse without tiles, and as all 16-bit numbers do."""
        return super().refuses(problem, task) if dispatch.has_tiles() else "this CPU has no AMX"

    @classmethod
    def declines(cls, problem, task):
        """Decline other precisions and problems that leave tiles mostly empty."""
        other = super().declines(problem, task)
        if other is not None:
            return other
        used = _used(problem, task)
        if used < LEAST_USED:
            return f"only {used:.0%} of a tile would be used"
        return None


def _used(problem: ConvProblem, task: str) -> float:
    """Return the share of a tile's columns and depth that real values fill."""
    columns, depth = problem.out_group, problem.in_group
    if task == "grad_input":
        columns, depth = depth, columns
    if problem.groups == 1 and (problem.dilation[1] == 1 or problem.kernel[1] == 1):
        depth *= problem.kernel[1] if task == "forward" else -(-problem.kernel[1]
                                                              // problem.stride[1])
    return columns * depth / (-(-columns // 16) * 16 * -(-depth // 32) * 32)


class SplitBfloat16(_Tiles):
    """Each float as two bfloat16; three products, float32 sums: precision "high"."""

    name = "split_bf16"
    precision = "high"


class Bfloat16(_Tiles):
    """Each float as one bfloat16, float32 sums: precision "medium"."""

    name = "bf16"
    finite_weights = False
    precision = "medium"
