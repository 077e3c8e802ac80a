"""What tests of graphs share: random arrays and statistics, and the check of one pass."""

from __future__ import annotations

import numpy as np

from convkit.infer import Program, verify
from convkit.infer.check import compare

__all__ = ["array", "check", "op_names", "outputs", "statistics"]

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def statistics(channels: int) -> dict[str, np.ndarray]:
    """Return arguments of F.batch_norm that are far from doing nothing."""
    return {"running_mean": array(channels), "running_var": np.abs(array(channels)) + 0.5,
            "weight": array(channels), "bias": array(channels)}


def op_names(graph) -> list[str]:
    return [node.op for node in graph.nodes]


def outputs(graph, seed: int = 3, batch: int = 2) -> list[np.ndarray]:
    """Run a graph on random numbers."""
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal((batch, *graph.shape(p.value)[1:])).astype(np.float32)
              for p in graph.inputs]
    result = Program(graph, precision="highest").run(tuple(inputs))
    return list(result) if isinstance(result, tuple) else [result]


def check(step, graph, expected: list[str], relative: float = 2e-6):
    """Run a pass; check its nodes, soundness, numbers, and that its argument is as before."""
    text, arrays = str(graph), [c.array.copy() for c in graph.constants.values()]
    after = step(graph)
    assert op_names(after) == expected
    verify(after)
    error = compare(outputs(graph), outputs(after))
    assert error.relative <= relative, error
    assert str(graph) == text
    for constant, before in zip(graph.constants.values(), arrays, strict=True):
        np.testing.assert_array_equal(constant.array, before)
    assert len({c.name for c in after.constants.values()}) == len(after.constants)
    return after
