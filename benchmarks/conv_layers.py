"""Convolution layers, forward and both gradients, beside PyTorch in float32.

PyTorch runs twice, on contiguous and on channels-last tensors; the `best` column divides
its faster form by convkit's time (above 1: convkit is faster). Forward is inference: no
gradients recorded, weights unchanged between calls, so convkit packs them once. Gradients
are single (only the input's, only the weight's); weights are packed in every call, as in
training.

    python benchmarks/conv_layers.py
    python benchmarks/conv_layers.py --only depthwise --passes forward
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import numpy as np

import convkit
from convkit import functional as F
from convkit import nn
from convkit.ops.conv import Conv
from convkit.ops.op import Context

PASSES = ("forward", "grad input", "grad weight")


class Layer(NamedTuple):
    """One convolution of square images with square kernels, padded to keep or halve sizes."""

    kind: str
    batch: int
    channels: int
    filters: int
    size: int
    kernel: int
    stride: int = 1
    groups: int = 1
    pad: int | None = None

    @property
    def padding(self) -> int:
        """Padding of every side."""
        return self.kernel // 2 if self.pad is None else self.pad

    @property
    def out(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        """One line that says everything."""
        groups = f" g{self.groups}" if self.groups not in (1, self.channels) else ""
        return (f"{self.kind} b{self.batch} {self.channels}->{self.filters}{groups} "
                f"{self.size}x{self.size} k{self.kernel} s{self.stride}")

    @property
    def operations(self) -> float:
        """Floating-point operations of one pass, two for a multiply-add."""
        return (2.0 * self.batch * self.out ** 2 * self.filters
                * (self.channels // self.groups) * self.kernel ** 2)

    @property
    def bytes(self) -> float:
        """Bytes of input and output."""
        return 4.0 * self.batch * (self.channels * self.size ** 2 + self.filters * self.out ** 2)


def _depthwise(batch: int, channels: int, size: int, stride: int = 1, kernel: int = 3) -> Layer:
    return Layer("depthwise", batch, channels, channels, size, kernel, stride, channels)


LAYERS = [
    # The layer by which the direct convolution is judged.
    Layer("3x3", 8, 64, 64, 56, 3),
    # ResNet-50 and -18
    Layer("first 7x7", 8, 3, 64, 224, 7, 2),
    Layer("3x3", 8, 128, 128, 28, 3),
    Layer("3x3", 8, 256, 256, 14, 3),
    Layer("3x3", 8, 512, 512, 7, 3),
    Layer("3x3 stride 2", 8, 128, 128, 56, 3, 2),
    Layer("1x1", 8, 64, 256, 56, 1),
    Layer("1x1", 8, 256, 64, 56, 1),
    Layer("1x1", 8, 1024, 256, 14, 1),
    Layer("1x1 stride 2", 8, 256, 512, 56, 1, 2),
    # one image at a time
    Layer("3x3", 1, 64, 64, 56, 3),
    Layer("3x3", 1, 256, 256, 14, 3),
    Layer("1x1", 1, 256, 64, 56, 1),
    # ResNeXt-50
    Layer("grouped", 8, 128, 128, 56, 3, 1, 32),
    Layer("grouped", 8, 256, 256, 28, 3, 1, 32),
    # CIFAR's ResNet-20, LeNet-5
    Layer("cifar", 64, 3, 16, 32, 3),
    Layer("cifar", 64, 16, 16, 32, 3),
    Layer("cifar", 64, 32, 32, 16, 3),
    Layer("cifar", 64, 64, 64, 8, 3),
    Layer("cifar", 64, 16, 32, 32, 3, 2),
    Layer("lenet", 64, 1, 6, 28, 5),
    Layer("lenet", 64, 6, 16, 14, 5, pad=0),
    # MobileNetV2 and a 5x5 of EfficientNet
    *[_depthwise(batch, *rest) for batch in (8, 1) for rest in [
        (32, 112), (96, 112, 2), (144, 56), (144, 56, 2), (192, 28), (384, 14), (576, 14),
        (960, 7), (240, 14, 1, 5)]],
]


class Case:
    """One layer's arrays, and its passes on every side."""

    def __init__(self, layer: Layer):
        torch = common.require_torch()
        rng = np.random.default_rng(0)
        self.layer = layer
        shape = (layer.batch, layer.channels, layer.size, layer.size)
        self.x = _channels_last(rng.standard_normal(shape, dtype=np.float32))
        in_group = layer.channels // layer.groups
        w = rng.standard_normal((layer.filters, in_group, layer.kernel, layer.kernel),
                                dtype=np.float32)
        self.w = w / np.float32(math.sqrt(in_group * layer.kernel ** 2))
        self.gy = _channels_last(rng.standard_normal(
            (layer.batch, layer.filters, layer.out, layer.out), dtype=np.float32))
        last = torch.channels_last
        self.tensors = {
            "torch contiguous": [torch.from_numpy(np.ascontiguousarray(a))
                                 for a in (self.x, self.w, self.gy)],
            "torch channels_last": [torch.from_numpy(a).contiguous(memory_format=last)
                                    for a in (self.x, self.w, self.gy)],
        }

    def sides(self, which: str) -> dict[str, Callable[[], Any]]:
        """Return each side's function for one pass, convkit's first."""
        ours = self._ours_forward() if which == "forward" else self._ours_gradient(which)
        theirs = self._torch_forward if which == "forward" else self._torch_gradient
        return {"convkit": ours, **{side: theirs(which, *tensors)
                                    for side, tensors in self.tensors.items()}}

    def _ours_forward(self) -> Callable[[], Any]:
        x, weight = convkit.from_numpy(self.x), nn.Parameter(self.w)
        layer = self.layer

        def call():
            with convkit.no_grad():
                return F.conv2d(x, weight, None, layer.stride, layer.padding, 1,
                                layer.groups).numpy()

        return call

    def _ours_gradient(self, which: str) -> Callable[[], Any]:
        layer, wanted = self.layer, PASSES.index(which) - 1
        pad = layer.padding
        ctx = Context(tuple(i == wanted for i in range(2)), convkit.get_num_threads())
        Conv.forward(ctx, self.x, self.w, stride=(layer.stride,) * 2, padding=((pad, pad),) * 2,
                     dilation=(1, 1), groups=layer.groups)
        return lambda: Conv.backward(ctx, self.gy)[wanted]

    def _torch_forward(self, _which: str, x, w, _gy) -> Callable[[], Any]:
        torch, layer = common.require_torch(), self.layer

        def call():
            with torch.no_grad():
                return torch.nn.functional.conv2d(x, w, None, layer.stride, layer.padding, 1,
                                                  layer.groups)

        return call

    def _torch_gradient(self, which: str, x, w, gy) -> Callable[[], Any]:
        torch, layer, wanted = common.require_torch(), self.layer, PASSES.index(which) - 1
        mask = [i == wanted for i in range(3)]

        def call():
            return torch.ops.aten.convolution_backward(
                gy, x, w, None, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0],
                layer.groups, mask)[wanted]

        return call


def _channels_last(a: np.ndarray) -> np.ndarray:
    """Return (N, C, H, W) with pixels' channels side by side in memory."""
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def run(layer: Layer, which: str, options: Any, agreement: common.Agreement) -> dict[str, Any]:
    """Check and time one pass of one layer."""
    sides = Case(layer).sides(which)
    results = {name: np.asarray(call()) for name, call in sides.items()}
    errors = [agreement.check(f"{layer.name}, {which}, {name}", results["convkit"], theirs)
              for name, theirs in results.items() if name != "convkit"]
    timing = common.interleave(sides, options.seconds, options.quick,
                               lambda: common.peak(options.threads))
    seconds = timing["convkit"]["seconds"]
    return {"layer": layer.name, "pass": which, "difference": max(errors), "timing": timing,
            "gflops": layer.operations / seconds / 1e9,
            "fma peak gflops": timing["convkit"]["rate"],
            "share of peak": layer.operations / 1e9 * timing["convkit"]["per rate"],
            "gbs": layer.bytes / seconds / 1e9,
            "best": min(t["ratio"] for n, t in timing.items() if n != "convkit")}


def row(result: dict[str, Any]) -> list[str]:
    """Return a result as a line of the table."""
    timing = result["timing"]
    return [result["layer"], *[f"{t['seconds'] * 1e6:.0f}" for t in timing.values()],
            f"{result['best']:.2f}", f"{result['gflops']:.0f}",
            f"{100 * result['share of peak']:.0f}%", f"{result['gbs']:.1f}",
            f"{result['difference']:.0e}"]


def main() -> None:
    """Run the table."""
    parser = common.arguments(__doc__.splitlines()[0], seconds=2.0)
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    options = parser.parse_args()
    common.require_torch()
    common.set_threads(options.threads)
    record = common.machine(options.threads)
    common.print_machine(record)
    agreement = common.Agreement(1e-4)
    layers = [layer for layer in LAYERS if options.only in layer.name]
    if options.quick:
        layers = [Layer("3x3", 1, 16, 16, 14, 3), _depthwise(1, 16, 14)]
    results = []
    for which in options.passes:
        part = [run(layer, which, options, agreement) for layer in layers]
        print(f"{which}: microseconds a call; best: PyTorch's faster form / convkit")
        common.print_table(["layer", "convkit", "torch contig.", "torch ch.last", "best",
                            "GFLOP/s", "of peak", "GB/s", "difference"], map(row, part))
        results += part
    common.write_results("conv_layers", options, record, results)
    agreement.finish()


if __name__ == "__main__":
    main()
