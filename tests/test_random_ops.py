"""A few hundred random configurations of every operation against the reference.

The same configurations' references are held against PyTorch here and in test_reference.
Every check runs in float32 and float64, on one and two threads, on C-contiguous and
channels-last inputs, forward and all gradients, with central differences in float64.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cases import Case, all_cases
from harness import check_op, pytorch
from tolerances import tolerance

import convkit.ops  # noqa: F401  (fills the registry)
from convkit import reference
from convkit.ops.op import REGISTRY

ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"
CASES = all_cases(seed=2, wide=True)


def run(case: Case, **extra: object) -> None:
    """Check one case; fused activations have no backward."""
    fused = "fused" in case.tag
    torch = pytorch()
    check_op(case.name, case.inputs, {**case.attrs, **extra}, kind=case.kind,
             wrt=() if fused else None,
             torch=torch and (lambda *t: case.torch(torch.nn.functional, *t)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case):
    run(case)


@pytest.mark.parametrize("algorithm", ["direct", "im2col"])
@pytest.mark.parametrize("case", [case for case in CASES if case.name == "conv"
                                  and case.attrs.get("padding_mode") == "zeros"], ids=str)
def test_convolution_algorithm(case, algorithm):
    run(case, algorithm=algorithm)


def documented() -> set[str]:
    """Return the names in the table of operations of docs/architecture.md."""
    names: set[str] = set()
    for line in ARCHITECTURE.read_text().splitlines():
        if re.match(r"\| `\w+`", line) and line.count("|") == 6:
            names.update(re.findall(r"`(\w+)`", line.split("|")[1]))
    return names


def referenced() -> set[str]:
    """Return the names of operations that the reference defines, gradient included."""
    return {name for name in vars(reference)
            if not name.startswith("_") and callable(getattr(reference, name + "_grad", None))}


def test_every_operation_is_documented_referenced_and_checked():
    assert set(REGISTRY) == documented()
    assert set(REGISTRY) <= set(vars(reference))
    # What gives booleans, places or other types is checked in test_more_ops.
    smooth = {name for name, op in REGISTRY.items() if op.differentiable} - {"cast"}
    assert smooth == referenced()
    assert smooth == {case.name for case in CASES}


def test_a_wrong_gradient_is_noticed(monkeypatch):
    conv = REGISTRY["conv"]
    right = conv.backward

    def wrong(ctx, gy):
        gx, *rest = right(ctx, gy)
        return (None if gx is None else gx * 1.0001, *rest)

    monkeypatch.setattr(conv, "backward", staticmethod(wrong))
    with pytest.raises(AssertionError, match="gradient 0"):
        run(CASES[0])
    assert tolerance("gradient", "float32").relative < 1e-4
