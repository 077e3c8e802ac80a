"""Graphs as DOT text."""

from __future__ import annotations

import re

import numpy as np

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit.infer import trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 2, 1)
        self.side = nn.Conv2d(3, 3, 1, 2)

    def forward(self, x, y):
        z = F.relu(self.conv(x) + self.side(x))
        return {"pooled": F.max_pool2d(z, 2), 'a "name"': z * y}


def test_every_step_and_value_is_drawn():
    program = ck.compile(Net(), [(1, 3, 8, 8), (1, 3, 4, 4)])
    text = program.plot()
    assert text.startswith("digraph") and text.count("{") == text.count("}")
    boxes = re.findall(r"^  (\w+) \[label", text, re.M)
    assert boxes == ["in0", "in1", "n0", "n1", "n2", "n3", "out0", "out1"]
    arrows = re.findall(r'^  (\w+) -> (\w+) \[label="([^"]*)"', text, re.M)
    assert ("in0", "n0", "(N, 3, 8, 8)") in arrows and ("n0", "n1", "(N, 3, 4, 4)") in arrows
    assert ("n2", "out0", "(N, 3, 2, 2)") in arrows and len(arrows) == 8
    assert "conv + add + relu" in text and "weight 3 x 3 x 3 x 3" in text and "stride 2" in text
    assert r"a \"name\"" in text
    assert any(name in text for name in ("im2col", "direct", "winograd"))


def test_constants_as_outputs_and_open_sizes():
    one = np.ones((1, 3), np.float32)
    graph = trace(lambda x: (F.relu(x), F.sigmoid(ck.tensor(one))), (1, 3, (8, 16), 8))
    text = graph.dot()
    assert "(N, 3, H, 8)" in text and "sigmoid" in text
    program = ck.compile(nn.Conv2d(3, 2, 3), (1, 3, (8, 16), (8, 16)))
    assert "(N, 2, H-2, W-2)" in program.plot()
    assert "open sizes, here the largest: H from 8 to 16; W from 8 to 16" in program.summary()
