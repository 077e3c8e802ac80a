"""Networks written once for both libraries: the layers come from `nn`, the functions from `F`.

`nn` and `F` are ``convkit.nn`` and ``convkit.functional``, or ``torch.nn`` and
``torch.nn.functional``; nothing else differs, so both sides run the same program.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NETWORKS"]


def lenet5(nn: Any, F: Any) -> Any:
    """Return LeNet-5 with ReLU and max pooling, for (N, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def lenet_wide(nn: Any, F: Any) -> Any:
    """Return two 5x5 convolutions of 32 and 64 channels and two linear layers, for (N, 1, 28, 28).

    The network of TensorFlow's first tutorials on MNIST: LeNet-5's form, 29 times its products.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10))


def convnet(nn: Any, F: Any) -> Any:
    """Return four stages of convolution, batch norm, ReLU and pooling, for (N, 1, 28, 28)."""
    layers, before = [], 1
    for width in (16, 32, 64, 128):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                   nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, 10))


def resnet20(nn: Any, F: Any) -> Any:
    """Return ResNet-20 with parameter-free shortcuts, for (N, 3, 32, 32)."""

    class Block(nn.Module):
        def __init__(self, planes_in, planes, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.widen = planes - planes_in

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.widen:
                half = self.widen // 2
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
            return F.relu(y + x)

    blocks, before = [], 16
    for width in (16, 32, 64):
        for _ in range(3):
            blocks.append(Block(before, width, 1 if before == width else 2))
            before = width
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
                         nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))


def resnet(nn: Any, F: Any, bottleneck: bool, depths: tuple[int, ...]) -> Any:
    """Return a ResNet of He et al. (2016) for (N, 3, 224, 224); strides are in the 3x3 layers."""

    def norm_conv(before, planes, size, stride=1):
        return nn.Sequential(nn.Conv2d(before, planes, size, stride=stride, padding=size // 2,
                                       bias=False), nn.BatchNorm2d(planes))

    class Block(nn.Module):
        def __init__(self, before, planes, stride):
            super().__init__()
            after = planes * 4 if bottleneck else planes
            sizes = ([(planes, 1, 1), (planes, 3, stride), (after, 1, 1)] if bottleneck
                     else [(planes, 3, stride), (planes, 3, 1)])
            layers, width = [], before
            for planes_, size, step in sizes:
                layers += [norm_conv(width, planes_, size, step), nn.ReLU()]
                width = planes_
            self.layers = nn.Sequential(*layers[:-1])
            self.short = nn.Sequential() if before == after and stride == 1 else \
                norm_conv(before, after, 1, stride)

        def forward(self, x):
            return F.relu(self.layers(x) + self.short(x))

    blocks, before = [], 64
    for number, depth in enumerate(depths):
        planes = 64 << number
        for i in range(depth):
            blocks.append(Block(before, planes, 2 if number and not i else 1))
            before = planes * 4 if bottleneck else planes
    return nn.Sequential(norm_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000))


def resnet18(nn: Any, F: Any) -> Any:
    """Return ResNet-18."""
    return resnet(nn, F, False, (2, 2, 2, 2))


def resnet50(nn: Any, F: Any) -> Any:
    """Return ResNet-50."""
    return resnet(nn, F, True, (3, 4, 6, 3))


def mobilenet_v2(nn: Any, F: Any) -> Any:
    """Return MobileNetV2 of Sandler et al. (2018), without dropout, for (N, 3, 224, 224)."""

    def layer(before, planes, size=3, stride=1, groups=1):
        return [nn.Conv2d(before, planes, size, stride=stride, padding=size // 2, groups=groups,
                          bias=False), nn.BatchNorm2d(planes), nn.ReLU6()]

    class Block(nn.Module):
        def __init__(self, before, planes, stride, widen):
            super().__init__()
            inner = before * widen
            self.layers = nn.Sequential(
                *(layer(before, inner, 1) if widen > 1 else []),
                *layer(inner, inner, 3, stride, inner), *layer(inner, planes, 1)[:-1])
            self.adds = stride == 1 and before == planes

        def forward(self, x):
            return x + self.layers(x) if self.adds else self.layers(x)

    blocks, before = [], 32
    for widen, planes, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2),
                                         (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                                         (6, 320, 1, 1)):
        for i in range(count):
            blocks.append(Block(before, planes, 1 if i else stride, widen))
            before = planes
    return nn.Sequential(*layer(3, 32, 3, 2), *blocks, *layer(320, 1280, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


# name -> (builder, shape of a sample, batch size)
NETWORKS = {
    "lenet5": (lenet5, (1, 28, 28), 128),
    "lenet_wide": (lenet_wide, (1, 28, 28), 128),
    "convnet": (convnet, (1, 28, 28), 128),
    "resnet20": (resnet20, (3, 32, 32), 128),
    "resnet18": (resnet18, (3, 224, 224), 16),
    "resnet50": (resnet50, (3, 224, 224), 8),
    "mobilenet_v2": (mobilenet_v2, (3, 224, 224), 16),
}
