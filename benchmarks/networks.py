"""Networks written once for both libraries: the layers come from `nn`, the functions from `F`.

`nn` and `F` are ``convkit.nn`` and ``convkit.functional``, or ``torch.nn`` and
``torch.nn.functional``; nothing else differs, so both sides run the same program.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NETWORKS"]


def lenet5(nn: Any, F: Any) -> Any:
    """Return LeNet-5 with ReLU and max pooling, for (N, 1, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def convnet(nn: Any, F: Any) -> Any:
    """Return four stages of convolution, batch norm, ReLU and pooling, for (N, 1, 28, 28)."""
    layers, before = [], 1
    for width in (16, 32, 64, 128):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                   nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, 10))


def resnet20(nn: Any, F: Any) -> Any:
    """Return ResNet-20 with parameter-free shortcuts, for (N, 3, 32, 32)."""

    class Block(nn.Module):
        def __init__(self, planes_in, planes, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.widen = planes - planes_in

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.widen:
                half = self.widen // 2
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
            return F.relu(y + x)

    blocks, before = [], 16
    for width in (16, 32, 64):
        for _ in range(3):
            blocks.append(Block(before, width, 1 if before == width else 2))
            before = width
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
                         nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))


# name -> (builder, shape of a sample, batch size)
NETWORKS = {
    "lenet5": (lenet5, (1, 28, 28), 64),
    "convnet": (convnet, (1, 28, 28), 64),
    "resnet20": (resnet20, (3, 32, 32), 128),
}
