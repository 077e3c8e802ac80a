"""SqueezeNet.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size", 2016; version 1.1 is that of its authors' repository.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.registry import register

__all__ = ["SqueezeNet", "squeezenet1_0", "squeezenet1_1"]

# A number is a fire module with so many squeezed channels, and four times as many of each of
# the expanded; "pool" is a max pooling.
LAYOUTS = {"1_0": ((96, 7), (16, 16, 32, "pool", 32, 48, 48, 64, "pool", 64)),
           "1_1": ((64, 3), (16, 16, "pool", 32, 32, "pool", 48, 48, 64, 64))}


class Fire(nn.Module):
    """1x1 down, then 1x1 and 3x3 up side by side."""

    def __init__(self, in_channels: int, squeezed: int):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, 4 * squeezed, 1)
        self.expand3x3 = nn.Conv2d(squeezed, 4 * squeezed, 3, padding=1)

    def forward(self, x):
        """Return the module's output."""
        x = F.relu(self.squeeze(x))
        return F.concat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet.

    Parameters
    ----------
    version : "1_0" or "1_1"
    num_classes, in_channels : int
    dropout : float
    """

    def __init__(self, version: str = "1_0", num_classes: int = 1000, in_channels: int = 3,
                 dropout: float = 0.5):
        super().__init__()
        (channels, kernel), rest = LAYOUTS[version]
        layers = [nn.Conv2d(in_channels, channels, kernel, 2), nn.ReLU(),
                  nn.MaxPool2d(3, 2, ceil_mode=True)]
        for entry in rest:
            if entry == "pool":
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            else:
                layers.append(Fire(channels, entry))
                channels = 8 * entry
        last = nn.Conv2d(channels, num_classes, 1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(),
                                        nn.AdaptiveAvgPool2d(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, 0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return F.flatten(self.classifier(self.features(x)), 1)


@register
def squeezenet1_0(num_classes: int = 1000, in_channels: int = 3, **options) -> SqueezeNet:
    """SqueezeNet 1.0: 1,248,424 parameters."""
    return SqueezeNet("1_0", num_classes, in_channels, **options)


@register
def squeezenet1_1(num_classes: int = 1000, in_channels: int = 3, **options) -> SqueezeNet:
    """SqueezeNet 1.1, with less than half the work of 1.0: 1,235,496 parameters."""
    return SqueezeNet("1_1", num_classes, in_channels, **options)
