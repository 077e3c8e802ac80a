"""Networks that people know by name."""

from __future__ import annotations

from convkit.models.convnet import ConvNet, convnet
from convkit.models.lenet import LeNet5, lenet5
from convkit.models.registry import create, names
from convkit.models.resnet_cifar import ResNetCIFAR, resnet20, resnet32, resnet56

__all__ = [
    "ConvNet",
    "LeNet5",
    "ResNetCIFAR",
    "convnet",
    "create",
    "lenet5",
    "names",
    "resnet20",
    "resnet32",
    "resnet56",
]
