"""Residual networks in their form for CIFAR's 32x32 images, and the same without shortcuts."""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.registry import register

__all__ = ["BasicBlock", "ResNetCIFAR", "plain20", "plain56", "resnet20", "resnet32", "resnet56"]

WIDTHS = (16, 32, 64)
SHORTCUTS = ("pad", "projection", "none")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, and a shortcut around them.

    Parameters
    ----------
    in_planes, planes, stride : int
        Channels before and after, and the first convolution's stride.
    shortcut : {"pad", "projection", "none"}
        What it is where the block halves the image and widens it: every second pixel, with
        zeros for the new channels (option A of the paper, without parameters), or a 1x1
        convolution with batch norm (option B). "none": the block has no shortcut at all.
    drop : float
        How likely the block's convolutions are left out for a sample in training.
    """

    def __init__(self, in_planes: int, planes: int, stride: int = 1, shortcut: str = "pad",
                 drop: float = 0.0):
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"expected shortcut of {', '.join(SHORTCUTS)}, got {shortcut!r}")
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.widen = planes - in_planes
        self.plain = shortcut == "none"
        self.drop = drop
        self.shortcut = None
        if shortcut == "projection" and (stride != 1 or self.widen):
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False),
                                          nn.BatchNorm2d(planes))

    def forward(self, x):
        """Return the block's output."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.plain:
            return F.relu(out)
        if self.drop:
            out = F.stochastic_depth(out, self.drop, training=self.training)
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x):
        if self.shortcut is not None:
            return self.shortcut(x)
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
    shortcut : {"pad", "projection", "none"}
        See `BasicBlock`; "none" makes the plain network of as many layers.
    stochastic_depth : float
        How likely the last block is left out for a sample in training; the others less so,
        in proportion to their place.

    Notes
    -----
    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2016,
    section 4.2. Weights start as in He et al., "Delving Deep into Rectifiers", 2015. Huang
    et al., "Deep Networks with Stochastic Depth", 2016, for the last parameter.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3, *,
                 shortcut: str = "pad", stochastic_depth: float = 0.0):
        super().__init__()
        if not 0 <= stochastic_depth < 1 or (stochastic_depth and shortcut == "none"):
            raise ValueError("expected stochastic_depth from 0 to below 1, and 0 without "
                             f"shortcuts, got {stochastic_depth}")
        drops = iter([stochastic_depth * (i + 1) / (3 * blocks) for i in range(3 * blocks)])
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        before = WIDTHS[0]
        for number, planes in enumerate(WIDTHS, 1):
            stage = [BasicBlock(before if i == 0 else planes, planes,
                                2 if number > 1 and i == 0 else 1, shortcut, next(drops))
                     for i in range(blocks)]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
            before = planes
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.flatten(F.adaptive_avg_pool2d(x, 1), 1))


@register
def resnet20(num_classes: int = 10, in_channels: int = 3, **options) -> ResNetCIFAR:
    """ResNet-20 for 32x32 images: 269,722 parameters; options as of `ResNetCIFAR`."""
    return ResNetCIFAR(3, num_classes, in_channels, **options)


@register
def resnet32(num_classes: int = 10, in_channels: int = 3, **options) -> ResNetCIFAR:
    """ResNet-32 for 32x32 images: 464,154 parameters; options as of `ResNetCIFAR`."""
    return ResNetCIFAR(5, num_classes, in_channels, **options)


@register
def resnet56(num_classes: int = 10, in_channels: int = 3, **options) -> ResNetCIFAR:
    """ResNet-56 for 32x32 images: 853,018 parameters; options as of `ResNetCIFAR`."""
    return ResNetCIFAR(9, num_classes, in_channels, **options)


@register
def plain20(num_classes: int = 10, in_channels: int = 3) -> ResNetCIFAR:
    """ResNet-20 without its shortcuts, to compare with."""
    return ResNetCIFAR(3, num_classes, in_channels, shortcut="none")


@register
def plain56(num_classes: int = 10, in_channels: int = 3) -> ResNetCIFAR:
    """ResNet-56 without its shortcuts, which learns worse than `plain20`."""
    return ResNetCIFAR(9, num_classes, in_channels, shortcut="none")
