"""Batch norm by the statistics of all processes' shares of a batch together."""

from __future__ import annotations

import numpy as np

from convkit.distributed.group import Group, default_group, tree_sum
from convkit.ops.norm import BatchNormTrain
from convkit.ops.op import Context

__all__ = ["SyncBatchNormTrain"]

Array = np.ndarray


def _global_moments(group: Group, mean: Array, var: Array, count: int
                    ) -> tuple[Array, Array, int]:
    """Return mean, biased variance and number of values of all processes together.

    With n_i values, mean m_i and variance v_i on process i:
    M = sum n_i m_i / N, V = sum n_i (v_i + (m_i - M)^2) / N.
    """
    rows = group.gather(np.concatenate([[float(count)], mean, var]))
    counts, means, variances = rows[:, :1], rows[:, 1:1 + mean.size], rows[:, 1 + mean.size:]
    total = counts.sum()
    center = tree_sum(list(counts * means)) / total
    spread = tree_sum(list(counts * (variances + (means - center) ** 2))) / total
    return center, spread, int(total)


class SyncBatchNormTrain(BatchNormTrain):
    """`BatchNormTrain` over the samples of all processes."""

    name = "sync_batch_norm_train"

    @classmethod
    def forward(cls, ctx: Context, x: Array, weight: Array | None, bias: Array | None, *,
                eps: float = 1e-5) -> tuple[Array, Array, Array, Array]:
        """Return what `BatchNormTrain` does, and the number of values of each channel."""
        y, mean, var, count = cls.counted(ctx, x, weight, bias, eps)
        return y, mean, var, np.array(count)

    @classmethod
    def moments(cls, last: Array, ctx: Context) -> tuple[Array, Array, int]:
        """Return mean and variance over the samples of all processes, and how many values."""
        return _global_moments(default_group(), *super().moments(last, ctx))

    @classmethod
    def totals(cls, sums: Array, products: Array) -> tuple[Array, Array]:
        """Return the sums over all processes."""
        total, product = tree_sum(list(default_group().gather(np.stack([sums, products]))))
        return total, product
