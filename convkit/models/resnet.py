"""Residual networks for images of 224x224, plain, wide and with groups.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016; Zagoruyko and
Komodakis, "Wide Residual Networks", 2016; Xie, Girshick, Dollar, Tu and He, "Aggregated
Residual Transformations for Deep Neural Networks", 2017.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.blocks import fan_out_init
from convkit.models.registry import register

__all__ = ["ResNet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
           "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, groups: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _projection(in_planes, planes, stride)

    def forward(self, x):
        """Return the block's output."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (with the stride, and in groups), 1x1 up, and a shortcut."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int, groups: int, width: int):
        super().__init__()
        inner = planes * width // 64 * groups
        outer = planes * self.expansion
        self.conv1 = nn.Conv2d(in_planes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample = _projection(in_planes, outer, stride)

    def forward(self, x):
        """Return the block's output."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _projection(in_planes: int, planes: int, stride: int) -> nn.Module:
    """Return the shortcut: the input itself, or a 1x1 convolution where the shape changes."""
    if stride == 1 and in_planes == planes:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False),
                         nn.BatchNorm2d(planes))


class ResNet(nn.Module):
    """A residual network of four stages.

    Parameters
    ----------
    block : type
        BasicBlock or Bottleneck.
    layers : tuple of int
        Blocks of each stage.
    num_classes, in_channels : int
    groups : int
        Of the bottlenecks' 3x3 convolutions.
    width_per_group : int
        Their channels in each group, for 64 planes.
    zero_init_residual : bool
        Start the last norm of every block at zero, so that blocks begin as identities.
    """

    def __init__(self, block: type, layers: tuple[int, ...], num_classes: int = 1000,
                 in_channels: int = 3, groups: int = 1, width_per_group: int = 64,
                 zero_init_residual: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        planes = 64
        for stage, count in enumerate(layers):
            wide, blocks = 64 << stage, []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(block(planes, wide, stride, groups, width_per_group))
                planes = wide * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(planes, num_classes)
        fan_out_init(self)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
                    nn.init.zeros_(last.weight)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


@register
def resnet18(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-18: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, **options)


@register
def resnet34(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, **options)


@register
def resnet50(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-50 with the stride in the 3x3 convolutions: 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, **options)


@register
def resnet101(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-101: 44,549,160 parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, **options)


@register
def resnet152(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-152: 60,192,808 parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, in_channels, **options)


@register
def resnext50_32x4d(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNeXt-50 with 32 groups of 4: 25,028,904 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, 32, 4, **options)


@register
def resnext101_32x8d(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNeXt-101 with 32 groups of 8: 88,791,336 parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, 32, 8, **options)


@register
def wide_resnet50_2(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-50 with inner convolutions twice as wide: 68,883,240 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, 1, 128, **options)


@register
def wide_resnet101_2(num_classes: int = 1000, in_channels: int = 3, **options) -> ResNet:
    """ResNet-101 with inner convolutions twice as wide: 126,886,696 parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, 1, 128, **options)
