"""Write golden .ckit files, each with an .npz of inputs and what the network gave.

Files that are there are never overwritten: they must load for ever. A new version of the
format, or a new operation, gets a new file: add a network here and run
``python tests/golden/make_golden.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import convkit as ck
import convkit.functional as F
from convkit import nn
from convkit.infer.dims import BatchDim
from convkit.infer.graph import Constant, Graph, Node, Port, Value

HERE = Path(__file__).parent


class Classifier(nn.Module):
    """Convolutions with batch norm, a residual, a strided and a grouped one, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu6(self.depth(x) + x)
        x = F.leaky_relu(self.down(x), 0.1)
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """Two inputs, two outputs by name, shape operations, a lone batch norm, transposition."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(2, 4, 3, padding=2, padding_mode="zeros", dilation=2)
        self.norm = nn.BatchNorm1d(4)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)

    def forward(self, signal, image):
        s = self.norm(F.sigmoid(self.a(signal)))
        i = self.up(image)
        both = F.concat([s.reshape(s.shape[0], -1), F.flatten(i, 1)], 1)
        shuffled = i.reshape(i.shape[0], 2, 1, *i.shape[2:]).permute(0, 2, 1, 3, 4)
        return {"all": F.tanh(both[:, ::3]), "image": F.gelu(shuffled.reshape(i.shape)) / 2 - 1}


class Pools(nn.Module):
    """Every pool, resampling, padding and activation, softmax and arithmetic."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.prelu = nn.PReLU(4)

    def forward(self, x):
        x = self.prelu(self.conv(x))
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        y = F.interpolate(F.avg_pool2d(x, 2, 1), size=x.shape[2:], mode="bilinear")
        x = F.silu(x) + F.hardswish(y) - F.hardsigmoid(F.elu(x)) * F.relu6(y)
        near = F.interpolate(y[:, :, ::2, ::2], scale_factor=2.0)
        x = F.concat([x, near[:, :, :x.shape[2], :x.shape[3]]], 1)
        x = F.pad(x, (1, 0, 2, 1), value=0.5)
        a = F.adaptive_max_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2).abs().sqrt()
        a = (a ** 2 + 1).log() - (-a).exp()
        return F.softmax(F.flatten(a, 1), 1), F.log_softmax(a.sum((2, 3)), 1)


def integers() -> Graph:
    """Return a network of whole numbers and truth values, with an open batch."""
    n = BatchDim()
    values = {0: Value((n, 3), "int64"), 1: Value((3,), "bool"), 2: Value((3,), "int64"),
              3: Value((2,), "uint8"), 4: Value((n, 3), "int64"), 5: Value((n, 2), "int64")}
    constants = {1: Constant("mask", np.array([True, False, True])),
                 2: Constant("others", np.int64([1, -2, 2**40])),
                 3: Constant("places", np.uint8([2, 0]))}
    nodes = (Node("where", (1, 0, 2), (4,), {}, "pick"),
             Node("take", (4, 3), (5,), {"dim": 1}, "reorder"))
    return Graph((Port("x", 0),), constants, nodes, (Port("y", 5), Port("all", 4)), values, "dict")


class Wide(nn.Module):
    """Weights enough for compression to gain by."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.fc = nn.Linear(24, 20)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Bytes(nn.Module):
    """Every step that runs on bytes: convolutions of all kinds, a residual, pools, a table."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.pair = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.sigmoid(self.point(F.relu6(self.depth(x))))
        x = F.relu(self.pair(x) + x)
        return self.fc(F.avg_pool2d(x, 2).mean((2, 3)))


NETWORKS = {
    "v1-pools-float32": (Pools, {"x": (2, 2, 9, 8)}, "float32"),
    "v1-classifier-float32": (Classifier, {"input": (2, 3, 7, 9)}, "float32"),
    "v1-classifier-float16": (Classifier, {"input": (2, 3, 7, 9)}, "float16"),
    "v1-branches-bfloat16": (Branches, {"signal": (2, 2, 6), "image": (2, 4, 3, 4)}, "bfloat16"),
    "v1-classifier-int8": (Classifier, {"input": (2, 3, 7, 9)}, "float32"),
    "v1-bytes-int8": (Bytes, {"x": (2, 3, 9, 11)}, "float32"),
    "v1-integers": (integers, {"x": (2, 3)}, "float32"),
    "v2-wide-float32": (Wide, {"x": (2, 3, 4, 5)}, "float32"),
    "v2-wide-float16": (Wide, {"x": (2, 3, 4, 5)}, "float16"),
    "v2-open-sizes-float32": (Wide, {"x": (2, 3, 6, 5)}, "float32"),
    "v2-wide-bfloat16": (Wide, {"x": (2, 3, 4, 5)}, "bfloat16"),
}


def main() -> None:
    """Write the files that are missing."""
    for name, (network, shapes, weights) in NETWORKS.items():
        file = HERE / f"{name}.ckit"
        if file.exists():
            continue
        ck.manual_seed(1)
        model = network()
        rng = np.random.default_rng(2)
        if isinstance(model, nn.Module):
            with ck.no_grad():
                for _, buffer in model.named_buffers():
                    if buffer.dtype.kind == "f":
                        buffer.copy_(rng.uniform(0.5, 1.5, buffer.shape))
        if name.endswith("int8"):
            samples = rng.standard_normal((16, *next(iter(shapes.values()))[1:]), np.float32)
            model = ck.quantize(model, samples)
        given = [(1, 3, (4, 9), (5, 30, 5))] if "open" in name else list(shapes.values())
        ck.save(model, file, weights=weights, input_shape=given,
                compress=name.startswith("v2"),
                metadata={"labels": ["a", "b", "c", "d", "e"], "licence": "BSD-3-Clause"})
        program = ck.load(file)
        inputs = [rng.standard_normal(shape, dtype=np.float32) if name != "v1-integers"
                  else rng.integers(-9, 9, shape) for shape in shapes.values()]
        outputs = program.run(tuple(inputs))
        if isinstance(outputs, dict):
            outputs = outputs.values()
        outputs = [outputs] if isinstance(outputs, np.ndarray) else list(outputs)
        np.savez(file.with_suffix(".npz"), **{f"in{i}": x for i, x in enumerate(inputs)},
                 **{f"out{i}": np.ascontiguousarray(y) for i, y in enumerate(outputs)})


if __name__ == "__main__":
    main()
