"""What tests of Programs share: the op-by-op path to compare with, and random networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from harness import assert_same_bits, random_array

import convkit as ck
import convkit.functional as F
from convkit.infer import Program, segments
from convkit.infer.fusing import nodes_done_before
from convkit.infer.graph import Graph
from convkit.infer.narrowing import narrow_values
from convkit.infer.segments import Load, Segment
from convkit.ops.op import REGISTRY, Context

__all__ = ["NetworkMaker", "bfloat16", "check_bits", "cut_finely", "cut_program", "op_by_op",
           "random_inputs", "run", "strided_branches"]


@contextmanager
def cut_finely(steps: int, samples: int) -> Iterator[None]:
    """Cut Programs into segments of some steps, for some samples at a time.

    Those of which the first batch of several samples comes within.
    """
    def cut(loads: Sequence[Load], crossing: Sequence[int]) -> list[Segment]:
        made: list[Segment] = []
        for i, load in enumerate(loads):
            size = samples if load.apart else 0
            if made and made[-1].samples == size and i - made[-1].first < steps:
                made[-1] = made[-1]._replace(stop=i + 1)
            else:
                made.append(Segment(i, i + 1, size))
        return made

    before, segments.cut = segments.cut, cut
    try:
        yield
    finally:
        segments.cut = before


def cut_program(graph: Graph, steps: int, samples: int, precision: str = "high") -> Program:
    """Return a Program that is cut so."""
    with cut_finely(steps, samples):
        program = Program(graph, precision=precision)
        program._ready().runner.segments()
    return program


def op_by_op(graph: Graph, inputs: list[np.ndarray], precision: str = "high",
             threads: int = 1) -> list[np.ndarray]:
    """Return a graph's outputs by calling every operation's forward in turn.

    What a Program holds as bfloat16 between its steps is rounded here, too.
    """
    narrow = narrow_values(graph, precision, nodes_done_before(graph))
    values = {v: c.array for v, c in graph.constants.items()}
    values.update(zip([p.value for p in graph.inputs], inputs, strict=True))
    for node in graph.nodes:
        ctx = Context((False,) * len(node.inputs), threads, (), precision)
        made = REGISTRY[node.op].forward(
            ctx, *[None if v is None else values[v] for v in node.inputs], **node.attrs)
        made = (made,) if len(node.outputs) == 1 else made
        values.update({v: bfloat16(y) if v in narrow else y
                       for v, y in zip(node.outputs, made, strict=True)})
    return [values[p.value] for p in graph.outputs]


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Round floats to the nearest bfloat16, ties to even; finite numbers stay finite."""
    bits = x.view(np.uint32)
    magnitude = bits & np.uint32(0x7fffffff)
    rounded = bits + np.uint32(0x7fff) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = np.where(magnitude >= 0x7f7f8000, bits & np.uint32(0x80000000) | np.uint32(
        0x7f7f0000), rounded & np.uint32(0xffff0000))
    rounded = np.where(magnitude < 0x00800000, bits & np.uint32(0x80000000), rounded)
    return np.where(magnitude >= 0x7f800000, x, rounded.view(np.float32))


def random_inputs(graph: Graph, batch: int, seed: int = 0) -> list[np.ndarray]:
    """Return random numbers for the inputs of a graph."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, *graph.shape(p.value)[1:])).astype(
        graph.values[p.value].dtype) for p in graph.inputs]


def run(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return a Program's outputs as a list."""
    made = program.run(tuple(inputs))
    if isinstance(made, dict):
        return list(made.values())
    return list(made) if isinstance(made, tuple) else [made]


def check_bits(program: Program, graph: Graph, precision: str) -> None:
    """Assert that a Program, of one sample and of three, gives the bits of its operations."""
    for batch in (1, 3):
        inputs = random_inputs(graph, batch)
        assert_same_bits(tuple(run(program, inputs)), tuple(op_by_op(graph, inputs, precision)),
                         f"{precision}, batch {batch}")


def strided_branches(x: ck.Tensor, left: int, right: int) -> tuple[ck.Tensor, ck.Tensor]:
    """Return a 3x3 and a 1x1 convolution of x side by side, both strided, and their transpose."""
    def weight(*shape: int) -> np.ndarray:
        return random_array(shape, seed=sum(shape)) / np.float32(9)

    channels = x.shape[1]
    a = F.conv2d(x, weight(left, channels, 3, 3), weight(left), stride=2, padding=1)
    b = F.relu(F.conv2d(x, weight(right, channels, 1, 1), stride=2))
    joined = F.concat([a, b], 1)
    return joined, F.conv_transpose2d(joined, weight(left + right, channels, 3, 3),
                                      weight(channels), stride=2, padding=1, output_padding=1)


class NetworkMaker:
    """Random networks of convolutions, pools, norms, arithmetic and rearrangements.

    The same seed gives the same network: a function of one image batch (N, C, H, W).
    """

    def __init__(self, seed: int, dtype: type = np.float32):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.input = (int(self.rng.integers(1, 9)), int(self.rng.integers(5, 14)),
                      int(self.rng.integers(5, 14)))
        self.steps = [self._choice() for _ in range(int(self.rng.integers(4, 12)))]
        self.weights: dict[int, list[np.ndarray]] = {}

    def _choice(self) -> tuple[Callable, int, int]:
        names = ("conv", "conv", "conv", "pointwise", "depthwise", "transposed", "relu", "silu",
                 "max_pool", "avg_pool", "upsample", "norm", "residual", "concat", "gate",
                 "shuffle", "slice", "pad", "exp", "mean")
        name = names[int(self.rng.integers(len(names)))]
        return getattr(self, name), int(self.rng.integers(1 << 30)), int(self.rng.integers(1 << 30))

    def __call__(self, x):
        """Run the network on a tensor."""
        self.values = [x]
        for number, (step, a, b) in enumerate(self.steps):
            self.number = number
            y = step(self.values[a % len(self.values)], b)
            if 0 < np.prod(y.shape[1:]) < 40_000 and y.ndim == 4:
                self.values.append(y)
        last = self.values[-1]
        return last, F.flatten(F.adaptive_avg_pool2d(last, 1), 1), *self.values[1:2]

    def weight(self, *shape: int) -> ck.Tensor:
        """Return the step's next weights, the same in every run of the network."""
        key = hash((self.number, shape))
        if key not in self.weights:
            scale = np.sqrt(np.prod(shape[1:]) or 1)
            self.weights[key] = (self.rng.standard_normal(shape) / scale).astype(self.dtype)
        return ck.tensor(self.weights[key])

    def conv(self, x, b):
        """Any 3x3 convolution: strides, dilation, groups."""
        c, out = x.shape[1], b % 17 + 1
        groups = c if b % 5 == 0 else 1
        out = c * (1 + b % 2) if groups == c else out
        if min(x.shape[2:]) < 5:
            return x
        return F.conv2d(x, self.weight(out, c // groups, 3, 3), self.weight(out),
                        stride=1 + b // 3 % 2, padding=b // 7 % 3, dilation=1 + b // 11 % 2,
                        groups=groups)

    def pointwise(self, x, b):
        """A 1x1 convolution."""
        return F.conv2d(x, self.weight(b % 35 + 1, x.shape[1], 1, 1))

    def depthwise(self, x, b):
        """One filter for each channel."""
        return F.conv2d(x, self.weight(x.shape[1], 1, 3, 3), self.weight(x.shape[1]), padding=1,
                        groups=x.shape[1])

    def transposed(self, x, b):
        """A transposed convolution."""
        return F.conv_transpose2d(x, self.weight(x.shape[1], b % 6 + 1, 3, 3),
                                  self.weight(b % 6 + 1), stride=1 + b % 2, padding=1)

    def relu(self, x, b):
        """Relu."""
        return F.relu(x)

    def silu(self, x, b):
        """Silu."""
        return F.silu(x)

    def max_pool(self, x, b):
        """Max pooling."""
        return F.max_pool2d(x, 3, stride=1 + b % 2, padding=1)

    def avg_pool(self, x, b):
        """Average pooling."""
        return F.avg_pool2d(x, 2, stride=1, padding=1)

    def upsample(self, x, b):
        """Nearest or bilinear, twice as large."""
        return F.interpolate(x, scale_factor=2, mode=("nearest", "bilinear")[b % 2])

    def norm(self, x, b):
        """Batch norm with fixed statistics."""
        c = x.shape[1]
        return F.batch_norm(x, self.weight(c), abs(self.weight(c)) + 0.5, self.weight(c))

    def residual(self, x, b):
        """The sum of two values of one shape."""
        same = [v for v in self.values if v.shape == x.shape]
        return x + same[b % len(same)]

    def concat(self, x, b):
        """Channels side by side."""
        same = [v for v in self.values if v.shape[2:] == x.shape[2:]]
        return F.concat([x, *same[:1 + b % 3]], 1)

    def gate(self, x, b):
        """Squeeze and excite."""
        return x * F.sigmoid(F.conv2d(F.adaptive_avg_pool2d(x, 1),
                                      self.weight(x.shape[1], x.shape[1], 1, 1)))

    def shuffle(self, x, b):
        """Channels in another order."""
        n, c, h, w = x.shape
        g = next(k for k in (4, 3, 2, 1) if c % k == 0)
        return x.reshape(n, g, c // g, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)

    def slice(self, x, b):
        """Some rows, or some channels."""
        return x[:, b % x.shape[1]:] if b % 2 else x[:, :, ::2]

    def pad(self, x, b):
        """Zeros or reflection around the image."""
        return F.pad(x, (1, 0, 0, 2)) if b % 2 else F.pad(x, (1, 1, 1, 1), mode="replicate")

    def exp(self, x, b):
        """An operation without compiled steps."""
        return (-abs(x)).exp()

    def mean(self, x, b):
        """Less the mean over the image."""
        return x - x.mean((2, 3), keepdim=True)
