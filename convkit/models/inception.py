"""Inception networks: GoogLeNet, here with batch norm, and version 3.

Szegedy et al., "Going Deeper with Convolutions", 2015, and "Rethinking the Inception Architecture
for Computer Vision", 2016. In training both return their scores and those of their auxiliary
classifiers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit import functional as F
from convkit import nn
from convkit.models.blocks import pooled
from convkit.models.registry import register

__all__ = ["GoogLeNet", "GoogLeNetOutputs", "Inception3", "InceptionOutputs", "googlenet",
           "inception_v3"]


class GoogLeNetOutputs(NamedTuple):
    """Scores, and those of the auxiliary classifiers (None without them)."""

    logits: Any
    aux_logits2: Any
    aux_logits1: Any


class InceptionOutputs(NamedTuple):
    """Scores, and those of the auxiliary classifier (None without one)."""

    logits: Any
    aux_logits: Any


class BasicConv2d(nn.Module):
    """A convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any = 1,
                 stride: int = 1, padding: Any = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x):
        """Return the activation."""
        return F.relu(self.bn(self.conv(x)))


Conv = BasicConv2d


def _start(model: nn.Module, std: float, **own: float) -> None:
    """Start weights as normal numbers cut off at 2; `own` names modules with another std."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            spread = next((s for end, s in own.items() if name.endswith(end.replace("__", "."))),
                          std)
            nn.init.trunc_normal_(module.weight, 0, spread, -2, 2)


# -- GoogLeNet ------------------------------------------------------------------------------

# Channels of 1x1; 3x3 down and up; "5x5" down and up; after pooling.
GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128)}


class Inception(nn.Module):
    """Four branches side by side; the third has a 3x3 kernel, as the published weights do."""

    def __init__(self, channels: int, widths: tuple[int, ...]):
        super().__init__()
        one, down3, up3, down5, up5, after = widths
        self.branch1 = Conv(channels, one)
        self.branch2 = nn.Sequential(Conv(channels, down3), Conv(down3, up3, 3, padding=1))
        self.branch3 = nn.Sequential(Conv(channels, down5), Conv(down5, up5, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), Conv(channels, after))

    def forward(self, x):
        """Return the branches' channels one after another."""
        return F.concat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNetAux(nn.Module):
    """An auxiliary classifier of GoogLeNet."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv = Conv(channels, 128)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x):
        """Return class scores."""
        x = F.flatten(self.conv(F.adaptive_avg_pool2d(x, 4)), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """GoogLeNet with batch norm.

    Parameters
    ----------
    num_classes, in_channels : int
    aux_logits : bool
        Whether there are auxiliary classifiers.
    dropout : float
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, aux_logits: bool = True,
                 dropout: float = 0.2):
        super().__init__()
        self.conv1 = Conv(in_channels, 64, 7, 2, 3)
        self.conv2 = Conv(64, 64)
        self.conv3 = Conv(64, 192, 3, padding=1)
        channels = 192
        for name, widths in GOOGLENET.items():
            setattr(self, f"inception{name}", Inception(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.aux1 = GoogLeNetAux(512, num_classes) if aux_logits else None
        self.aux2 = GoogLeNetAux(528, num_classes) if aux_logits else None
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        _start(self, 0.01)

    def forward(self, x):
        """Return class scores (N, num_classes), in training as a GoogLeNetOutputs."""
        helps = self.training and self.aux1 is not None
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, ceil_mode=True)
        x = self.inception4a(x)
        aux1 = self.aux1(x) if helps else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if helps else None
        x = F.max_pool2d(self.inception4e(x), 2, 2, ceil_mode=True)
        x = self.fc(self.dropout(pooled(self.inception5b(self.inception5a(x)))))
        return GoogLeNetOutputs(x, aux2, aux1) if helps else x


# -- version 3 ------------------------------------------------------------------------------

_ROW, _COLUMN = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1),
                                                             "padding": (3, 0)}
_ROW3, _COLUMN3 = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1),
                                                               "padding": (1, 0)}


class InceptionA(nn.Module):
    """1x1, 5x5, two 3x3, and 1x1 after average pooling."""

    def __init__(self, channels: int, pool_features: int):
        super().__init__()
        self.branch1x1 = Conv(channels, 64)
        self.branch5x5_1 = Conv(channels, 48)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(channels, 64)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(channels, pool_features)

    def forward(self, x):
        """Return the branches' channels one after another."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return F.concat([self.branch1x1(x), five, double, pool], 1)


class InceptionB(nn.Module):
    """Half the size: 3x3, two 3x3, and max pooling."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = Conv(channels, 384, 3, 2)
        self.branch3x3dbl_1 = Conv(channels, 64)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x):
        """Return the branches' channels one after another."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return F.concat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """1x1, 7x7 in two steps, twice 7x7 in four, and 1x1 after average pooling."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.branch1x1 = Conv(channels, 192)
        self.branch7x7_1 = Conv(channels, inner)
        self.branch7x7_2 = Conv(inner, inner, **_ROW)
        self.branch7x7_3 = Conv(inner, 192, **_COLUMN)
        self.branch7x7dbl_1 = Conv(channels, inner)
        self.branch7x7dbl_2 = Conv(inner, inner, **_COLUMN)
        self.branch7x7dbl_3 = Conv(inner, inner, **_ROW)
        self.branch7x7dbl_4 = Conv(inner, inner, **_COLUMN)
        self.branch7x7dbl_5 = Conv(inner, 192, **_ROW)
        self.branch_pool = Conv(channels, 192)

    def forward(self, x):
        """Return the branches' channels one after another."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return F.concat([self.branch1x1(x), seven, double, pool], 1)


class InceptionD(nn.Module):
    """Half the size: 3x3, 7x7 and 3x3, and max pooling."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3_1 = Conv(channels, 192)
        self.branch3x3_2 = Conv(192, 320, 3, 2)
        self.branch7x7x3_1 = Conv(channels, 192)
        self.branch7x7x3_2 = Conv(192, 192, **_ROW)
        self.branch7x7x3_3 = Conv(192, 192, **_COLUMN)
        self.branch7x7x3_4 = Conv(192, 192, 3, 2)

    def forward(self, x):
        """Return the branches' channels one after another."""
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return F.concat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven),
                         F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """1x1, 3x3 split into row and column, the same after 3x3, and 1x1 after average pooling."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch1x1 = Conv(channels, 320)
        self.branch3x3_1 = Conv(channels, 384)
        self.branch3x3_2a = Conv(384, 384, **_ROW3)
        self.branch3x3_2b = Conv(384, 384, **_COLUMN3)
        self.branch3x3dbl_1 = Conv(channels, 448)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, **_ROW3)
        self.branch3x3dbl_3b = Conv(384, 384, **_COLUMN3)
        self.branch_pool = Conv(channels, 192)

    def forward(self, x):
        """Return the branches' channels one after another."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return F.concat([self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three),
                         self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), pool], 1)


class InceptionAux(nn.Module):
    """The auxiliary classifier of version 3."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv0 = Conv(channels, 128)
        self.conv1 = Conv(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x):
        """Return class scores."""
        return self.fc(pooled(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3)))))


class Inception3(nn.Module):
    """Inception version 3, for images of 299x299 (at least 75x75).

    Parameters
    ----------
    num_classes, in_channels : int
    aux_logits : bool
        Whether there is an auxiliary classifier.
    dropout : float
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, aux_logits: bool = True,
                 dropout: float = 0.5):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(in_channels, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.AuxLogits = InceptionAux(768, num_classes) if aux_logits else None
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        _start(self, 0.1, AuxLogits__conv1__conv=0.01, AuxLogits__fc=0.001)

    def forward(self, x):
        """Return class scores (N, num_classes), in training as an InceptionOutputs."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        helps = self.training and self.AuxLogits is not None
        aux = self.AuxLogits(x) if helps else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        x = self.fc(self.dropout(pooled(x)))
        return InceptionOutputs(x, aux) if helps else x


@register
def googlenet(num_classes: int = 1000, in_channels: int = 3, **options) -> GoogLeNet:
    """GoogLeNet: 13,004,888 parameters, 6,624,904 without the auxiliary classifiers."""
    return GoogLeNet(num_classes, in_channels, **options)


@register
def inception_v3(num_classes: int = 1000, in_channels: int = 3, **options) -> Inception3:
    """Inception version 3: 27,161,264 parameters, 23,834,568 without the auxiliary classifier."""
    return Inception3(num_classes, in_channels, **options)
