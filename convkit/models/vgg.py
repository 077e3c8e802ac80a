"""Networks of 3x3 convolutions, with batch norm or without.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.blocks import fan_out_init
from convkit.models.registry import register

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
           "vgg19_bn"]

WIDTHS = (64, 128, 256, 512, 512)
# Convolutions of each of the five stages, which end with a max pooling.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, then three linear layers.

    Parameters
    ----------
    depth : 11, 13, 16 or 19
        Layers with weights.
    batch_norm : bool
    num_classes, in_channels : int
    dropout : float
    """

    def __init__(self, depth: int, batch_norm: bool = False, num_classes: int = 1000,
                 in_channels: int = 3, dropout: float = 0.5):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width, count in zip(WIDTHS, DEPTHS[depth], strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1),
                           *([nn.BatchNorm2d(width)] if batch_norm else []), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, num_classes))
        fan_out_init(self, linear_std=0.01)

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(F.flatten(self.avgpool(self.features(x)), 1))


def _entry(depth: int, batch_norm: bool):
    def build(num_classes: int = 1000, in_channels: int = 3, **options) -> VGG:
        return VGG(depth, batch_norm, num_classes, in_channels, **options)

    build.__name__ = build.__qualname__ = f"vgg{depth}" + "_bn" * batch_norm
    build.__doc__ = f"Make VGG-{depth}{' with batch norm' * batch_norm}."
    return register(build)


vgg11, vgg13, vgg16, vgg19 = (_entry(depth, False) for depth in DEPTHS)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (_entry(depth, True) for depth in DEPTHS)
