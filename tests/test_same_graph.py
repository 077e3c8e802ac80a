"""Networks written once: as modules, and as ONNX files of PyTorch's, they become one graph."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest

import convkit as ck
from convkit.infer import run_pipeline, trace

torch = pytest.importorskip("torch", reason="writes the ONNX files")
onnx = pytest.importorskip("onnx", reason="reads the ONNX files")
pytestmark = pytest.mark.filterwarnings("ignore")


def networks(nn, concat):
    """Return classes of networks, in terms of `torch.nn` or `convkit.nn`."""
    def normed(*args, act=nn.ReLU, **kwargs):
        conv = nn.Conv2d(*args, bias=False, **kwargs)
        return [conv, nn.BatchNorm2d(args[1]), *([act()] if act else [])]

    class Basic(nn.Module):
        """A residual block, with a projection where it strides."""

        def __init__(self, c, o, stride):
            super().__init__()
            self.body = nn.Sequential(*normed(c, o, 3, stride, 1), *normed(o, o, 3, 1, 1, act=None))
            self.relu = nn.ReLU()
            self.down = nn.Sequential(*normed(c, o, 1, stride, act=None)) if stride > 1 else None

        def forward(self, x):
            return self.relu(self.body(x) + (x if self.down is None else self.down(x)))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*normed(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1),
                                      Basic(8, 8, 1), Basic(8, 12, 2), nn.AdaptiveAvgPool2d(1),
                                      nn.Flatten(1), nn.Dropout(0.5), nn.Linear(12, 5))

        def forward(self, x):
            return self.body(x)

    class Excite(nn.Module):
        """Squeeze and excitation."""

        def __init__(self, c):
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 4, 1), nn.ReLU(),
                                      nn.Conv2d(4, c, 1), nn.Hardsigmoid())

        def forward(self, x):
            return x * self.gate(x)

    class Inverted(nn.Module):
        def __init__(self, c, wide, o, stride, act):
            super().__init__()
            self.body = nn.Sequential(*normed(c, wide, 1, act=act),
                                      *normed(wide, wide, 3, stride, 1, groups=wide, act=act),
                                      Excite(wide), *normed(wide, o, 1, act=None))
            self.residual = stride == 1 and c == o

        def forward(self, x):
            return x + self.body(x) if self.residual else self.body(x)

    class MobileNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                *normed(3, 8, 3, 2, 1, act=nn.Hardswish), Inverted(8, 16, 8, 1, nn.ReLU6),
                Inverted(8, 24, 12, 2, nn.Hardswish), Inverted(12, 24, 12, 1, nn.SiLU),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(0.2), nn.Linear(12, 5))

        def forward(self, x):
            return self.body(x)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(*normed(3, 8, 3, 1, 1), *normed(8, 8, 3, 1, 1))
            self.b = nn.Sequential(*normed(8, 12, 3, 1, 1))
            self.c = nn.Sequential(*normed(12, 12, 3, 1, 1))
            self.pool = nn.MaxPool2d(2)
            self.up = nn.Upsample(scale_factor=2, mode="bilinear")
            self.unpool = nn.ConvTranspose2d(12, 8, 2, 2)
            self.d = nn.Sequential(*normed(24, 12, 3, 1, 1))
            self.e = nn.Sequential(*normed(16, 8, 3, 1, 1))
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            a = self.a(x)
            b = self.b(self.pool(a))
            y = self.d(concat([self.up(self.c(self.pool(b))), b], 1))
            return self.head(self.e(concat([self.unpool(y), a], 1)))

    class ShuffleNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(*normed(3, 16, 3, 2, 1))
            self.left = nn.Sequential(*normed(8, 8, 1),
                                      *normed(8, 8, 3, 1, 1, groups=8, act=None))
            self.right = nn.Sequential(*normed(8, 8, 1))

        def forward(self, x):
            x = self.stem(x)
            y = concat([x[:, :8], self.left(x[:, 8:])], 1)
            n, c, h, w = y.shape
            y = y.reshape(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
            return concat([y[:, :8], self.right(y[:, 8:])], 1)

    return {"resnet": ResNet, "mobilenet": MobileNet, "unet": UNet, "shufflenet": ShuffleNet}


THEIRS = networks(torch.nn, torch.cat)
OURS = networks(ck.nn, ck.functional.concat)
X = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
# Averages over all pixels, and merged axes, have two names.
NAMES = {"mean": "adaptive_avg_pool", "flatten": "reshape"}
NODES = {"resnet": 10, "mobilenet": 33, "unet": 13, "shufflenet": 10}


def both(name: str):
    """Return a PyTorch network and ours, of the same weights."""
    torch.manual_seed(0)
    theirs = THEIRS[name]()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.1)
    ours = OURS[name]()
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs.eval(), ours.eval()


def exported(network, dynamo: bool):
    """Return PyTorch's export, the batch left open."""
    x = torch.from_numpy(X)
    if dynamo:
        return torch.onnx.export(network, (x,), dynamo=True, verbose=False,
                                 dynamic_shapes=({0: "n"},)).model_proto
    file = io.BytesIO()
    torch.onnx.export(network, (x,), file, dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})
    return onnx.load_from_string(file.getvalue())


def steps(graph) -> Counter:
    """Return how often each kind of step occurs, with what is fused into it."""
    return Counter((NAMES.get(n.op, n.op), n.attrs.get("activation"),
                    n.op in ("conv", "linear") and n.input(3) is not None) for n in graph.nodes)


def first(result) -> np.ndarray:
    if isinstance(result, dict):
        return next(iter(result.values()))
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name, dynamo", [
    *((name, False) for name in THEIRS), ("mobilenet", True)])
def test_a_file_becomes_the_graph_that_the_module_becomes(name, dynamo):
    if dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs it")
    theirs, ours = both(name)
    native = ck.compile(ours, X.shape)
    read = ck.compile(ck.io.onnx.from_model(exported(theirs, dynamo)))
    assert steps(read.graph) == steps(native.graph)
    assert len(native.graph.nodes) == NODES[name]
    assert not {"batch_norm", "affine", "relu", "permute"} & {n.op for n in native.graph.nodes}
    want = theirs(torch.from_numpy(X)).detach().numpy()
    for program in (native, read):
        np.testing.assert_allclose(first(program(X)), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_takes_images_of_any_size(name):
    step = 4 if name == "unet" else 1
    network = both(name)[1]
    program = ck.compile(network, (1, 3, (16, 48, step), (16, 48, step)), image=True)
    assert len(program.graph.nodes) == NODES[name] + 1
    for h, w in ((16, 48), (20, 36)):
        x = np.random.default_rng(h).integers(0, 256, (2, h, w, 3), np.uint8)
        with ck.no_grad():
            want = network(ck.tensor(x.transpose(0, 3, 1, 2) / np.float32(255))).numpy()
        np.testing.assert_allclose(program(x), want, atol=2e-5 * np.abs(want).max())


def test_the_pipeline_leaves_a_compiled_graph_as_it_is():
    for name in OURS:
        once = run_pipeline(trace(both(name)[1], X.shape))
        assert str(run_pipeline(once)) == str(once)
