"""A small network of convolution, batch norm, ReLU and pooling."""

from __future__ import annotations

from collections.abc import Sequence

from convkit import nn
from convkit.models.registry import register

__all__ = ["ConvNet", "convnet"]


class ConvNet(nn.Module):
    """Stages of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then a linear layer.

    After the last stage, each channel's mean over the whole image takes the place of the
    pooling, so that images of any size can come in; each stage but the last halves it.

    Parameters
    ----------
    num_classes : int
    in_channels : int
    widths : sequence of int
        Channels of each stage.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1,
                 widths: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((in_channels, *widths[:-1]), widths, strict=True):
            # Batch norm subtracts the mean, which would cancel a bias.
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False),
                       nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        layers[-1] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], num_classes))

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(self.features(x))


@register
def convnet(num_classes: int = 10, in_channels: int = 1) -> ConvNet:
    """Four stages of 16 to 128 channels, for images from 8x8 pixels: small and quick."""
    return ConvNet(num_classes, in_channels)
