"""The algorithms of convolution, one a file.

`CANDIDATES` is their order of preference; `convkit.ops.planner` takes the first that neither
refuses nor declines a task. All take and return channels-last (N, H, W, C) arrays and weights
(O, C / groups, kH, kW).
"""

from __future__ import annotations

from convkit.ops.conv_algorithms.base import TASKS, Algorithm, Task, known_call
from convkit.ops.conv_algorithms.bfloat16 import Bfloat16, SplitBfloat16
from convkit.ops.conv_algorithms.depthwise import Depthwise, DepthwiseBfloat16
from convkit.ops.conv_algorithms.direct import Direct
from convkit.ops.conv_algorithms.float16 import Float16
from convkit.ops.conv_algorithms.grouped import Grouped
from convkit.ops.conv_algorithms.im2col import Im2col
from convkit.ops.conv_algorithms.multiplied import Multiplied
from convkit.ops.conv_algorithms.winograd import Winograd
from convkit.ops.conv_algorithms.winograd_16bit import WinogradInt16, WinogradSplit

__all__ = ["BY_NAME", "CANDIDATES", "TASKS", "Algorithm", "Task", "known_call"]

CANDIDATES: tuple[type[Algorithm], ...] = (
    DepthwiseBfloat16, Depthwise, Multiplied, WinogradSplit, WinogradInt16, SplitBfloat16, Bfloat16,
    Grouped, Im2col, Winograd, Float16, Direct)
BY_NAME = {a.name: a for a in CANDIDATES}
