"""Densely connected networks.

Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", 2017.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.blocks import pooled
from convkit.models.registry import register

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]


class DenseLayer(nn.Module):
    """Norm, 1x1, norm, 3x3; its output is joined to its input."""

    def __init__(self, in_channels: int, growth: int, drop_rate: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, x):
        """Return x with the new channels after its own."""
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        if self.drop_rate:
            new = F.dropout(new, self.drop_rate, self.training)
        return F.concat([x, new], 1)


class Transition(nn.Module):
    """Norm, 1x1 to half the channels, average pooling to half the size."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x):
        """Return the halved maps."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """A densely connected network of four blocks.

    Parameters
    ----------
    growth : int
        New channels of a layer.
    layers : tuple of int
        Layers of each block.
    first : int
        Channels of the first convolution.
    num_classes, in_channels : int
    drop_rate : float
        Dropout after every layer.
    """

    def __init__(self, growth: int, layers: tuple[int, ...], first: int, num_classes: int = 1000,
                 in_channels: int = 3, drop_rate: float = 0.0):
        super().__init__()
        self.features = features = nn.Sequential()
        features.add_module("conv0", nn.Conv2d(in_channels, first, 7, 2, 3, bias=False))
        features.add_module("norm0", nn.BatchNorm2d(first))
        features.add_module("relu0", nn.ReLU())
        features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        channels = first
        for number, count in enumerate(layers, 1):
            block = nn.Sequential()
            for i in range(1, count + 1):
                block.add_module(f"denselayer{i}", DenseLayer(channels, growth, drop_rate))
                channels += growth
            features.add_module(f"denseblock{number}", block)
            if number < len(layers):
                features.add_module(f"transition{number}", Transition(channels))
                channels //= 2
        features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(pooled(F.relu(self.features(x))))


@register
def densenet121(num_classes: int = 1000, in_channels: int = 3, **options) -> DenseNet:
    """DenseNet-121: 7,978,856 parameters."""
    return DenseNet(32, (6, 12, 24, 16), 64, num_classes, in_channels, **options)


@register
def densenet161(num_classes: int = 1000, in_channels: int = 3, **options) -> DenseNet:
    """DenseNet-161: 28,681,000 parameters."""
    return DenseNet(48, (6, 12, 36, 24), 96, num_classes, in_channels, **options)


@register
def densenet169(num_classes: int = 1000, in_channels: int = 3, **options) -> DenseNet:
    """DenseNet-169: 14,149,480 parameters."""
    return DenseNet(32, (6, 12, 32, 32), 64, num_classes, in_channels, **options)


@register
def densenet201(num_classes: int = 1000, in_channels: int = 3, **options) -> DenseNet:
    """DenseNet-201: 20,013,928 parameters."""
    return DenseNet(32, (6, 12, 48, 32), 64, num_classes, in_channels, **options)
