"""The convolution layers of well-known networks: what the layer suite runs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NETWORKS", "QUICK", "Layer"]

Pair = tuple[int, int]


class Layer(NamedTuple):
    """One convolution of square images, padded to keep the size (or to divide it by stride).

    `count` says how often the network has it.
    """

    network: str
    batch: int
    channels: int
    filters: int
    size: int
    kernel: Pair
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    count: int = 1

    @property
    def padding(self) -> Pair:
        """Padding of both sides, by axis."""
        return tuple(self.dilation * (k - 1) // 2 for k in self.kernel)

    @property
    def out(self) -> Pair:
        """Height and width of the output."""
        return tuple((self.size + 2 * p - self.dilation * (k - 1) - 1) // self.stride + 1
                     for p, k in zip(self.padding, self.kernel, strict=True))

    @property
    def kind(self) -> str:
        """A word for the family of layers."""
        if self.groups == self.channels > 1:
            return f"depthwise {self.kernel[0]}x{self.kernel[1]}"
        if self.groups > 1:
            return "grouped"
        if self.size == 1:
            return "linear"
        if self.channels <= 4:
            return "first"
        if self.dilation > 1:
            return "dilated"
        name = f"{self.kernel[0]}x{self.kernel[1]}"
        return name if self.stride == 1 else f"{name} stride {self.stride}"

    @property
    def name(self) -> str:
        """One line that says everything."""
        parts = [self.network, f"b{self.batch}", f"{self.channels}->{self.filters}",
                 f"{self.size}x{self.size}", f"k{self.kernel[0]}x{self.kernel[1]}",
                 f"s{self.stride}"]
        if self.dilation > 1:
            parts.append(f"d{self.dilation}")
        if self.groups > 1:
            parts.append(f"g{self.groups}")
        return " ".join(parts)

    @property
    def operations(self) -> float:
        """Floating-point operations of one pass, two for a multiply-add."""
        return (2.0 * self.batch * self.out[0] * self.out[1] * self.filters
                * (self.channels // self.groups) * self.kernel[0] * self.kernel[1])

    @property
    def bytes(self) -> float:
        """Bytes of input, output and weights in float32, each counted once."""
        return 4.0 * (self.batch * (self.channels * self.size ** 2
                                    + self.filters * self.out[0] * self.out[1])
                      + self.filters * self.channels // self.groups
                      * self.kernel[0] * self.kernel[1])


def _layers(network: str, batch: int, *rows: tuple) -> list[Layer]:
    """Return layers from (channels, filters, size, kernel, stride, count[, groups]) rows."""
    return [Layer(network, batch, c, o, size, (k, k), s, 1, groups[0] if groups else 1, count)
            for c, o, size, k, s, count, *groups in rows]


def _resnet50(batch: int) -> list[Layer]:
    """He et al. 2015, in torchvision's form (stride in the 3x3 convolution)."""
    return _layers(
        "resnet50", batch, (3, 64, 224, 7, 2, 1),
        (64, 64, 56, 1, 1, 1), (256, 64, 56, 1, 1, 2), (64, 64, 56, 3, 1, 3),
        (64, 256, 56, 1, 1, 4),
        (256, 128, 56, 1, 1, 1), (128, 128, 56, 3, 2, 1), (256, 512, 56, 1, 2, 1),
        (512, 128, 28, 1, 1, 3), (128, 128, 28, 3, 1, 3), (128, 512, 28, 1, 1, 4),
        (512, 256, 28, 1, 1, 1), (256, 256, 28, 3, 2, 1), (512, 1024, 28, 1, 2, 1),
        (1024, 256, 14, 1, 1, 5), (256, 256, 14, 3, 1, 5), (256, 1024, 14, 1, 1, 6),
        (1024, 512, 14, 1, 1, 1), (512, 512, 14, 3, 2, 1), (1024, 2048, 14, 1, 2, 1),
        (2048, 512, 7, 1, 1, 2), (512, 512, 7, 3, 1, 2), (512, 2048, 7, 1, 1, 3))


def _vgg16(batch: int) -> list[Layer]:
    """Simonyan and Zisserman 2014."""
    return _layers(
        "vgg16", batch, (3, 64, 224, 3, 1, 1), (64, 64, 224, 3, 1, 1), (64, 128, 112, 3, 1, 1),
        (128, 128, 112, 3, 1, 1), (128, 256, 56, 3, 1, 1), (256, 256, 56, 3, 1, 2),
        (256, 512, 28, 3, 1, 1), (512, 512, 28, 3, 1, 2), (512, 512, 14, 3, 1, 3))


def _mobilenet_v2(batch: int) -> list[Layer]:
    """Sandler et al. 2018."""
    return _layers(
        "mobilenet_v2", batch, (3, 32, 224, 3, 2, 1),
        (32, 32, 112, 3, 1, 1, 32), (32, 16, 112, 1, 1, 1), (16, 96, 112, 1, 1, 1),
        (96, 96, 112, 3, 2, 1, 96), (96, 24, 56, 1, 1, 1), (24, 144, 56, 1, 1, 2),
        (144, 144, 56, 3, 1, 1, 144), (144, 24, 56, 1, 1, 1), (144, 144, 56, 3, 2, 1, 144),
        (144, 32, 28, 1, 1, 1), (32, 192, 28, 1, 1, 3), (192, 192, 28, 3, 1, 2, 192),
        (192, 32, 28, 1, 1, 2), (192, 192, 28, 3, 2, 1, 192), (192, 64, 14, 1, 1, 1),
        (64, 384, 14, 1, 1, 4), (384, 384, 14, 3, 1, 4, 384), (384, 64, 14, 1, 1, 3),
        (384, 96, 14, 1, 1, 1), (96, 576, 14, 1, 1, 3), (576, 576, 14, 3, 1, 2, 576),
        (576, 96, 14, 1, 1, 2), (576, 576, 14, 3, 2, 1, 576), (576, 160, 7, 1, 1, 1),
        (160, 960, 7, 1, 1, 3), (960, 960, 7, 3, 1, 3, 960), (960, 160, 7, 1, 1, 2),
        (960, 320, 7, 1, 1, 1), (320, 1280, 7, 1, 1, 1))


def _resnet20(batch: int) -> list[Layer]:
    """He et al. 2015, the CIFAR form."""
    return _layers(
        "resnet20", batch, (3, 16, 32, 3, 1, 1), (16, 16, 32, 3, 1, 6), (16, 32, 32, 3, 2, 1),
        (32, 32, 16, 3, 1, 5), (32, 64, 16, 3, 2, 1), (64, 64, 8, 3, 1, 5))


# Forms that the four networks above lack: long kernels of Inception v3, the dilated layers of
# DeepLab, the grouped ones of ResNeXt and ShuffleNet, a 5x5 depthwise of EfficientNet.
_FORMS = [
    Layer("inception", 8, 768, 192, 17, (1, 1)),
    Layer("inception", 8, 128, 128, 17, (1, 7)),
    Layer("inception", 8, 128, 192, 17, (7, 1)),
    Layer("inception", 8, 192, 192, 17, (1, 7)),
    Layer("deeplab", 8, 256, 256, 28, (3, 3), dilation=2),
    Layer("deeplab", 8, 512, 512, 28, (3, 3), dilation=4),
    *_layers("resnext50", 8, (128, 128, 56, 3, 1, 1, 32), (256, 256, 28, 3, 1, 1, 32),
             (512, 512, 14, 3, 1, 1, 32), (1024, 1024, 7, 3, 1, 1, 32)),
    *_layers("shufflenet", 8, (240, 60, 28, 1, 1, 1, 3), (240, 240, 14, 5, 1, 1, 240)),
]

# AlexNet's second layer, the 5x5 ones of Inception v1 and v3, and of networks for CIFAR-10 and
# MNIST.
_FIVES = [
    *_layers("alexnet", 8, (64, 192, 27, 5, 1, 1)),
    *_layers("inception", 8, (48, 64, 35, 5, 1, 3), (16, 32, 28, 5, 1, 1), (32, 96, 28, 5, 1, 1)),
    *_layers("small images", 128, (32, 64, 14, 5, 1, 1), (64, 64, 14, 5, 1, 1)),
]

# Linear layers on one sample: as fast as weights come from memory.
_LINEAR = _layers("linear", 1, (2048, 1000, 1, 1, 1, 1), (4096, 4096, 1, 1, 1, 1),
                  (25088, 4096, 1, 1, 1, 1))

NETWORKS: dict[str, list[Layer]] = {
    "resnet50": _resnet50(8), "resnet50 b1": _resnet50(1), "vgg16": _vgg16(8),
    "mobilenet_v2": _mobilenet_v2(8), "mobilenet_v2 b1": _mobilenet_v2(1),
    "resnet20": _resnet20(128), "forms": _FORMS, "5x5": _FIVES, "linear": _LINEAR,
}

QUICK = [Layer("quick", 1, 16, 16, 14, (3, 3)), Layer("quick", 1, 16, 16, 14, (3, 3), groups=16)]
