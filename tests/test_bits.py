"""The same bits every time: for any number of threads, for a sample alone or in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, all_cases
from harness import assert_same_bits, check_batch_invariance, random_array, run_op

import convkit as ck
from convkit import functional as F
from convkit import nn, optim
from convkit.ops.op import REGISTRY

# Operations whose first input is a batch that they take sample by sample.
BY_SAMPLE = {
    "adaptive_avg_pool", "adaptive_max_pool", "affine", "avg_pool", "batch_norm", "celu", "clamp",
    "conv", "conv_transpose", "elu", "gelu", "group_norm", "hardsigmoid", "hardswish", "hardtanh",
    "instance_norm", "layer_norm", "leaky_relu", "linear", "local_response_norm", "log_softmax",
    "logsigmoid", "max_pool", "mish", "pad", "prelu", "relu", "relu6", "selu", "sigmoid", "silu",
    "softmax", "softplus", "softsign", "tanh", "upsample",
}


def _by_sample(case: Case) -> bool:
    """Tell whether a case is one where samples do not mix."""
    return (case.name in BY_SAMPLE and np.ndim(case.inputs[0]) > 1 and case.attrs.get("dim") != 0
            and "fused" not in case.tag)


CASES = [case for case in all_cases(seed=4, wide=True) if _by_sample(case)]


def test_the_cases_cover_the_operations():
    assert {case.name for case in CASES} == BY_SAMPLE <= set(REGISTRY)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sample_alone_and_in_a_batch(case):
    x, *others = case.inputs
    x = random_array((5, *x.shape[1:]), np.float32, "channels_last")
    others = [None if a is None else a.astype(np.float32) for a in others]
    op = REGISTRY[case.name]
    y = run_op(op, [x, *others], case.attrs, (), None).outputs[0]
    gy = random_array(y.shape, np.float32, seed=1)
    whole = run_op(op, [x, *others], case.attrs, [0], gy, threads=2)
    for part in (slice(0, 1), slice(3, 4), slice(1, 4)):
        alone = run_op(op, [x[part], *others], case.attrs, [0], gy[part])
        assert_same_bits(alone.outputs, [y[part] for y in whole.outputs], f"outputs {part}")
        assert_same_bits(alone.grads[0], whole.grads[0][part], f"gradients {part}")


class Net(nn.Module):
    """A small network of everything that sums: strides, groups, batch norm, pools, linear."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20),
                                  nn.ReLU(), nn.MaxPool2d(2))
        self.wide = nn.Conv2d(20, 33, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(33, 33, 3, padding=1, groups=33, bias=False)
        self.norm = nn.BatchNorm2d(33)
        self.point = nn.Conv2d(33, 33, 1)
        self.act = nn.PReLU(33)
        self.head = nn.Linear(33, 10)

    def forward(self, x):
        x = self.wide(self.stem(x))
        x = x + self.act(self.point(self.norm(self.depthwise(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def train(threads: int, steps: int = 3) -> list[np.ndarray]:
    """Train from the same start on the same data; return losses, parameters and buffers."""
    ck.manual_seed(0)
    net = Net()
    optimiser = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    rng = np.random.default_rng(0)
    losses = []
    with ck.threads(threads):
        for _ in range(steps):
            x = rng.standard_normal((9, 3, 30, 30)).astype(np.float32)
            loss = F.cross_entropy(net(ck.Tensor(x)), rng.integers(0, 10, 9),
                                   label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach().numpy())
    return [*losses, *(np.array(v) for v in net.state_dict().values())]


@pytest.fixture(scope="module")
def trained_alone():
    return train(1)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
def test_training_gives_the_same_weights_on_any_number_of_threads(threads, trained_alone):
    assert_same_bits(train(threads), trained_alone, f"1 and {threads} threads")


def test_training_changes_every_parameter(trained_alone):
    ck.manual_seed(0)
    start = Net().state_dict()
    for value, (name, first) in zip(trained_alone[-len(start):], start.items(), strict=True):
        assert not np.array_equal(value, np.asarray(first)), name


@pytest.mark.parametrize("size", [1, 2, 7, 65])
def test_a_network_gives_a_sample_the_same_bits_in_any_batch(size):
    ck.manual_seed(1)
    net = Net().eval()
    x = random_array((size, 3, 18, 18))

    def run(x):
        with ck.no_grad(), ck.threads(2):
            return net(ck.Tensor(x))

    check_batch_invariance(run, x)
