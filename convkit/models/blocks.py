"""What several networks are made of."""

from __future__ import annotations

from collections.abc import Callable

from convkit import functional as F
from convkit import nn

__all__ = ["ConvNorm", "SqueezeExcitation", "fan_out_init", "make_divisible", "pooled"]


class ConvNorm(nn.Sequential):
    """A convolution without bias that keeps the size (over its stride), batch norm, activation.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, groups
        Of the convolution.
    activation : callable, optional
        Makes the last layer; None for none.
    eps, momentum : float
        Of the batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 groups: int = 1, activation: Callable[[], nn.Module] | None = nn.ReLU,
                 eps: float = 1e-5, momentum: float = 0.1):
        layers = [nn.Conv2d(in_channels, out_channels, kernel_size, stride,
                            (kernel_size - 1) // 2, groups=groups, bias=False),
                  nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)]
        super().__init__(*layers, *([activation()] if activation else []))
        self.out_channels = out_channels


class SqueezeExcitation(nn.Module):
    """Scale every channel by what two 1x1 convolutions make of all channels' means.

    Hu, Shen and Sun, "Squeeze-and-Excitation Networks", 2018.
    """

    def __init__(self, channels: int, squeezed: int, activation: Callable[[], nn.Module] = nn.ReLU,
                 gate: Callable[[], nn.Module] = nn.Sigmoid):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.scale_activation = gate()

    def forward(self, x):
        """Return x with its channels scaled."""
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(scale)


def make_divisible(channels: float, by: int = 8) -> int:
    """Round to a multiple, but not down by more than a tenth (the MobileNet papers' rule)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def fan_out_init(model: nn.Module, linear_std: float | None = None) -> None:
    """Start convolutions as in He et al. 2015 with the fan of the outputs, norms at one and zero.

    Parameters
    ----------
    model : Module
    linear_std : float, optional
        Of the normal weights of linear layers, whose biases become zero; by default they
        are left alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0, linear_std)
            nn.init.zeros_(module.bias)


def pooled(x):
    """Return the mean of every channel, (N, C)."""
    return F.flatten(F.adaptive_avg_pool2d(x, 1), 1)
