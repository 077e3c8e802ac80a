"""Residual networks in their form for CIFAR's 32x32 images."""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.registry import register

__all__ = ["BasicBlock", "ResNetCIFAR", "resnet20", "resnet32", "resnet56"]

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, and a shortcut around them.

    Where the block halves the image and widens it, the shortcut takes every second pixel
    and fills the new channels with zeros; it has no parameters (option A of the paper).
    """

    def __init__(self, in_planes: int, planes: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.widen = planes - in_planes

    def forward(self, x):
        """Return the block's output."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self._shortcut(x))

    def _shortcut(self, x):
        if self.stride == 1 and self.widen == 0:
            return x
        before = self.widen // 2
        thinned = x[:, :, ::self.stride, ::self.stride]
        return F.pad(thinned, (0, 0, 0, 0, before, self.widen - before))


class ResNetCIFAR(nn.Module):
    """The residual network of 6n + 2 layers for 32x32 images.

    Parameters
    ----------
    blocks : int
        n, the number of blocks in each of the three stages.
    num_classes : int
    in_channels : int

    Notes
    -----
    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016,
    section 4.2. Weights start as in He et al., "Delving Deep into Rectifiers", 2015.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[0], blocks, 1)
        self.layer2 = self._stage(WIDTHS[0], WIDTHS[1], blocks, 2)
        self.layer3 = self._stage(WIDTHS[1], WIDTHS[2], blocks, 2)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_planes, planes, stride)
        return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(blocks - 1)))

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.flatten(F.adaptive_avg_pool2d(x, 1), 1))


@register
def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNetCIFAR:
    """ResNet-20 for 32x32 images: 269,722 parameters."""
    return ResNetCIFAR(3, num_classes, in_channels)


@register
def resnet32(num_classes: int = 10, in_channels: int = 3) -> ResNetCIFAR:
    """ResNet-32 for 32x32 images: 464,154 parameters."""
    return ResNetCIFAR(5, num_classes, in_channels)


@register
def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNetCIFAR:
    """ResNet-56 for 32x32 images: 853,018 parameters."""
    return ResNetCIFAR(9, num_classes, in_channels)
