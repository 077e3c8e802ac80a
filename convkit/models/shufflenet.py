"""ShuffleNet V2.

Ma, Zhang, Zheng and Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", 2018.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.blocks import ConvNorm, pooled
from convkit.models.registry import register

__all__ = ["ShuffleNetV2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
           "shufflenet_v2_x2_0"]

REPEATS = (4, 8, 4)
WIDTHS = {"x0_5": (48, 96, 192, 1024), "x1_0": (116, 232, 464, 1024),
          "x1_5": (176, 352, 704, 1024), "x2_0": (244, 488, 976, 2048)}


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels)]


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels),
            nn.ReLU()]


class ShuffleUnit(nn.Module):
    """Two branches whose channels are shuffled; with stride 1 one of them does nothing."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        half = out_channels // 2
        self.split = stride == 1
        first = half if self.split else in_channels
        self.branch1 = nn.Sequential(*([] if self.split else
                                       [*_depthwise(in_channels, stride),
                                        *_pointwise(in_channels, half)]))
        self.branch2 = nn.Sequential(*_pointwise(first, half), *_depthwise(half, stride),
                                     *_pointwise(half, half))

    def forward(self, x):
        """Return the unit's output."""
        half = x.shape[1] // 2
        left, right = (x[:, :half], x[:, half:]) if self.split else (self.branch1(x), x)
        return F.channel_shuffle(F.concat([left, self.branch2(right)], 1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2.

    Parameters
    ----------
    widths : tuple of int
        Channels of the three stages and of the last convolution.
    num_classes, in_channels : int
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int = 1000, in_channels: int = 3):
        super().__init__()
        channels = 24
        self.conv1 = ConvNorm(in_channels, channels, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, (width, count) in enumerate(zip(widths, REPEATS, strict=False), 2):
            units = [ShuffleUnit(channels if not i else width, width, 1 if i else 2)
                     for i in range(count)]
            setattr(self, f"stage{number}", nn.Sequential(*units))
            channels = width
        self.conv5 = ConvNorm(channels, widths[-1], 1)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.maxpool(self.conv1(x))
        return self.fc(pooled(self.conv5(self.stage4(self.stage3(self.stage2(x))))))


def _entry(width: str):
    def build(num_classes: int = 1000, in_channels: int = 3) -> ShuffleNetV2:
        return ShuffleNetV2(WIDTHS[width], num_classes, in_channels)

    build.__name__ = build.__qualname__ = f"shufflenet_v2_{width}"
    build.__doc__ = f"Make ShuffleNet V2 with {width[1:].replace('_', '.')} times the channels."
    return register(build)


shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0 = map(
    _entry, WIDTHS)
