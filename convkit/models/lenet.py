"""LeNet-5."""

from __future__ import annotations

from convkit import nn
from convkit.models.registry import register

__all__ = ["LeNet5", "lenet5"]


class LeNet5(nn.Module):
    """LeNet-5 with full connections, ReLU and max pooling in place of the first forms.

    For 28x28 images (padded to 32x32 by the first convolution).

    Parameters
    ----------
    num_classes : int
    in_channels : int

    Notes
    -----
    LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
    Recognition", 1998, figure 2.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, num_classes))

    def forward(self, x):
        """Return class scores (N, num_classes) of images (N, in_channels, 28, 28)."""
        return self.classifier(self.features(x))


@register
def lenet5(num_classes: int = 10, in_channels: int = 1) -> LeNet5:
    """LeNet-5 for 28x28 images: 61,706 parameters with one channel and ten classes."""
    return LeNet5(num_classes, in_channels)
