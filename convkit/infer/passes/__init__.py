"""Graph passes: small pure functions from Graph to Graph, one idea per file.

Each keeps what the graph computes (up to rounding, where it folds arithmetic into weights)
and leaves its argument as it is. `PIPELINE` is the order in which `compile` runs them:
what makes constants comes first, then what folds arithmetic into weights, then what fuses
steps, and last the removal of what nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Callable

from convkit.infer.graph import Graph
from convkit.infer.passes.affine import batch_norm_to_affine, fold_affine_into_next
from convkit.infer.passes.batch_norm import fold_batch_norm
from convkit.infer.passes.constants import fold_constants
from convkit.infer.passes.dead import remove_dead
from convkit.infer.passes.fuse_activation import fuse_activation
from convkit.infer.passes.fuse_residual import fuse_residual
from convkit.infer.passes.identities import remove_identities

__all__ = [
    "PIPELINE",
    "batch_norm_to_affine",
    "fold_affine_into_next",
    "fold_batch_norm",
    "fold_constants",
    "fuse_activation",
    "fuse_residual",
    "remove_dead",
    "remove_identities",
    "run_pipeline",
]

PIPELINE: tuple[Callable[[Graph], Graph], ...] = (
    remove_dead,
    fold_constants,
    remove_identities,
    fold_batch_norm,
    batch_norm_to_affine,
    fold_affine_into_next,
    fuse_residual,
    fuse_activation,
    remove_dead,
)


def run_pipeline(graph: Graph) -> Graph:
    """Return the graph after every pass of `PIPELINE` in turn."""
    for step in PIPELINE:
        graph = step(graph)
    return graph
