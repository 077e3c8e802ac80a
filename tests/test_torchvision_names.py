"""Networks that torchvision has: the same names, shapes and values as there."""

from __future__ import annotations

import contextlib
import functools
import importlib

import numpy as np
import pytest
from harness import random_array

import convkit as ck
from convkit import functional as F
from convkit import models

# One or two of each family; the large ones differ from these in widths alone.
COMPARED = {"resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64,
            "alexnet": 95, "googlenet": 64, "inception_v3": 107,
            "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64,
            "densenet121": 64, "squeezenet1_0": 64, "squeezenet1_1": 65,
            "shufflenet_v2_x0_5": 64, "shufflenet_v2_x1_0": 64, "efficientnet_b0": 64}
# Parameters with 1000 classes, as published with torchvision's weights.
PARAMETERS = {
    "alexnet": 61_100_840, "densenet121": 7_978_856, "densenet161": 28_681_000,
    "densenet169": 14_149_480, "densenet201": 20_013_928, "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184, "efficientnet_b2": 9_109_994, "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616, "googlenet": 13_004_888, "inception_v3": 27_161_264,
    "mobilenet_v2": 3_504_872, "mobilenet_v3_large": 5_483_032, "mobilenet_v3_small": 2_542_856,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032,
    "resnet101": 44_549_160, "resnet152": 60_192_808, "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336, "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696, "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604, "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996, "squeezenet1_0": 1_248_424, "squeezenet1_1": 1_235_496,
    "unet": 31_037_698, "vgg11": 132_863_336, "vgg11_bn": 132_868_840, "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736, "vgg16": 138_357_544, "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240, "vgg19_bn": 143_678_248}
LARGE = 20_000_000


@functools.cache
def torchvision_models():
    """Return torchvision's module of models; skip where it is missing or does not load."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    # The models need none of torchvision's own operators, which a build for another PyTorch
    # lacks; only that these two are known when it is imported.
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{operator}",
                                 "(Tensor a, Tensor b, float c) -> Tensor")
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"torchvision is not installed for this PyTorch: {error}")


def pair(name: str):
    """Return our network and torchvision's with the same random weights."""
    theirs = getattr(torchvision_models(), name)(weights=None, **(
        {"init_weights": False} if name in ("googlenet", "inception_v3") else {})).eval()
    ours = models.create(name, num_classes=1000).eval()
    state = {}
    for number, (key, value) in enumerate(theirs.state_dict().items()):
        if key.endswith("num_batches_tracked"):
            state[key] = value.numpy()
        elif key.endswith("running_var"):
            state[key] = np.abs(random_array(tuple(value.shape), seed=number)) + 0.5
        else:
            scale = 0.1 if value.ndim == 1 else (2 / np.prod(value.shape[1:])) ** 0.5
            some = scale * random_array((min(value.numel(), 100_003),), seed=number)
            state[key] = np.resize(some, value.shape)
            if key.endswith("weight") and value.ndim == 1:
                state[key] += 1
    ours.load_state_dict(state)
    return ours, theirs, state


@pytest.mark.parametrize("name", COMPARED)
def test_names_shapes_and_values_are_those_of_torchvision(name):
    ours, theirs, state = pair(name)
    import torch

    found = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    assert list(found) == list(state)
    assert found == {key: value.shape for key, value in state.items()}
    theirs.load_state_dict({key: torch.from_numpy(np.array(v)) for key, v in state.items()})
    x = random_array((2, 3, COMPARED[name], COMPARED[name]), seed=5)
    with torch.no_grad(), ck.no_grad():
        want, got = theirs(torch.from_numpy(x)).numpy(), ours(x).numpy()
    assert np.abs(want).max() > 1e-3
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - COMPARED.keys() - {"unet"}))
def test_names_and_shapes_of_the_others(name, monkeypatch):
    their_models = torchvision_models()
    import torch

    with torch.device("meta"):
        theirs = getattr(their_models, name)(weights=None).state_dict()
    for function in ck.nn.init.__all__:  # values do not matter here, and drawing takes long
        if function.endswith("_"):
            monkeypatch.setattr(ck.nn.init, function, lambda tensor, *args, **kwargs: tensor)
    found = models.create(name, num_classes=1000).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        key: tuple(value.shape) for key, value in theirs.items()}


@pytest.mark.parametrize("name", [n for n, count in PARAMETERS.items() if count < LARGE])
def test_number_of_parameters(name):
    options = {} if name == "unet" else {"num_classes": 1000}
    net = getattr(models, name)(**options)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_all_names_are_known():
    assert set(PARAMETERS) < set(models.names())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_speak_in_training_only(name):
    ck.manual_seed(0)
    side = 64 if name == "googlenet" else 299
    net = models.create(name, num_classes=5)
    out = net.train()(random_array((2, 3, side, side)))
    assert all(scores.shape == (2, 5) for scores in out)
    assert out.logits is out[0]
    assert net.eval()(random_array((1, 3, side, side))).shape == (1, 5)
    plain = getattr(models, name)(num_classes=5, aux_logits=False)
    assert not [key for key in plain.state_dict() if "aux" in key.lower()]
    assert plain.train()(random_array((2, 3, side, side))).shape == (2, 5)


@pytest.mark.parametrize("bilinear", [False, True])
def test_unet_keeps_the_size_and_learns(bilinear):
    ck.manual_seed(0)
    net = models.UNet(num_classes=3, in_channels=1, bilinear=bilinear, width=4)
    x = random_array((2, 1, 37, 50))
    y = net(x)
    assert y.shape == (2, 3, 37, 50)
    F.cross_entropy(y, np.ones((2, 37, 50), np.int64)).backward()
    assert all(p.grad is not None for p in net.parameters())
    names = set(net.state_dict())
    assert {"inc.double_conv.0.weight", "down4.maxpool_conv.1.double_conv.4.running_var",
            "up1.conv.double_conv.0.weight", "outc.conv.bias"} <= names
    assert ("up1.up.weight" in names) != bilinear


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5",
                                  "squeezenet1_1", "densenet121", "efficientnet_b0"])
def test_networks_compile(name):
    ck.manual_seed(0)
    net = models.create(name, num_classes=7).eval()
    program = ck.compile(net, (1, 3, 64, 64))
    x = random_array((2, 3, 64, 64))
    with ck.no_grad():
        want = net(x).numpy()
    assert np.linalg.norm(program(x) - want) < 1e-4 * np.linalg.norm(want)
