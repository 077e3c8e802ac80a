"""Graph passes: small pure functions from Graph to Graph, one idea per file.

Each keeps what the graph computes (up to rounding, where it folds arithmetic into weights)
and leaves its argument as it is. `PIPELINE` is the order in which `compile` runs them:
what makes constants comes first, then what brings steps to one form, then what folds
arithmetic into weights, then what fuses steps, and last the removal of what nobody reads
any more. docs/graph.md shows each with a graph before and after.
"""

from __future__ import annotations

from collections.abc import Callable

from convkit.infer.graph import Graph
from convkit.infer.passes.affine import (
    batch_norm_to_affine,
    fold_affine_into_next,
    merge_affines,
)
from convkit.infer.passes.arithmetic import arithmetic_to_affine
from convkit.infer.passes.batch_norm import fold_batch_norm
from convkit.infer.passes.constants import fold_constants, fold_dequantized
from convkit.infer.passes.dead import remove_dead
from convkit.infer.passes.fuse_activation import fuse_activation
from convkit.infer.passes.fuse_residual import fuse_residual
from convkit.infer.passes.hoist import hoist
from convkit.infer.passes.identities import remove_identities
from convkit.infer.passes.image import fold_image_scale, merge_into_image
from convkit.infer.passes.matrix import matmul_to_linear
from convkit.infer.passes.merge_equal import merge_equal
from convkit.infer.passes.merge_padding import merge_padding
from convkit.infer.passes.permutes import cancel_permutes
from convkit.infer.passes.shuffle import fold_take, shuffle_to_take, slice_of_take
from convkit.infer.passes.written_out import name_activations
from convkit.infer.quantization.fuse import fuse_quantized

__all__ = [
    "PIPELINE",
    "arithmetic_to_affine",
    "batch_norm_to_affine",
    "cancel_permutes",
    "fold_affine_into_next",
    "fold_batch_norm",
    "fold_constants",
    "fold_dequantized",
    "fold_image_scale",
    "fold_take",
    "fuse_activation",
    "fuse_quantized",
    "fuse_residual",
    "hoist",
    "matmul_to_linear",
    "merge_affines",
    "merge_equal",
    "merge_into_image",
    "merge_padding",
    "name_activations",
    "remove_dead",
    "remove_identities",
    "run_pipeline",
    "shuffle_to_take",
    "slice_of_take",
]

PIPELINE: tuple[Callable[[Graph], Graph], ...] = (
    remove_dead,
    fold_constants,
    merge_equal,
    remove_identities,
    cancel_permutes,
    name_activations,
    matmul_to_linear,
    shuffle_to_take,
    slice_of_take,
    remove_dead,
    fold_take,
    merge_padding,
    arithmetic_to_affine,
    hoist,
    fold_batch_norm,
    batch_norm_to_affine,
    merge_affines,
    merge_into_image,
    fold_image_scale,
    fold_affine_into_next,
    fuse_residual,
    hoist,
    fuse_activation,
    fuse_quantized,
    fold_dequantized,
    remove_dead,
)


# What one pass uncovers for an earlier one is found in the next round; few graphs have any.
MAX_ROUNDS = 8


def run_pipeline(graph: Graph) -> Graph:
    """Return the graph after every pass of `PIPELINE` in turn, until none finds more to do."""
    for _ in range(MAX_ROUNDS):
        before = _form(graph)
        for step in PIPELINE:
            graph = step(graph)
        if _form(graph) == before:
            break
    return graph


def _form(graph: Graph) -> list[tuple]:
    """Return what a pass may change, but for the numbers in constants."""
    return [(node.op, node.attrs, len(node.inputs)) for node in graph.nodes]
