"""Functions that the step before applies: the same bits as two steps, and only one of them."""

import numpy as np
import pytest

import convkit as ck
from convkit import nn
from convkit.infer import fusing, lowering

FUNCTIONS = {
    "silu": nn.SiLU, "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU(approximate="tanh"), "elu": lambda: nn.ELU(0.7),
    "celu": lambda: nn.CELU(0.7), "selu": nn.SELU, "mish": nn.Mish,
    "softplus": lambda: nn.Softplus(2.0, 3.0), "softsign": nn.Softsign,
    "logsigmoid": nn.LogSigmoid}
LAYERS = {
    "direct": lambda: nn.Conv2d(17, 35, 3, stride=2, padding=1),
    "pointwise": lambda: nn.Conv2d(17, 35, 1, bias=False),
    "winograd": lambda: nn.Conv2d(17, 33, 3, padding=1),
    "winograd 5x5": lambda: nn.Conv2d(17, 33, 5, padding=2),
    "depthwise": lambda: nn.Conv2d(17, 17, 3, padding=1, groups=17),
    "depthwise, few": lambda: nn.Sequential(nn.Conv2d(17, 3, 1), nn.Conv2d(3, 3, 3, groups=3)),
    "groups": lambda: nn.Sequential(nn.Conv2d(17, 32, 1), nn.Conv2d(32, 32, 3, groups=8)),
    "depthwise 5x5, stride 2": lambda: nn.Conv2d(17, 17, 5, 2, 2, groups=17),
    "depthwise 4x3": lambda: nn.Conv2d(17, 17, (4, 3), groups=17),
    "batch norm": lambda: nn.BatchNorm2d(17),
    "linear": lambda: nn.Linear(13, 19),
}


class Added(nn.Module):
    """A sum of two values before a function."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        return x + self.pool(x)


LAYERS["add"] = Added


def programs(monkeypatch, layer, function, **options):
    """Return a Program whose function is fused, and one whose function is a step."""
    ck.manual_seed(0)
    model = nn.Sequential(LAYERS[layer](), function()).eval()
    fused = ck.compile(model, (1, 17, 11, 13), **options)
    fused.summary()
    with monkeypatch.context() as patch:
        patch.setattr(lowering, "nodes_done_before", lambda graph: {})
        apart = ck.compile(model, (1, 17, 11, 13), **options)
        apart.summary()
    return fused, apart


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["silu", "hardsigmoid", "gelu", "elu"])
def test_same_bits_as_two_steps(monkeypatch, name, layer):
    fused, apart = programs(monkeypatch, layer, FUNCTIONS[name])
    x = np.random.default_rng(3).normal(0, 3, (5, 17, 11, 13)).astype(np.float32)
    y = np.asarray(fused(x))
    np.testing.assert_array_equal(y, np.asarray(apart(x)))
    np.testing.assert_array_equal(np.asarray(fused(x[3:4]))[0], y[3])
    with ck.threads(2):
        np.testing.assert_array_equal(np.asarray(fused(x)), y)
    assert "fused" in fused.summary().split() and len(fused.profile(x[:1]).nodes)


@pytest.mark.parametrize("layer", ["direct", "winograd", "depthwise", "batch norm"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(monkeypatch, name, layer):
    fused, apart = programs(monkeypatch, layer, FUNCTIONS[name], precision="highest")
    x = np.random.default_rng(3).normal(0, 3, (2, 17, 11, 13)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(fused(x)), np.asarray(apart(x)))
    assert "fused" in fused.summary()
    assert "fused" not in apart.summary().replace("fused  algorithm", "")


def test_results_that_others_read_stay_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.silu = nn.Conv2d(3, 4, 3), nn.SiLU()

        def forward(self, x):
            y = self.conv(x)
            return self.silu(y) + y

    program = ck.compile(Twice(), (1, 3, 8, 8))
    assert fusing.nodes_done_before(program.graph) == {}


def test_functions_join_in_chains():
    model = nn.Sequential(nn.Conv2d(16, 64, 1), nn.SiLU(),
                          nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.SiLU(),
                          nn.Conv2d(64, 16, 1), nn.SiLU()).eval()
    program = ck.compile(model, (1, 16, 40, 40), precision="highest", threads=1)
    x = np.random.default_rng(0).normal(size=(2, 16, 40, 40)).astype(np.float32)
    want = model(ck.tensor(x)).detach().numpy()
    np.testing.assert_allclose(np.asarray(program(x)), want, rtol=1e-4, atol=1e-5)
    assert sum(n.seconds > 0 for n in program.profile(x).nodes if n.op != "copy") == 1
