"""Networks of inverted residuals: MobileNetV2 and V3.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018; Howard et al.,
"Searching for MobileNetV3", 2019.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from convkit import nn
from convkit.models.blocks import (
    ConvNorm,
    SqueezeExcitation,
    fan_out_init,
    make_divisible,
    pooled,
)
from convkit.models.registry import register

__all__ = ["MobileNetV2", "MobileNetV3", "mobilenet_v2", "mobilenet_v3_large",
           "mobilenet_v3_small"]

# Expansion, channels, blocks, stride of the first block.
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
             (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down without activation; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        inner = in_channels * expansion
        up = [ConvNorm(in_channels, inner, 1, activation=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *up, ConvNorm(inner, inner, 3, stride, inner, nn.ReLU6),
            nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x):
        """Return the block's output."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2.

    Parameters
    ----------
    num_classes, in_channels : int
    width_mult : float
        Scales the channels, rounded to multiples of 8.
    dropout : float
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0,
                 dropout: float = 0.2):
        super().__init__()
        channels = make_divisible(32 * width_mult)
        layers: list[nn.Module] = [ConvNorm(in_channels, channels, 3, 2, activation=nn.ReLU6)]
        for expansion, width, count, stride in V2_STAGES:
            width = make_divisible(width * width_mult)
            for i in range(count):
                layers.append(InvertedResidual(channels, width, 1 if i else stride, expansion))
                channels = width
        last = make_divisible(1280 * max(1.0, width_mult))
        layers.append(ConvNorm(channels, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        fan_out_init(self, linear_std=0.01)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(pooled(self.features(x)))


class Stage(NamedTuple):
    """One block of MobileNetV3, as in the paper's tables 1 and 2."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: type
    stride: int


_RE, _HS = nn.ReLU, nn.Hardswish
V3_LARGE = tuple(Stage(*row) for row in (
    (3, 16, 16, False, _RE, 1), (3, 64, 24, False, _RE, 2), (3, 72, 24, False, _RE, 1),
    (5, 72, 40, True, _RE, 2), (5, 120, 40, True, _RE, 1), (5, 120, 40, True, _RE, 1),
    (3, 240, 80, False, _HS, 2), (3, 200, 80, False, _HS, 1), (3, 184, 80, False, _HS, 1),
    (3, 184, 80, False, _HS, 1), (3, 480, 112, True, _HS, 1), (3, 672, 112, True, _HS, 1),
    (5, 672, 160, True, _HS, 2), (5, 960, 160, True, _HS, 1), (5, 960, 160, True, _HS, 1)))
V3_SMALL = tuple(Stage(*row) for row in (
    (3, 16, 16, True, _RE, 2), (3, 72, 24, False, _RE, 2), (3, 88, 24, False, _RE, 1),
    (5, 96, 40, True, _HS, 2), (5, 240, 40, True, _HS, 1), (5, 240, 40, True, _HS, 1),
    (5, 120, 48, True, _HS, 1), (5, 144, 48, True, _HS, 1), (5, 288, 96, True, _HS, 2),
    (5, 576, 96, True, _HS, 1), (5, 576, 96, True, _HS, 1)))
# The norms of MobileNetV3 are those of its authors' TensorFlow code.
_ConvNorm = partial(ConvNorm, eps=0.001, momentum=0.01)


class InvertedResidualV3(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation, 1x1 down; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, stage: Stage):
        super().__init__()
        inner, activation = stage.expanded, stage.activation
        layers: list[nn.Module] = []
        if inner != in_channels:
            layers.append(_ConvNorm(in_channels, inner, 1, activation=activation))
        layers.append(_ConvNorm(inner, inner, stage.kernel, stage.stride, inner, activation))
        if stage.squeeze:
            layers.append(SqueezeExcitation(inner, make_divisible(inner // 4),
                                            gate=nn.Hardsigmoid))
        layers.append(_ConvNorm(inner, stage.out, 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.shortcut = stage.stride == 1 and in_channels == stage.out

    def forward(self, x):
        """Return the block's output."""
        return self.block(x) + x if self.shortcut else self.block(x)


class MobileNetV3(nn.Module):
    """MobileNetV3.

    Parameters
    ----------
    stages : tuple of Stage
    hidden : int
        Width of the first linear layer.
    num_classes, in_channels : int
    dropout : float
    """

    def __init__(self, stages: tuple[Stage, ...], hidden: int, num_classes: int = 1000,
                 in_channels: int = 3, dropout: float = 0.2):
        super().__init__()
        layers: list[nn.Module] = [_ConvNorm(in_channels, 16, 3, 2, activation=nn.Hardswish)]
        channels = 16
        for stage in stages:
            layers.append(InvertedResidualV3(channels, stage))
            channels = stage.out
        layers.append(_ConvNorm(channels, 6 * channels, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(dropout),
            nn.Linear(hidden, num_classes))
        fan_out_init(self, linear_std=0.01)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(pooled(self.features(x)))


@register
def mobilenet_v2(num_classes: int = 1000, in_channels: int = 3, **options) -> MobileNetV2:
    """MobileNetV2: 3,504,872 parameters."""
    return MobileNetV2(num_classes, in_channels, **options)


@register
def mobilenet_v3_large(num_classes: int = 1000, in_channels: int = 3, **options) -> MobileNetV3:
    """MobileNetV3-Large: 5,483,032 parameters."""
    return MobileNetV3(V3_LARGE, 1280, num_classes, in_channels, **options)


@register
def mobilenet_v3_small(num_classes: int = 1000, in_channels: int = 3, **options) -> MobileNetV3:
    """MobileNetV3-Small: 2,542,856 parameters."""
    return MobileNetV3(V3_SMALL, 1024, num_classes, in_channels, **options)
