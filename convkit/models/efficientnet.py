"""EfficientNet.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019.
"""

from __future__ import annotations

import math

from convkit import nn
from convkit.models.blocks import (
    ConvNorm,
    SqueezeExcitation,
    fan_out_init,
    make_divisible,
    pooled,
)
from convkit.models.registry import register

__all__ = ["EfficientNet", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
           "efficientnet_b3", "efficientnet_b4"]

# Expansion, kernel, stride, channels out, blocks.
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
          (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))
# Factors of width and depth, and dropout.
SCALES = {"b0": (1.0, 1.0, 0.2), "b1": (1.0, 1.1, 0.2), "b2": (1.1, 1.2, 0.3),
          "b3": (1.2, 1.4, 0.3), "b4": (1.4, 1.8, 0.4)}
STOCHASTIC_DEPTH = 0.2


class MBConv(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation, 1x1 down; dropped at random in training."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int,
                 expansion: int, drop: float):
        super().__init__()
        inner = make_divisible(in_channels * expansion)
        up = [ConvNorm(in_channels, inner, 1, activation=nn.SiLU)] if inner != in_channels else []
        self.block = nn.Sequential(
            *up, ConvNorm(inner, inner, kernel, stride, inner, nn.SiLU),
            SqueezeExcitation(inner, max(1, in_channels // 4), nn.SiLU),
            ConvNorm(inner, out_channels, 1, activation=None))
        self.stochastic_depth = nn.StochasticDepth(drop, "row")
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x):
        """Return the block's output."""
        out = self.block(x)
        return self.stochastic_depth(out) + x if self.shortcut else out


class EfficientNet(nn.Module):
    """EfficientNet.

    Parameters
    ----------
    width, depth : float
        Factors of channels and blocks.
    dropout : float
    num_classes, in_channels : int
    """

    def __init__(self, width: float, depth: float, dropout: float, num_classes: int = 1000,
                 in_channels: int = 3):
        super().__init__()
        channels = make_divisible(32 * width)
        layers: list[nn.Module] = [ConvNorm(in_channels, channels, 3, 2, activation=nn.SiLU)]
        counts = [math.ceil(stage[-1] * depth) for stage in STAGES]
        done = 0
        for (expansion, kernel, stride, out, _), count in zip(STAGES, counts, strict=True):
            out, blocks = make_divisible(out * width), []
            for i in range(count):
                drop = STOCHASTIC_DEPTH * done / sum(counts)
                blocks.append(MBConv(channels, out, kernel, 1 if i else stride, expansion, drop))
                channels, done = out, done + 1
            layers.append(nn.Sequential(*blocks))
        layers.append(ConvNorm(channels, 4 * channels, 1, activation=nn.SiLU))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, num_classes))
        fan_out_init(self)
        bound = 1 / math.sqrt(num_classes)
        nn.init.uniform_(self.classifier[1].weight, -bound, bound)
        nn.init.zeros_(self.classifier[1].bias)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(pooled(self.features(x)))


def _entry(size: str):
    def build(num_classes: int = 1000, in_channels: int = 3) -> EfficientNet:
        return EfficientNet(*SCALES[size], num_classes, in_channels)

    build.__name__ = build.__qualname__ = f"efficientnet_{size}"
    build.__doc__ = f"Make EfficientNet-{size.upper()}."
    return register(build)


efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3, efficientnet_b4 = map(
    _entry, SCALES)
