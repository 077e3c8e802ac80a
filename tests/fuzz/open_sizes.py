"""Random networks compiled for ranges of heights and widths, beside their own layers."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from fuzz.layers import FIXED_SIZES, Network, convkit_library, draw_network, numbers, with_weights
from fuzz.trials import SetAside, allowed, close, error, main

NEEDS = ()
# Behind several strided layers that round up, or between which sizes grow, there is no formula.
LIMIT = "a size is neither constant nor follows"


def draw(seed: int) -> Network:
    """Draw a network whose layers take any size."""
    return draw_network(seed, without=FIXED_SIZES, head=False)


def judge(network: Network) -> None:
    """Compare at some of the sizes that the Program is made for."""
    rng = random.Random(network.seed + 3)
    ck.set_num_threads(rng.choice((1, 2)))
    model = network.build(convkit_library()).eval()
    with_weights(model, network.seed)
    ranges = [(max(4, n - 3), n + rng.choice((2, 9))) for n in network.shape[1:]]
    shape = (1, network.shape[0], *ranges)
    program = _compiled(model, shape)
    sizes = [[rng.randint(*r) for r in ranges] for _ in range(3)]
    for size in sizes:
        x = numbers(network.seed, 2, network.shape[0], *size)
        close(f"{tuple(ranges)} at {size}", program(x), _want(model, x), allowed("train"))
    if rng.random() < 0.3:
        _quantized(network, model, shape, sizes[0])


def _want(model: Any, x: np.ndarray) -> np.ndarray:
    with ck.no_grad():
        want = model(ck.Tensor(x)).data
    if not want.size or not np.isfinite(want).all():
        raise SetAside("no finite numbers")
    return want


def _compiled(model: Any, shape: Sequence[Any]) -> Any:
    """Compile for the ranges; a refusal is right where the smallest size does not fit either."""
    try:
        return ck.compile(model, tuple(shape))
    except ck.ShapeError as refusal:
        if LIMIT in str(refusal):
            raise SetAside(LIMIT) from None
        if not _fits(model, [shape[1], *(low for low, _ in shape[2:])]):
            raise SetAside("the network refuses the smallest size") from None
        raise


def _fits(model: Any, shape: Sequence[int]) -> bool:
    try:
        model(ck.Tensor(numbers(0, 1, *shape)))
    except ck.ShapeError:
        return False
    return True


def _quantized(network: Network, model: Any, shape: Sequence[Any], size: list[int]) -> None:
    """Quantise for the ranges with data of the network's own size."""
    data = numbers(network.seed, 16, *network.shape)
    program, want = ck.quantize(model, data, input_shape=tuple(shape)), _want(model, data)
    if not want.any():
        raise SetAside("the result is 0")
    close("int8 of open sizes", program(data), want, allowed("int8"))
    x = numbers(network.seed + 1, 1, network.shape[0], *size)
    error(program(x), _want(model, x))  # the shape: ranges of values are those of `data`


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
