"""Networks that people know by name.

Parameters are named as in torchvision, so that its weights load (docs/pytorch-weights.md).
"""

from __future__ import annotations

from convkit.models.alexnet import AlexNet, alexnet
from convkit.models.convnet import ConvNet, convnet
from convkit.models.densenet import DenseNet, densenet121, densenet161, densenet169, densenet201
from convkit.models.efficientnet import (
    EfficientNet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
)
from convkit.models.inception import (
    GoogLeNet,
    GoogLeNetOutputs,
    Inception3,
    InceptionOutputs,
    googlenet,
    inception_v3,
)
from convkit.models.lenet import LeNet5, lenet5
from convkit.models.mobilenet import (
    MobileNetV2,
    MobileNetV3,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from convkit.models.registry import create, names
from convkit.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from convkit.models.resnet_cifar import (
    ResNetCIFAR,
    plain20,
    plain56,
    resnet20,
    resnet32,
    resnet56,
)
from convkit.models.shufflenet import (
    ShuffleNetV2,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from convkit.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from convkit.models.unet import UNet, unet
from convkit.models.vgg import (
    VGG,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

__all__ = [
    "AlexNet",
    "ConvNet",
    "DenseNet",
    "EfficientNet",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "Inception3",
    "InceptionOutputs",
    "LeNet5",
    "MobileNetV2",
    "MobileNetV3",
    "ResNet",
    "ResNetCIFAR",
    "ShuffleNetV2",
    "SqueezeNet",
    "UNet",
    "VGG",
    "alexnet",
    "convnet",
    "create",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "googlenet",
    "inception_v3",
    "lenet5",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "names",
    "plain20",
    "plain56",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "resnext101_32x8d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "unet",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet101_2",
    "wide_resnet50_2",
]
