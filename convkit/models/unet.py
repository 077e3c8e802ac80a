"""U-Net, with padding and batch norm, so that maps keep their size.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015. Parameters are named as in the PyTorch implementation that most people use
(github.com/milesial/Pytorch-UNet): ``inc``, ``down1`` to ``down4``, ``up1`` to ``up4``, ``outc``.
"""

from __future__ import annotations

from convkit import functional as F
from convkit import nn
from convkit.models.registry import register

__all__ = ["UNet", "unet"]


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, between: int | None = None):
        super().__init__()
        between = between or out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, between, 3, padding=1, bias=False),
            nn.BatchNorm2d(between), nn.ReLU(),
            nn.Conv2d(between, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU())

    def forward(self, x):
        """Return the second activation."""
        return self.double_conv(x)


class Down(nn.Module):
    """Max pooling, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels))

    def forward(self, x):
        """Return maps of half the size."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Twice the size, joined with the maps of that size on the way down, a double convolution."""

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, in_channels // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2)
            self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x, skipped):
        """Return maps of the size of `skipped`."""
        x = self.up(x)
        rows, cols = (skipped.shape[axis] - x.shape[axis] for axis in (2, 3))
        if rows or cols:
            x = F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        return self.conv(F.concat([skipped, x], 1))


class UNet(nn.Module):
    """U-Net with four levels.

    Parameters
    ----------
    num_classes : int
        Channels of the result.
    in_channels : int
    bilinear : bool
        Enlarge by interpolation instead of transposed convolution.
    width : int
        Channels of the first level; they double with each.
    """

    def __init__(self, num_classes: int = 2, in_channels: int = 3, bilinear: bool = False,
                 width: int = 64):
        super().__init__()
        share = 2 if bilinear else 1
        wide = [width << i for i in range(5)]
        wide[4] //= share
        self.inc = DoubleConv(in_channels, width)
        for i in range(4):
            setattr(self, f"down{i + 1}", Down(wide[i], wide[i + 1]))
        for i in range(4):
            out = (width << (3 - i)) // (share if i < 3 else 1)
            setattr(self, f"up{i + 1}", Up(width << (4 - i), out, bilinear))
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        """Return scores (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        levels = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            x = up(x, levels.pop())
        return self.outc.conv(x)


@register
def unet(num_classes: int = 2, in_channels: int = 3, **options) -> UNet:
    """U-Net: 31,037,698 parameters (two classes, three channels)."""
    return UNet(num_classes, in_channels, **options)
